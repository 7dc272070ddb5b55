//! A TCP path with a fault in it: a proxy for one connection, one thread that owns both of its sockets.
//!
//! One owner, because closing both with a reset must be one act: half a close on the way there would be an end.

use crate::dice::Dice;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the path does to every piece of either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toxic {
    /// Holds it for up to four milliseconds.
    Delay,
    /// Passes it on byte by byte.
    SingleBytes,
    /// Cuts it at other places, down to one byte.
    Fragments,
    /// Joins it with what follows, up to 64 KiB.
    Coalesce,
    /// Resets both sides once so many bytes have passed, either way.
    ResetAt(u64),
}

/// What waits at most in one direction of the path.
const HELD_BYTES: usize = 64 * 1024;

/// Takes one connection, connects it to `upstream`, and is the path between them until both have ended.
///
/// # Panics
/// The thread, where `upstream` cannot be reached.
#[must_use]
pub fn path(upstream: SocketAddr, toxic: Toxic, seed: u64) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a local port");
    let address = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let Ok((client, _)) = listener.accept() else { return };
        let server = TcpStream::connect(upstream).expect("the other side of the path");
        for socket in [&client, &server] {
            socket.set_nonblocking(true).expect("a socket");
            socket.set_nodelay(true).expect("a socket");
        }
        Path { sockets: [client, server], ways: [Way::new(), Way::new()], toxic, dice: Dice::new(seed), passed: 0 }
            .run();
    });
    (address, thread)
}

struct Path {
    /// The client's and the server's; way 0 is read from the first.
    sockets: [TcpStream; 2],
    ways: [Way; 2],
    toxic: Toxic,
    dice: Dice,
    passed: u64,
}

struct Way {
    held: Vec<u8>,
    release: Instant,
    ended: bool,
    end_passed: bool,
}

impl Way {
    fn new() -> Way {
        Way { held: Vec::new(), release: Instant::now(), ended: false, end_passed: false }
    }
}

impl Path {
    fn run(mut self) {
        while !self.ways.iter().all(|way| way.end_passed) {
            if !self.step() {
                for socket in self.sockets {
                    crate::peers::reset(socket);
                }
                return;
            }
        }
    }

    /// Whether the path still holds.
    fn step(&mut self) -> bool {
        let now = Instant::now();
        let mut ready = [PollFlags::empty(), PollFlags::empty()];
        for (from, way) in self.ways.iter().enumerate() {
            if !way.ended && way.held.len() < HELD_BYTES {
                ready[from] |= PollFlags::POLLIN;
            }
            if !way.held.is_empty() && now >= way.release {
                ready[1 - from] |= PollFlags::POLLOUT;
            }
        }
        let waits = self.ways.iter().any(|way| !way.held.is_empty() && now < way.release);
        let [first, second] = &self.sockets;
        let mut polled = [PollFd::new(first.as_fd(), ready[0]), PollFd::new(second.as_fd(), ready[1])];
        if poll(&mut polled, PollTimeout::from(if waits { 1_u16 } else { 100 })).is_err() {
            return true;
        }
        let found = polled.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        for (place, socket) in self.sockets.iter().enumerate() {
            let failed = found[place].contains(PollFlags::POLLERR);
            if failed && !found[place].contains(PollFlags::POLLIN) && !matches!(socket.take_error(), Ok(None)) {
                return false;
            }
        }
        for (from, found) in found.into_iter().enumerate() {
            if found.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) && !self.read(from) {
                return false;
            }
            if !self.write(from) {
                return false;
            }
        }
        true
    }

    fn read(&mut self, from: usize) -> bool {
        let way = &mut self.ways[from];
        if way.ended || way.held.len() >= HELD_BYTES {
            return true;
        }
        let mut scratch = [0; 16 * 1024];
        match self.sockets[from].read(&mut scratch) {
            Ok(0) => way.ended = true,
            Ok(n) => {
                way.held.extend_from_slice(&scratch[..n]);
                let pause = match self.toxic {
                    Toxic::Delay => Duration::from_micros(self.dice.below(4000)),
                    Toxic::Coalesce => Duration::from_millis(3),
                    Toxic::SingleBytes | Toxic::Fragments | Toxic::ResetAt(_) => Duration::ZERO,
                };
                way.release = Instant::now() + pause;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
        true
    }

    fn write(&mut self, from: usize) -> bool {
        let way = &mut self.ways[from];
        let full = way.held.len() >= HELD_BYTES || way.ended;
        if !way.held.is_empty() && (Instant::now() >= way.release || (self.toxic == Toxic::Coalesce && full)) {
            let most = match self.toxic {
                Toxic::SingleBytes => 1,
                Toxic::Fragments => 1 + self.dice.below(1448),
                Toxic::ResetAt(at) => at.saturating_sub(self.passed),
                Toxic::Delay | Toxic::Coalesce => u64::MAX,
            };
            if most == 0 {
                return false;
            }
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(way.held.len());
            match self.sockets[1 - from].write(&way.held[..most]) {
                Ok(n) => {
                    way.held.drain(..n);
                    self.passed += n as u64;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return false,
            }
        }
        if way.held.is_empty() && way.ended && !way.end_passed {
            if self.sockets[1 - from].shutdown(Shutdown::Write).is_err() {
                return false;
            }
            way.end_passed = true;
        }
        true
    }
}
