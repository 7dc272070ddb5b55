//! The task tree: the one place that spawns. What the tasks do is not known here.

mod tasks;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use self::tasks::Tasks;
use crate::workers::Worker;

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
    // Tasks of this scope and of all its descendants.
    tasks: Tasks,
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
        Scope { inner: Arc::new(Inner { name, parent, token, tasks: Tasks::new(), panics: AtomicU64::new(0) }) }
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
        self.spawn_on(&Worker::here(), what, future);
    }

    /// As [`spawn`](Scope::spawn), on a thread for streams. Where that has ended the future is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime, for a worker that is [here](Worker::here).
    pub fn spawn_on<F>(&self, worker: &Worker, what: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = Task { future, held: Held::new(self.clone(), what) };
        drop(match worker.handle() {
            Some(runtime) => runtime.spawn(task),
            #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
            None => tokio::spawn(task),
        });
    }

    fn count_panic(&self, what: &'static str) {
        for scope in self.upwards() {
            scope.inner.panics.fetch_add(1, Ordering::Relaxed);
        }
        tracing::error!(scope = self.inner.name, task = what, "task panicked");
    }

    /// This scope and all above it.
    fn upwards(&self) -> impl Iterator<Item = &Scope> {
        std::iter::successors(Some(self), |scope| scope.inner.parent.as_ref())
    }

    /// The name given at the start.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Asks every task of this scope and its descendants to end.
    pub fn cancel(&self) {
        self.inner.token.cancel();
    }

    /// Resolves once this scope or one above it is cancelled. Cancel-safe.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.inner.token.cancelled()
    }

    /// Whether this scope or one above it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// The token behind [`cancelled`](Scope::cancelled), for what must own its wait.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Waits until no task of it or of a descendant is left. Cancel-safe; not a cancellation.
    pub async fn join(&self) {
        self.inner.tasks.none().await;
    }

    /// Tasks of this scope and its descendants that have not ended.
    pub fn tasks(&self) -> usize {
        self.inner.tasks.count()
    }

    /// Panics caught so far in this scope and its descendants.
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }
}

pin_project! {
    /// A future in its scope: what it costs beyond the future is paid by every stream, idle ones included.
    struct Task<F> {
        // What it holds (sockets, guards) is dropped before the scope counts the task as gone (declaration order).
        #[pin]
        future: F,
        held: Held,
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(polled) => polled,
            Err(payload) => {
                this.held.count_panic();
                // Its destructor may panic too.
                if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                    std::mem::forget(second);
                }
                Poll::Ready(())
            }
        }
    }
}

/// Counts a task in its scope and in all above it, until it is dropped.
struct Held {
    scope: Scope,
    what: &'static str,
}

impl Held {
    fn new(scope: Scope, what: &'static str) -> Held {
        for scope in scope.upwards() {
            scope.inner.tasks.enter();
        }
        Held { scope, what }
    }

    fn count_panic(&self) {
        self.scope.count_panic(self.what);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The future's destructor panicked; whoever runs the task catches that.
        if std::thread::panicking() {
            self.count_panic();
        }
        for scope in self.scope.upwards() {
            scope.inner.tasks.leave();
        }
    }
}
