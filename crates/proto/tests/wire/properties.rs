//! Properties: what is written is read back the same, and nothing that arrives can make a reader panic.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use enclave_bridge_proto::{
    ADDRESS_LINE_MAX_BYTES, Announcement, BeatReader, ClientRequest, EnclaveId, Environment, EnvironmentError, Feature,
    FirstBytes, HYBRID_LINE_MAX_BYTES, Host, LineProgress, LineReader, LogLevel, NAK_MAX_BYTES, Nak, NakCode,
    NakParseError, PROTOCOL_KEY, PROXY_V2_MAX_BYTES, Protocol, ProxyV2Error, ProxyV2Progress, ProxyV2Reader,
    ServerRequest, Settings, Target, encode_hybrid_connect, encode_hybrid_ok, encode_proxy_v2, encode_proxy_v2_local,
    parse_hybrid_connect, parse_hybrid_ok,
};
use proptest::prelude::*;

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn sockets() -> impl Strategy<Value = SocketAddr> {
    (addresses(), any::<u16>()).prop_map(SocketAddr::from)
}

fn names() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9äß_*.-]{0,60}[a-z]"
}

fn targets() -> impl Strategy<Value = Target> {
    let host = prop_oneof![names().prop_map(Host::Name), addresses().prop_map(Host::Ip)];
    (host, 1..=u16::MAX).prop_map(|(host, port)| Target { host, port })
}

fn servers() -> impl Strategy<Value = ServerRequest> {
    let v1 = (any::<u32>(), 1..=65535_u32, 1..=u16::MAX);
    let v1_1 = (any::<bool>(), prop::option::of(addresses()), prop::collection::vec(names(), 0..4), any::<bool>());
    (v1, v1_1).prop_map(|((cid, listen, tcp), (proxy_v2, bind_address, server_names, framed))| ServerRequest {
        proxy_v2,
        bind_address,
        server_names,
        framed,
        ..ServerRequest::new(cid, listen, tcp)
    })
}

