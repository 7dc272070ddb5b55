//! A host and an enclave facing each other under a virtual clock, over two pipes that can split, delay, cut and drop.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use enclave_bridge_proto::{
    First, FirstBytes, HandshakeError, HandshakeLimits, Nak, ParsedSettings, Phase, Protocol, Settings, enclave, host,
};

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Whole,
    /// After so many bytes the writer ends its direction.
    EndAfter(usize),
    /// After so many bytes nothing more arrives.
    SilentAfter(usize),
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Offsets at which what is written is cut in two.
    pub(crate) cuts: Vec<usize>,
    /// Time between one piece and the next.
    pub(crate) gap: Duration,
    pub(crate) fate: Fate,
    pub(crate) written: Vec<u8>,
    last_arrival: Instant,
    queue: VecDeque<(Instant, Option<Vec<u8>>)>,
    ended: bool,
}

impl Pipe {
    fn new(now: Instant) -> Self {
        Self {
            cuts: Vec::new(),
            gap: Duration::ZERO,
            fate: Fate::Whole,
            written: Vec::new(),
            last_arrival: now,
            queue: VecDeque::new(),
            ended: false,
        }
    }

    fn write(&mut self, now: Instant, bytes: &[u8]) {
        for byte in bytes {
            let offset = self.written.len();
            self.check_end(now);
            self.written.push(*byte);
            let lost = matches!(self.fate, Fate::EndAfter(n) | Fate::SilentAfter(n) if offset >= n);
            if lost {
                continue;
            }
            let fresh = offset == 0 || self.cuts.contains(&offset) || self.queue.is_empty() || !self.gap.is_zero();
            match self.queue.back_mut() {
                Some((_, Some(piece))) if !fresh => piece.push(*byte),
                _ => {
                    let at = self.arrival(now);
                    self.queue.push_back((at, Some(vec![*byte])));
                }
            }
        }
        self.check_end(now);
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        self.last_arrival = self.last_arrival.max(now) + self.gap;
        self.last_arrival
    }

    fn check_end(&mut self, now: Instant) {
        if self.fate == Fate::EndAfter(self.written.len()) {
            self.end(now);
        }
    }

    fn end(&mut self, now: Instant) {
        if !self.ended && !matches!(self.fate, Fate::SilentAfter(n) if self.written.len() >= n) {
            self.ended = true;
            let at = self.arrival(now);
            self.queue.push_back((at, None));
        }
    }

    fn due(&mut self, now: Instant) -> Option<Option<Vec<u8>>> {
        (self.queue.front()?.0 <= now).then(|| self.queue.pop_front().unwrap().1)
    }
}

/// Both ends and what lies between them.
pub(crate) struct Pair {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) limits: HandshakeLimits,
    pub(crate) to_host: Pipe,
    pub(crate) to_enclave: Pipe,
    /// What the host answers; `None` grants.
    pub(crate) refuse: Option<Nak>,
    /// What the enclave asks for.
    pub(crate) settings: Settings,
    /// How long each side thinks.
    pub(crate) thinking: Duration,
    /// The host's writes never finish.
    pub(crate) host_blocked: bool,
    first: Option<FirstBytes>,
    host: Option<host::Handshake>,
    enclave: enclave::Handshake,
    host_decides_at: Option<Instant>,
    enclave_decides_at: Option<Instant>,
    pub(crate) outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) host: Option<host::End>,
    pub(crate) host_ended_after: Duration,
    pub(crate) requested: Option<ParsedSettings>,
    pub(crate) enclave: Option<enclave::Event>,
    pub(crate) enclave_ended_after: Duration,
    pub(crate) environment: Option<enclave_bridge_proto::Environment>,
}

