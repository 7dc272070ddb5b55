//! Test data that is made as it is read and compared by SHA-256, so that no test holds a stream in memory.

use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

/// One mebibyte.
pub const MIB: u64 = 1024 * 1024;

/// The scratch of copying: large enough that the test is not the slow part.
const SCRATCH_BYTES: usize = 256 * 1024;

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// `length` bytes that depend on `seed` and on their place, so that a lost, doubled or moved piece shows.
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
    left: u64,
    /// Bytes of the current word that were not given out yet, and how many.
    word: [u8; 8],
    word_left: usize,
}

impl Pattern {
    /// A stream of `length` bytes.
    #[must_use]
    pub fn new(seed: u64, length: u64) -> Pattern {
        Pattern { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, left: length, word: [0; 8], word_left: 0 }
    }

    /// The hash of what [`Pattern::new`] with the same arguments gives.
    #[must_use]
    pub fn hash(seed: u64, length: u64) -> Hash {
        hash_of(&mut Pattern::new(seed, length)).expect("a pattern reads without errors").0
    }

    fn next_word(&mut self) -> [u8; 8] {
        // xorshift64*: no cycle within any length a test uses.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let give = (buffer.len() as u64).min(self.left) as usize;
        let mut filled = 0;
        while filled < give {
            if self.word_left == 0 {
                if give - filled >= 8 {
                    let word = self.next_word();
                    buffer[filled..filled + 8].copy_from_slice(&word);
                    filled += 8;
                    continue;
                }
                self.word = self.next_word();
                self.word_left = 8;
            }
            buffer[filled] = self.word[8 - self.word_left];
            self.word_left -= 1;
            filled += 1;
        }
        self.left -= give as u64;
        Ok(give)
    }
}

/// Reads to the end; the hash and the number of bytes.
///
/// # Errors
/// What reading met.
pub fn hash_of(reader: &mut impl Read) -> io::Result<(Hash, u64)> {
    let mut hash = Sha256::new();
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut total = 0;
    loop {
        match reader.read(&mut scratch) {
            Ok(0) => return Ok((hash.finalize().into(), total)),
            Ok(n) => {
                hash.update(&scratch[..n]);
                total += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies to the end of `reader`; the number of bytes.
///
/// # Errors
/// What reading or writing met.
pub fn copy(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<u64> {
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut total = 0;
    loop {
        match reader.read(&mut scratch) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                writer.write_all(&scratch[..n])?;
                total += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Bytes nobody can guess, from the kernel.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("/dev/urandom");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_does_not_depend_on_how_it_is_read() {
        let mut whole = Vec::new();
        Pattern::new(7, 1000).read_to_end(&mut whole).unwrap();
        let mut pieces = Vec::new();
        let mut pattern = Pattern::new(7, 1000);
        let mut piece = [0; 13];
        loop {
            let n = pattern.read(&mut piece).unwrap();
            if n == 0 {
                break;
            }
            pieces.extend_from_slice(&piece[..n]);
        }
        // The word boundaries move with the size of the reads, the bytes must not.
        assert_eq!(whole.len(), 1000);
        assert_eq!(whole, pieces);
    }

    #[test]
    fn another_seed_is_another_stream() {
        assert_ne!(Pattern::hash(1, 100), Pattern::hash(2, 100));
    }
}
