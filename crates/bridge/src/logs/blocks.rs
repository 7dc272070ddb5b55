//! Lines that wait, one behind the other in blocks of memory. A block holds whole lines, is written as it is, and is one
//! allocation: a full queue takes what its bytes take, however short its lines are. Who waits, and for how long, is not known here.

use std::collections::VecDeque;

/// The memory of a block, unless one line alone needs more. From 64 KiB on, glibc looks at each release for memory that it can
/// give back to the system; from 128 KiB on it would map blocks, and raise at their release what it keeps of everything else.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;

/// What a block may leave unused behind its last line before that is given back.
const SLACK_BYTES: usize = BLOCK_BYTES / 8;

/// Lines in the order in which they came.
#[derive(Default)]
pub(crate) struct Blocks {
    blocks: VecDeque<Block>,
    /// The block that was written first of those that are free: a log that keeps up asks the allocator for nothing. The first
    /// and not the last, for what lies above it in the heap can then be given back.
    spare: Option<Vec<u8>>,
}

struct Block {
    /// Its lines, each with its newline.
    bytes: Vec<u8>,
    lines: u64,
}

impl Blocks {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// One more line (without its newline).
    pub(crate) fn push(&mut self, line: &str) {
        let length = line.len().saturating_add(1);
        if let Some(last) = self.blocks.back_mut() {
            if last.room() >= length {
                return last.append(line);
            }
            last.close();
        }
        let bytes = self.spare.take_if(|spare| spare.capacity() >= length);
        let bytes = bytes.unwrap_or_else(|| Vec::with_capacity(length.max(BLOCK_BYTES)));
        let mut block = Block { bytes, lines: 0 };
        block.append(line);
        self.blocks.push_back(block);
    }

    /// The bytes of the oldest lines, and how many they are.
    pub(crate) fn take(&mut self) -> Option<(Vec<u8>, u64)> {
        self.blocks.pop_front().map(|block| (block.bytes, block.lines))
    }

    /// A block that was written: kept for other lines, or handed back to be released.
    #[must_use]
    pub(crate) fn give_back(&mut self, mut written: Vec<u8>) -> Option<Vec<u8>> {
        if self.spare.is_some() || written.capacity() != BLOCK_BYTES {
            return Some(written);
        }
        written.clear();
        self.spare = Some(written);
        None
    }

    /// Lets go of all lines; how many they were.
    pub(crate) fn clear(&mut self) -> u64 {
        let blocks = std::mem::take(&mut self.blocks);
        blocks.iter().fold(0, |lines, block| lines.saturating_add(block.lines))
    }
}

impl Block {
    /// How many bytes fit without another allocation.
    fn room(&self) -> usize {
        self.bytes.capacity().saturating_sub(self.bytes.len())
    }

    fn append(&mut self, line: &str) {
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.push(b'\n');
        self.lines = self.lines.saturating_add(1);
    }

    /// No more lines come: lines of half a block would else take twice what is counted of them.
    fn close(&mut self) {
        if self.room() > SLACK_BYTES {
            self.bytes.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The memory that is asked for.
    fn held(blocks: &Blocks) -> usize {
        blocks.blocks.iter().map(|block| block.bytes.capacity()).chain(blocks.spare.iter().map(Vec::capacity)).sum()
    }

    /// Lengths of lines: most are short, some fill a block or more.
    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        let length = prop_oneof![
            8 => 0..200_usize,
            1 => 0..2 * BLOCK_BYTES,
            1 => prop::sample::select(vec![BLOCK_BYTES / 2, BLOCK_BYTES - 1, BLOCK_BYTES]),
        ];
        prop::collection::vec(length, 0..100)
    }

    fn line(number: usize, length: usize) -> String {
        ["a", "b", "c", "d", "e"][number % 5].repeat(length)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn lines_come_out_as_they_came_and_take_little_more_than_their_bytes(
            lengths in lengths(),
            taken_every in 1..50_usize,
        ) {
            let (mut blocks, mut expected, mut out) = (Blocks::default(), Vec::new(), Vec::new());
            let (mut queued, mut lines) = (0, 0);
            let mut take = |blocks: &mut Blocks, queued: &mut usize| {
                let Some((bytes, count)) = blocks.take() else { return false };
                assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count() as u64, count);
                assert_eq!(bytes.last(), Some(&b'\n'), "whole lines");
                *queued -= bytes.len();
                lines += count;
                out.extend_from_slice(&bytes);
                drop(blocks.give_back(bytes));
                true
            };
            for (number, length) in lengths.iter().enumerate() {
                let line = line(number, *length);
                blocks.push(&line);
                queued += line.len() + 1;
                expected.extend_from_slice(line.as_bytes());
                expected.push(b'\n');
                // The block that is being filled, and the spare one.
                prop_assert!(held(&blocks) <= queued + queued / 7 + 2 * BLOCK_BYTES, "{} bytes for {queued}", held(&blocks));
                if number % taken_every == 0 {
                    take(&mut blocks, &mut queued);
                }
            }
            while take(&mut blocks, &mut queued) {}
            prop_assert!(blocks.is_empty());
            prop_assert_eq!(lines, lengths.len() as u64);
            prop_assert!(out == expected, "other bytes, or in another order");
            prop_assert!(held(&blocks) <= BLOCK_BYTES);
        }
    }

    #[test]
    fn a_log_that_keeps_up_has_one_block() {
        let mut blocks = Blocks::default();
        blocks.push("first");
        let (bytes, _) = blocks.take().unwrap();
        let place = bytes.as_ptr();
        assert_eq!(blocks.give_back(bytes), None);
        blocks.push("second");
        let (bytes, lines) = blocks.take().unwrap();
        assert_eq!((bytes.as_ptr(), bytes.as_slice(), lines), (place, b"second\n".as_slice(), 1));
    }

    #[test]
    fn what_is_let_go_is_counted() {
        let mut blocks = Blocks::default();
        let line = "x".repeat(BLOCK_BYTES / 3);
        (0..10).for_each(|_| blocks.push(&line));
        assert_eq!(blocks.clear(), 10);
        assert!(blocks.is_empty());
    }
}
