//! One direction of a relay: read, write, keep what does not go out, pass the end on. Copying is the rule; where both ends
//! can and bulk lasts, pages are moved through a pipe.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::pipes::{Loan, is_unsupported};
use super::scratch::Scratch;
use super::{End, RelayConfig, Side, UNIX_READ_MAX_BYTES, turn};
use crate::stream::{RelayStream, StreamKind};

/// A read of so many bytes counts as bulk.
const BULK_BYTES: usize = 16 * 1024;

/// Reads of bulk in a row, of each of which something went out at once, after which pages are moved.
const BULK_READS: u8 = 4;

/// Passes of less than bulk in a row after which bytes are copied again: moving a small message costs a third more.
const SMALL_PASSES: u8 = 8;

/// Bytes moved that count as one copied, for the budget of a poll: two passes of a full pipe. Fewer bytes in a poll wake
/// the neighbours so often that most of what moving saves is lost.
const MOVED_PER_COPIED: usize = 16;

/// Where a direction goes, for the length of one poll.
pub(super) struct Way<'p, F, T> {
    pub(super) from: &'p mut F,
    pub(super) to: &'p mut T,
    /// Bytes written, over all relays of the tunnel.
    pub(super) delivered: &'p AtomicU64,
    pub(super) config: &'p RelayConfig,
    /// The other direction is done: with the end of this one both streams are closed.
    pub(super) is_last: bool,
}

/// Bytes on their way from one stream to the other. Kept small: every idle stream has two of these.
#[derive(Default)]
pub(super) struct Direction {
    delivered: u64,
    // Read and not yet written. Only while the far side is stalled.
    backlog: Option<Box<Backlog>>,
    method: Method,
    /// When it last had its share of a turn.
    turn: u16,
    unflushed: bool,
    // The sender has ended; what is kept still has to go out.
    eof: bool,
    // The end was passed on.
    done: bool,
}

enum Backlog {
    /// `bytes[sent..]`, never empty.
    Kept { bytes: Vec<u8>, sent: usize },
    /// In a pipe, never empty.
    Piped(Loan),
}

#[derive(Clone, Copy)]
enum Method {
    /// After so many reads of bulk in a row; see [`BULK_READS`].
    Copy { bulk: u8 },
    /// After so many passes in a row that were less than bulk.
    Move { small: u8 },
    /// It was tried, and the system does not know how.
    CopyAlways,
}

impl Default for Method {
    fn default() -> Method {
        Method::Copy { bulk: 0 }
    }
}

#[derive(Default)]
pub(super) struct Progress {
    pub(super) moved: bool,
    /// The budget ended before the bytes did.
    pub(super) again: bool,
}

pub(super) enum Fault {
    From(io::Error),
    To(io::Error),
}

impl Fault {
    pub(super) fn end(self, from: Side, to: Side) -> End {
        match self {
            Fault::From(error) => End::Reset { by: from, kind: error.kind() },
            Fault::To(error) => End::Reset { by: to, kind: error.kind() },
        }
    }
}

