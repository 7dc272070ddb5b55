//! `{:?}` of whatever holds a value of the environment or bytes of a peer shows none of them.

use std::fmt::Debug;
use std::time::Instant;

use enclave_bridge_proto::host::Handshake;
use enclave_bridge_proto::{
    BeatReader, ClientHelloReader, EnclaveId, Environment, FirstBytes, HandshakeLimits, LineReader, Nak, NakCode,
    ProxyV2Reader, RecordReader, Settings, enclave,
};

use crate::{id, offered};

const CANARY: &str = "canary-7f3a";

/// The canary as text, and as `{:?}` of its bytes.
fn is_silent(what: &dyn Debug) {
    for text in [format!("{what:?}"), format!("{what:#?}").split_whitespace().collect::<String>()] {
        let bytes = format!("{:?}", &CANARY.as_bytes()[..4]);
        let bytes = bytes.trim_matches(['[', ']']);
        assert!(!text.contains("canary"), "{text}");
        assert!(!text.contains(bytes) && !text.contains(&bytes.replace(' ', "")), "{text}");
    }
}

#[test]
fn no_value_and_no_byte_in_debug() {
    let mut secrets = Environment::new();
    secrets.insert("KEY", CANARY);
    is_silent(&secrets);
    is_silent(&enclave::Event::Environment(secrets.clone()));

    let line = secrets.encode_line(&offered()).unwrap();
    is_silent(&Handshake::new(line.clone(), offered(), HandshakeLimits::default(), Instant::now()));
    let mut ours = enclave::Handshake::new(HandshakeLimits::default(), Instant::now());
    ours.transmitted(Instant::now());
    ours.handle_bytes(Instant::now(), &line);
    is_silent(&ours);
    is_silent(&Environment::parse(b"{\"KEY\": \"canary-7f3a\", \"KEY\": \"canary-7f3a\"}"));
    is_silent(&Environment::parse(b"{\"KEY\": [\"canary-7f3a\"]}"));
    is_silent(&Environment::parse(b"{\"KEY\": \"canary-7f3a"));

    let mut first = FirstBytes::new(None);
    let found = first.push(&[&[0x06, 0x0A][..], CANARY.as_bytes()].concat());
    is_silent(&found);
    is_silent(&first);
    let mut lines = LineReader::new(100);
    is_silent(&lines.push(CANARY.as_bytes()));
    is_silent(&lines);
    let mut proxy = ProxyV2Reader::default();
    // The signature, then what may be anybody's bytes.
    let header = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20".as_slice(), CANARY.as_bytes()].concat();
    let _progress = proxy.push(&header);
    is_silent(&proxy);
    let mut records = RecordReader::new();
    let mut payload = [&[11, 0][..], CANARY.as_bytes()].concat();
    let _taken = records.decode(&mut payload);
    is_silent(&records);
    let mut hello = ClientHelloReader::new();
    let _progress = hello.push(&[&[22, 3, 1, 0, 99, 1, 0, 0, 95][..], CANARY.as_bytes()].concat());
    is_silent(&hello);
    let mut beats = BeatReader::new(id());
    is_silent(&beats.push(CANARY.as_bytes()));

    // What a peer sent in the place of something else is not repeated either.
    is_silent(&Settings::parse(CANARY.as_bytes(), &offered()).err());
    is_silent(&CANARY.parse::<EnclaveId>());
    is_silent(&Nak::new(NakCode::BadTarget, "no port"));
}