fn clients() -> impl Strategy<Value = ClientRequest> {
    (1..=65535_u32, 1..=i64::MAX.unsigned_abs(), any::<bool>()).prop_map(|(port, timeout, framed)| ClientRequest {
        request_timeout: Duration::from_nanos(timeout),
        framed,
        ..ClientRequest::new(port)
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let lists = (prop::collection::vec(servers(), 0..=64), prop::collection::vec(clients(), 0..=64));
    let id = any::<[u8; 16]>().prop_filter_map("the nil id", EnclaveId::from_bytes);
    let level = prop::option::of(prop::sample::select(LogLevel::ALL));
    (".{0,60}", id, 1_000_000_000..=3_600_000_000_000_u64, level, lists).prop_map(
        |(app_name, id, interval, log_level, (servers, clients))| Settings {
            app_name,
            protocol: Protocol::V1_1,
            id,
            interval: Duration::from_nanos(interval),
            log_level,
            servers,
            clients,
        },
    )
}

/// Bytes that resemble settings: pieces of them in any order.
fn nearly_settings() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\"appName\"",
        "\"watchdog\":{",
        "\"enclaveId\":",
        "\"interval\":",
        "\"Servers\":[",
        "\"clients\":[",
        "\"bridgeTcpPort\":",
        "\"serverNames\":[\"a\"]",
        "null",
        "1e9",
        "-1",
        "30000000000",
        "99999999999999999999",
        "\"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10\"",
        "\\u12",
        "ä",
        "\u{0}",
        " ",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

fn pieces<'a>(bytes: &'a [u8], cut: &prop::sample::Index) -> [&'a [u8]; 2] {
    let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
    [head, tail]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn address_lines_read_back(target in targets()) {
        let line = target.encode_line();
        prop_assert!(line.len() <= ADDRESS_LINE_MAX_BYTES + 1);
        prop_assert_eq!(line.last(), Some(&b'\n'));
        prop_assert_eq!(Target::parse(&line[..line.len() - 1]), Ok(target));
    }

    #[test]
    fn a_line_that_is_taken_is_written_the_same_or_as_the_same_address(line in "[a-f0-9.:\\[\\]%@/x ]{0,40}:[0-9]{0,6}") {
        match Target::parse(line.as_bytes()) {
            Ok(target) => match target.host {
                Host::Ip(IpAddr::V6(_)) => prop_assert_eq!(Target::parse(target.to_string().as_bytes()), Ok(target)),
                _ => prop_assert_eq!(target.to_string(), line),
            },
            Err(nak) => prop_assert_eq!(nak.code(), NakCode::BadTarget),
        }
    }

    #[test]
    fn t13_nothing_makes_a_line_reader_or_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), cut: prop::sample::Index) {
        let _ = Target::parse(&bytes);
        let _ = Nak::parse(&bytes);
        let _ = Nak::parse(&[&[0x15], &bytes[..]].concat());
        let _ = Environment::parse(&bytes);
        let _ = Settings::parse(&bytes, &Announcement::v1_1(Feature::ALL));
        let _ = parse_hybrid_connect(&bytes);
        let _ = parse_hybrid_ok(&bytes);
        let _ = Announcement::parse(&String::from_utf8_lossy(&bytes));
        let _ = String::from_utf8_lossy(&bytes).parse::<EnclaveId>();
        let [head, tail] = pieces(&bytes, &cut);
        for cap in [0, 1, 32, 300] {
            let (mut whole, mut split) = (LineReader::new(cap), LineReader::new(cap));
            let one = whole.push(&bytes);
            let two = match split.push(head) {
                LineProgress::NeedMore => match split.push(tail) {
                    LineProgress::Line { consumed } => LineProgress::Line { consumed: head.len() + consumed },
                    other => other,
                },
                other => other,
            };
            prop_assert_eq!(one, two);
            prop_assert!(whole.len() <= cap);
            prop_assert_eq!(whole.take_line(), split.take_line());
        }
        let mut proxy = ProxyV2Reader::new();
        proxy.push(head);
        proxy.push(tail);
        let mut first = FirstBytes::new(Some(crate::id()));
        first.push(&bytes);
        let mut beats = BeatReader::new(crate::id());
        let _ = beats.push(&bytes);
    }

    #[test]
    fn c1_nearly_settings_never_panic(bytes in nearly_settings()) {
        if let Err(nak) = Settings::parse(&bytes, &Announcement::v1_1(Feature::ALL)) {
            prop_assert!(nak.encode().len() <= NAK_MAX_BYTES);
        }
        let _ = Environment::parse(&bytes);
    }

    #[test]
    fn naks_read_back(code in prop::sample::select(NakCode::ALL), sentence in "\\PC{0,300}|[\\x00-\\x7f]{0,300}") {
        let nak = Nak::new(code, sentence);
        let line = nak.encode();
        prop_assert!(line.len() <= NAK_MAX_BYTES);
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(Nak::parse(&line[..line.len() - 1]), Ok(nak));
    }

    #[test]
    fn environments_read_back(variables in prop::collection::btree_map(".{0,20}", ".{0,60}", 0..20)) {
        let mut environment = Environment::new();
        for (name, value) in &variables {
            environment.insert(name, value);
        }
        prop_assert_eq!(environment.len(), variables.len());
        prop_assert_eq!(environment.is_empty(), variables.is_empty());
        let announced = Announcement::v1_1(&[Feature::Bind]);
        let line = environment.encode_line(&announced).unwrap();
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read = Environment::parse(&line[..line.len() - 1]).unwrap();
        prop_assert_eq!(read.announcement(), Some(announced));
        environment.insert(PROTOCOL_KEY, "1.1 bind");
        prop_assert_eq!(read, environment);
    }

    #[test]
    fn hybrid_lines_read_back(number: u32) {
        for (line, parsed) in [
            (encode_hybrid_connect(number), parse_hybrid_connect as fn(&[u8]) -> _),
            (encode_hybrid_ok(number), parse_hybrid_ok),
        ] {
            prop_assert!(line.len() <= HYBRID_LINE_MAX_BYTES + 1);
            prop_assert_eq!(parsed(&line[..line.len() - 1]), Ok(number));
            prop_assert!(parsed(&line).is_err());
        }
    }

    #[test]
    fn proxy_headers_read_back(source in sockets(), destination in sockets(), rest: Vec<u8>, cut: prop::sample::Index) {
        let header = encode_proxy_v2(source, destination);
        let stream = [header.clone(), rest].concat();
        let [head, tail] = pieces(&stream, &cut);
        let mut reader = ProxyV2Reader::new();
        let mut before = 0;
        let mut progress = reader.push(head);
        if progress == ProxyV2Progress::NeedMore {
            before = head.len();
            progress = reader.push(tail);
        }
        let mapped = source.is_ipv4() != destination.is_ipv4();
        let seen = |address: SocketAddr| match address.ip() {
            IpAddr::V4(v4) if mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            _ => address,
        };
        prop_assert_eq!(progress, ProxyV2Progress::Header {
            source: Some(seen(source)),
            destination: Some(seen(destination)),
            consumed: header.len() - before,
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn settings_read_back(settings in settings()) {
        let line = settings.encode_line();
        let parsed = Settings::parse(&line[..line.len() - 1], &Announcement::v1_1(Feature::ALL)).unwrap();
        prop_assert!(parsed.unknown_keys.is_empty());
        prop_assert_eq!(parsed.settings, settings);
    }

    #[test]
    fn version_1_settings_read_back_without_what_is_new(settings in settings()) {
        let mut settings = Settings { protocol: Protocol::V1, ..settings };
        let line = settings.encode_line();
        let parsed = Settings::parse(&line[..line.len() - 1], &Announcement::v1_1(&[]));
        if settings.id.contains_newline() {
            prop_assert_eq!(parsed.unwrap_err().code(), NakCode::BadId);
        } else {
            for server in &mut settings.servers {
                *server = ServerRequest::new(server.enclave_cid, server.enclave_listen_port, server.bridge_tcp_port);
            }
            for client in &mut settings.clients {
                client.framed = false;
            }
            prop_assert_eq!(parsed.unwrap().settings, settings);
        }
    }

    #[test]
    fn c1_cut_settings_are_never_taken(settings in settings(), cut: prop::sample::Index) {
        let line = settings.encode_line();
        let json = &line[..line.len() - 1];
        prop_assert!(Settings::parse(&json[..cut.index(json.len())], &Announcement::v1_1(Feature::ALL)).is_err());
    }
}

#[test]
fn t13_address_lines_that_are_none() {
    for line in [
        "",
        ":",
        ":80",
        "example.org",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:http",
        "example.org:080",
        "example.org:+80",
        "example.org:80\r",
        " example.org:80",
        "example.org :80",
        "a\0b:80",
        "a/b:80",
        "a@b:80",
        "a%b:80",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[::1:80",
        "::1]:80",
        "[]:80",
        "[fe80::1%eth0]:80",
        "[127.0.0.1]:80",
        "[example.org]:80",
        "a:b:80",
        "http://example.org:80",
        "exa\u{2028}mple:80",
    ] {
        let nak = Target::parse(line.as_bytes()).unwrap_err();
        assert_eq!(nak.code(), NakCode::BadTarget, "{line}");
    }
    assert!(Target::parse(b"\xff:80").is_err());
    let longest = "x".repeat(253);
    assert!(Target::parse(format!("{longest}:65535").as_bytes()).is_ok());
    assert!(Target::parse(format!("{longest}x:80").as_bytes()).is_err());
    assert!(Target::parse("x".repeat(301).as_bytes()).unwrap_err().to_string().contains("longer than 300"));
}

#[test]
fn address_lines_of_every_kind() {
    for (line, host) in [
        ("example.org:443", Host::Name("example.org".into())),
        ("EXAMPLE.org.:443", Host::Name("EXAMPLE.org.".into())),
        ("0x7f.1:443", Host::Name("0x7f.1".into())),
        ("127.0.0.1:443", Host::Ip("127.0.0.1".parse().unwrap())),
        ("[2001:db8::1]:443", Host::Ip("2001:db8::1".parse().unwrap())),
        ("[::ffff:169.254.169.254]:443", Host::Ip("::ffff:169.254.169.254".parse().unwrap())),
    ] {
        assert_eq!(Target::parse(line.as_bytes()), Ok(Target { host, port: 443 }));
    }
}

#[test]
fn environments_that_are_none() {
    let error = |line: &str| Environment::parse(line.as_bytes()).unwrap_err();
    assert_eq!(error("[]"), EnvironmentError::NotAnObject);
    assert_eq!(error("\"SECRET\""), EnvironmentError::NotAnObject);
    assert_eq!(error(r#"{"A":"1","A":"2"}"#), EnvironmentError::Duplicate("\"A\"".into()));
    for value in ["1", "-1", "1.5", "null", "true", "[[[]]]", "{\"SECRET\":\"SECRET\"}"] {
        assert_eq!(error(&format!("{{\"A\":{value}}}")), EnvironmentError::NotAText("\"A\"".into()));
    }
    for line in ["", "{", r#"{"A":"SECRET"#, r#"{"A":"SECRET"} x"#, r#"{"A":"SECRET\ud800"}"#, r#"{"A":"SECRET\q"}"#] {
        let error = error(line);
        assert!(matches!(error, EnvironmentError::Syntax(_)), "{line}: {error}");
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
    assert_eq!(error(&"x".repeat(1024 * 1024 + 1)), EnvironmentError::TooLong);
    let many: Vec<String> = (0..16_385).map(|n| format!("\"{n}\":\"\"")).collect();
    assert_eq!(error(&format!("{{{}}}", many.join(","))), EnvironmentError::TooMany);
    let deep = format!("{{\"A\":{}", "[".repeat(500_000));
    assert!(matches!(error(&deep), EnvironmentError::Syntax(_)));
}

#[test]
fn an_environment_shows_names_only_and_has_its_cap() {
    let mut environment = Environment::new();
    environment.insert("TOKEN", "SECRET");
    assert_eq!(format!("{environment:?}"), "Environment{\"TOKEN\"}");
    environment.insert("BIG", "x".repeat(1024 * 1024));
    assert!(environment.encode_line(&Announcement::v1_1(&[])).is_err());
    let mut environment = Environment::new();
    for n in 0..16_384 {
        environment.insert(n.to_string(), "");
    }
    assert!(environment.encode_line(&Announcement::v1_1(&[])).is_err(), "one too many with the announcement");
}

#[test]
fn announcements() {
    let read = |text| Announcement::parse(text);
    let announced = read("1.1 proxy-v2,bind").unwrap();
    assert_eq!(announced, Announcement::v1_1(&[Feature::ProxyV2, Feature::Bind, Feature::Bind]));
    assert!(announced.offers(Feature::Bind) && !announced.offers(Feature::Framed));
    assert_eq!(announced.to_string(), "1.1 proxy-v2,bind");
    assert_eq!(read("1.1"), Some(Announcement::v1_1(&[])));
    assert_eq!(read("1.1 "), Some(Announcement::v1_1(&[])));
    let later = read("1.12 teleport, bind,,sni").unwrap();
    assert_eq!((later.minor(), later.features().collect::<Vec<_>>()), (12, vec!["teleport", "bind", "sni"]));
    for text in ["", "1", "1.", "1.0", "1.01", "1.x", "2.0 bind", "1.1,bind", " 1.1", "1.-1", "1.99999"] {
        assert_eq!(read(text), None, "{text}");
    }
    assert_eq!(read(&format!("1.1 {}", "x,".repeat(1000))).unwrap().features().count(), 64);
}

#[test]
fn hybrid_lines_that_are_none() {
    for line in [
        "",
        "CONNECT",
        "CONNECT ",
        "CONNECT 5000 ",
        "CONNECT +5",
        "CONNECT  5",
        "connect 5",
        "CONNECT 4294967296",
        "CONNECT 00000000005",
        "CONNECT 5\r",
        "OK 5",
    ] {
        assert!(parse_hybrid_connect(line.as_bytes()).is_err(), "{line}");
    }
    assert_eq!(parse_hybrid_ok(b"NO 1").unwrap_err().to_string(), "not a line of the form \"OK <number>\"");
}

#[test]
fn proxy_headers_that_are_none_and_odd_ones() {
    let header = encode_proxy_v2("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
    let read = |bytes: &[u8]| ProxyV2Reader::new().push(bytes);
    let with = |place: usize, bytes: &[u8]| {
        let mut header = header.clone();
        header[place..place + bytes.len()].copy_from_slice(bytes);
        read(&header)
    };
    for place in 0..12 {
        assert_eq!(with(place, b"x"), ProxyV2Progress::Bad(ProxyV2Error::Signature));
    }
    assert_eq!(read(b"PROXY TCP4 "), ProxyV2Progress::Bad(ProxyV2Error::Signature));
    assert_eq!(with(12, &[0x22]), ProxyV2Progress::Bad(ProxyV2Error::Command));
    assert_eq!(with(12, &[0x11]), ProxyV2Progress::Bad(ProxyV2Error::Command));
    assert_eq!(with(13, &[0x12]), ProxyV2Progress::Bad(ProxyV2Error::Family));
    assert_eq!(with(13, &[0x31]), ProxyV2Progress::Bad(ProxyV2Error::Family));
    assert_eq!(with(14, &[0, 11]), ProxyV2Progress::Bad(ProxyV2Error::TooShort));
    assert_eq!(with(14, &[0xff, 0xff]), ProxyV2Progress::Bad(ProxyV2Error::TooLong));
    assert_eq!(with(14, &[2, 9]), ProxyV2Progress::Bad(ProxyV2Error::TooLong));
    // An extension behind the addresses, as long as may be.
    let room = PROXY_V2_MAX_BYTES - 16;
    let mut long = header.clone();
    long[14..16].copy_from_slice(&u16::try_from(room).unwrap().to_be_bytes());
    long.resize(PROXY_V2_MAX_BYTES + 3, 7);
    let ProxyV2Progress::Header { source, consumed, .. } = read(&long) else { panic!("a header") };
    assert_eq!((source, consumed), (Some("192.0.2.1:1000".parse().unwrap()), PROXY_V2_MAX_BYTES));
    for local in [encode_proxy_v2_local(), [&header[..12], &[0x21, 0, 0, 0]].concat()] {
        assert_eq!(read(&local), ProxyV2Progress::Header { source: None, destination: None, consumed: 16 });
    }
    let mut reader = ProxyV2Reader::new();
    assert_eq!(reader.push(b"x"), ProxyV2Progress::Bad(ProxyV2Error::Signature));
    assert_eq!(reader.push(&header), ProxyV2Progress::Bad(ProxyV2Error::Signature), "bad stays bad");
    let header = encode_proxy_v2((Ipv6Addr::LOCALHOST, 1).into(), ([127, 0, 0, 1], 2).into());
    assert_eq!(header.len(), 52);
}

#[test]
fn an_unknown_refusal_is_still_one() {
    assert!(matches!(Nak::parse(b"\x15TOO_LATE x"), Err(NakParseError::UnknownCode { .. })));
}
