//! Inputs invented from a corpus: bytes changed, pieces moved, words put in, two inputs joined. All of it follows from a seed.

/// Invents inputs.
pub(crate) struct Inventor {
    state: u64,
    inputs: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    max_len: usize,
}

/// Changes to one input.
const CHANGES_MAX: usize = 5;

impl Inventor {
    pub(crate) fn new(seed: u64, inputs: Vec<Vec<u8>>, words: Vec<Vec<u8>>, max_len: usize) -> Self {
        Self { state: seed, inputs, words, max_len }
    }

    pub(crate) fn invent(&mut self) -> Vec<u8> {
        let mut input = match self.below(20) {
            0 => {
                let len = self.below(self.max_len.min(64));
                (0..len).map(|_| self.next() as u8).collect()
            }
            _ => self.one_of_corpus(),
        };
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut input);
        }
        input.truncate(self.max_len);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let len = self.below((input.len() - at).min(32) + 1);
        match self.below(9) {
            0 => flip(input, at, 1 << self.below(8)),
            1 => replace(input, at, 1, &[self.next() as u8]),
            2 => replace(input, at, 0, &[self.next() as u8]),
            3 => replace(input, at, len, &[]),
            4 => {
                let piece = input[at..at + len].to_vec();
                let to = self.below(input.len() + 1);
                replace(input, to, 0, &piece);
            }
            5 | 6 => {
                let word = self.one_of_words();
                let over = if self.below(2) == 0 { 0 } else { word.len() };
                replace(input, at, over, &word);
            }
            7 => {
                let other = self.one_of_corpus();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                // A byte at the edge of what a byte can be.
                let edges = [0, 1, 0x0a, 0x0d, 0x15, 0x20, 0x7f, 0x80, 0xff];
                replace(input, at, 1, &[edges[self.below(edges.len())]]);
            }
        }
    }

    fn one_of_corpus(&mut self) -> Vec<u8> {
        let place = self.below(self.inputs.len());
        self.inputs.get(place).cloned().unwrap_or_default()
    }

    fn one_of_words(&mut self) -> Vec<u8> {
        let place = self.below(self.words.len());
        self.words.get(place).cloned().unwrap_or_default()
    }

    /// A number below `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    /// SplitMix64, as its author published it.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn flip(input: &mut [u8], at: usize, bit: u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= bit;
    }
}

fn replace(input: &mut Vec<u8>, at: usize, len: usize, with: &[u8]) {
    let end = (at + len).min(input.len());
    input.splice(at..end, with.iter().copied());
}

#[test]
fn one_seed_invents_the_same_and_within_its_bound() {
    let inventor = |seed| Inventor::new(seed, vec![b"abc".to_vec(), b"{}".to_vec()], vec![b"word".to_vec()], 16);
    let inputs = |seed| {
        let mut inventor = inventor(seed);
        (0..200).map(|_| inventor.invent()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
    assert!(inputs(1).iter().all(|input| input.len() <= 16));
    assert!(inputs(1).iter().any(|input| input.windows(4).any(|piece| piece == b"word")));
}
