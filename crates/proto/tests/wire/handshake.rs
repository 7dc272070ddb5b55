//! The handshake: every truncation, silence, drips, refusals.

use std::time::{Duration, Instant};

use enclave_bridge_proto::{
    ACK, AMBIGUITY_PAUSE, EnclaveId, First, FirstBytes, HandshakeError, HandshakeLimits, Nak, NakCode, Phase, Protocol,
    SETTINGS_MAX_BYTES, enclave, encode_beat, host,
};

use crate::pair::{Fate, Outcome, Pair};
use crate::{environment, id, offered, settings};

pub(crate) const BOTH: [Protocol; 2] = [Protocol::V1, Protocol::V1_1];

pub(crate) fn whole(protocol: Protocol, refuse: Option<Nak>) -> (Outcome, Vec<u8>, Vec<u8>) {
    let mut pair = Pair::new(protocol);
    pair.refuse = refuse;
    pair.run()
}

fn failed(error: HandshakeError) -> Option<host::End> {
    Some(host::End::Failed(error))
}

#[test]
fn a_granted_handshake() {
    for protocol in BOTH {
        let (outcome, to_host, to_enclave) = whole(protocol, None);
        assert_eq!(outcome.host, Some(host::End::Granted));
        assert_eq!(outcome.enclave, Some(enclave::Event::Ready));
        assert_eq!(outcome.requested.unwrap().settings, settings(protocol));
        let seen = outcome.environment.unwrap();
        assert_eq!(seen.get("MOTTO"), environment().get("MOTTO"));
        assert_eq!(seen.announcement(), Some(offered()));
        assert_eq!(to_host, [ACK.to_vec(), settings(protocol).encode_line()].concat());
        assert_eq!(to_enclave, [environment().encode_line(&offered()).unwrap(), ACK.to_vec()].concat());
    }
}

#[test]
fn a_refused_handshake_carries_every_code() {
    for code in NakCode::ALL {
        let nak = Nak::new(*code, "because of that");
        let (outcome, _, to_enclave) = whole(Protocol::V1_1, Some(nak.clone()));
        assert_eq!(outcome.host, Some(host::End::Refused(nak.clone())));
        assert_eq!(outcome.enclave, Some(enclave::Event::Refused(nak.clone())));
        assert!(to_enclave.ends_with(&nak.encode()));
    }
}

#[test]
fn h2_pipelined_ack_and_settings_in_every_split() {
    let now = Instant::now();
    let stream = [ACK.to_vec(), settings(Protocol::V1).encode_line(), b"and more".to_vec()].concat();
    for cut in 0..=stream.len() {
        let (head, tail) = stream.split_at(cut);
        let mut first = FirstBytes::new(None);
        let mut host = None;
        for piece in [head, tail] {
            match &mut host {
                None => {
                    if let Some(First::Handshake { rest }) = first.push(piece) {
                        let line = environment().encode_line(&offered()).unwrap();
                        let mut machine = host::Handshake::new(line, offered(), HandshakeLimits::default(), now);
                        machine.handle_bytes(now, &rest);
                        host = Some(machine);
                    }
                }
                Some(host) => host.handle_bytes(now, piece),
            }
        }
        let mut host = host.expect("an ACK came");
        assert_eq!(host.poll_event(), None, "settings are judged only once the environment is written");
        assert_eq!(host.poll_transmit(), Some(environment().encode_line(&offered()).unwrap()));
        host.transmitted(now);
        assert!(matches!(host.poll_event(), Some(host::Event::Requested(_))), "cut at {cut}");
        host.handle_eof(now);
        assert_eq!(host.next_deadline(), None, "no time limit while the bridge decides");
        host.grant(now);
        assert_eq!(host.poll_transmit(), Some(ACK.to_vec()));
        host.transmitted(now);
        assert_eq!(host.poll_event(), Some(host::Event::Closed(host::End::Granted)));
        assert_eq!(host.poll_event(), None);
    }
}

