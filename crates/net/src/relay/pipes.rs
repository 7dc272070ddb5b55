//! Pipes for moving bytes between two sockets without copying them: lent for as long as bytes are in them, then back to the
//! pool. What is moved and when is the direction's business.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::stream::{Stream, StreamKind};

/// Pipes of one [`Pipes`] at most, two descriptors each; 32 MiB of the kernel's memory if all are stalled. Only a direction that is just being polled, or whose far side
/// takes nothing more, has one; beyond the limit bytes are copied as they are without pipes.
pub const PIPES_MAX: usize = 32;

/// Capacity that is asked for, and so what one pass moves and a stalled direction holds at most, in bytes: what a user
/// without privileges may have (pipe(7), `pipe-max-size`). Measured: passes of 256 KiB cost twice the processor time.
/// [`PIPES_MAX`] of them are half of the 16,384 pages that such a user has for pipes (`pipe-user-pages-soft`).
pub const PIPE_BYTES: usize = 1024 * 1024;

/// Pipes that are kept although nobody needs them: one for each thread of a usual machine and some, for making one costs
/// three system calls.
pub const PIPES_IDLE_MAX: usize = 16;

/// A pipe of less is not worth its system calls: the kernel gives a page or two to a user who has too many.
const PIPE_LEAST_BYTES: usize = 64 * 1024;

/// After the kernel has refused a pipe it is not asked again for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Pipes that relays share; clones are the same pool.
#[derive(Clone)]
pub struct Pipes {
    pool: Arc<Mutex<Pool>>,
    max: usize,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Pipe>,
    live: usize,
    refused_at: Option<Instant>,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    /// At most `max` pipes at once; 0 is none, and every byte is copied.
    pub fn new(max: usize) -> Pipes {
        Pipes { pool: Arc::default(), max }
    }

    /// Pipes that are open now, lent or idle; two descriptors each.
    pub fn open(&self) -> usize {
        self.lock().live
    }

    /// An empty pipe, if there is one to be had.
    pub(super) fn lend(&self) -> Option<Loan> {
        let mut pool = self.lock();
        if let Some(pipe) = pool.idle.pop() {
            return Some(Loan { pipe: Some(pipe), held: 0, pipes: self.clone() });
        }
        if pool.live >= self.max || pool.refused_at.is_some_and(|at| at.elapsed() < REFUSED_PAUSE) {
            return None;
        }
        match Pipe::new() {
            Ok(pipe) => {
                pool.live += 1;
                pool.refused_at = None;
                Some(Loan { pipe: Some(pipe), held: 0, pipes: self.clone() })
            }
            Err(error) => {
                pool.refused_at = Some(Instant::now());
                tracing::debug!(%error, "relay: no pipe, bytes are copied");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").field("max", &self.max).field("open", &self.open()).finish()
    }
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let capacity = match fcntl_setpipe_size(&write, PIPE_BYTES) {
            Ok(capacity) => capacity,
            // Over the user's limit it cannot be raised; what it has may do.
            Err(_) => rustix::pipe::fcntl_getpipe_size(&write)?,
        };
        if capacity < PIPE_LEAST_BYTES {
            return Err(io::Error::other(format!("the kernel gives {capacity} bytes to a pipe")));
        }
        Ok(Pipe { read, write })
    }
}

/// A pipe in use. Dropped with bytes in it the pipe is closed, for nobody else may ever read them.
pub(super) struct Loan {
    // There until it is dropped.
    pipe: Option<Pipe>,
    held: usize,
    pipes: Pipes,
}

impl Loan {
    /// Bytes in the pipe.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves what can be read into the pipe, which has to be empty: then "not now" can only mean the socket. The number of
    /// bytes; 0 is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &Stream) -> Poll<io::Result<usize>> {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.held == 0) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let tcp = from.kind() == StreamKind::Tcp;
        let filled = from.poll_read_with(cx, |socket| {
            let mut moved = move_pages(socket, pipe.write.as_fd(), PIPE_BYTES);
            if tcp && is_nothing(&moved) && has_bytes(socket) {
                // They may have come just now; but those that were there before are behind an urgent one.
                moved = move_pages(socket, pipe.write.as_fd(), PIPE_BYTES);
                if is_nothing(&moved) && has_bytes(socket) {
                    return Err(rustix::io::Errno::OPNOTSUPP.into());
                }
            }
            moved
        });
        if let Poll::Ready(Ok(moved)) = filled {
            self.held = moved;
        }
        filled
    }

    /// Moves what is in the pipe into the socket; the number of bytes that went.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(0)) };
        let held = self.held;
        let drained = to.poll_write_with(cx, |socket| move_pages(pipe.read.as_fd(), socket, held));
        if let Poll::Ready(Ok(moved)) = drained {
            self.held = self.held.saturating_sub(moved);
        }
        drained
    }

    /// Takes out what is in the pipe, by copying.
    pub(super) fn take_bytes(&mut self) -> io::Result<Vec<u8>> {
        let Some(pipe) = &self.pipe else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut bytes = vec![0; self.held];
        let mut taken = 0;
        while let Some(rest) = bytes.get_mut(taken..).filter(|rest| !rest.is_empty()) {
            match nix::unistd::read(&pipe.read, rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => taken += read,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.held = 0;
        Ok(bytes)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut pool = self.pipes.lock();
        match self.pipe.take() {
            Some(pipe) if self.held == 0 && pool.idle.len() < PIPES_IDLE_MAX => pool.idle.push(pipe),
            Some(pipe) => {
                pool.live = pool.live.saturating_sub(1);
                drop(pool);
                drop(pipe);
            }
            None => {}
        }
    }
}

fn move_pages(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    loop {
        match splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Err(rustix::io::Errno::INTR) => {}
            moved => return Ok(moved?),
        }
    }
}

/// No page moved: an end, or nothing for now. Before a byte of a TCP stream that its sender calls urgent the kernel says
/// either of them, and only reading gets past it.
fn is_nothing(moved: &io::Result<usize>) -> bool {
    match moved {
        Ok(moved) => *moved == 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Whether there is something to read. Where the kernel does not tell, it is taken at its word.
fn has_bytes(socket: BorrowedFd<'_>) -> bool {
    rustix::io::ioctl_fionread(socket).is_ok_and(|bytes| bytes > 0)
}

/// Whether the kernel, a filter of system calls or the kind of socket does not know the way, so that the bytes, none of
/// which has moved, have to be copied.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP))
}
