//! The task tree: the one place that spawns. What the tasks do is not known here.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A node of the task tree. Every task belongs to one scope; cancelling a scope asks its tasks and those of all its
/// descendants to end, joining it waits until they have. Clones are the same scope. Dropping a handle ends nothing.
#[derive(Clone, Debug)]
pub struct Scope {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: &'static str,
    parent: Option<Scope>,
    token: CancellationToken,
    // Counts the tasks of this scope and of all its descendants.
    tracker: TaskTracker,
    panics: AtomicU64,
}

impl Scope {
    /// A scope without a parent.
    pub fn root(name: &'static str) -> Scope {
        Scope::new(name, None, CancellationToken::new())
    }

    /// A scope below this one: cancelled with it, and waited for by its [`join`](Scope::join).
    pub fn child(&self, name: &'static str) -> Scope {
        Scope::new(name, Some(self.clone()), self.inner.token.child_token())
    }

    fn new(name: &'static str, parent: Option<Scope>, token: CancellationToken) -> Scope {
        Scope { inner: Arc::new(Inner { name, parent, token, tracker: TaskTracker::new(), panics: AtomicU64::new(0) }) }
    }

    /// Starts `future` as a task of this scope; `what` names it in the log. The task is not stopped by
    /// [`cancel`](Scope::cancel): it watches [`cancelled`](Scope::cancelled) and ends itself, so that it can say goodbye.
    /// A panic ends this task only: it is caught, counted and logged without its text, which may hold a peer's bytes.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, what: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let held: Vec<_> = self.ancestors().map(|scope| scope.inner.tracker.token()).collect();
        let scope = self.clone();
        // On the heap by itself: a future that is moved into an async block and pinned there takes its size twice.
        let mut future = Box::pin(future);
        self.inner.tracker.spawn(async move {
            let ended = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
                Err(payload) => Poll::Ready(Err(payload)),
            })
            .await;
            // What the future holds (sockets, guards) and the panic's payload are dropped here, before the scope
            // counts the task as gone; a destructor may panic too.
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
            let panicked = match (ended, dropped) {
                (Ok(()), Ok(())) => None,
                (Err(payload), _) | (Ok(()), Err(payload)) => Some(payload),
            };
            if let Some(payload) = panicked {
                scope.count_panic(what);
                if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                    std::mem::forget(second);
                }
            }
            drop(held);
        });
    }

    fn count_panic(&self, what: &'static str) {
        for scope in std::iter::once(self).chain(self.ancestors()) {
            scope.inner.panics.fetch_add(1, Ordering::Relaxed);
        }
        tracing::error!(scope = self.inner.name, task = what, "task panicked");
    }

    fn ancestors(&self) -> impl Iterator<Item = &Scope> {
        std::iter::successors(self.inner.parent.as_ref(), |scope| scope.inner.parent.as_ref())
    }

    /// The name given at the start.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Says that no new tasks are expected: a waiting [`join`](Scope::join) may return once the scope is empty.
    pub fn close(&self) {
        self.inner.tracker.close();
    }

    /// Asks every task of this scope and its descendants to end.
    pub fn cancel(&self) {
        self.inner.token.cancel();
    }

    /// Resolves once this scope or one above it is cancelled. Cancel-safe.
    pub async fn cancelled(&self) {
        self.inner.token.cancelled().await;
    }

    /// Whether this scope or one above it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// The token behind [`cancelled`](Scope::cancelled), for what must own its wait.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Closes the scope and waits until no task of it or of a descendant is left. Cancel-safe; not a cancellation.
    pub async fn join(&self) {
        self.close();
        self.inner.tracker.wait().await;
    }

    /// Tasks of this scope and its descendants that have not ended.
    pub fn tasks(&self) -> usize {
        self.inner.tracker.len()
    }

    /// Panics caught so far in this scope and its descendants.
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }
}
