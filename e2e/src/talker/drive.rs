//! The loop of an end: what it waits for, and what it does then.

use super::{Deed, End, Pieces, Plan, Reading, Socket, Told, Turn};
use crate::bytes::Pattern;
use crate::dice::Dice;
use crate::peers;
use crate::wire::Wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long nothing may move before an end is called hung: twice what a loaded machine ever took.
const HUNG_AFTER: Duration = Duration::from_secs(60);

/// The longest record of a framed stream.
const RECORD_MOST: usize = 32_766;

/// What is read at once by an end without a habit.
const SCRATCH_BYTES: usize = 64 * 1024;

/// How often a flag is looked at while nothing else can happen.
const LOOK_EVERY: Duration = Duration::from_millis(1);

pub(super) struct Talker {
    socket: Option<Socket>,
    plan: Plan,
    dice: Dice,
    out: Pattern,
    /// Bytes on the way into the socket, and how many of them are in.
    pending: Vec<u8>,
    sent: usize,
    spoke: u64,
    ended: bool,
    /// Writing is over, in order or not.
    done_writing: bool,
    write_error: Option<ErrorKind>,
    not_before: Instant,
    expected: Pattern,
    hash: Sha256,
    heard: u64,
    altered_at: Option<u64>,
    read_not_before: Option<Instant>,
    stalled_once: bool,
    /// Of the record that is being heard; its header may be half there.
    header: Vec<u8>,
    record_left: usize,
    end: Option<End>,
    scratch: Vec<u8>,
    compare: Vec<u8>,
}

impl Talker {
    pub(super) fn new(socket: Socket, plan: Plan) -> Talker {
        match &socket {
            Socket::Tcp(tcp) => {
                tcp.set_nonblocking(true).expect("a socket");
                tcp.set_nodelay(true).expect("a socket");
            }
            Socket::Raw(wire) | Socket::Framed(wire) => wire.set_nonblocking(true),
        }
        let mut out = Pattern::new(plan.speak.seed, plan.speak.length);
        io::copy(&mut (&mut out).take(plan.spoken), &mut io::sink()).expect("a pattern reads without errors");
        Talker {
            socket: Some(socket),
            dice: Dice::new(plan.speak.seed ^ 0x7A1C),
            out,
            expected: Pattern::new(plan.hear.seed, plan.hear.length),
            spoke: plan.spoken,
            plan,
            pending: Vec::new(),
            sent: 0,
            ended: false,
            done_writing: false,
            write_error: None,
            not_before: Instant::now(),
            hash: Sha256::new(),
            heard: 0,
            altered_at: None,
            read_not_before: None,
            stalled_once: false,
            header: Vec::new(),
            record_left: 0,
            end: None,
            scratch: vec![0; SCRATCH_BYTES],
            compare: vec![0; SCRATCH_BYTES],
        }
    }

    pub(super) fn run(mut self) -> Told {
        self.drive();
        Told {
            spoke: self.spoke,
            ended: self.ended,
            heard: self.heard,
            altered_at: self.altered_at,
            hash: self.hash.finalize().into(),
            end: self.end.unwrap_or(End::Hung),
        }
    }

    fn drive(&mut self) {
        let mut moved = Instant::now();
        while self.end.is_none() || !self.done_writing {
            let now = Instant::now();
            if now.duration_since(moved) > HUNG_AFTER {
                self.end = Some(self.end.unwrap_or(End::Hung));
                return;
            }
            let reads = self.end.is_none() && self.may_read(now);
            let writes = !self.done_writing && now >= self.not_before && self.has_something_to_do();
            let (readable, writable, failed) = self.wait(reads, writes);
            let before = (self.heard, self.spoke, self.sent, self.end, self.done_writing);
            if reads && (readable || failed) {
                self.hear();
            }
            if self.end != Some(End::Own) && writes && !self.done_writing && (writable || failed) {
                self.speak();
            }
            if before == (self.heard, self.spoke, self.sent, self.end, self.done_writing) {
                if failed || readable || writable {
                    std::thread::sleep(LOOK_EVERY);
                }
            } else {
                moved = Instant::now();
            }
            // Where the other end is gone there is nobody to speak to.
            if matches!(self.end, Some(End::Cut(_) | End::Own)) {
                self.done_writing = true;
            }
        }
    }

    fn may_read(&mut self, now: Instant) -> bool {
        if matches!(self.plan.deed, Some((Deed::CloseUnread, _))) {
            return false;
        }
        if let Reading::Stalled { at, pause } = self.plan.reading
            && !self.stalled_once
            && self.heard >= at
        {
            self.stalled_once = true;
            self.read_not_before = Some(now + pause);
        }
        self.read_not_before.is_none_or(|until| now >= until)
    }