#[test]
fn h2_settings_ahead_of_the_environment_survive_an_end_and_more_bytes() {
    let now = Instant::now();
    let mut host = host::Handshake::new(b"{}\n".to_vec(), offered(), HandshakeLimits::default(), now);
    assert!(host.poll_transmit().is_some());
    host.handle_bytes(now, &settings(Protocol::V1).encode_line());
    host.handle_bytes(now, b"ignored\n");
    host.handle_eof(now);
    assert_eq!((host.poll_event(), host.next_deadline()), (None, Some(now + Duration::from_secs(5))));
    host.transmitted(now);
    let Some(host::Event::Requested(parsed)) = host.poll_event() else { panic!("settings came") };
    assert_eq!(parsed.settings, settings(Protocol::V1));
    let mut host = host::Handshake::new(b"{}\n".to_vec(), offered(), HandshakeLimits::default(), now);
    host.handle_bytes(now, b"{\"half\":");
    host.handle_eof(now);
    let end = host::End::Failed(HandshakeError::Truncated { phase: Phase::Environment });
    assert_eq!(host.poll_event(), Some(host::Event::Closed(end)));
    assert_eq!(host.poll_transmit(), None, "nothing goes to who has left");
}

#[test]
fn an_environment_that_overtakes_the_news_of_the_written_ack() {
    let now = Instant::now();
    let limits = HandshakeLimits::default();
    let mut enclave = enclave::Handshake::new(limits, now);
    assert_eq!(enclave.poll_transmit(), Some(ACK.to_vec()));
    enclave.handle_bytes(now, b"{}\n");
    assert!(matches!(enclave.poll_event(), Some(enclave::Event::Environment(_))));
    enclave.request(now, &settings(Protocol::V1));
    enclave.transmitted(now);
    assert_eq!(enclave.next_deadline(), Some(now + limits.settings_write), "that was the ACK");
    assert!(enclave.poll_transmit().is_some());
    enclave.transmitted(now);
    assert_eq!(enclave.next_deadline(), Some(now + limits.answer));
    enclave.request(now, &settings(Protocol::V1_1));
    assert_eq!(enclave.poll_transmit(), None, "settings are sent once");
    enclave.handle_bytes(now, b"\x06");
    enclave.handle_bytes(now, b"\nmore");
    assert_eq!((enclave.poll_event(), enclave.poll_event()), (Some(enclave::Event::Ready), None));
    enclave.handle_eof(now);
    enclave.handle_timeout(now + Duration::from_secs(99));
    assert_eq!((enclave.poll_event(), enclave.next_deadline()), (None, None));
}

#[test]
fn an_enclave_whose_writes_do_not_end_gives_up() {
    let now = Instant::now();
    let limits = HandshakeLimits::default();
    let timeout = |phase| Some(enclave::Event::Failed(HandshakeError::Timeout { phase }));
    let mut enclave = enclave::Handshake::new(limits, now);
    enclave.handle_timeout(now + limits.ack_write);
    assert_eq!(enclave.poll_event(), timeout(Phase::Ack));
    let mut enclave = enclave::Handshake::new(limits, now);
    enclave.transmitted(now);
    enclave.handle_bytes(now, b"{}\n");
    enclave.poll_event();
    enclave.request(now, &settings(Protocol::V1));
    enclave.handle_timeout(now + limits.settings_write);
    assert_eq!(enclave.poll_event(), timeout(Phase::Settings));
    let mut long = settings(Protocol::V1);
    long.app_name = "x".repeat(SETTINGS_MAX_BYTES);
    let mut enclave = enclave::Handshake::new(limits, now);
    enclave.handle_bytes(now, b"{}\n");
    enclave.poll_event();
    enclave.request(now, &long);
    assert!(matches!(enclave.poll_event(), Some(enclave::Event::Failed(HandshakeError::SettingsTooLong { .. }))));
}

#[test]
fn h8_truncation_at_every_byte_towards_the_host() {
    let (_, to_host, _) = whole(Protocol::V1_1, None);
    for cut in 0..to_host.len() {
        let mut pair = Pair::new(Protocol::V1_1);
        pair.to_host.fate = Fate::EndAfter(cut);
        let (outcome, _, to_enclave) = pair.run();
        let phase = match cut {
            0 | 1 => Phase::Ack,
            _ => Phase::Settings,
        };
        assert_eq!(outcome.host, failed(HandshakeError::Truncated { phase }), "cut at {cut}");
        assert_eq!(outcome.requested, None);
        assert_eq!(to_enclave.is_empty(), cut < 2, "no environment before the ACK: cut at {cut}");
        assert!(matches!(outcome.enclave, Some(enclave::Event::Failed(_))), "cut at {cut}: {:?}", outcome.enclave);
    }
}

#[test]
fn h8_truncation_at_every_byte_towards_the_enclave() {
    let (_, _, to_enclave) = whole(Protocol::V1_1, None);
    for cut in 0..to_enclave.len() {
        let mut pair = Pair::new(Protocol::V1_1);
        pair.to_enclave.fate = Fate::EndAfter(cut);
        let (outcome, ..) = pair.run();
        assert!(
            matches!(outcome.enclave, Some(enclave::Event::Failed(HandshakeError::Truncated { .. }))),
            "cut at {cut}: {:?}",
            outcome.enclave
        );
    }
}

