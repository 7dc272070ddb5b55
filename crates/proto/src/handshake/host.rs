//! The host's side of the handshake. What is granted is decided by the caller.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use super::{HandshakeError, HandshakeLimits, Phase, after, earlier};
use crate::{ACK, Announcement, LineProgress, LineReader, Nak, ParsedSettings, SETTINGS_MAX_BYTES, Settings};

/// The host's side, from the environment on. [`FirstBytes`](crate::FirstBytes) comes before it and hands over the
/// bytes behind the ACK: give them to [`handle_bytes`](Self::handle_bytes) first.
///
/// Order of calls: after `new` and after every `handle_*`, `transmitted`, `grant` and `refuse`, ask
/// [`poll_event`](Self::poll_event) and [`poll_transmit`](Self::poll_transmit) until both answer `None`, then wait for
/// bytes, for the end of input or for [`next_deadline`](Self::next_deadline). What `poll_transmit` gave is to be
/// written whole, then [`transmitted`](Self::transmitted) called; deadlines go on running meanwhile. After
/// [`Event::Requested`] exactly one of [`grant`](Self::grant) and [`refuse`](Self::refuse) is due, without a time
/// limit of the machine's. [`Event::Closed`] comes exactly once, is the last event, and means: close the connection.
///
/// Always holds: settings are asked for at most once; nothing is acknowledged that was not granted; bytes after the
/// settings line are ignored, and so is an end of input after it. At most [`SETTINGS_MAX_BYTES`] are held.
pub struct Handshake {
    limits: HandshakeLimits,
    offered: Announcement,
    total: Option<Instant>,
    settings: LineReader,
    settings_whole: bool,
    state: State,
    transmit: Option<Vec<u8>>,
    events: VecDeque<Event>,
}

impl fmt::Debug for Handshake {
    /// Without what is read and written: the environment is among it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What the host's side has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The settings are there and well-formed: answer with `grant` or `refuse`.
    Requested(ParsedSettings),
    /// It is over.
    Closed(End),
}

/// How a handshake ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The ACK is written.
    Granted,
    /// The refusal is written; also for settings that did not parse.
    Refused(Nak),
    /// Something went wrong before an answer was written.
    Failed(HandshakeError),
}

#[derive(Debug)]
enum State {
    SendingEnvironment { until: Option<Instant> },
    ReadingSettings { until: Option<Instant> },
    Deciding,
    Answering { until: Option<Instant>, end: End },
    Closed,
}

impl Handshake {
    /// A handshake whose ACK has come. `environment_line` is what
    /// [`Environment::encode_line`](crate::Environment::encode_line) made with `offered`. The total limit runs from
    /// `now`, or see [`accepted_at`](Self::accepted_at).
    pub fn new(environment_line: Vec<u8>, offered: Announcement, limits: HandshakeLimits, now: Instant) -> Self {
        let state = State::SendingEnvironment { until: after(now, limits.environment_write) };
        Self {
            total: after(now, limits.total),
            limits,
            offered,
            settings: LineReader::new(limits.settings_bytes.min(SETTINGS_MAX_BYTES)),
            settings_whole: false,
            state,
            transmit: Some(environment_line),
            events: VecDeque::new(),
        }
    }

    /// Counts the total limit from when the connection was accepted.
    #[must_use]
    pub fn accepted_at(mut self, accepted: Instant) -> Self {
        self.total = after(accepted, self.limits.total);
        self
    }

    /// Bytes from the enclave.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if !matches!(self.state, State::SendingEnvironment { .. } | State::ReadingSettings { .. }) {
            return;
        }
        match self.settings.push(bytes) {
            LineProgress::NeedMore => {}
            LineProgress::Line { .. } => {
                self.settings_whole = true;
                self.read_settings(now);
            }
            LineProgress::TooLong => {
                let limit = self.limits.settings_bytes.min(SETTINGS_MAX_BYTES);
                self.fail(HandshakeError::LineTooLong { phase: Phase::Settings, limit });
            }
        }
    }

    /// The enclave ended its direction. After a whole settings line that means nothing.
    pub fn handle_eof(&mut self, _now: Instant) {
        match self.state {
            _ if self.settings_whole => {}
            State::SendingEnvironment { .. } => self.fail(HandshakeError::Truncated { phase: Phase::Environment }),
            State::ReadingSettings { .. } => self.fail(HandshakeError::Truncated { phase: Phase::Settings }),
            State::Deciding | State::Answering { .. } | State::Closed => {}
        }
    }

    /// Looks at the time; to be called when [`next_deadline`](Self::next_deadline) is reached, harmless before.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let phase = match self.state {
            State::SendingEnvironment { .. } => Phase::Environment,
            State::ReadingSettings { .. } => Phase::Settings,
            State::Answering { .. } => Phase::Answer,
            State::Deciding | State::Closed => return,
        };
        self.fail(HandshakeError::Timeout { phase });
    }

    /// Bytes to write now, all of them.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmit.take()
    }

    /// What [`poll_transmit`](Self::poll_transmit) gave last is written.
    pub fn transmitted(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::SendingEnvironment { .. } => {
                self.state = State::ReadingSettings { until: after(now, self.limits.settings) };
                self.read_settings(now);
            }
            State::Answering { end, .. } => self.events.push_back(Event::Closed(end)),
            other @ (State::ReadingSettings { .. } | State::Deciding | State::Closed) => self.state = other,
        }
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Everything that was asked for is accepting connections: the enclave is told so. Ignored unless an answer is
    /// due.
    pub fn grant(&mut self, now: Instant) {
        if matches!(self.state, State::Deciding) {
            self.answer(now, ACK.to_vec(), End::Granted);
        }
    }

    /// The request is refused. Ignored unless an answer is due.
    pub fn refuse(&mut self, now: Instant, nak: Nak) {
        if matches!(self.state, State::Deciding) {
            self.answer(now, nak.encode(), End::Refused(nak));
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::SendingEnvironment { until } | State::ReadingSettings { until } => earlier(*until, self.total),
            State::Answering { until, .. } => *until,
            State::Deciding | State::Closed => None,
        }
    }

    /// The settings are judged only once the environment is written, however early they came.
    fn read_settings(&mut self, now: Instant) {
        if !self.settings_whole || !matches!(self.state, State::ReadingSettings { .. }) {
            return;
        }
        match Settings::parse(&self.settings.take_line(), &self.offered) {
            Ok(parsed) => {
                self.state = State::Deciding;
                self.events.push_back(Event::Requested(parsed));
            }
            Err(nak) => self.answer(now, nak.encode(), End::Refused(nak)),
        }
    }

    fn answer(&mut self, now: Instant, bytes: Vec<u8>, end: End) {
        self.transmit = Some(bytes);
        self.state = State::Answering { until: after(now, self.limits.answer_write), end };
    }

    fn fail(&mut self, error: HandshakeError) {
        self.transmit = None;
        self.state = State::Closed;
        self.events.push_back(Event::Closed(End::Failed(error)));
    }
}
