//! The framed form of an enclave's leg: a stream whose two directions are sequences of records, so that the end of one
//! and a reset are exact on every transport. What the records are is the wire's (`enclave_bridge_proto`); when to end
//! or to reset is decided by whoever holds the stream.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use enclave_bridge_proto::{
    END_RECORD, RECORD_HEADER_BYTES, RECORD_MAX_BYTES, RESET_RECORD, RecordError, RecordReader, next_record,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

use crate::relay::SCRATCH_BYTES;
use crate::stream::{RelayStream, StreamKind};

/// Records that one write carries towards Unix and TCP sockets: as many as fill the relay's scratch buffer. Towards
/// AF_VSOCK it is one, whose size is the largest write there.
const RECORDS_PER_WRITE: usize = SCRATCH_BYTES / (RECORD_HEADER_BYTES + RECORD_MAX_BYTES);

/// What one read takes behind the end of a direction, where nothing but a reset may follow.
const AFTER_END_READ_BYTES: usize = 16;

/// A stream in records. Its bytes are the payload; `poll_shutdown` ends the writing direction by a record and leaves
/// the socket open.
///
/// Reading shows an end only where the peer sent one. A reset, a record that is none, and an end of the socket without
/// the end of the direction are [`io::ErrorKind::ConnectionReset`], with a [`RecordError`] inside.
///
/// A record that the socket took in part is kept, at most 32 KiB, and finished by the next call of any kind, reading
/// included; without one there is no buffer. So bytes that were accepted are on their way even if nobody flushes.
///
/// Dropping it closes the socket. Before that, if the socket takes it at once: while armed
/// ([`RelayStream::arm_reset`]) or in a panic the record that resets, else the one that ends the direction if nothing
/// has. What then misses its record is a reset for the peer.
pub struct Framed<S: RelayStream> {
    inner: S,
    reader: RecordReader,
    // The socket has ended behind the end of the direction.
    dry: bool,
    writing: Writing,
    // The rest of a record that the socket took in part: `kept[sent..]`. Empty, without memory, otherwise.
    kept: Vec<u8>,
    sent: usize,
    // Who waits for the rest to go out; there only while it is kept.
    waiting: Option<Arc<Waiting>>,
    armed: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writing {
    Open,
    /// The record that ends the direction is what is kept.
    Ending,
    Ended,
    /// Nobody was there any more to be told the end.
    Gone,
    Failed(io::ErrorKind),
}

impl<S: RelayStream> Framed<S> {
    /// A framed stream over `inner`, before the first record of either direction.
    pub fn new(inner: S) -> Framed<S> {
        Framed {
            inner,
            reader: RecordReader::new(),
            dry: false,
            writing: Writing::Open,
            kept: Vec::new(),
            sent: 0,
            waiting: None,
            armed: AtomicBool::new(false),
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Puts out the rest of a record. Both tasks that may hold halves of the stream are woken when it can go on: the
    /// reader's answer may depend on what is kept, and the writer may never come back.
    fn poll_kept(&mut self, cx: &mut Context<'_>, who: Who) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            return match self.writing {
                Writing::Failed(kind) => Poll::Ready(Err(kind.into())),
                Writing::Open | Writing::Ending | Writing::Ended | Writing::Gone => Poll::Ready(Ok(())),
            };
        }
        let waiting = Arc::clone(self.waiting.get_or_insert_default());
        waiting.register(who, cx.waker());
        let waker = Waker::from(waiting);
        let mut both = Context::from_waker(&waker);
        let written = loop {
            let rest = self.kept.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(());
            }
            match ready!(Pin::new(&mut self.inner).poll_write(&mut both, rest)) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) => break Err(error),
            }
        };
        self.kept = Vec::new();
        self.sent = 0;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        Poll::Ready(self.settle(written))
    }

    fn settle(&mut self, written: io::Result<()>) -> io::Result<()> {
        match (written, self.writing) {
            (Ok(()), Writing::Ending) => {
                self.writing = Writing::Ended;
                Ok(())
            }
            // A peer that has closed already misses nothing by not being told the end. Whether it closed in order is
            // what reading from it tells.
            (Err(error), Writing::Ending) if is_gone(error.kind()) => {
                self.writing = Writing::Gone;
                Ok(())
            }
            (Err(error), _) => {
                self.writing = Writing::Failed(error.kind());
                Err(error)
            }
            (Ok(()), _) => Ok(()),
        }
    }

    fn poll_records(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut records = [Record::NONE; RECORDS_PER_WRITE];
        let (mut count, mut rest) = (0, bytes);
        for place in records.iter_mut().take(self.records_per_write()) {
            let Some((header, payload, behind)) = next_record(rest) else { break };
            *place = Record { header, payload };
            (count, rest) = (count + 1, behind);
        }
        let records = records.get(..count).unwrap_or_default();
        if records.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = match ready!(self.poll_parts(cx, records)) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            written => written,
        };
        let mut left = match written {
            Ok(written) => written,
            Err(error) => {
                self.writing = Writing::Failed(error.kind());
                return Poll::Ready(Err(error));
            }
        };
        // A record that was begun is accepted, and what is left of it kept.
        let mut accepted = 0;
        for record in records {
            accepted += record.payload.len();
            if left <= record.len() {
                self.kept = record.rest_from(left);
                break;
            }
            left -= record.len();
        }
        Poll::Ready(Ok(accepted))
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>, records: &[Record<'_>]) -> Poll<io::Result<usize>> {
        let inner = Pin::new(&mut self.inner);
        if !inner.is_write_vectored() {
            return inner.poll_write(cx, &records.first().map_or_else(Vec::new, |record| record.rest_from(0)));
        }
        let mut parts = [IoSlice::new(&[]); 2 * RECORDS_PER_WRITE];
        for (pair, record) in parts.chunks_exact_mut(2).zip(records) {
            pair.copy_from_slice(&[IoSlice::new(&record.header), IoSlice::new(record.payload)]);
        }
        inner.poll_write_vectored(cx, parts.get(..2 * records.len()).unwrap_or_default())
    }

    fn records_per_write(&self) -> usize {
        match self.inner.kind() {
            StreamKind::Vsock => 1,
            StreamKind::Tcp | StreamKind::Unix => RECORDS_PER_WRITE,
        }
    }

    /// An error of the socket is the end of both directions.
    fn poll_inner(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if let Err(error) = &read {
            self.writing = Writing::Failed(error.kind());
            self.kept = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(read)
    }

    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.armed.load(Ordering::Relaxed) && !std::thread::panicking() {
            return self.poll_end(cx);
        }
        if self.kept.is_empty() && !matches!(self.writing, Writing::Gone | Writing::Failed(_)) {
            return Pin::new(&mut self.inner).poll_write(cx, &RESET_RECORD).map_ok(|_| ());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writing == Writing::Open {
            ready!(self.poll_kept(cx, Who::Writer))?;
            self.kept = END_RECORD.to_vec();
            self.writing = Writing::Ending;
        }
        self.poll_kept(cx, Who::Writer)
    }
}