#[test]
fn h3_silence_from_any_byte_on_is_closed_within_ten_seconds() {
    let (_, to_host, _) = whole(Protocol::V1_1, None);
    for cut in 0..to_host.len() {
        let mut pair = Pair::new(Protocol::V1_1);
        pair.to_host.fate = Fate::SilentAfter(cut);
        let (outcome, ..) = pair.run();
        let (phase, seconds) = if cut < 2 { (Phase::Ack, 5) } else { (Phase::Settings, 10) };
        assert_eq!(outcome.host, failed(HandshakeError::Timeout { phase }), "silent after {cut}");
        assert_eq!(outcome.host_ended_after, Duration::from_secs(seconds), "silent after {cut}");
    }
}

#[test]
fn a_silent_host_is_given_up() {
    let (_, _, to_enclave) = whole(Protocol::V1_1, None);
    let environment = to_enclave.len() - ACK.len();
    for cut in 0..to_enclave.len() {
        let mut pair = Pair::new(Protocol::V1_1);
        pair.to_enclave.fate = Fate::SilentAfter(cut);
        let (outcome, ..) = pair.run();
        let (phase, seconds) = if cut < environment { (Phase::Environment, 10) } else { (Phase::Answer, 30) };
        let expected = enclave::Event::Failed(HandshakeError::Timeout { phase });
        assert_eq!(outcome.enclave, Some(expected), "silent after {cut}");
        assert_eq!(outcome.enclave_ended_after, Duration::from_secs(seconds), "silent after {cut}");
    }
}

#[test]
fn h4_a_byte_a_second_is_closed_after_ten_seconds_in_all() {
    for (gap, phase, seconds) in [(1, Phase::Settings, 10), (3, Phase::Ack, 5)] {
        let mut pair = Pair::new(Protocol::V1_1);
        pair.to_host.gap = Duration::from_secs(gap);
        let (outcome, ..) = pair.run();
        assert_eq!(outcome.host, failed(HandshakeError::Timeout { phase }));
        assert_eq!(outcome.host_ended_after, Duration::from_secs(seconds));
    }
    let mut pair = Pair::new(Protocol::V1_1);
    pair.to_enclave.gap = Duration::from_secs(1);
    let (outcome, ..) = pair.run();
    assert_eq!(
        outcome.enclave,
        Some(enclave::Event::Failed(HandshakeError::Timeout { phase: Phase::Environment })),
        "an enclave does not wait for a dripping host either"
    );
    assert_eq!(outcome.enclave_ended_after, Duration::from_secs(10));
}

#[test]
fn h7_an_environment_that_is_not_read_is_given_up_after_five_seconds() {
    let mut pair = Pair::new(Protocol::V1_1);
    pair.host_blocked = true;
    let (outcome, ..) = pair.run();
    assert_eq!(outcome.host, failed(HandshakeError::Timeout { phase: Phase::Environment }));
    assert_eq!(outcome.host_ended_after, Duration::from_secs(5));
}

#[test]
fn h7_an_answer_that_is_not_read_is_given_up_after_five_seconds() {
    let now = Instant::now();
    let mut host = host::Handshake::new(Vec::new(), offered(), HandshakeLimits::default(), now);
    host.poll_transmit();
    host.transmitted(now);
    host.handle_bytes(now, &settings(Protocol::V1).encode_line());
    assert!(matches!(host.poll_event(), Some(host::Event::Requested(_))));
    host.grant(now);
    assert_eq!(host.next_deadline(), Some(now + Duration::from_secs(5)));
    host.handle_timeout(now + Duration::from_secs(5));
    let end = host::End::Failed(HandshakeError::Timeout { phase: Phase::Answer });
    assert_eq!(host.poll_event(), Some(host::Event::Closed(end)));
    assert_eq!(host.poll_transmit(), None, "nothing is acknowledged any more");
}

#[test]
fn both_sides_may_think_for_long() {
    let mut pair = Pair::new(Protocol::V1_1);
    pair.thinking = Duration::from_secs(9);
    let (outcome, ..) = pair.run();
    assert_eq!(outcome.enclave, Some(enclave::Event::Ready));
    let mut pair = Pair::new(Protocol::V1_1);
    pair.thinking = Duration::from_secs(11);
    let (outcome, ..) = pair.run();
    assert_eq!(outcome.host, failed(HandshakeError::Timeout { phase: Phase::Settings }));
    assert_eq!(
        outcome.enclave,
        Some(enclave::Event::Failed(HandshakeError::Truncated { phase: Phase::Settings })),
        "the enclave learns that the host went away while it was thinking"
    );
}

