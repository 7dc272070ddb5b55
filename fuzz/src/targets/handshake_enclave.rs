//! The SDK's handshake machine against a hostile host: whatever the host sends, the course is the one of the definition,
//! there is a deadline whenever the host is waited for, and only the ACK and the own settings are ever written.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use enclave_bridge_proto::enclave::{Event, Handshake};
use enclave_bridge_proto::{
    ACK, ClientRequest, EnclaveId, Environment, HandshakeError, HandshakeLimits, NAK_BYTE, NAK_MAX_BYTES, Nak,
    NakParseError, Phase, Protocol, ServerRequest, Settings,
};

use super::check_nak;
use crate::input::{Cut, Input};

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let script = Script {
        early: flags & 1 != 0,
        ack_written: flags & 2 == 0,
        settings_written: flags & 4 == 0,
        silent: flags & 8 != 0,
    };
    let seed = input.u32();
    let stream = input.rest();
    let expected = expected(stream, &script);
    for cut in Cut::all(seed) {
        assert_eq!(play(stream, cut, &script), expected);
    }
}

struct Script {
    /// The host sends everything before the program has asked for anything.
    early: bool,
    /// The ACK is known to be out before the host's bytes are seen.
    ack_written: bool,
    settings_written: bool,
    /// The host falls silent at the end instead of closing.
    silent: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Course {
    environment: Option<Environment>,
    asked: bool,
    last: Event,
}

/// The definition: an environment, then an answer; a refusal at any time.
fn expected(stream: &[u8], script: &Script) -> Course {
    let mut lines = stream.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let over = |last| Course { environment: None, asked: false, last };
    let failed = |error| over(Event::Failed(error));
    let ended = |phase| match script.silent {
        true => Event::Failed(HandshakeError::Timeout { phase }),
        false => Event::Failed(HandshakeError::Truncated { phase }),
    };
    let Some(line) = first.strip_suffix(b"\n") else {
        return over(ended(if script.ack_written { Phase::Environment } else { Phase::Ack }));
    };
    if line.first() == Some(&NAK_BYTE) {
        return over(refused(line));
    }
    let environment = match Environment::parse(line) {
        Ok(environment) => environment,
        Err(error) => return failed(error.into()),
    };
    let second = lines.next().unwrap_or_default();
    let answer = match second.strip_suffix(b"\n") {
        Some(line) if line.len() < NAK_MAX_BYTES => Some(line),
        None if second.len() < NAK_MAX_BYTES => None,
        _ => {
            let last = Event::Failed(HandshakeError::LineTooLong { phase: Phase::Answer, limit: NAK_MAX_BYTES - 1 });
            return Course { environment: Some(environment), asked: !script.early, last };
        }
    };
    let last = match answer {
        Some(line) if line.first() == Some(&NAK_BYTE) => refused(line),
        Some(_) if script.early => Event::Failed(HandshakeError::EarlyAnswer),
        Some([0x06]) => Event::Ready,
        Some(_) => Event::Failed(HandshakeError::BadAnswer),
        // While the program makes up its mind no limit runs; the host's end is seen all the same.
        None if script.early && script.silent => {
            return Course { environment: Some(environment), asked: true, last: timeout_after_asking(script) };
        }
        None if script.early => ended(Phase::Settings),
        None if script.settings_written && script.ack_written => ended(Phase::Answer),
        None => ended(Phase::Settings),
    };
    Course { environment: Some(environment), asked: !script.early, last }
}

fn timeout_after_asking(script: &Script) -> Event {
    let phase = if script.settings_written && script.ack_written { Phase::Answer } else { Phase::Settings };
    Event::Failed(HandshakeError::Timeout { phase })
}

fn refused(line: &[u8]) -> Event {
    match Nak::parse(line) {
        Ok(nak) => Event::Refused(nak),
        Err(NakParseError::UnknownCode { code, sentence }) => {
            Event::Failed(HandshakeError::UnknownRefusal { code, sentence })
        }
        Err(_) => Event::Failed(HandshakeError::BadAnswer),
    }
}

/// What the program asks for, and its line.
static SETTINGS: LazyLock<(Settings, Vec<u8>)> = LazyLock::new(|| {
    let settings = Settings {
        app_name: "fuzz".to_owned(),
        protocol: Protocol::V1_1,
        id: EnclaveId::from_bytes([7; 16]).unwrap(),
        interval: Duration::from_secs(30),
        log_level: None,
        servers: vec![ServerRequest::new(16, 5001, 8080)],
        clients: vec![ClientRequest::new(5002)],
    };
    let line = settings.encode_line();
    (settings, line)
});

fn play(stream: &[u8], cut: Cut, script: &Script) -> Course {
    let start = Instant::now();
    let mut player = Player {
        machine: Handshake::new(HandshakeLimits::default(), start),
        now: start,
        environment: None,
        asked: false,
        settings_written: script.settings_written && script.ack_written,
        last: None,
        transmits: Vec::new(),
    };
    player.look();
    if script.ack_written {
        player.machine.transmitted(start);
        player.look();
    }
    // A program answers what it has seen, so there is a look between the environment and what follows it.
    let end = stream.iter().position(|byte| *byte == b'\n').map_or(stream.len(), |end| end + 1);
    let (first, rest) = stream.split_at(if script.early { stream.len() } else { end });
    for piece in cut.pieces(first) {
        player.feed(piece);
    }
    if !script.early {
        player.ask();
    }
    for piece in cut.pieces(rest) {
        player.feed(piece);
    }
    if !script.silent {
        player.machine.handle_eof(player.now);
        player.look();
    }
    player.ask();
    player.time_out();
    let mut allowed = [&ACK[..], &SETTINGS.1].into_iter();
    for bytes in &player.transmits {
        assert_eq!(allowed.next(), Some(bytes.as_slice()), "only the ACK and the settings are written, in this order");
    }
    Course { environment: player.environment, asked: player.asked, last: player.last.expect("it ended") }
}

struct Player {
    machine: Handshake,
    now: Instant,
    environment: Option<Environment>,
    asked: bool,
    settings_written: bool,
    last: Option<Event>,
    transmits: Vec<Vec<u8>>,
}

impl Player {
    fn feed(&mut self, piece: &[u8]) {
        self.now += Duration::from_micros(1);
        self.machine.handle_bytes(self.now, piece);
        self.look();
    }

