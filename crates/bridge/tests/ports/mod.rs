//! TCP ports for listeners of tests.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 5100;
const EACH: u16 = 12;
const PROCESSES: u32 = 400;

/// A port that was free a moment ago. It lies below those that the kernel gives to outgoing connections: one that it had
/// chosen itself may be somebody's end of a connection by the time that it is listened at.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = FIRST + u16::try_from(std::process::id() % PROCESSES).unwrap() * EACH;
    let mut ports = (0..EACH).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % EACH);
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap()
}
