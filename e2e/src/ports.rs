//! TCP ports for tests that run beside each other, in one process or in many.
//!
//! The kernel gives out local ports from 32768 up, so a port found by binding 0 may be somebody's outgoing connection a
//! moment later. These lie below, and a locked file per block keeps two test processes apart.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, OnceLock};

const FIRST: u16 = 10_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 220;

struct Block {
    /// Holds the lock for the life of the process.
    _lock: File,
    start: u16,
    next: u16,
}

/// A TCP port that was free a moment ago and that no other test of this harness uses now.
#[must_use]
pub fn free() -> u16 {
    static HELD: OnceLock<Mutex<Block>> = OnceLock::new();
    let mut block = HELD.get_or_init(|| Mutex::new(take_block())).lock().expect("no test panics while it picks a port");
    for _ in 0..2 * BLOCK {
        let port = block.start + block.next % BLOCK;
        block.next += 1;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {} on", block.start);
}

fn take_block() -> Block {
    let folder = std::env::temp_dir().join("enclave-bridge-e2e-ports");
    std::fs::create_dir_all(&folder).expect("a folder for the locks of port blocks");
    let first = u16::try_from(std::process::id() % u32::from(BLOCKS)).expect("below BLOCKS");
    for step in 0..BLOCKS {
        let block = (first + step) % BLOCKS;
        let path = folder.join(block.to_string());
        let Ok(file) = OpenOptions::new().create(true).truncate(false).write(true).open(&path) else { continue };
        if file.try_lock().is_ok() {
            return Block { _lock: file, start: FIRST + block * BLOCK, next: 0 };
        }
    }
    panic!("every block of ports is in use");
}
