//! Recorded bytes, read in the one role and written in the other. `testdata/README.md` describes the files.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use enclave_bridge_proto::{
    ACK, ADDRESS_LINE_MAX_BYTES, Announcement, BeatReader, EnclaveId, Environment, First, FirstBytes,
    HYBRID_LINE_MAX_BYTES, HandshakeLimits, LineProgress, LineReader, NAK_BYTE, NAK_MAX_BYTES, Nak, NakCode, NakPlace,
    PROTOCOL_KEY, Protocol, ProxyV2Progress, ProxyV2Reader, Settings, Target, enclave, encode_beat,
    encode_hybrid_connect, encode_hybrid_ok, encode_proxy_v2, host, parse_hybrid_connect, parse_hybrid_ok,
};

struct Trace {
    name: String,
    given: BTreeMap<String, String>,
    writes: Vec<(char, Vec<u8>)>,
}

impl Trace {
    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut trace = Trace { name, given: BTreeMap::new(), writes: Vec::new() };
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let body = match line.chars().next() {
                None | Some('#') => continue,
                Some('!') => {
                    let (key, value) = line[1..].trim().split_once(' ').unwrap();
                    assert!(trace.given.insert(key.into(), value.into()).is_none(), "{key} twice");
                    continue;
                }
                Some(side @ ('>' | '<')) => {
                    trace.writes.push((side, Vec::new()));
                    &line[1..]
                }
                Some(' ') => line,
                Some(other) => panic!("{}: a line begins with {other:?}", trace.name),
            };
            trace.writes.last_mut().unwrap().1.extend(bytes(body));
        }
        trace
    }

    fn all() -> Vec<Trace> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "trace"));
        paths.sort();
        paths.iter().map(|path| Trace::read(path)).collect()
    }

    fn given(&self, key: &str) -> Option<&str> {
        self.given.get(key).map(String::as_str)
    }

    /// Everything that one side writes.
    fn of(&self, side: char) -> Vec<u8> {
        self.writes.iter().filter(|write| write.0 == side).flat_map(|write| write.1.clone()).collect()
    }
}

/// Bytes and texts up to the end of the line or a comment.
fn bytes(body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => {}
            '#' => break,
            '"' => loop {
                match chars.next().unwrap() {
                    '"' => break,
                    '\\' => out.push(u8::try_from(chars.next().unwrap()).unwrap()),
                    c => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                }
            },
            high => {
                let low = chars.next().unwrap();
                out.push(u8::from_str_radix(&format!("{high}{low}"), 16).unwrap());
            }
        }
    }
    out
}

/// The first line of some bytes without its 0A, and what follows.
fn line(bytes: &[u8], cap: usize) -> (Vec<u8>, &[u8]) {
    let mut reader = LineReader::new(cap);
    let LineProgress::Line { consumed } = reader.push(bytes) else { panic!("no line in {bytes:?}") };
    (reader.take_line(), &bytes[consumed..])
}

#[test]
fn every_trace_both_ways() {
    let traces = Trace::all();
    assert!(traces.len() >= 27, "traces are missing: {}", traces.len());
    for trace in &traces {
        match trace.given("kind") {
            Some("handshake") => {
                as_host(trace);
                as_enclave(trace);
            }
            Some("beats") => beats(trace),
            Some("egress") => egress(trace),
            Some("ingress") => ingress(trace),
            Some("hybrid") => hybrid(trace),
            other => panic!("{}: kind {other:?}", trace.name),
        }
    }
}

#[test]
fn every_code_has_a_trace() {
    let names: Vec<String> = Trace::all().into_iter().map(|trace| trace.name).collect();
    for code in NakCode::ALL {
        let word = code.as_str().to_lowercase().replace('_', "-");
        let wanted = match code.place() {
            NakPlace::Handshake => vec![format!("refusal-{word}")],
            NakPlace::Egress => vec![format!("egress-{word}")],
            NakPlace::Both => vec![format!("refusal-{word}"), format!("egress-{word}")],
        };
        for name in wanted {
            assert!(names.contains(&name), "{name} is missing");
        }
    }
}

