//! Medians, percentiles, ratios within rounds, and bootstrap intervals that come out the same from the same numbers.

use std::collections::BTreeMap;

/// Resamples of a bootstrap: the ends of a 95 % interval rest on 100 of them each.
const RESAMPLES: u32 = 4000;

/// The seed of every bootstrap, so that a file of rows always gives the same report.
const SEED: u64 = 0x00e4_c1a7_eb81_d6e5;

/// A median and the 95 % bootstrap interval of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    /// The median of the values.
    pub(crate) median: f64,
    /// The lower end.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
    /// How many values.
    pub(crate) count: usize,
}

/// The median; `None` of nothing or of what is no number.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    middle(&sorted)
}

/// Median and interval of the values.
pub(crate) fn estimate(values: &[f64]) -> Option<Estimate> {
    let median_of_all = median(values)?;
    let mut chance = SplitMix(SEED);
    let mut medians = Vec::new();
    let mut resample = Vec::with_capacity(values.len());
    for _ in 0..RESAMPLES {
        resample.clear();
        resample.extend((0..values.len()).filter_map(|_| values.get(chance.below(values.len())).copied()));
        resample.sort_by(f64::total_cmp);
        medians.extend(middle(&resample));
    }
    medians.sort_by(f64::total_cmp);
    let end = |per_mille: usize| medians.get((medians.len() * per_mille / 1000).min(medians.len() - 1)).copied();
    Some(Estimate { median: median_of_all, low: end(25)?, high: end(975)?, count: values.len() })
}

/// The value that `per_mille` of the values do not exceed. The values are sorted in place.
pub(crate) fn percentile(values: &mut [u32], per_mille: usize) -> Option<u32> {
    values.sort_unstable();
    let place = (values.len() * per_mille).div_ceil(1000).saturating_sub(1);
    values.get(place).copied()
}

/// The ratio of each round in which both were measured, in the order of rounds.
pub(crate) fn ratios(values: &BTreeMap<u32, f64>, against: &BTreeMap<u32, f64>) -> Vec<f64> {
    values
        .iter()
        .filter_map(|(round, value)| {
            against.get(round).filter(|against| **against > 0.0).map(|against| value / against)
        })
        .collect()
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(sorted.len() / 2 - 1).map(|lower| (lower + upper) / 2.0)
}

/// Steele, Lea and Flood's generator: enough to draw resamples, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly below `bound`, but for a bias of `bound` in 2^64.
    fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn an_interval_holds_its_median_and_is_the_same_every_time() {
        let values: Vec<f64> = (0..20).map(|n| f64::from(n * 7 % 20)).collect();
        let first = estimate(&values).unwrap();
        assert_eq!(estimate(&values).unwrap(), first);
        assert_eq!(first.count, 20);
        assert!(first.low < first.median && first.median < first.high, "{first:?}");
        // The order of statistics: for 20 values the interval lies about between the 6th and the 15th.
        assert!((3.0..=7.0).contains(&first.low) && (12.0..=16.0).contains(&first.high), "{first:?}");
    }

    #[test]
    fn equal_values_leave_no_interval() {
        let all = estimate(&[2.5; 9]).unwrap();
        assert_eq!((all.low, all.median, all.high), (2.5, 2.5, 2.5));
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        // Round 2 was twice as slow for everybody: the ratio does not see it, a ratio of medians would.
        let ours = BTreeMap::from([(0, 1.0), (1, 2.0), (2, 1.0), (4, 8.0)]);
        let theirs = BTreeMap::from([(0, 2.0), (1, 4.0), (2, 2.0), (3, 9.0), (4, 0.0)]);
        assert_eq!(ratios(&ours, &theirs), [0.5, 0.5, 0.5]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values: Vec<u32> = (1..=1000).rev().collect();
        assert_eq!(percentile(&mut values, 500), Some(500));
        assert_eq!(percentile(&mut values, 990), Some(990));
        assert_eq!(percentile(&mut [7], 999), Some(7));
        assert_eq!(percentile(&mut [], 500), None);
    }
}