    /// The program asks, if there is an environment and no end yet.
    fn ask(&mut self) {
        if self.environment.is_some() && self.last.is_none() && !self.asked {
            self.asked = true;
            self.machine.request(self.now, &SETTINGS.0);
            self.look();
            if self.settings_written {
                self.machine.transmitted(self.now);
                self.look();
            }
        }
    }

    fn look(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            assert!(self.last.is_none(), "nothing comes after the end");
            match event {
                Event::Environment(environment) => {
                    assert!(self.environment.is_none(), "there is one environment");
                    self.environment = Some(environment);
                }
                last @ (Event::Ready | Event::Refused(_) | Event::Failed(_)) => {
                    check_last(&last);
                    self.last = Some(last);
                }
            }
        }
        self.transmits.extend(self.machine.poll_transmit());
        let deciding = self.environment.is_some() && !self.asked;
        match self.machine.next_deadline() {
            Some(deadline) => {
                assert!(self.last.is_none() && !deciding);
                assert!(deadline > self.now && deadline <= self.now + HandshakeLimits::default().answer);
            }
            None => assert!(self.last.is_some() || deciding, "the host is waited for without a limit"),
        }
    }

    fn time_out(&mut self) {
        if let Some(deadline) = self.machine.next_deadline() {
            self.machine.handle_timeout(deadline - Duration::from_nanos(1));
            assert_eq!(self.machine.next_deadline(), Some(deadline), "no limit runs out early");
            self.machine.handle_timeout(deadline);
            self.look();
        }
        let (last, transmits) = (self.last.clone(), self.transmits.len());
        self.machine.handle_bytes(self.now, b"{}\n\x06\n");
        self.machine.request(self.now, &SETTINGS.0);
        self.machine.transmitted(self.now);
        self.machine.handle_eof(self.now);
        self.look();
        assert_eq!((&self.last, self.transmits.len()), (&last, transmits), "the end is the end");
    }
}

/// What a host makes the program say stays bounded and on its line.
fn check_last(last: &Event) {
    match last {
        Event::Refused(nak) => check_nak(nak),
        Event::Failed(error) => {
            let text = error.to_string();
            assert!(text.len() <= 2 * NAK_MAX_BYTES && super::is_plain(&text), "{text}");
        }
        Event::Environment(_) | Event::Ready => {}
    }
}
