//! The limit of streams, and the wait for the last of them. What threads do to it in every order is in `interleavings`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its setup too")]

use std::pin::pin;
use std::time::Duration;

use enclave_bridge::streams::{Direction, Streams};

#[tokio::test]
async fn the_limit_holds_and_the_last_end_is_seen() {
    let streams = Streams::new(2);
    let first = streams.admit(Direction::Ingress).unwrap();
    let second = streams.admit(Direction::Egress).unwrap();
    assert!(streams.admit(Direction::Ingress).is_none());
    assert_eq!((streams.active_in(Direction::Ingress), streams.active_in(Direction::Egress)), (1, 1));
    drop(first);
    let third = streams.admit(Direction::Egress).unwrap();
    let mut idle = pin!(streams.idle());
    assert!(tokio::time::timeout(Duration::ZERO, idle.as_mut()).await.is_err());
    drop((second, third));
    idle.await;
    assert_eq!(streams.active(), 0);
}

#[test]
fn a_share_is_bounded_by_itself_and_by_the_whole() {
    let streams = Streams::new(3);
    let (one, other) = (streams.share(2), streams.share(9));
    let held = [one.admit(Direction::Ingress).unwrap(), one.admit(Direction::Egress).unwrap()];
    assert!(one.admit(Direction::Egress).is_none(), "its own limit");
    let third = other.admit(Direction::Ingress).unwrap();
    assert!(other.admit(Direction::Ingress).is_none(), "the limit of all");
    assert_eq!((one.active(), other.active(), streams.active()), (2, 1, 3));
    assert_eq!((streams.active_in(Direction::Ingress), streams.active_in(Direction::Egress)), (2, 1));
    drop(held);
    assert_eq!((one.active(), streams.active(), streams.active_in(Direction::Egress)), (0, 1, 0));
    assert!(one.admit(Direction::Egress).is_some());
    drop(third);
    assert_eq!((other.active(), streams.active()), (0, 0));
}
