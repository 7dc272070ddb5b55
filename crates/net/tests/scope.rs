//! The task tree: cancelling, joining, panics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{LONG, until};
use enclave_bridge_net::Scope;
use tokio::sync::oneshot;
use tokio::time::timeout;

#[tokio::test]
async fn joining_waits_for_tasks_of_descendants() {
    let root = Scope::root("root");
    let grandchild = root.child("child").child("grandchild");
    let (go, wait) = oneshot::channel::<()>();
    grandchild.spawn("waiting", async move {
        wait.await.unwrap_or_default();
    });
    // No handle is needed for a scope to live on.
    drop(grandchild);
    assert_eq!(root.tasks(), 1);
    assert!(timeout(Duration::from_millis(20), root.join()).await.is_err());
    go.send(()).unwrap();
    timeout(LONG, root.join()).await.unwrap();
    assert_eq!(root.tasks(), 0);
}

#[tokio::test]
async fn an_idle_child_does_not_hold_up_its_parent() {
    let root = Scope::root("root");
    let _child = root.child("child");
    timeout(LONG, root.join()).await.unwrap();
}

#[tokio::test]
async fn cancelling_reaches_down_and_not_up() {
    let root = Scope::root("root");
    let (left, right) = (root.child("left"), root.child("right"));
    let below = left.child("below");
    let inside = below.clone();
    below.spawn("until cancelled", async move { inside.cancelled().await });
    left.cancel();
    timeout(LONG, left.join()).await.unwrap();
    assert!(below.is_cancelled() && left.is_cancelled());
    assert!(!right.is_cancelled() && !root.is_cancelled());
    root.cancel();
    assert!(right.is_cancelled());
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn s6_a_panic_ends_its_task_only_and_is_counted_upwards() {
    let root = Scope::root("root");
    let (child, other) = (root.child("child"), root.child("other"));
    let dropped = Arc::new(AtomicBool::new(false));
    let held = SetOnDrop(Arc::clone(&dropped));
    let (go, wait) = oneshot::channel::<()>();
    let (done, finished) = oneshot::channel();
    other.spawn("neighbour", async move {
        wait.await.unwrap();
        done.send(()).unwrap();
    });
    child.spawn("panicking", async move {
        let _held = held;
        tokio::task::yield_now().await;
        panic!("secret");
    });
    until("counted", || root.panics() == 1).await;
    timeout(LONG, child.join()).await.unwrap();
    assert!(dropped.load(Ordering::Relaxed), "what the task held is dropped before it counts as gone");
    assert_eq!((child.panics(), other.panics()), (1, 0));
    go.send(()).unwrap();
    timeout(LONG, finished).await.unwrap().unwrap();
    timeout(LONG, root.join()).await.unwrap();
}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("in a destructor");
    }
}

#[tokio::test]
async fn destructors_and_payloads_that_panic_are_caught_as_well() {
    let root = Scope::root("root");
    let bomb = PanicOnDrop;
    root.spawn("destructor", async move {
        let _bomb = bomb;
    });
    root.spawn("payload", async { std::panic::panic_any(PanicOnDrop) });
    timeout(LONG, root.join()).await.unwrap();
    assert_eq!(root.panics(), 2);
}