    /// Bytes that are on their way, bytes that may be said now, an end that may be, or a fault whose time has come.
    fn has_something_to_do(&self) -> bool {
        self.sent < self.pending.len() || self.spoke < self.limit() || self.may_end() || self.deed_is_due()
    }

    /// How many bytes may be said now.
    fn limit(&self) -> u64 {
        if self.plan.turn == Turn::SpeaksLast && self.end.is_none() {
            return 0;
        }
        let withheld = self.plan.withheld.as_ref().is_some_and(|flag| !flag.load(Ordering::SeqCst));
        let most = self.plan.speak.length - u64::from(withheld);
        self.plan.deed.map_or(most, |(_, at)| most.min(at))
    }

    fn may_end(&self) -> bool {
        self.spoke == self.plan.speak.length && (self.plan.turn != Turn::EndsLast || self.end.is_some())
    }

    fn deed_is_due(&self) -> bool {
        self.plan.deed.is_some_and(|(_, at)| self.spoke >= at)
    }

    fn wait(&self, reads: bool, writes: bool) -> (bool, bool, bool) {
        let closes_unread = matches!(self.plan.deed, Some((Deed::CloseUnread, _))) && self.deed_is_due();
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, reads || closes_unread);
        events.set(PollFlags::POLLOUT, writes && !closes_unread);
        // A flag, a pause or a fault may be waited for; otherwise only the socket.
        let timeout = if reads && writes { 1000_u16 } else { 1 };
        let mut ready = [PollFd::new(self.fd(), events)];
        match poll(&mut ready, PollTimeout::from(timeout)) {
            Ok(0) | Err(Errno::EINTR) => (false, false, false),
            Ok(_) => {
                let found = ready[0].revents().unwrap_or(PollFlags::POLLERR);
                let readable = found.contains(PollFlags::POLLIN);
                let writable = found.contains(PollFlags::POLLOUT) || (closes_unread && readable);
                (readable, writable, found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
            }
            Err(error) => panic!("poll: {error}"),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self.socket.as_ref().expect("open until its own fault") {
            Socket::Tcp(tcp) => tcp.as_fd(),
            Socket::Raw(wire) | Socket::Framed(wire) => wire.as_fd(),
        }
    }

    fn hear(&mut self) {
        let most = match self.plan.reading {
            Reading::Slow => 4096,
            Reading::Eager | Reading::Stalled { .. } => SCRATCH_BYTES,
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = match self.socket.as_mut().expect("open") {
            Socket::Tcp(tcp) => tcp.read(&mut scratch[..most]),
            Socket::Raw(wire) | Socket::Framed(wire) => wire.read(&mut scratch[..most]),
        };
        match read {
            Ok(0) => {
                let framed = matches!(self.socket, Some(Socket::Framed(_)));
                self.end = Some(match self.write_error {
                    _ if framed => End::Cut(ErrorKind::UnexpectedEof),
                    // The reset was told to the write that met it first.
                    Some(ErrorKind::ConnectionReset) => End::Cut(ErrorKind::ConnectionReset),
                    _ => End::Clean,
                });
            }
            Ok(n) => self.take(&scratch[..n]),
            Err(error) if is_no_news(&error) => {}
            Err(error) => self.end = Some(End::Cut(error.kind())),
        }
        self.scratch = scratch;
        if self.plan.reading == Reading::Slow {
            self.read_not_before = Some(Instant::now() + Duration::from_millis(1));
        }
    }

    /// Bytes as they came: of a framed stream headers and payload.
    fn take(&mut self, mut bytes: &[u8]) {
        if !matches!(self.socket, Some(Socket::Framed(_))) {
            self.take_payload(bytes);
            return;
        }
        while !bytes.is_empty() && self.end.is_none() {
            if self.record_left > 0 {
                let (payload, rest) = bytes.split_at(bytes.len().min(self.record_left));
                self.record_left -= payload.len();
                self.take_payload(payload);
                bytes = rest;
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if self.header.len() == 2 {
                let length = u16::from_le_bytes([self.header[0], self.header[1]]);
                self.header.clear();
                match usize::from(length) {
                    0 => self.end = Some(End::Clean),
                    0xFFFF => self.end = Some(End::Cut(ErrorKind::ConnectionReset)),
                    length if length > RECORD_MOST => self.altered_at = Some(self.heard),
                    length => self.record_left = length,
                }
            }
        }
        if !bytes.is_empty() && self.end == Some(End::Clean) {
            // Bytes behind the end of their direction are bytes that nobody said.
            self.altered_at = self.altered_at.or(Some(self.heard));
        }
    }

    fn take_payload(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        if self.altered_at.is_none() {
            let mut compare = std::mem::take(&mut self.compare);
            let expected = &mut compare[..bytes.len()];
            let n = self.expected.read(expected).expect("a pattern reads without errors");
            let same = bytes.iter().zip(&expected[..n]).take_while(|(came, said)| came == said).count();
            if same < bytes.len() {
                self.altered_at = Some(self.heard + same as u64);
            }
            self.compare = compare;
        }
        self.heard += bytes.len() as u64;
        self.plan.progress.store(self.heard, Ordering::SeqCst);
    }

    fn speak(&mut self) {
        if self.sent == self.pending.len() {
            if self.deed_is_due() {
                self.do_it();
                return;
            }
            if self.may_end() {
                self.say_end();
                return;
            }
            self.prepare();
        }
        let single = self.plan.pieces == Pieces::Single;
        let most = if single { (self.sent + 1).min(self.pending.len()) } else { self.pending.len() };
        let bytes = &self.pending[self.sent..most];
        if bytes.is_empty() {
            return;
        }
        let written = match self.socket.as_mut().expect("open") {
            Socket::Tcp(tcp) => tcp.write(bytes),
            Socket::Raw(wire) | Socket::Framed(wire) => wire.write(bytes),
        };
        match written {
            Ok(n) => self.sent += n,
            Err(error) if is_no_news(&error) => {}
            Err(error) => {
                self.write_error = Some(error.kind());
                self.done_writing = true;
            }
        }
        let pause = match self.plan.pieces {
            Pieces::Late => 3000,
            Pieces::Drip => 200_000,
            Pieces::Large | Pieces::Single | Pieces::Uneven => return,
        };
        if self.sent == self.pending.len() {
            self.not_before = Instant::now() + Duration::from_micros(self.dice.below(pause));
        }
    }

    /// The next piece of the blob, as a record where the stream has them.
    fn prepare(&mut self) {
        let framed = matches!(self.socket, Some(Socket::Framed(_)));
        let most = match self.plan.pieces {
            Pieces::Uneven => 1 + self.dice.below(1448),
            Pieces::Late => 1 + self.dice.below(16 * 1024),
            Pieces::Large if framed => {
                [32_766, 1, 4093, 30_000, 2][usize::try_from(self.dice.below(5)).expect("small")]
            }
            Pieces::Large => 256 * 1024,
            Pieces::Single => 64,
            Pieces::Drip => 1 + self.dice.below(512),
        };
        let length = most.min(self.limit() - self.spoke);
        self.pending.clear();
        self.sent = 0;
        if length == 0 {
            return;
        }
        if framed {
            self.pending.extend_from_slice(&u16::try_from(length).expect("a record's length").to_le_bytes());
        }
        (&mut self.out).take(length).read_to_end(&mut self.pending).expect("a pattern reads without errors");
        self.spoke += length;
    }

    fn say_end(&mut self) {
        match self.socket.as_mut().expect("open") {
            Socket::Tcp(tcp) => drop(tcp.shutdown(Shutdown::Write)),
            Socket::Raw(wire) => wire.shutdown(Shutdown::Write),
            Socket::Framed(_) => {
                // The record goes the way of all bytes: it may have to wait, and it is said only once.
                if !self.ended {
                    self.pending = vec![0, 0];
                    self.sent = 0;
                    self.ended = true;
                    // Not done until it is in the socket.
                    return self.flush_end();
                }
            }
        }
        self.ended = true;
        self.done_writing = true;
    }

    fn flush_end(&mut self) {
        let deadline = Instant::now() + HUNG_AFTER;
        while self.sent < self.pending.len() && Instant::now() < deadline {
            let Some(Socket::Framed(wire)) = self.socket.as_mut() else { break };
            match wire.write(&self.pending[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if is_no_news(&error) => {
                    // Hearing goes on meanwhile, or two ends that wait for each other would wait for ever.
                    if self.end.is_none() {
                        self.hear();
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(error) => {
                    self.write_error = Some(error.kind());
                    break;
                }
            }
        }
        self.done_writing = true;
    }

    fn do_it(&mut self) {
        let (deed, _) = self.plan.deed.expect("due");
        let socket = self.socket.take().expect("open until its own fault");
        match (deed, socket) {
            (Deed::Reset, Socket::Tcp(tcp)) => peers::reset(tcp),
            (Deed::Reset, Socket::Framed(wire)) => last_words(&wire, &[0xFF, 0xFF]),
            (Deed::CutInRecord, Socket::Framed(wire)) => last_words(&wire, &[0x10, 0x00]),
            (Deed::CloseUnread, socket) => drop(socket),
            (deed, socket) => panic!("{deed:?} is nothing that {socket:?} can do"),
        }
        self.end = Some(End::Own);
        self.done_writing = true;
    }
}

/// Written in full, then the close.
fn last_words(wire: &Wire, words: &[u8]) {
    wire.set_nonblocking(false);
    wire.write_within(HUNG_AFTER);
    let mut wire = wire;
    let _ = wire.write_all(words);
}

fn is_no_news(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
