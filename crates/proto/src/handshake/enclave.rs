//! The enclave's side of the handshake. What is asked for is decided by the caller.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use super::{HandshakeError, HandshakeLimits, Phase, after};
use crate::{
    ACK, ENVIRONMENT_MAX_BYTES, Environment, LineProgress, LineReader, NAK_BYTE, NAK_MAX_BYTES, Nak, NakParseError,
    SETTINGS_MAX_BYTES, Settings,
};

/// The enclave's side, from the moment it is connected to the init port.
///
/// Order of calls: after `new`, `request` and every `handle_*` and `transmitted`, ask
/// [`poll_event`](Self::poll_event) and [`poll_transmit`](Self::poll_transmit) until both answer `None`, then wait for
/// bytes, for the end of input or for [`next_deadline`](Self::next_deadline). What `poll_transmit` gave is to be
/// written whole, then [`transmitted`](Self::transmitted) called. After [`Event::Environment`] comes
/// [`request`](Self::request), once, whenever the program is ready: no limit of the machine's runs until then, but the
/// host waits some ten seconds only. [`Event::Ready`], [`Event::Refused`] and [`Event::Failed`] are last and exclude
/// each other; after each the connection is to be closed.
///
/// At most [`ENVIRONMENT_MAX_BYTES`] are held.
pub struct Handshake {
    limits: HandshakeLimits,
    reader: LineReader,
    state: State,
    ack_written: bool,
    transmit: Option<Vec<u8>>,
    events: VecDeque<Event>,
}

impl fmt::Debug for Handshake {
    /// Without what is read and written: the environment is among it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What the enclave's side has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The host's environment is there: decide, then call `request`.
    Environment(Environment),
    /// The bridge has granted the settings, and every port that they ask for accepts.
    Ready,
    /// The bridge has refused.
    Refused(Nak),
    /// Something went wrong.
    Failed(HandshakeError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SendingAck { until: Option<Instant> },
    ReadingEnvironment { until: Option<Instant> },
    Deciding,
    SendingSettings { until: Option<Instant> },
    ReadingAnswer { until: Option<Instant> },
    Closed,
}

impl Handshake {
    /// A handshake on a connection that was made just now.
    pub fn new(limits: HandshakeLimits, now: Instant) -> Self {
        Self {
            state: State::SendingAck { until: after(now, limits.ack_write) },
            limits,
            ack_written: false,
            reader: LineReader::new(ENVIRONMENT_MAX_BYTES),
            transmit: Some(ACK.to_vec()),
            events: VecDeque::new(),
        }
    }

    /// Bytes from the bridge.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        let mut rest = bytes;
        while self.state != State::Closed {
            match self.reader.push(rest) {
                LineProgress::NeedMore => return,
                LineProgress::TooLong => {
                    let (phase, limit) = self.reading();
                    return self.fail(HandshakeError::LineTooLong { phase, limit });
                }
                LineProgress::Line { consumed } => {
                    let line = self.reader.take_line();
                    rest = rest.get(consumed..).unwrap_or_default();
                    self.handle_line(now, &line);
                }
            }
        }
    }

    /// The bridge ended its direction.
    pub fn handle_eof(&mut self, _now: Instant) {
        let phase = match self.state {
            State::SendingAck { .. } => Phase::Ack,
            State::ReadingEnvironment { .. } => Phase::Environment,
            State::Deciding | State::SendingSettings { .. } => Phase::Settings,
            State::ReadingAnswer { .. } => Phase::Answer,
            State::Closed => return,
        };
        self.fail(HandshakeError::Truncated { phase });
    }

    /// Looks at the time; to be called when [`next_deadline`](Self::next_deadline) is reached, harmless before.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let phase = match self.state {
            State::SendingAck { .. } => Phase::Ack,
            State::ReadingEnvironment { .. } => Phase::Environment,
            State::SendingSettings { .. } => Phase::Settings,
            State::ReadingAnswer { .. } => Phase::Answer,
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
        // Where reading and writing go on side by side, the environment may be seen before the ACK is known to be out.
        let ack = !std::mem::replace(&mut self.ack_written, true);
        self.state = match self.state {
            State::SendingAck { .. } => State::ReadingEnvironment { until: after(now, self.limits.environment) },
            State::SendingSettings { .. } if !ack => State::ReadingAnswer { until: after(now, self.limits.answer) },
            other @ (State::ReadingEnvironment { .. }
            | State::Deciding
            | State::SendingSettings { .. }
            | State::ReadingAnswer { .. }
            | State::Closed) => other,
        };
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Asks for these settings. Ignored unless the environment is there and nothing was asked for yet.
    pub fn request(&mut self, now: Instant, settings: &Settings) {
        if self.state != State::Deciding {
            return;
        }
        let line = settings.encode_line();
        let bytes = line.len().saturating_sub(1);
        if bytes > SETTINGS_MAX_BYTES {
            return self.fail(HandshakeError::SettingsTooLong { bytes });
        }
        self.transmit = Some(line);
        self.state = State::SendingSettings { until: after(now, self.limits.settings_write) };
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::SendingAck { until }
            | State::ReadingEnvironment { until }
            | State::SendingSettings { until }
            | State::ReadingAnswer { until } => until,
            State::Deciding | State::Closed => None,
        }
    }

    /// What is being read, and its cap.
    fn reading(&self) -> (Phase, usize) {
        match self.state {
            State::SendingAck { .. } | State::ReadingEnvironment { .. } => (Phase::Environment, ENVIRONMENT_MAX_BYTES),
            State::Deciding | State::SendingSettings { .. } | State::ReadingAnswer { .. } | State::Closed => {
                (Phase::Answer, NAK_MAX_BYTES.saturating_sub(1))
            }
        }
    }

    fn handle_line(&mut self, _now: Instant, line: &[u8]) {
        if line.first() == Some(&NAK_BYTE) {
            // A refusal may come at any time: a bridge that takes no enclave says so before it reads a byte.
            return self.refused(line);
        }
        match self.state {
            State::SendingAck { .. } | State::ReadingEnvironment { .. } => match Environment::parse(line) {
                Ok(environment) => {
                    self.state = State::Deciding;
                    let (_, limit) = self.reading();
                    self.reader = LineReader::new(limit);
                    self.events.push_back(Event::Environment(environment));
                }
                Err(error) => self.fail(error.into()),
            },
            State::Deciding => self.fail(HandshakeError::EarlyAnswer),
            State::SendingSettings { .. } | State::ReadingAnswer { .. } => {
                if ACK.strip_suffix(b"\n") == Some(line) {
                    self.close(Event::Ready);
                } else {
                    self.fail(HandshakeError::BadAnswer);
                }
            }
            State::Closed => {}
        }
    }

    fn refused(&mut self, line: &[u8]) {
        match Nak::parse(line) {
            Ok(nak) => self.close(Event::Refused(nak)),
            Err(NakParseError::UnknownCode { code, sentence }) => {
                self.fail(HandshakeError::UnknownRefusal { code, sentence });
            }
            Err(NakParseError::NotANak | NakParseError::BadCode | NakParseError::TooLong) => {
                self.fail(HandshakeError::BadAnswer);
            }
        }
    }

    fn fail(&mut self, error: HandshakeError) {
        self.close(Event::Failed(error));
    }

    fn close(&mut self, last: Event) {
        self.transmit = None;
        self.state = State::Closed;
        self.reader = LineReader::new(0);
        self.events.push_back(last);
    }
}