/// We are the host: what the enclave wrote goes in, and exactly what the host wrote comes out.
fn as_host(trace: &Trace) {
    if trace.given("bridge") == Some("v1") {
        return;
    }
    let expected = trace.of('<');
    let (environment_line, answer) = line(&expected, usize::MAX);
    let sent = Environment::parse(&environment_line).unwrap();
    let offered = sent.announcement().expect("a bridge of 1.1");
    let mut environment = Environment::new();
    for (name, value) in sent.iter().filter(|(name, _)| *name != PROTOCOL_KEY) {
        environment.insert(name, value);
    }
    let now = Instant::now();
    let mut first = FirstBytes::new(None);
    let mut host: Option<host::Handshake> = None;
    let mut written = Vec::new();
    let mut end = None;
    for (_, bytes) in trace.writes.iter().filter(|write| write.0 == '>') {
        match host.as_mut() {
            Some(host) => host.handle_bytes(now, bytes),
            None => {
                let Some(First::Handshake { rest }) = first.push(bytes) else { panic!("{}: no ACK", trace.name) };
                let line = environment.encode_line(&offered).unwrap();
                let machine = host.insert(host::Handshake::new(line, offered.clone(), HandshakeLimits::default(), now));
                machine.handle_bytes(now, &rest);
            }
        }
        let host = host.as_mut().unwrap();
        loop {
            match (host.poll_event(), host.poll_transmit()) {
                (None, None) => break,
                (event, bytes) => {
                    match event {
                        Some(host::Event::Requested(parsed)) => {
                            assert!(!refused_unasked(trace), "{}: to be refused by the machine itself", trace.name);
                            check_request(trace, &parsed.settings);
                            match Nak::parse(&answer[..answer.len() - 1]) {
                                Ok(nak) => host.refuse(now, nak),
                                Err(_) => host.grant(now),
                            }
                        }
                        Some(host::Event::Closed(closed)) => end = Some(closed),
                        None => {}
                    }
                    if let Some(bytes) = bytes {
                        written.extend(bytes);
                        host.transmitted(now);
                    }
                }
            }
        }
    }
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&expected), "{}", trace.name);
    let expected_end = match Nak::parse(&answer[..answer.len() - 1]) {
        Ok(nak) => host::End::Refused(nak),
        Err(_) => host::End::Granted,
    };
    assert_eq!(end, Some(expected_end), "{}", trace.name);
}

/// Whether the settings are such that nobody is asked about them.
fn refused_unasked(trace: &Trace) -> bool {
    let codes = ["bad-config", "bad-id", "bad-interval", "port-not-allowed", "too-many"];
    codes.iter().any(|code| trace.name == format!("refusal-{code}"))
}

/// What was read would be written as it stood, unless the trace says otherwise.
fn check_request(trace: &Trace, settings: &Settings) {
    let stream = trace.of('>');
    let (_, rest) = line(&stream, 1);
    let (spelled, _) = line(rest, usize::MAX);
    if trace.given("enclave") == Some("odd") {
        let parsed =
            Settings::parse(&settings.encode_line()[..settings.encode_line().len() - 1], &Announcement::v1_1(&[]));
        assert_eq!(&parsed.unwrap().settings, settings);
    } else {
        let line = settings.encode_line();
        assert_eq!(String::from_utf8_lossy(&line), String::from_utf8_lossy(&[&spelled[..], b"\n"].concat()));
    }
}

