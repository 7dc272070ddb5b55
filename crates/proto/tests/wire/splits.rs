//! The handshake's bytes in every split: what comes of it is the same.

use std::time::{Duration, Instant};

use enclave_bridge_proto::{
    ACK, First, FirstBytes, HandshakeLimits, Nak, NakCode, ParsedSettings, Protocol, enclave, host,
};
use proptest::prelude::*;

use crate::handshake::{BOTH, whole};
use crate::pair::Pair;
use crate::{offered, settings};

#[test]
fn h1_every_two_way_split_of_every_dialogue() {
    for protocol in BOTH {
        for refuse in [None, Some(Nak::new(NakCode::PortInUse, "servers[0].bridgeTcpPort: 8080 is in use"))] {
            let (expected, to_host, to_enclave) = whole(protocol, refuse.clone());
            for gap in [Duration::ZERO, Duration::from_millis(1)] {
                for cut in 0..=to_host.len().max(to_enclave.len()) {
                    let mut pair = Pair::new(protocol);
                    pair.refuse = refuse.clone();
                    pair.to_host.cuts = vec![cut];
                    pair.to_enclave.cuts = vec![cut];
                    pair.to_host.gap = gap;
                    pair.to_enclave.gap = gap;
                    let (mut outcome, host_read, enclave_read) = pair.run();
                    outcome.host_ended_after = expected.host_ended_after;
                    outcome.enclave_ended_after = expected.enclave_ended_after;
                    assert_eq!(outcome, expected, "cut at {cut}");
                    assert_eq!((&host_read, &enclave_read), (&to_host, &to_enclave), "cut at {cut}");
                }
            }
        }
    }
}

/// What the host's side makes of a dialogue that comes in these pieces.
fn heard_by_the_host(pieces: &[&[u8]], now: Instant) -> (ParsedSettings, Vec<Vec<u8>>, host::End) {
    let mut first = FirstBytes::new(None);
    let mut machine: Option<host::Handshake> = None;
    let (mut requested, mut said, mut ended) = (None, Vec::new(), None);
    for piece in pieces {
        match machine.as_mut() {
            Some(host) => host.handle_bytes(now, piece),
            None => {
                if let Some(First::Handshake { rest }) = first.push(piece) {
                    let limits = HandshakeLimits::default();
                    let mut host = host::Handshake::new(b"{}\n".to_vec(), offered(), limits, now);
                    host.handle_bytes(now, &rest);
                    machine = Some(host);
                }
            }
        }
        let Some(host) = machine.as_mut() else { continue };
        loop {
            if let Some(bytes) = host.poll_transmit() {
                said.push(bytes);
                host.transmitted(now);
            } else if let Some(event) = host.poll_event() {
                match event {
                    host::Event::Requested(parsed) => {
                        assert_eq!(requested.replace(parsed), None, "asked twice");
                        host.grant(now);
                    }
                    host::Event::Closed(end) => ended = Some(end),
                }
            } else {
                break;
            }
        }
    }
    (requested.expect("settings came"), said, ended.expect("an end came"))
}

/// `bytes` in the pieces between these cuts, none of them empty.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut from = 0;
    let ends = cuts.iter().copied().chain([bytes.len()]);
    ends.map(|to| &bytes[std::mem::replace(&mut from, to)..to]).collect()
}

#[test]
fn h1_every_split_into_two_three_and_four_writes() {
    let now = Instant::now();
    let id = "f6a1c1a26f0e4f0e9a532f1f0c9d7d10";
    let dialogue = format!("\x06\n{{\"watchdog\":{{\"enclaveId\":\"{id}\",\"interval\":1000000000}}}}\n").into_bytes();
    let expected = heard_by_the_host(&[&dialogue], now);
    assert_eq!((&expected.1[..], &expected.2), (&[b"{}\n".to_vec(), ACK.to_vec()][..], &host::End::Granted));
    let mut cases = 0;
    let mut check = |cuts: &[usize]| {
        assert_eq!(heard_by_the_host(&pieces(&dialogue, cuts), now), expected, "cut at {cuts:?}");
        cases += 1;
    };
    let end = dialogue.len();
    for one in 1..end {
        check(&[one]);
        for two in one + 1..end {
            check(&[one, two]);
            for three in two + 1..end {
                check(&[one, two, three]);
            }
        }
    }
    check(&(1..end).collect::<Vec<_>>());
    assert!(cases >= 100_000, "{cases} cases");
}

#[test]
fn h1_every_split_whatsoever_towards_the_enclave() {
    let now = Instant::now();
    let dialogue = b"{\"A\":\"b\"}\n\x06\n";
    let heard = |pieces: &[&[u8]]| {
        let mut enclave = enclave::Handshake::new(HandshakeLimits::default(), now);
        let mut events = Vec::new();
        let mut said = Vec::new();
        for piece in [&b""[..]].iter().chain(pieces) {
            if !piece.is_empty() {
                enclave.handle_bytes(now, piece);
            }
            loop {
                if let Some(bytes) = enclave.poll_transmit() {
                    said.push(bytes);
                    enclave.transmitted(now);
                } else if let Some(event) = enclave.poll_event() {
                    if let enclave::Event::Environment(_) = event {
                        enclave.request(now, &settings(Protocol::V1));
                    }
                    events.push(event);
                } else {
                    break;
                }
            }
        }
        (events, said)
    };
    // The ACK cannot stand in one piece with the environment: it answers what comes after that.
    let (environment, ack) = dialogue.split_at(dialogue.len() - 2);
    let expected = heard(&[environment, ack]);
    assert!(matches!(expected.0[..], [enclave::Event::Environment(_), enclave::Event::Ready]));
    assert_eq!(expected.1, [ACK.to_vec(), settings(Protocol::V1).encode_line()]);
    for set in 0..1_u32 << (dialogue.len() - 1) {
        let mut cuts: Vec<usize> = (1..dialogue.len()).filter(|cut| set >> (cut - 1) & 1 == 1).collect();
        if !cuts.contains(&environment.len()) {
            continue;
        }
        cuts.dedup();
        assert_eq!(heard(&pieces(dialogue, &cuts)), expected, "cut at {cuts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn h1_any_split_into_many(cuts in prop::collection::vec(0usize..600, 0..40), v1: bool) {
        let protocol = if v1 { Protocol::V1 } else { Protocol::V1_1 };
        let (expected, ..) = whole(protocol, None);
        let mut pair = Pair::new(protocol);
        pair.to_host.cuts = cuts.clone();
        pair.to_enclave.cuts = cuts;
        let (outcome, ..) = pair.run();
        prop_assert_eq!(outcome, expected);
    }
}
