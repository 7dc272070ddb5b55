//! The buffer that all relays of a thread share.

use std::cell::Cell;

use super::SCRATCH_BYTES;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The thread's buffer, out of its cell for the length of one poll and put back on drop.
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn take() -> Scratch {
        // A relay polled within a relay, or the first poll on this thread, finds none.
        Scratch(SCRATCH.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into_boxed_slice()))
    }
}

impl Scratch {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
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
