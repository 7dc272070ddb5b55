//! The buffer that all relays of a thread share.

use std::cell::Cell;

use super::SCRATCH_BYTES;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Where in memory the buffer begins: at a page. An allocator puts a block of this size 16 bytes into a page, and what the
/// kernel copies from begins at one: a processor that compares only the lowest twelve bits of addresses then takes each load for
/// one of what it has just stored, and waits. Out of a Unix socket that copy took 0.45 s for each GiB instead of 0.23.
const ALIGNMENT_BYTES: usize = 4096;

/// The thread's buffer, out of its cell for the length of one poll and put back on drop.
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn take() -> Scratch {
        // A relay polled within a relay, or the first poll on this thread, finds none.
        Scratch(SCRATCH.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES + ALIGNMENT_BYTES].into_boxed_slice()))
    }
}

impl Scratch {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(ALIGNMENT_BYTES);
        self.0.get_mut(start..).and_then(|rest| rest.get_mut(..SCRATCH_BYTES)).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A thread that is ending has no cell any more; the buffer then goes with it.
        let buffer = std::mem::take(&mut self.0);
        if SCRATCH.try_with(|cell| cell.set(Some(buffer))).is_err() {
            tracing::trace!("relay polled on an ending thread");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_and_has_its_whole_length() {
        let mut first = Scratch::take();
        let mut second = Scratch::take();
        for scratch in [&mut first, &mut second] {
            let bytes = scratch.bytes();
            assert_eq!((bytes.as_ptr().align_offset(ALIGNMENT_BYTES), bytes.len()), (0, SCRATCH_BYTES));
        }
    }
}
