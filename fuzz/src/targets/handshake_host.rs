//! The bridge's handshake machine against a hostile enclave: the same course however the bytes are cut, the one that the
//! definition says; output bounded; a deadline whenever the enclave is waited for; nothing of the environment in `Debug`.

use std::time::{Duration, Instant};

use enclave_bridge_proto::host::{End, Event, Handshake};
use enclave_bridge_proto::{
    ACK, Announcement, Environment, Feature, HandshakeError, HandshakeLimits, Nak, NakCode, Phase, SETTINGS_MAX_BYTES,
    Settings,
};

use super::check_nak;
use crate::input::{Cut, Input};

const CANARY: &str = "canary-of-the-environment";

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let script = Script {
        grant: flags & 1 != 0,
        written_after: if flags & 2 != 0 { usize::from(input.u16()) } else { 0 },
        offered: if flags & 4 != 0 { Announcement::v1_1(Feature::ALL) } else { Announcement::v1_1(&[]) },
        silent: flags & 8 != 0,
    };
    let seed = input.u32();
    let mut stream = Vec::new();
    if flags == 0xff && seed == 0xffff_ffff {
        // Once in a while an enclave that never ends its line; it takes a thousand times as long as others.
        stream.resize(SETTINGS_MAX_BYTES - 100, b' ');
    }
    stream.extend_from_slice(input.rest());
    let mut environment = Environment::new();
    environment.insert("TOKEN", CANARY);
    let line = environment.encode_line(&script.offered).unwrap();
    let expected = expected(&stream, &script);
    for cut in Cut::all(seed) {
        assert_eq!(play(&stream, cut, &script, &line), expected);
    }
}

struct Script {
    /// The answer to a request.
    grant: bool,
    /// The environment is written once so many bytes have come.
    written_after: usize,
    offered: Announcement,
    /// At the end the enclave says nothing more instead of ending its direction.
    silent: bool,
}

/// What the caller sees of one handshake.
#[derive(Debug, PartialEq, Eq)]
struct Course {
    requested: Option<Settings>,
    /// What was written besides the environment.
    answer: Option<Vec<u8>>,
    end: End,
}

fn refusal() -> Nak {
    Nak::new(NakCode::PortInUse, "servers[0].bridgeTcpPort: 8080 is in use")
}

/// The definition: the first line decides, once the environment is written.
fn expected(stream: &[u8], script: &Script) -> Course {
    let failed = |error| Course { requested: None, answer: None, end: End::Failed(error) };
    let end = stream.iter().position(|byte| *byte == b'\n');
    let too_long = end.unwrap_or(stream.len()) > SETTINGS_MAX_BYTES;
    let written = script.written_after <= stream.len();
    let phase = if written { Phase::Settings } else { Phase::Environment };
    match end {
        _ if too_long => failed(HandshakeError::LineTooLong { phase: Phase::Settings, limit: SETTINGS_MAX_BYTES }),
        Some(end) if written => match Settings::parse(&stream[..end], &script.offered) {
            Ok(parsed) => {
                let (answer, end) = if script.grant {
                    (ACK.to_vec(), End::Granted)
                } else {
                    (refusal().encode(), End::Refused(refusal()))
                };
                Course { requested: Some(parsed.settings), answer: Some(answer), end }
            }
            Err(nak) => Course { requested: None, answer: Some(nak.encode()), end: End::Refused(nak) },
        },
        // The line is there and the environment is not out: nothing but time can end it.
        Some(_) => failed(HandshakeError::Timeout { phase }),
        None if script.silent => failed(HandshakeError::Timeout { phase }),
        None => failed(HandshakeError::Truncated { phase }),
    }
}

fn play(stream: &[u8], cut: Cut, script: &Script, line: &[u8]) -> Course {
    let start = Instant::now();
    let limits = HandshakeLimits::default();
    let mut player = Player {
        machine: Handshake::new(line.to_vec(), script.offered.clone(), limits, start),
        start,
        now: start,
        limits,
        grant: script.grant,
        requested: None,
        answers: Vec::new(),
        end: None,
    };
    assert_eq!(player.machine.poll_transmit().as_deref(), Some(line), "the environment comes first");
    player.look();

    let (before, after) = stream.split_at(script.written_after.min(stream.len()));
    let mut written = false;
    for (part, index) in [(before, 0), (after, 1)] {
        if index == 1 && script.written_after <= stream.len() {
            player.machine.transmitted(player.now);
            player.look();
            written = true;
        }
        for piece in cut.pieces(part) {
            player.now += Duration::from_micros(1);
            player.machine.handle_bytes(player.now, piece);
            player.look();
        }
    }
    if !script.silent {
        player.machine.handle_eof(player.now);
        player.look();
    }
    if player.end.is_none() && written && !player.answers.is_empty() {
        player.machine.transmitted(player.now);
        player.look();
    }
    player.time_out();
    if matches!(cut, Cut::Whole) {
        let debug = format!("{:?}", player.machine);
        assert!(!debug.contains(CANARY), "{debug}");
    }
    assert!(player.answers.len() <= 1, "one answer at most");
    Course { requested: player.requested, answer: player.answers.pop(), end: player.end.expect("it ended") }
}

struct Player {
    machine: Handshake,
    start: Instant,
    now: Instant,
    limits: HandshakeLimits,
    grant: bool,
    requested: Option<Settings>,
    answers: Vec<Vec<u8>>,
    end: Option<End>,
}

impl Player {
    /// Asks for everything that the machine has to say, answers a request, and checks what always holds.
    fn look(&mut self) {
        loop {
            let deadline = self.machine.next_deadline();
            let Some(event) = self.machine.poll_event() else { break };
            assert!(self.end.is_none(), "nothing comes after the end: {event:?}");
            match event {
                Event::Requested(parsed) => {
                    assert!(self.requested.is_none(), "settings are asked for once");
                    assert_eq!(deadline, None, "the caller decides without a limit of the machine's");
                    self.requested = Some(parsed.settings);
                    if self.grant {
                        self.machine.grant(self.now);
                        self.machine.refuse(self.now, refusal());
                    } else {
                        self.machine.refuse(self.now, refusal());
                        self.machine.grant(self.now);
                    }
                }
                Event::Closed(end) => {
                    if let End::Refused(nak) = &end {
                        check_nak(nak);
                    }
                    self.end = Some(end);
                }
            }
        }
        self.answers.extend(self.machine.poll_transmit());
        match (self.machine.next_deadline(), &self.end) {
            (Some(deadline), None) => {
                assert!(deadline > self.now);
                let latest = if self.answers.is_empty() {
                    self.start + self.limits.total
                } else {
                    self.now + self.limits.answer_write
                };
                assert!(deadline <= latest, "a deadline later than its limit");
            }
            (None, Some(_)) => {}
            (deadline, end) => panic!("deadline {deadline:?} at {end:?}"),
        }
    }

    /// Lets time run until the machine ends, which it does at its deadline and not before.
    fn time_out(&mut self) {
        if let Some(deadline) = self.machine.next_deadline() {
            self.machine.handle_timeout(deadline - Duration::from_nanos(1));
            assert_eq!(self.machine.next_deadline(), Some(deadline), "no limit runs out early");
            assert_eq!(self.machine.poll_event(), None);
            self.now = deadline;
            self.machine.handle_timeout(deadline);
            self.look();
        }
        let transmitted = self.answers.len();
        self.machine.handle_bytes(self.now, b"{}\n");
        self.machine.transmitted(self.now);
        self.machine.handle_eof(self.now);
        self.look();
        assert_eq!(self.answers.len(), transmitted, "nothing is written after the end");
    }
}
