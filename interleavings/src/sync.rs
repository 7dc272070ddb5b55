//! Loom's types, and a `Notify` made of them that promises what tokio's does and no more.

use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

pub use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Wakes all that wait. Whoever has made a [`Notified`] before is woken, whether it has been polled or not.
#[derive(Debug, Default)]
pub struct Notify(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// How often all were woken.
    times: u64,
    wakers: Vec<Waker>,
}

/// Resolves once all have been woken after it was made.
#[derive(Debug)]
pub struct Notified<'a> {
    notify: &'a Notify,
    made_at: u64,
}

impl Notify {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the next time that all are woken.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, made_at: self.lock().times }
    }

    /// Wakes all that wait now.
    pub fn notify_waiters(&self) {
        let mut waiting = self.lock();
        waiting.times = waiting.times.wrapping_add(1);
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notified<'_> {
    /// Registers for a single wake, which there is none of here; whether it has been woken.
    pub fn enable(self: Pin<&mut Self>) -> bool {
        self.notify.lock().times != self.made_at
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.notify.lock();
        if waiting.times != self.made_at {
            return Poll::Ready(());
        }
        waiting.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}