#[test]
fn h6_an_endless_settings_line_is_closed_at_its_cap() {
    let now = Instant::now();
    let mut host = host::Handshake::new(Vec::new(), offered(), HandshakeLimits::default(), now);
    host.poll_transmit();
    host.transmitted(now);
    host.handle_bytes(now, &vec![b' '; SETTINGS_MAX_BYTES]);
    assert_eq!(host.poll_event(), None);
    host.handle_bytes(now, b" ");
    let error = HandshakeError::LineTooLong { phase: Phase::Settings, limit: SETTINGS_MAX_BYTES };
    assert_eq!(host.poll_event(), Some(host::Event::Closed(host::End::Failed(error))));
    host.handle_bytes(now, b"\n");
    host.handle_eof(now);
    host.handle_timeout(now + Duration::from_secs(100));
    assert_eq!((host.poll_event(), host.poll_transmit(), host.next_deadline()), (None, None, None));
}

#[test]
fn settings_that_do_not_parse_are_refused_by_the_machine() {
    let now = Instant::now();
    let mut host = host::Handshake::new(Vec::new(), offered(), HandshakeLimits::default(), now);
    host.poll_transmit();
    host.transmitted(now);
    host.handle_bytes(now, b"{\"servers\": 1}\n");
    let nak = Nak::new(NakCode::BadConfig, "servers: a number is not a list");
    assert_eq!(host.poll_transmit(), Some(nak.encode()));
    host.grant(now);
    assert_eq!(host.poll_transmit(), None, "there was nothing to grant");
    host.transmitted(now);
    assert_eq!(host.poll_event(), Some(host::Event::Closed(host::End::Refused(nak))));
}

#[test]
fn no_debug_output_shows_a_value() {
    let now = Instant::now();
    let line = b"{\"TOKEN\":\"SECRET\"}\n";
    let mut host = host::Handshake::new(line.to_vec(), offered(), HandshakeLimits::default(), now);
    let mut enclave = enclave::Handshake::new(HandshakeLimits::default(), now);
    enclave.poll_transmit();
    enclave.transmitted(now);
    enclave.handle_bytes(now, &line[..18]);
    let secret = format!("{:?}", b"SECRET");
    let secret = secret.trim_matches(['[', ']']);
    for text in [format!("{host:?}"), format!("{enclave:?}")] {
        assert!(!text.contains("SECRET") && !text.contains(secret), "{text}");
    }
    host.poll_transmit();
    enclave.handle_bytes(now, &line[18..]);
    let event = enclave.poll_event();
    assert_eq!(format!("{event:?}"), "Some(Environment(Environment{\"TOKEN\"}))");
}

#[test]
fn h5_wrong_first_bytes() {
    for bytes in [&b"\x05\n"[..], b"\x06\r\n", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\0", b"\n", b"\x15"] {
        for cut in 0..=bytes.len() {
            let mut first = FirstBytes::new(None);
            let answers: Vec<_> = [&bytes[..cut], &bytes[cut..]].into_iter().filter_map(|b| first.push(b)).collect();
            assert_eq!(answers.first(), Some(&First::Bad), "{bytes:?} cut at {cut}");
        }
    }
    assert_eq!(FirstBytes::new(None).on_pause(), None);
}

#[test]
fn a_beat_is_told_from_a_handshake_by_the_live_id() {
    let beat = encode_beat(&id());
    let push = |live, bytes: &[u8]| FirstBytes::new(live).push(bytes);
    assert_eq!(push(Some(id()), &beat), Some(First::Beat));
    for cut in 0..beat.len() {
        let mut first = FirstBytes::new(Some(id()));
        assert_eq!(first.push(&beat[..cut]), None, "{cut} bytes of a beat may be a guess");
        assert!(!first.is_ambiguous(), "no pause makes them a beat, or a handshake");
        assert_eq!(first.on_pause(), None);
        assert_eq!(first.push(&beat[cut..]), Some(First::Beat), "cut at {cut}");
        let mut first = FirstBytes::new(Some(id()));
        first.push(&beat[..cut]);
        assert_eq!(first.push(&[!beat[cut]]), Some(First::Bad), "wrong at {cut}");
    }
    assert_eq!(push(None, &beat), Some(First::Bad), "a beat without a session");
    assert_eq!(push(Some(id()), &ACK), Some(First::Handshake { rest: vec![] }));
    assert_eq!(push(Some(id()), b"\x06\n{}"), Some(First::Handshake { rest: b"{}".to_vec() }));
    assert_eq!(push(Some(id()), b"x"), Some(First::Bad));
    let mut first = FirstBytes::new(Some(id()));
    first.push(&beat);
    assert_eq!(first.into_bytes(), beat);
}