/// We are the enclave: what the host wrote goes in, and exactly what the enclave wrote comes out.
fn as_enclave(trace: &Trace) {
    let expected = trace.of('>');
    let (ack, rest) = line(&expected, 1);
    assert_eq!(ack, [ACK[0]]);
    let (settings_line, _) = line(rest, usize::MAX);
    let offered = Announcement::v1_1(enclave_bridge_proto::Feature::ALL);
    // Settings that no enclave of ours would send are stood in for: the answer to them is what counts.
    let parsed = Settings::parse(&settings_line, &offered).map(|parsed| parsed.settings);
    let settings = parsed.clone().unwrap_or_else(|_| crate::settings(Protocol::V1));
    let exact = parsed.is_ok() && trace.given("enclave") != Some("odd");
    let now = Instant::now();
    let mut enclave = enclave::Handshake::new(HandshakeLimits::default(), now);
    let mut written = Vec::new();
    let mut last = None;
    let mut incoming = trace.writes.iter().filter(|write| write.0 == '<').map(|write| &write.1);
    loop {
        match (enclave.poll_event(), enclave.poll_transmit()) {
            (None, None) => match incoming.next() {
                Some(bytes) => enclave.handle_bytes(now, bytes),
                None => break,
            },
            (event, bytes) => {
                if let Some(bytes) = bytes {
                    written.extend(bytes);
                    enclave.transmitted(now);
                }
                match event {
                    Some(enclave::Event::Environment(_)) => enclave.request(now, &settings),
                    Some(event) => assert_eq!(last.replace(event), None, "{}", trace.name),
                    None => {}
                }
            }
        }
    }
    if exact {
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&expected), "{}", trace.name);
    }
    let stream = trace.of('<');
    let (_, answer) = line(&stream, usize::MAX);
    let expected = match Nak::parse(&answer[..answer.len() - 1]) {
        Ok(nak) => {
            assert_eq!(nak.encode(), answer, "{}", trace.name);
            enclave::Event::Refused(nak)
        }
        Err(_) => enclave::Event::Ready,
    };
    assert_eq!(last, Some(expected), "{}", trace.name);
}

fn beats(trace: &Trace) {
    let id: EnclaveId = trace.given("id").unwrap().parse().unwrap();
    for side in ['>', '<'] {
        let mut reader = BeatReader::new(id);
        for (_, bytes) in trace.writes.iter().filter(|write| write.0 == side) {
            assert_eq!(bytes[..], encode_beat(&id), "{}", trace.name);
            assert_eq!(reader.push(bytes), Ok(1), "{}", trace.name);
        }
        assert!(reader.is_between_beats());
    }
}

fn egress(trace: &Trace) {
    let (sent, answered) = (trace.of('>'), trace.of('<'));
    let (address, payload) = line(&sent, ADDRESS_LINE_MAX_BYTES);
    let target = Target::parse(&address);
    if let Ok(target) = &target {
        assert_eq!([target.encode_line(), payload.to_vec()].concat(), sent, "{}", trace.name);
    }
    let (answer, _) = line(&answered, NAK_MAX_BYTES - 1);
    if answer.first() == Some(&NAK_BYTE) {
        let nak = Nak::parse(&answer).unwrap();
        assert_eq!(nak.encode(), answered, "{}", trace.name);
        match target {
            Ok(_) => assert_ne!(nak.code(), NakCode::BadTarget, "{}", trace.name),
            Err(own) => assert_eq!(own, nak, "{}", trace.name),
        }
    } else {
        assert!(target.is_ok() && answered.starts_with(&ACK), "{}", trace.name);
    }
}

fn ingress(trace: &Trace) {
    let source = trace.given("source").unwrap().parse().unwrap();
    let destination = trace.given("destination").unwrap().parse().unwrap();
    let stream = trace.of('<');
    let header = encode_proxy_v2(source, destination);
    assert!(stream.starts_with(&header), "{}", trace.name);
    let expected =
        ProxyV2Progress::Header { source: Some(source), destination: Some(destination), consumed: header.len() };
    assert_eq!(ProxyV2Reader::new().push(&stream), expected, "{}", trace.name);
}

fn hybrid(trace: &Trace) {
    let (asked, answered) = (trace.of('<'), trace.of('>'));
    let port = parse_hybrid_connect(&line(&asked, HYBRID_LINE_MAX_BYTES).0).unwrap();
    assert_eq!(encode_hybrid_connect(port), asked);
    let number = parse_hybrid_ok(&line(&answered, HYBRID_LINE_MAX_BYTES).0).unwrap();
    assert_eq!(encode_hybrid_ok(number), answered);
}
