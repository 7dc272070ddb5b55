//! Settings as version-1 peers write them, and as nobody should.

use std::time::Duration;

use enclave_bridge_proto::{
    Announcement, DEFAULT_REQUEST_TIMEOUT, Feature, NAK_MAX_BYTES, Nak, NakCode, ParsedSettings, Protocol,
    SETTINGS_MAX_BYTES, SETTINGS_TUNNELS_MAX, Settings,
};

use crate::{id, settings};

const ALL: &[Feature] = Feature::ALL;

fn parse(text: &str) -> Result<ParsedSettings, Nak> {
    Settings::parse(text.as_bytes(), &Announcement::v1_1(ALL))
}

/// The smallest settings with one server and one client, one piece of text replaced by another.
fn changed(from: &str, to: &str) -> String {
    let text = r#"{"appName":"a","watchdog":{"enclaveId":"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10","interval":30000000000},"logger":{"level":"info"},"servers":[{"enclaveCid":16,"enclaveListenPort":5001,"bridgeTcpPort":8080}],"clients":[{"enclaveDialPort":5002,"requestTimeout":60000000000}]}"#;
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

fn refused(from: &str, to: &str) -> String {
    parse(&changed(from, to)).unwrap_err().to_string()
}

fn taken(from: &str, to: &str) -> Settings {
    parse(&changed(from, to)).unwrap_or_else(|nak| panic!("{to}: {nak}")).settings
}

#[test]
fn the_original_writes_an_empty_list_as_null() {
    let text = r#"{"appName":"","watchdog":{"enclaveId":"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10","interval":1000000000},"logger":{"level":""},"servers":null,"clients":null}"#;
    let settings = parse(text).unwrap().settings;
    assert_eq!((settings.servers.len(), settings.clients.len()), (0, 0));
    assert_eq!((settings.app_name.as_str(), settings.log_level), ("", None));
    assert_eq!(settings.interval, Duration::from_secs(1));
    assert_eq!(settings.protocol, Protocol::V1);
}

#[test]
fn the_least_that_is_enough() {
    let text = r#"{"watchdog":{"enclaveId":"f6a1c1a26f0e4f0e9a532f1f0c9d7d10","interval":3600000000000}}"#;
    let settings = parse(text).unwrap().settings;
    assert_eq!((settings.id, settings.interval), (id(), Duration::from_secs(3600)));
    let text = r#" {"APPNAME":null,"protocol":null,"logger":null,"WatchDog":{"ENCLAVEID":"{F6A1C1A2-6F0E-4F0E-9A53-2F1F0C9D7D10}","Interval":3600000000000},"Servers":[],"clientſ":[]}  "#;
    assert_eq!(parse(text).unwrap().settings, settings);
}

#[test]
fn c2_odd_spellings_that_version_1_takes() {
    for spelling in ["urn:uuid:f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10", "{f6a1c1a26f0e4f0e9a532f1f0c9d7d10}"] {
        assert_eq!(taken("f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10", spelling).id, id());
    }
    assert_eq!(taken("bridgeTcpPort", "BRIDGETCPPORT").servers[0].bridge_tcp_port, 8080);
    assert_eq!(refused("\"enclaveCid\":16,", ""), "BAD_CONFIG: servers[0].enclaveCid: missing");
    assert_eq!(taken("\"enclaveCid\":16", "\"enclaveCid\":4294967295").servers[0].enclave_cid, u32::MAX);
    assert_eq!(taken("60000000000}", "0}").clients[0].request_timeout, DEFAULT_REQUEST_TIMEOUT);
    assert_eq!(taken("60000000000}", "null}").clients[0].request_timeout, DEFAULT_REQUEST_TIMEOUT);
    assert_eq!(taken(",\"requestTimeout\":60000000000", "").clients[0].request_timeout, DEFAULT_REQUEST_TIMEOUT);
    assert_eq!(taken("60000000000}", "1}").clients[0].request_timeout, Duration::from_nanos(1));
    assert_eq!(taken("60000000000}", "9223372036854775807}").clients[0].request_timeout.as_nanos(), (1 << 63) - 1);
    for level in ["trace", "DEBUG", "Warn", "error", "fatal", "panic", "disabled", "info"] {
        let read = taken("\"level\":\"info\"", &format!("\"level\":\"{level}\"")).log_level.unwrap();
        assert_eq!(read.as_str(), level.to_lowercase());
    }
    for minor in ["1.1", "1.2", "1.17"] {
        assert_eq!(taken("{\"appName", &format!("{{\"protocol\":\"{minor}\",\"appName")).protocol, Protocol::V1_1);
    }
}

#[test]
fn c2_unknown_keys_are_ignored_and_named() {
    let text =
        changed("\"appName\":\"a\"", r#""appName":"a","tls":{"deep":[1,{"x":null}],"deep":2},"\u001b[2J":1e999"#)
            .replace("\"bridgeTcpPort\"", "\"weight\":[],\"bridgeTcpPort\"");
    let parsed = parse(&text).unwrap();
    assert_eq!(parsed.settings, parse(&changed("a", "a")).unwrap().settings);
    assert_eq!(parsed.unknown_keys, ["tls", "\"\\u{1b}[2J\"", "servers[0].weight"]);
    let many: String = (0..100).map(|n| format!("\"k{n}{}\":0,", "x".repeat(1000))).collect();
    let parsed = parse(&changed("{\"appName", &format!("{{{many}\"appName"))).unwrap();
    assert_eq!(parsed.unknown_keys.len(), 16);
    assert!(parsed.unknown_keys.iter().all(|path| path.len() < 60));
}

#[test]
fn c1_every_refusal_names_the_path() {
    let cases = [
        ("30000000000", "0", "BAD_INTERVAL: watchdog.interval: 0ns is outside 1 s to 1 h (the unit is nanoseconds)"),
        ("30000000000", "-1", "BAD_INTERVAL: watchdog.interval: negative"),
        ("30000000000", "1", "BAD_INTERVAL: watchdog.interval: 1ns is outside 1 s to 1 h (the unit is nanoseconds)"),
        (
            "30000000000",
            "999999999",
            "BAD_INTERVAL: watchdog.interval: 999.999999ms is outside 1 s to 1 h (the unit is nanoseconds)",
        ),
        ("30000000000", "\"30s\"", "BAD_CONFIG: watchdog.interval: a text is not a number of nanoseconds"),
        ("\"interval\":30000000000", "\"x\":0", "BAD_CONFIG: watchdog.interval: missing"),
        ("f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10", "", "BAD_CONFIG: watchdog.enclaveId: not a UUID"),
        (
            "f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10",
            "00000000-0000-0000-0000-000000000000",
            "BAD_ID: watchdog.enclaveId: the nil id",
        ),
        ("\"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10\"", "null", "BAD_CONFIG: watchdog.enclaveId: missing"),
        ("\"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10\"", "16", "BAD_CONFIG: watchdog.enclaveId: a number is not a text"),
        ("\"enclaveId\":\"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10\",", "", "BAD_CONFIG: watchdog.enclaveId: missing"),
        (
            "f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10",
            "f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d0a",
            "BAD_ID: watchdog.enclaveId: a byte of it is 0a, and a version-1 peer reads beats up to that byte",
        ),
        ("info", "loud", "BAD_CONFIG: logger.level: \"loud\" is no log level"),
        ("\"info\"", "3", "BAD_CONFIG: logger.level: a number is not a text"),
        ("\"appName\":\"a\"", "\"appName\":[]", "BAD_CONFIG: appName: an object or a list is not a text"),
        ("8080", "0", "PORT_NOT_ALLOWED: servers[0].bridgeTcpPort: 0 is not a port"),
        ("8080", "null", "BAD_CONFIG: servers[0].bridgeTcpPort: missing"),
        ("8080", "65536", "PORT_NOT_ALLOWED: servers[0].bridgeTcpPort: 65536 is not a port"),
        ("8080", "\"8080\"", "BAD_CONFIG: servers[0].bridgeTcpPort: a text is not a port"),
        ("8080", "-8080", "BAD_CONFIG: servers[0].bridgeTcpPort: a negative number is not a port"),
        (
            "8080",
            "8080.0",
            "BAD_CONFIG: servers[0].bridgeTcpPort: a number with a fraction, an exponent or too many digits is not a port",
        ),
        ("5001", "4294967297", "PORT_NOT_ALLOWED: servers[0].enclaveListenPort: 4294967297 is not a port"),
        ("5002", "0", "PORT_NOT_ALLOWED: clients[0].enclaveDialPort: 0 is not a port"),
        ("16,", "4294967296,", "BAD_CONFIG: servers[0].enclaveCid: not a number from 0 to 4294967295"),
        ("16,", "\"16\",", "BAD_CONFIG: servers[0].enclaveCid: not a number from 0 to 4294967295"),
        (
            "60000000000}",
            "-1}",
            "BAD_CONFIG: clients[0].requestTimeout: a negative number is not a number of nanoseconds",
        ),
        (
            "60000000000}",
            "9223372036854775808}",
            "BAD_CONFIG: clients[0].requestTimeout: does not fit 64 bits with a sign",
        ),
        ("\"servers\":[", "\"servers\":[null,", "BAD_CONFIG: servers[0].enclaveCid: missing"),
        ("\"servers\":[", "\"servers\":[7,", "BAD_CONFIG: servers[0]: a number is not an object"),
        ("\"logger\":{\"level\":\"info\"}", "\"logger\":\"info\"", "BAD_CONFIG: logger: a text is not an object"),
        ("\"clients\"", "\"Servers\"", "BAD_CONFIG: servers: given twice"),
        ("\"enclaveCid\":16", "\"enclaveCid\":16,\"EnclaveCID\":16", "BAD_CONFIG: servers[0].enclaveCid: given twice"),
        ("{\"appName", "{\"protocol\":\"2.0\",\"appName", "BAD_CONFIG: protocol: \"2.0\" is no version 1.x"),
        (
            "{\"appName",
            "{\"protocol\":1.1,\"appName",
            "BAD_CONFIG: protocol: a number with a fraction, an exponent or too many digits is not a text",
        ),
        (
            "\"enclaveCid\"",
            "\"framed\":true,\"enclaveCid\"",
            "BAD_CONFIG: servers[0].framed: asked for without \"protocol\": \"1.1\"",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refused(from, to), expected, "{from} -> {to}");
    }
    for number in ["30000000000.0", "3e10", "1e100", "300000000000000000000000000"] {
        let sentence = refused("30000000000", number);
        assert!(
            sentence.starts_with("BAD_CONFIG: watchdog.interval: a number with a fraction"),
            "{number}: {sentence}"
        );
    }
    for number in ["1e999", "01", "+1", "NaN", "0x10", "'"] {
        let sentence = refused("30000000000", number);
        assert!(sentence.starts_with("BAD_CONFIG: watchdog.interval: not JSON: "), "{number}: {sentence}");
    }
    for number in ["3600000000001", "9223372036854775807", "18446744073709551615"] {
        assert!(refused("30000000000", number).starts_with("BAD_INTERVAL: watchdog.interval: "), "{number}");
    }
}

#[test]
fn c1_no_settings_at_all() {
    for (text, expected) in [
        ("null", "BAD_CONFIG: settings: null is not an object"),
        ("[]", "BAD_CONFIG: settings: a list is not an object"),
        ("7", "BAD_CONFIG: settings: a number is not an object"),
        ("{}", "BAD_CONFIG: watchdog.enclaveId: missing"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected);
    }
    for text in ["", "\u{feff}{}", "{", "{\"appName\":\"\\ud800\"}", "{}{}", "{\"a\" 1}", "{\"a\":\"\t\"}"] {
        assert!(parse(text).unwrap_err().to_string().contains("not JSON"), "{text}");
    }
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(parse(&deep).unwrap_err().to_string(), "BAD_CONFIG: settings: nested deeper than 16");
    let long = "x".repeat(SETTINGS_MAX_BYTES + 1);
    assert_eq!(parse(&long).unwrap_err().to_string(), "BAD_CONFIG: settings: longer than 262144 bytes");
}

#[test]
fn what_was_not_announced_is_refused() {
    let with = |key: &str, list: &str| {
        let element = r#"{"enclaveCid":16,"enclaveListenPort":5001,"bridgeTcpPort":8080,"#;
        let text = changed("{\"appName", "{\"protocol\":\"1.1\",\"appName");
        match list {
            "servers" => text.replace(&element[..element.len() - 1], &format!("{element}{key}")),
            _ => text.replace("\"enclaveDialPort\":5002", &format!("\"enclaveDialPort\":5002,{key}")),
        }
    };
    let cases = [
        ("\"proxyProtocol\":\"v2\"", "servers", "proxyProtocol", Feature::ProxyV2),
        ("\"bindAddress\":\"::1\"", "servers", "bindAddress", Feature::Bind),
        ("\"serverNames\":[\"a.example\"]", "servers", "serverNames", Feature::Sni),
        ("\"framed\":true", "servers", "framed", Feature::Framed),
        ("\"framed\":true", "clients", "framed", Feature::Framed),
    ];
    for (key, list, name, feature) in cases {
        let text = with(key, list);
        let others: Vec<Feature> = ALL.iter().copied().filter(|other| *other != feature).collect();
        let nak = Settings::parse(text.as_bytes(), &Announcement::v1_1(&others)).unwrap_err();
        assert_eq!(nak.to_string(), format!("BAD_CONFIG: {list}[0].{name}: this bridge does not offer {feature}"));
        assert!(Settings::parse(text.as_bytes(), &Announcement::v1_1(&[feature])).is_ok(), "{key}");
    }
    for (key, value, sentence) in [
        ("proxyProtocol", "\"v1\"", "\"v1\" is not \"v2\""),
        ("bindAddress", "\"localhost\"", "\"localhost\" is not an IP address"),
        ("framed", "1", "a number is not true or false"),
        ("serverNames", "\"a\"", "a text is not a list"),
    ] {
        let nak = parse(&with(&format!("\"{key}\":{value}"), "servers")).unwrap_err();
        assert_eq!(nak.to_string(), format!("BAD_CONFIG: servers[0].{key}: {sentence}"));
    }
    let nak = parse(&with("\"serverNames\":[\"a\",\"a b\"]", "servers")).unwrap_err();
    assert_eq!(nak.to_string(), "BAD_CONFIG: servers[0].serverNames[1]: \"a b\" is not a name");
    // Not asking is no asking.
    let nothing = r#""proxyProtocol":"","bindAddress":null,"serverNames":[],"framed":false"#;
    assert!(Settings::parse(with(nothing, "servers").as_bytes(), &Announcement::v1_1(&[])).is_ok());
}

#[test]
fn an_id_with_a_newline_is_for_1_1() {
    let text = changed("2f1f0c9d7d10", "2f1f0c9d7d0a").replace("{\"appName", "{\"protocol\":\"1.1\",\"appName");
    assert!(parse(&text).unwrap().settings.id.contains_newline());
}

#[test]
fn c5_more_tunnels_than_the_limit() {
    for (list, element) in [
        ("servers", r#"{"enclaveCid":3,"enclaveListenPort":1,"bridgeTcpPort":1}"#),
        ("clients", r#"{"enclaveDialPort":1}"#),
    ] {
        let text = |count: usize| {
            let elements = vec![element; count].join(",");
            changed("\"appName\":\"a\"", "\"appName\":\"b\"")
                .replace("\"servers\"", "\"x\"")
                .replace("\"clients\"", "\"y\"")
                .replace("\"b\"", &format!("\"b\",\"{list}\":[{elements}]"))
        };
        assert!(parse(&text(SETTINGS_TUNNELS_MAX)).is_ok());
        for count in [SETTINGS_TUNNELS_MAX + 1, 4000] {
            assert_eq!(parse(&text(count)).unwrap_err().to_string(), format!("TOO_MANY: {list}: more than 64"));
        }
    }
}

#[test]
fn a_refusal_repeats_little_of_the_text() {
    let long = "\\u001b[2J\\n".repeat(20_000);
    for (from, to) in [
        ("info", long.as_str()),
        ("\"appName\":\"a\"", &format!("\"{long}\":1,\"{long}\":2")),
        ("\"a\"", &format!("\"{long}\"")),
    ] {
        let nak = parse(&changed(from, to)).unwrap_err();
        let line = nak.encode();
        assert!(line.len() <= NAK_MAX_BYTES);
        assert_eq!(nak.code(), NakCode::BadConfig);
        let inside = &line[1..line.len() - 1];
        assert!(!inside.iter().any(u8::is_ascii_control), "{}", String::from_utf8_lossy(inside));
    }
}

#[test]
fn a_version_1_bridge_is_sent_what_the_original_would_send() {
    let mut settings = settings(Protocol::V1_1);
    settings.protocol = Protocol::V1;
    settings.servers[0].framed = true;
    let line = String::from_utf8(settings.encode_line()).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"appName":"simple-enclave","watchdog":{"enclaveId":"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10","interval":30000000000},"#,
            r#""logger":{"level":"debug"},"servers":[{"enclaveCid":16,"enclaveListenPort":5001,"bridgeTcpPort":8080}],"#,
            r#""clients":[{"enclaveDialPort":5002,"requestTimeout":300000000000}]}"#,
            "\n"
        )
    );
}
