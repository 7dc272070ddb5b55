//! The count of tasks, and the wait until there are none. What a task is is not known here.

use std::pin::pin;

use crate::sync::{AtomicUsize, Notify, Ordering};

/// Counts tasks. Every [`enter`](Tasks::enter) is followed by one [`leave`](Tasks::leave).
#[derive(Debug)]
pub(crate) struct Tasks {
    count: AtomicUsize,
    // Woken when the last has left.
    none: Notify,
}

impl Tasks {
    pub(crate) fn new() -> Tasks {
        Tasks { count: AtomicUsize::new(0), none: Notify::new() }
    }

    pub(crate) fn enter(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none.notify_waiters();
        }
    }

    /// Tasks that have not left.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until there are none. Cancel-safe.
    pub(crate) async fn none(&self) {
        loop {
            let mut none = pin!(self.none.notified());
            // Registered before the look, so that the end of the last task in between is not missed.
            none.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            none.await;
        }
    }
}
