//! The threads that streams run on, each with a runtime of its own. What runs there is not known here.
//!
//! One runtime over several threads looks for events on whichever thread has nothing to do: while one thread moves bulk,
//! another is woken for every edge that its sockets show, and finds nothing to do. A thread that looks for the events of
//! its own sockets looks when it has nothing else to do, and not before. The price is that a stream stays where it began.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often a thread with something to do is woken by its clock. A timer that is due before all others makes the runtime
/// wake its own poller, two system calls for nothing; this one is due before any that a stream sets (a dial's two seconds, the
/// watch of a relay), so that they need not.
const TICK: Duration = Duration::from_millis(500);

/// The same for a thread with nothing to do, by doubling: what a wake costs every few seconds cannot be measured.
const TICK_IDLE_MAX: Duration = Duration::from_secs(8);

/// A thread has nothing to do if it went to sleep no more than so many times between two ticks: they do so themselves.
const IDLE_PARKS: u64 = 2;

/// Threads for streams. Clones are the same threads; they end, and with them whatever still runs there, when the last
/// clone is gone.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    started: Option<Arc<Started>>,
}

#[derive(Debug)]
struct Started {
    handles: Vec<Handle>,
    /// The next to be given a listener.
    next: AtomicUsize,
    _end: DropGuard,
}

/// Where a stream or a listener is to be: a thread of the [`Workers`], or wherever it is spoken of.
#[derive(Clone, Debug)]
pub struct Worker(Option<Handle>);

impl Workers {
    /// No threads: everything is in the runtime that it is started in, as under a clock that a test moves.
    #[must_use]
    pub fn none() -> Workers {
        Workers::default()
    }

    /// As many threads as `count`, at least one.
    ///
    /// # Errors
    /// What the system says when it gives no thread or no poller; those that were started end.
    pub fn start(count: usize) -> io::Result<Workers> {
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let mut handles = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let end = end.clone();
            let work = move || runtime.block_on(tick_until(end));
            std::thread::Builder::new().name(format!("streams-{number}")).spawn(work)?;
        }
        Ok(Workers { started: Some(Arc::new(Started { handles, next: AtomicUsize::new(0), _end: guard })) })
    }

    /// The threads that are to accept from the next listener, at most `most`: each takes a connection when it has nothing else
    /// to do, so that a thread with much to do takes few. One after the other, so that listeners are spread.
    #[must_use]
    pub fn for_listener(&self, most: usize) -> Vec<Worker> {
        let Some(started) = &self.started else { return vec![Worker::here()] };
        let count = started.handles.len().min(most.max(1));
        let first = started.next.fetch_add(count, Ordering::Relaxed) % started.handles.len().max(1);
        started.handles.iter().cycle().skip(first).take(count).cloned().map(|handle| Worker(Some(handle))).collect()
    }

    /// The thread for a stream that was accepted on `near`: that one, for going elsewhere wakes another thread for every stream,
    /// unless another has far fewer tasks.
    #[must_use]
    pub fn for_stream(&self, near: &Worker) -> Worker {
        let (Some(started), Some(here)) = (&self.started, &near.0) else { return near.clone() };
        let tasks = |handle: &Handle| handle.metrics().num_alive_tasks();
        let bearable = tasks(here).saturating_sub(UNEVEN_TASKS) / 2;
        let least = started.handles.iter().map(|handle| (tasks(handle), handle)).min_by_key(|(tasks, _)| *tasks);
        Worker(Some(least.filter(|(tasks, _)| *tasks < bearable).map_or(here, |(_, handle)| handle).clone()))
    }
}

impl Worker {
    /// The runtime that this is asked in.
    #[must_use]
    pub fn here() -> Worker {
        Worker(None)
    }

    /// What is registered with a poller or a clock while the guard lives is with this worker's.
    #[must_use]
    pub fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Handle::enter)
    }

    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref()
    }
}

/// A thread may have so many tasks more than twice those of another before streams go there.
const UNEVEN_TASKS: usize = 8;

async fn tick_until(end: CancellationToken) {
    let runtime = Handle::current().metrics();
    let (mut pause, mut seen) = (TICK, 0);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep(pause) => {}
        }
        let parks = runtime.worker_park_count(0);
        pause = if parks.saturating_sub(seen) > IDLE_PARKS { TICK } else { (pause * 2).min(TICK_IDLE_MAX) };
        seen = parks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    fn name_of_thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    async fn name_on(worker: &Worker) -> String {
        let (told, name) = tokio::sync::oneshot::channel();
        Scope::root("test").spawn_on(worker, "name", async move { told.send(name_of_thread()).unwrap() });
        name.await.unwrap()
    }

    #[tokio::test]
    async fn streams_stay_where_they_were_accepted_until_that_is_far_more_than_elsewhere() {
        let workers = Workers::start(2).unwrap();
        let scope = Scope::root("test");
        let near = workers.for_listener(1).remove(0);
        // A task counts until its thread has put it away, which is after it has said its last.
        let tasks = || {
            workers
                .started
                .iter()
                .flat_map(|started| &started.handles)
                .map(|handle| handle.metrics().num_alive_tasks())
                .sum::<usize>()
        };
        let others = tasks();
        for streams in 0..3 * UNEVEN_TASKS {
            while tasks() > others + streams {
                tokio::task::yield_now().await;
            }
            let worker = workers.for_stream(&near);
            let elsewhere = name_on(&worker).await != "streams-0";
            let wait = scope.token().cancelled_owned();
            scope.spawn_on(&near, "stream", wait);
            assert_eq!(elsewhere, streams > UNEVEN_TASKS + 1, "beside {streams}");
        }
        scope.cancel();
        scope.join().await;
    }

    #[tokio::test]
    async fn listeners_take_turns() {
        let workers = Workers::start(3).unwrap();
        for (most, expected) in [(1, "0"), (1, "1"), (2, "20"), (9, "120"), (0, "1")] {
            let mut numbers = String::new();
            for worker in workers.for_listener(most) {
                numbers.extend(name_on(&worker).await.chars().last());
            }
            assert_eq!(numbers, expected);
        }
    }

    #[tokio::test]
    async fn without_threads_everything_is_here() {
        let workers = Workers::none();
        let near = workers.for_listener(4);
        assert_eq!(near.len(), 1);
        assert!(near[0].enter().is_none());
        assert_eq!(name_on(&workers.for_stream(&near[0])).await, name_of_thread());
    }

    #[tokio::test]
    async fn what_still_runs_ends_with_the_threads() {
        let workers = Workers::start(1).unwrap();
        let scope = Scope::root("test");
        scope.spawn_on(&workers.for_listener(1)[0], "waits for ever", std::future::pending());
        assert_eq!(scope.tasks(), 1);
        drop(workers);
        scope.join().await;
    }
}