impl Direction {
    /// Bytes written so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The sender has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.eof
    }

    /// The end was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// In these states a reset may arrive that no pending read or write is woken for.
    pub(super) fn wants_watch(&self) -> bool {
        self.eof || self.unflushed || self.backlog.is_some()
    }

    /// Moves what can be moved, within the budget of one poll.
    pub(super) fn poll<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        mut way: Way<'_, F, T>,
        scratch: &mut Scratch,
    ) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        let write_max = way.write_max();
        let scratch = whole_writes(scratch.bytes(), write_max);
        let share = turn::share(self.turn);
        let mut budget = share;
        // A pipe goes back to the pool at the end of the poll unless bytes are left in it.
        let mut loan = None;
        self.join(cx, &mut way, scratch, &mut budget, &mut progress)?;
        while !self.done {
            if self.backlog.is_some() {
                let before = self.delivered;
                let flow = self.drain(cx, &mut way, write_max)?;
                progress.moved |= self.delivered > before;
                if flow.is_pending() {
                    break;
                }
                // What could not go on through a pipe was taken out of it.
                if self.backlog.is_some() {
                    continue;
                }
            }
            if self.eof {
                if !(way.is_last && way.to.ends_by_close()) && poll_end(cx, way.to)?.is_pending() {
                    break;
                }
                self.done = true;
                progress.moved = true;
                break;
            }
            if budget == 0 {
                progress.again = true;
                break;
            }
            let pass = match self.pipe(&way, &mut loan) {
                Some(pipe) => self.move_pages(cx, &mut way, pipe)?,
                None => self.copy(cx, &mut way, scratch, write_max)?,
            };
            match pass {
                Pass::Nothing => {
                    self.flush(cx, way.to)?;
                    break;
                }
                Pass::Done { cost } => {
                    progress.moved = true;
                    budget = budget.saturating_sub(cost);
                }
                Pass::Stalled => {
                    progress.moved = true;
                    if let Some(loan) = loan.take_if(|loan| loan.held() > 0) {
                        self.backlog = Some(Box::new(Backlog::Piped(loan)));
                    }
                    break;
                }
            }
        }
        turn::taken(&mut self.turn, share.saturating_sub(budget));
        Ok(progress)
    }

    /// Each write to vsock becomes packets of its own, and many small ones are costly or worse: a small rest waits for
    /// what has come meanwhile, so that both leave in one write. TCP and Unix sockets join in the kernel.
    fn join<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        way: &mut Way<'_, F, T>,
        scratch: &mut [u8],
        budget: &mut usize,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        if way.to.kind() != StreamKind::Vsock || self.eof {
            return Ok(());
        }
        let Some(Backlog::Kept { bytes, sent }) = self.backlog.as_deref_mut() else { return Ok(()) };
        let kept = bytes.len().saturating_sub(*sent);
        if kept >= way.write_max() {
            return Ok(());
        }
        let room = scratch.len().saturating_sub(kept);
        if let Poll::Ready(read) = poll_read(cx, way.from, scratch.get_mut(..room).unwrap_or_default())? {
            progress.moved = true;
            *budget = budget.saturating_sub(read.len());
            self.eof = read.is_empty();
            bytes.drain(..(*sent).min(bytes.len()));
            *sent = 0;
            bytes.reserve_exact(read.len());
            bytes.extend_from_slice(read);
        }
        Ok(())
    }

    /// One read, and writes until all of it is out or `to` takes no more, which is kept then.
    fn copy<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        way: &mut Way<'_, F, T>,
        scratch: &mut [u8],
        write_max: usize,
    ) -> Result<Pass, Fault> {
        let room = way.read_max().min(scratch.len());
        let Poll::Ready(read) = poll_read(cx, way.from, scratch.get_mut(..room).unwrap_or_default())? else {
            return Ok(Pass::Nothing);
        };
        self.eof = read.is_empty();
        let (written, flow) = self.write(cx, way, read, write_max)?;
        if let Method::Copy { bulk } = &mut self.method {
            *bulk = if read.len() >= BULK_BYTES && written > 0 { bulk.saturating_add(1) } else { 0 };
        }
        if flow.is_pending() {
            let bytes = read.get(written..).unwrap_or_default().to_vec();
            self.backlog = Some(Box::new(Backlog::Kept { bytes, sent: 0 }));
            return Ok(Pass::Stalled);
        }
        Ok(Pass::Done { cost: read.len() })
    }

    /// The pipe for the next pass, if it is one for a pipe.
    fn pipe<'l, F: RelayStream, T: RelayStream>(
        &mut self,
        way: &Way<'_, F, T>,
        loan: &'l mut Option<Loan>,
    ) -> Option<&'l mut Loan> {
        let pipes = way.config.pipes.as_ref()?;
        match self.method {
            Method::Copy { bulk } if bulk < BULK_READS => return None,
            Method::Copy { .. } | Method::Move { .. } => {}
            Method::CopyAlways => return None,
        }
        if way.from.splice_end().is_none() || way.to.splice_end().is_none() {
            return None;
        }
        if loan.is_none() {
            *loan = pipes.lend();
        }
        if loan.is_some() && matches!(self.method, Method::Copy { .. }) {
            self.method = Method::Move { small: 0 };
        }
        loan.as_mut()
    }

    /// As [`copy`](Direction::copy), through a pipe.
    fn move_pages<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        way: &mut Way<'_, F, T>,
        pipe: &mut Loan,
    ) -> Result<Pass, Fault> {
        let Some(from) = way.from.splice_end() else { return Ok(Pass::Nothing) };
        let filled = match pipe.poll_fill(cx, from) {
            Poll::Pending => return Ok(Pass::Nothing),
            Poll::Ready(Ok(filled)) => filled,
            Poll::Ready(Err(error)) if is_unsupported(&error) => {
                self.method = Method::CopyAlways;
                return Ok(Pass::Done { cost: 0 });
            }
            Poll::Ready(Err(error)) => return Err(Fault::From(error)),
        };
        self.eof = filled == 0;
        let flow = self.drain_pipe(cx, way, pipe)?;
        if let Method::Move { small } = &mut self.method {
            *small = if filled < BULK_BYTES { small.saturating_add(1) } else { 0 };
            if *small >= SMALL_PASSES {
                self.method = Method::default();
            }
        }
        if flow.is_pending() {
            return Ok(Pass::Stalled);
        }
        Ok(Pass::Done { cost: filled.div_ceil(MOVED_PER_COPIED) })
    }

    /// Moves what is in the pipe on. Where the system does not know how to, the bytes are taken out and kept.
    fn drain_pipe<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        way: &mut Way<'_, F, T>,
        pipe: &mut Loan,
    ) -> Result<Poll<()>, Fault> {
        while pipe.held() > 0 {
            let drained = match way.to.splice_end() {
                Some(to) => pipe.poll_drain(cx, to),
                None => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
            };
            match drained {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) => return Err(Fault::To(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(moved)) => self.count(way, moved),
                Poll::Ready(Err(error)) if is_unsupported(&error) => {
                    self.method = Method::CopyAlways;
                    let bytes = pipe.take_bytes().map_err(Fault::From)?;
                    self.backlog = Some(Box::new(Backlog::Kept { bytes, sent: 0 }));
                }
                Poll::Ready(Err(error)) => return Err(Fault::To(error)),
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Puts out what is left of earlier passes.
    fn drain<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        way: &mut Way<'_, F, T>,
        write_max: usize,
    ) -> Result<Poll<()>, Fault> {
        let Some(mut backlog) = self.backlog.take() else { return Ok(Poll::Ready(())) };
        let flow = match &mut *backlog {
            Backlog::Kept { bytes, sent } => {
                let (written, flow) = self.write(cx, way, bytes.get(*sent..).unwrap_or_default(), write_max)?;
                *sent += written;
                flow
            }
            Backlog::Piped(pipe) => self.drain_pipe(cx, way, pipe)?,
        };
        if flow.is_pending() {
            self.backlog = Some(backlog);
        }
        Ok(flow)
    }

    /// Writes until all is out or `to` takes no more; how much went.
    fn write<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        way: &mut Way<'_, F, T>,
        bytes: &[u8],
        write_max: usize,
    ) -> Result<(usize, Poll<()>), Fault> {
        let mut written = 0_usize;
        loop {
            let rest = bytes.get(written..).unwrap_or_default();
            if rest.is_empty() {
                return Ok((written, Poll::Ready(())));
            }
            let piece = rest.get(..write_max).unwrap_or(rest);
            match Pin::new(&mut *way.to).poll_write(cx, piece) {
                Poll::Pending => return Ok((written, Poll::Pending)),
                Poll::Ready(Ok(0)) => return Err(Fault::To(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    written += count;
                    self.count(way, count);
                }
                Poll::Ready(Err(error)) => return Err(Fault::To(error)),
            }
        }
    }

    fn count<F, T>(&mut self, way: &Way<'_, F, T>, bytes: usize) {
        self.unflushed = true;
        let bytes = bytes as u64;
        self.delivered += bytes;
        way.delivered.fetch_add(bytes, Ordering::Relaxed);
    }

    /// For streams that buffer; for sockets nothing happens.
    fn flush<T: RelayStream>(&mut self, cx: &mut Context<'_>, to: &mut T) -> Result<(), Fault> {
        if self.unflushed {
            match Pin::new(to).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(Fault::To(error)),
                Poll::Pending => {}
            }
        }
        Ok(())
    }
}

