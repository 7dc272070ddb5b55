//! An input taken apart: a few bytes that say how, the rest that is what the peer sends. And cutting what it sends.

/// The bytes of an input, taken from the front. A byte that is missing is 0.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        taken[..head.len()].copy_from_slice(head);
        self.0 = rest;
        taken
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// How a stream of bytes arrives.
#[derive(Clone, Copy)]
pub(crate) enum Cut {
    Whole,
    /// Byte by byte, as far as that is affordable.
    Bytes,
    /// In pieces of odd sizes, empty ones among them.
    Odd(u32),
}

/// More pieces than this there are not: of a longer input each has more than one byte, or a long run would be a short one.
const SINGLE_BYTES_MAX: usize = 192;

impl Cut {
    /// The three ways, the odd one by this seed.
    pub(crate) fn all(seed: u32) -> [Cut; 3] {
        [Cut::Whole, Cut::Bytes, Cut::Odd(seed)]
    }

    pub(crate) fn pieces(self, bytes: &[u8]) -> Vec<&[u8]> {
        match self {
            Cut::Whole => vec![bytes],
            Cut::Bytes => bytes.chunks(bytes.len().div_ceil(SINGLE_BYTES_MAX).max(1)).collect(),
            Cut::Odd(seed) => odd_pieces(seed, bytes),
        }
    }
}

fn odd_pieces(seed: u32, bytes: &[u8]) -> Vec<&[u8]> {
    // The seed's low byte is the longest piece, all of it where the pieces begin in a cheap generator (xorshift).
    let longest = (seed & 0xff) as usize + 2;
    let mut state = seed | 1;
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() && pieces.len() < SINGLE_BYTES_MAX {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (piece, left) = rest.split_at((state as usize % longest).min(rest.len()));
        pieces.push(piece);
        rest = left;
    }
    pieces.push(rest);
    pieces
}