#[test]
fn an_id_that_begins_like_an_ack() {
    let mut bytes = *id().as_bytes();
    bytes[..2].copy_from_slice(&ACK);
    let live = EnclaveId::from_bytes(bytes);
    let beat = encode_beat(&live.unwrap());
    for cut in 0..=beat.len() {
        let mut first = FirstBytes::new(live);
        let one = first.push(&beat[..cut]);
        assert_eq!(one.is_some(), cut == beat.len());
        assert_eq!(first.is_ambiguous(), cut >= 2);
        assert_eq!(one.or_else(|| first.push(&beat[cut..])), Some(First::Beat), "cut at {cut}");
        let mut first = FirstBytes::new(live);
        first.push(&beat[..cut]);
        let paused = first.on_pause();
        match cut {
            0 | 1 => assert_eq!(paused, None),
            _ => assert_eq!(paused, Some(First::Handshake { rest: beat[2..cut].to_vec() })),
        }
    }
    let mut first = FirstBytes::new(live);
    assert_eq!(first.push(&ACK), None);
    assert_eq!(first.push(b"{"), Some(First::Handshake { rest: b"{".to_vec() }), "no beat goes on like that");
    assert!(AMBIGUITY_PAUSE < HandshakeLimits::default().ack);
    // Only the first byte is the same.
    bytes[1] = 0x77;
    let mut first = FirstBytes::new(EnclaveId::from_bytes(bytes));
    assert_eq!(first.push(&[6]), None);
    let whole = encode_beat(&EnclaveId::from_bytes(bytes).unwrap());
    assert_eq!((first.push(&[0x77]), first.push(&whole[2..])), (None, Some(First::Beat)));
    let mut first = FirstBytes::new(EnclaveId::from_bytes(bytes));
    assert_eq!((first.push(&[6]), first.push(b"\n")), (None, Some(First::Handshake { rest: vec![] })));
}

#[test]
fn the_enclave_takes_a_refusal_wherever_it_stands_and_nothing_else() {
    let now = Instant::now();
    let limits = HandshakeLimits::default();
    let machine = |before: &[u8], requested: bool, after: &[u8]| {
        let mut enclave = enclave::Handshake::new(limits, now);
        enclave.poll_transmit();
        enclave.transmitted(now);
        enclave.handle_bytes(now, before);
        if let Some(enclave::Event::Environment(_)) = enclave.poll_event()
            && requested
        {
            enclave.request(now, &settings(Protocol::V1));
            enclave.poll_transmit();
            enclave.transmitted(now);
        }
        enclave.handle_bytes(now, after);
        enclave.poll_event()
    };
    let failed = |error| Some(enclave::Event::Failed(error));
    let busy = Some(enclave::Event::Refused(Nak::new(NakCode::Busy, "no free session")));
    assert_eq!(machine(b"", false, b"\x15BUSY no free session\n"), busy);
    assert_eq!(machine(b"{}\n", false, b"\x15BUSY no free session\n"), busy);
    assert_eq!(machine(b"{}\n", true, b"\x15BUSY no free session\n"), busy);
    assert_eq!(machine(b"{}\n", true, b"\x06\n"), Some(enclave::Event::Ready));
    assert_eq!(machine(b"{}\n", false, b"\x06\n"), failed(HandshakeError::EarlyAnswer));
    for wrong in [&b"\x06\r\n"[..], b"\n", b"OK\n", b"\x15\n", b"\x15no code\n"] {
        assert_eq!(machine(b"{}\n", true, wrong), failed(HandshakeError::BadAnswer), "{wrong:?}");
    }
    let later = HandshakeError::UnknownRefusal { code: "LATER".into(), sentence: "so".into() };
    assert_eq!(machine(b"{}\n", true, b"\x15LATER so\n"), failed(later));
    let long = HandshakeError::LineTooLong { phase: Phase::Answer, limit: 255 };
    assert_eq!(machine(b"{}\n", true, &[0x15; 300]), failed(long));
    assert!(matches!(
        machine(b"", false, b"{\"A\": 1}\n"),
        Some(enclave::Event::Failed(HandshakeError::BadEnvironment(_)))
    ));
}