impl Pair {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let now = Instant::now();
        let limits = HandshakeLimits::default();
        Self {
            start: now,
            now,
            limits,
            to_host: Pipe::new(now),
            to_enclave: Pipe::new(now),
            refuse: None,
            settings: crate::settings(protocol),
            thinking: Duration::ZERO,
            host_blocked: false,
            first: Some(FirstBytes::new(None)),
            host: None,
            enclave: enclave::Handshake::new(limits, now),
            host_decides_at: None,
            enclave_decides_at: None,
            outcome: Outcome::default(),
        }
    }

    /// Goes on until both sides have ended, or nothing more can happen.
    pub(crate) fn run(mut self) -> (Outcome, Vec<u8>, Vec<u8>) {
        self.to_host.check_end(self.now);
        self.to_enclave.check_end(self.now);
        for _ in 0..100_000 {
            while self.step() {}
            let next = [
                self.to_host.queue.front().map(|piece| piece.0),
                self.to_enclave.queue.front().map(|piece| piece.0),
                self.first.as_ref().map(|_| self.start + self.limits.ack),
                self.host.as_ref().and_then(host::Handshake::next_deadline),
                self.enclave.next_deadline(),
                self.host_decides_at,
                self.enclave_decides_at,
            ];
            match next.into_iter().flatten().min() {
                Some(next) => self.now = self.now.max(next),
                None => return (self.outcome, self.to_host.written, self.to_enclave.written),
            }
        }
        panic!("the pair spins: {:?}", self.outcome);
    }

    /// Does one thing that is due now, if there is one.
    fn step(&mut self) -> bool {
        let now = self.now;
        if let Some(piece) = self.to_host.due(now) {
            self.host_reads(piece);
            return true;
        }
        if let Some(piece) = self.to_enclave.due(now) {
            match piece {
                Some(bytes) => self.enclave.handle_bytes(now, &bytes),
                None => self.enclave.handle_eof(now),
            }
            self.poll_enclave();
            return true;
        }
        let mut moved = self.poll_enclave();
        if self.first.is_some() && now >= self.start + self.limits.ack {
            self.host_ends(host::End::Failed(HandshakeError::Timeout { phase: Phase::Ack }));
            moved = true;
        }
        if self.host_decides_at.is_some_and(|at| now >= at) {
            self.host_decides_at = None;
            let host = self.host.as_mut().unwrap();
            match self.refuse.clone() {
                None => host.grant(now),
                Some(nak) => host.refuse(now, nak),
            }
            moved = true;
        }
        if self.enclave_decides_at.is_some_and(|at| now >= at) {
            self.enclave_decides_at = None;
            self.enclave.request(now, &self.settings);
            moved = true;
        }
        if let Some(host) = self.host.as_mut()
            && host.next_deadline().is_some_and(|deadline| now >= deadline)
        {
            host.handle_timeout(now);
            moved = true;
        }
        if self.enclave.next_deadline().is_some_and(|deadline| now >= deadline) {
            self.enclave.handle_timeout(now);
            moved = true;
        }
        moved | self.poll_host() | self.poll_enclave()
    }

    fn host_reads(&mut self, piece: Option<Vec<u8>>) {
        let now = self.now;
        if let Some(first) = self.first.as_mut() {
            match piece.map(|bytes| first.push(&bytes)) {
                None => self.host_ends(host::End::Failed(HandshakeError::Truncated { phase: Phase::Ack })),
                Some(None) => {}
                Some(Some(First::Handshake { rest })) => {
                    self.first = None;
                    let line = crate::environment().encode_line(&crate::offered()).unwrap();
                    let mut host =
                        host::Handshake::new(line, crate::offered(), self.limits, now).accepted_at(self.start);
                    host.handle_bytes(now, &rest);
                    self.host = Some(host);
                }
                Some(Some(First::Beat | First::Bad)) => self.host_ends(host::End::Failed(HandshakeError::BadAck)),
            }
        } else if let Some(host) = self.host.as_mut() {
            match piece {
                Some(bytes) => host.handle_bytes(now, &bytes),
                None => host.handle_eof(now),
            }
        }
        self.poll_host();
    }

    fn host_ends(&mut self, end: host::End) {
        assert_eq!(self.outcome.host, None, "a second end: {end:?}");
        self.first = None;
        self.host = None;
        self.host_decides_at = None;
        self.outcome.host = Some(end);
        self.outcome.host_ended_after = self.now - self.start;
        self.to_enclave.end(self.now);
    }

    fn poll_host(&mut self) -> bool {
        let mut moved = false;
        while let Some(host) = self.host.as_mut() {
            if let Some(event) = host.poll_event() {
                match event {
                    host::Event::Requested(parsed) => {
                        assert_eq!(self.outcome.requested.replace(parsed), None, "asked twice");
                        self.host_decides_at = Some(self.now + self.thinking);
                    }
                    host::Event::Closed(end) => self.host_ends(end),
                }
            } else if let Some(bytes) = host.poll_transmit() {
                if !self.host_blocked {
                    self.to_enclave.write(self.now, &bytes);
                    host.transmitted(self.now);
                }
            } else {
                return moved;
            }
            moved = true;
        }
        moved
    }

    fn poll_enclave(&mut self) -> bool {
        let mut moved = false;
        loop {
            if let Some(event) = self.enclave.poll_event() {
                if let enclave::Event::Environment(environment) = event {
                    assert_eq!(self.outcome.environment.replace(environment), None, "two environments");
                    self.enclave_decides_at = Some(self.now + self.thinking);
                } else {
                    assert_eq!(self.outcome.enclave.replace(event), None, "two ends");
                    self.outcome.enclave_ended_after = self.now - self.start;
                    self.enclave_decides_at = None;
                    self.to_host.end(self.now);
                }
            } else if let Some(bytes) = self.enclave.poll_transmit() {
                self.to_host.write(self.now, &bytes);
                self.enclave.transmitted(self.now);
            } else {
                return moved;
            }
            moved = true;
        }
    }
}
