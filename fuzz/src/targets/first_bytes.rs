//! The first bytes on the init port: however they are cut, the answer is the one of the definition, and no byte is lost.

use enclave_bridge_proto::{ACK, EnclaveId, First, FirstBytes, encode_beat};

use crate::input::{Cut, Input};

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (flags, seed) = (input.byte(), input.u32());
    let mut id: [u8; 16] = input.take();
    if flags & 2 != 0 {
        id[..2].copy_from_slice(&ACK);
    }
    let live = EnclaveId::from_bytes(id).filter(|_| flags & 1 != 0);
    let mut stream = Vec::new();
    if flags & 4 != 0 {
        // A beat of the session, cut short by what follows.
        stream.extend_from_slice(&id[..usize::from(flags >> 4) + 1]);
    }
    stream.extend_from_slice(input.rest());
    for cut in Cut::all(seed) {
        check(&stream, live, cut);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Handshake,
    Beat,
    Bad,
    Open,
}

/// The definition, from the wire's description.
fn expected(stream: &[u8], live: Option<EnclaveId>) -> Kind {
    let beat = live.map(|id| encode_beat(&id));
    let agrees =
        |with: &[u8]| stream.len().min(with.len()) == stream.iter().zip(with).take_while(|(a, b)| a == b).count();
    let is_beat = beat.is_some_and(|beat| agrees(&beat));
    match (agrees(&ACK), is_beat) {
        (false, false) => Kind::Bad,
        (true, false) if stream.len() >= 2 => Kind::Handshake,
        // A whole beat, also where the session's id begins with an ACK.
        (_, true) if stream.len() >= 17 => Kind::Beat,
        _ => Kind::Open,
    }
}

fn check(stream: &[u8], live: Option<EnclaveId>, cut: Cut) {
    let mut first = FirstBytes::new(live);
    let mut pushed = 0;
    for piece in cut.pieces(stream) {
        pushed += piece.len();
        let answer = first.push(piece);
        let so_far = &stream[..pushed];
        let kind = match &answer {
            None => Kind::Open,
            Some(First::Bad) => Kind::Bad,
            Some(First::Beat) => Kind::Beat,
            Some(First::Handshake { rest }) => {
                assert_eq!(rest, &so_far[2..], "what follows the ACK goes with the handshake");
                Kind::Handshake
            }
        };
        assert_eq!(kind, expected(so_far, live));
        if kind != Kind::Open {
            return assert_eq!(first.into_bytes(), so_far, "no byte is lost");
        }
    }
    assert_eq!(first.is_ambiguous(), stream.starts_with(&ACK));
    assert!(stream.len() < 17, "a whole beat is told from a handshake");
    match first.on_pause() {
        Some(First::Handshake { rest }) => assert_eq!([&ACK[..], &rest].concat(), stream),
        None => assert!(!stream.starts_with(&ACK), "an ACK is an ACK once nothing more comes"),
        Some(other) => panic!("{other:?} after a pause"),
    }
}
