//! TCP ports for tests that run beside each other, in one process or in many.
//!
//! The kernel gives out local ports from 32768 up, so a port found by binding 0 may be somebody's outgoing connection a
//! moment later. These lie below, and a locked file per block keeps two test processes apart.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt::ReuseAddr};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
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
        if is_free(port) {
            return port;
        }
    }
    panic!("no free port from {} on", block.start);
}

/// Whether nobody listens there. It does not listen itself to find out: a process that another thread is about to start would hold
/// the listener until its program is loaded, and the port would be in use for whoever it was found for.
fn is_free(port: u16) -> bool {
    let found = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    found.is_ok_and(|socket| {
        setsockopt(&socket, ReuseAddr, &true).is_ok()
            && bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).is_ok()
    })
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