/// The kinds with which a write tells that nobody is there to read it any more.
fn is_gone(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    )
}

fn reset(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

#[derive(Clone, Copy)]
struct Record<'a> {
    header: [u8; RECORD_HEADER_BYTES],
    payload: &'a [u8],
}

impl Record<'_> {
    const NONE: Record<'static> = Record { header: END_RECORD, payload: &[] };

    fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    /// What is left of it behind its first `written` bytes.
    fn rest_from(&self, written: usize) -> Vec<u8> {
        let header = self.header.get(written..).unwrap_or_default();
        let payload = self.payload.get(written.saturating_sub(self.header.len())..).unwrap_or_default();
        if header.is_empty() { payload.to_vec() } else { [header, payload].concat() }
    }
}

impl<S: RelayStream> AsyncRead for Framed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.kept.is_empty()
            && let Poll::Ready(Err(error)) = this.poll_kept(cx, Who::Reader)
        {
            // The writer is told; what the peer has sent before is still to be read.
            tracing::trace!(%error, "framed stream: the rest of a record");
        }
        loop {
            // What follows an end does not undo it: see `poll_torn`.
            if this.reader.has_ended() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.reader.failure() {
                return Poll::Ready(Err(reset(error)));
            }
            let before = buf.filled().len();
            ready!(this.poll_inner(cx, buf))?;
            let read = buf.filled_mut().get_mut(before..).unwrap_or_default();
            if read.is_empty() {
                this.reader.end_of_input();
                continue;
            }
            let payload = this.reader.decode(read);
            buf.set_filled(before + payload);
            if payload > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: RelayStream> AsyncWrite for Framed<S> {
    /// Takes at most a few records' worth. An error is final.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if matches!(this.writing, Writing::Ending | Writing::Ended | Writing::Gone) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_kept(cx, Who::Writer))?;
        this.poll_records(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_kept(cx, Who::Writer))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    /// Sends the end of this direction; the socket stays open in both, for the peer's end is still to come.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_end(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }
}

impl<S: RelayStream> RelayStream for Framed<S> {
    fn kind(&self) -> StreamKind {
        self.inner.kind()
    }

    /// After the end of the writing direction nothing of the peer's is waited for but what can be read: a socket error
    /// then only says that the peer has closed without reading the end.
    fn take_error(&self) -> Option<io::Error> {
        match self.writing {
            Writing::Open | Writing::Ending => self.inner.take_error(),
            Writing::Ended | Writing::Gone | Writing::Failed(_) => None,
        }
    }

    fn arm_reset(&self) {
        self.armed.store(true, Ordering::Relaxed);
        self.inner.arm_reset();
    }

    fn disarm_reset(&self) {
        self.armed.store(false, Ordering::Relaxed);
        self.inner.disarm_reset();
    }

    fn write_max_bytes(&self, socket_max: usize) -> usize {
        socket_max.saturating_sub(RECORD_HEADER_BYTES).clamp(1, self.records_per_write() * RECORD_MAX_BYTES)
    }

    fn poll_torn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            if let Some(error) = self.reader.failure() {
                return Poll::Ready(reset(error));
            }
            if !self.reader.has_ended() || self.dry {
                return Poll::Pending;
            }
            let mut bytes = [0; AFTER_END_READ_BYTES];
            let mut buf = ReadBuf::new(&mut bytes);
            match ready!(self.poll_inner(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => {
                    self.dry = true;
                    self.reader.end_of_input();
                }
                Ok(()) => {
                    self.reader.decode(buf.filled_mut());
                }
                Err(error) => return Poll::Ready(error),
            }
        }
    }
}

impl<S: RelayStream> Drop for Framed<S> {
    fn drop(&mut self) {
        // Whatever the task has done before, the socket is really asked.
        let last = pin!(unconstrained(poll_fn(|cx| self.poll_last(cx))));
        if let Poll::Ready(Err(error)) = last.poll(&mut Context::from_waker(Waker::noop())) {
            tracing::trace!(%error, "framed stream: last record");
        }
    }
}

/// Shows how many bytes are held, never which.
impl<S: RelayStream + fmt::Debug> fmt::Debug for Framed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed")
            .field("inner", &self.inner)
            .field("writing", &self.writing)
            .field("kept_bytes", &self.kept.len().saturating_sub(self.sent))
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
enum Who {
    Reader,
    Writer,
}

/// The tasks that wait for the rest of a record to go out.
#[derive(Default)]
struct Waiting(Mutex<(Option<Waker>, Option<Waker>)>);

impl Waiting {
    fn register(&self, who: Who, waker: &Waker) {
        let mut wakers = self.lock();
        let place = match who {
            Who::Reader => &mut wakers.0,
            Who::Writer => &mut wakers.1,
        };
        *place = Some(waker.clone());
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Waker>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let (reader, writer) = std::mem::take(&mut *self.lock());
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }
}