/// What one read and its writes came to.
enum Pass {
    /// There was nothing to read.
    Nothing,
    /// All of it is out, or it was the end; what that takes from the budget.
    Done { cost: usize },
    /// Some of it is left.
    Stalled,
}

impl<F: RelayStream, T: RelayStream> Way<'_, F, T> {
    fn write_max(&self) -> usize {
        let socket_max = match self.to.kind() {
            StreamKind::Vsock => self.config.vsock_write_max_bytes.max(1),
            StreamKind::Tcp | StreamKind::Unix => usize::MAX,
        };
        self.to.write_max_bytes(socket_max)
    }

    fn read_max(&self) -> usize {
        match self.from.kind() {
            StreamKind::Unix => UNIX_READ_MAX_BYTES,
            StreamKind::Tcp | StreamKind::Vsock => usize::MAX,
        }
    }
}

/// As much of the buffer as is a number of whole writes: a small rest would make a write of its own.
fn whole_writes(scratch: &mut [u8], write_max: usize) -> &mut [u8] {
    let rest = scratch.len().checked_rem(write_max).unwrap_or_default();
    let whole = scratch.len() - rest;
    if whole == 0 { scratch } else { scratch.get_mut(..whole).unwrap_or_default() }
}

fn poll_read<'s, F: RelayStream>(
    cx: &mut Context<'_>,
    from: &mut F,
    scratch: &'s mut [u8],
) -> Result<Poll<&'s [u8]>, Fault> {
    let mut buffer = ReadBuf::new(scratch);
    match Pin::new(from).poll_read(cx, &mut buffer) {
        Poll::Pending => return Ok(Poll::Pending),
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(error)) => return Err(Fault::From(error)),
    }
    let read = buffer.filled().len();
    Ok(Poll::Ready(scratch.get(..read).unwrap_or_default()))
}

/// Passes the end on. Everything was written, so a peer that has already gone in order (vsock says ENOTCONN then) has
/// nothing to miss; but TCP says the same after a reset, and only the socket's error tells.
fn poll_end<T: RelayStream>(cx: &mut Context<'_>, to: &mut T) -> Result<Poll<()>, Fault> {
    match Pin::new(&mut *to).poll_shutdown(cx) {
        Poll::Pending => Ok(Poll::Pending),
        Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => match to.take_error() {
            None => Ok(Poll::Ready(())),
            Some(error) => Err(Fault::To(error)),
        },
        Poll::Ready(Err(error)) => Err(Fault::To(error)),
    }
}
