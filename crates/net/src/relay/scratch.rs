//! The buffer that all relays of a thread share.

use std::cell::Cell;

use super::SCRATCH_BYTES;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The size of a page, for where in memory the buffer begins.
const PAGE_BYTES: usize = 4096;

/// How far into a page the buffer begins. What the kernel copies from and to mostly begins at a page, and a processor that compares
/// only the lowest twelve bits of addresses takes each load for one of what it has just stored, and waits, where the target lies
/// a few bytes further into its page than the source: out of a Unix socket that copy took 0.45 s for each GiB at 16 bytes, where an
/// allocator puts a block of this size, and 0.23 at 0, 32, 48 and 64. At 0 a record, which lies two bytes further for its header,
/// would meet the same on its way out.
const INTO_PAGE_BYTES: usize = 64;

/// The thread's buffer, out of its cell for the length of one poll and put back on drop.
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn take() -> Scratch {
        // A relay polled within a relay, or the first poll on this thread, finds none.
        Scratch(
            SCRATCH.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES + PAGE_BYTES + INTO_PAGE_BYTES].into_boxed_slice()),
        )
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(PAGE_BYTES).saturating_add(INTO_PAGE_BYTES);
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
    fn it_begins_a_little_into_a_page_and_has_its_whole_length() {
        let mut first = Scratch::take();
        let mut second = Scratch::take();
        for scratch in [&mut first, &mut second] {
            let bytes = scratch.bytes();
            assert_eq!(bytes.len(), SCRATCH_BYTES);
            assert_eq!(bytes.get(PAGE_BYTES - INTO_PAGE_BYTES..).unwrap().as_ptr().align_offset(PAGE_BYTES), 0);
        }
    }
}
