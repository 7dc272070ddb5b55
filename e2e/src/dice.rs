//! Chance that can be had again: numbers from a seed.

/// A sequence of numbers that a seed decides (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound` - 1; 0 where there is nothing to choose from.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.any() % bound }
    }

    /// From `least` to `most`, every order of magnitude as likely as the next.
    pub fn length(&mut self, least: u64, most: u64) -> u64 {
        let magnitudes = u64::from((most / least.max(1)).max(1).ilog2()) + 1;
        let low = least << self.below(magnitudes);
        (low + self.below(low)).clamp(least, most)
    }
}
