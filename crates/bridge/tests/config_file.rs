//! Configuration files, good and bad, with the messages that they get.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its setup too")]

mod config_common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config_common::{errors, file, parse, parse_with, run};
use enclave_bridge::config::{Command, EndpointConfig, FILE_MAX_BYTES, KEYS, LogFormat, OnLoss, check_report};
use enclave_bridge::limits::Limits;
use enclave_bridge_policy::PortRanges;

fn samples(which: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_samples").join(which)
}

#[test]
fn c7_bad_samples_tell_every_error_with_its_line() {
    let mut seen = 0;
    for entry in std::fs::read_dir(samples("bad")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(expected) = std::fs::read_to_string(path.with_extension("errors")) else { continue };
        if path.extension().is_some_and(|extension| extension == "toml") {
            let path = path.to_str().unwrap();
            let (text, code) = errors(&["--config", path], &[]);
            assert_eq!(text.replace(path, "FILE"), expected.trim_end(), "{path}");
            assert_eq!(code, 78);
            let (checked, code) = errors(&["check", path], &[]);
            assert_eq!((checked, code), (text, 78));
            seen += 1;
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn c7_syntax_errors_have_line_and_column() {
    let path = samples("bad/syntax.toml");
    let (text, code) = errors(&["--config", path.to_str().unwrap()], &[]);
    // The words are the parser's, the places are ours.
    let text = text.replace(path.to_str().unwrap(), "FILE");
    assert!(text.starts_with("FILE:1:24: ") && text.contains("\nFILE:2:13: "), "{text}");
    assert!(text.lines().all(|line| line.starts_with("FILE:")), "{text}");
    assert_eq!(code, 78);

    let path = samples("bad/duplicate.toml");
    let (text, _) = errors(&["--config", path.to_str().unwrap()], &[]);
    assert_eq!(text.replace(path.to_str().unwrap(), "FILE"), "FILE:3:1: duplicate key");
}

#[test]
fn good_samples() {
    let mut seen = 0;
    for entry in std::fs::read_dir(samples("good")).unwrap() {
        let path = entry.unwrap().path();
        let checked = parse(&["check", path.to_str().unwrap()], &[]);
        let Ok(Command::Check { file, .. }) = checked else { panic!("{}: {checked:?}", path.display()) };
        assert_eq!(check_report(&file), format!("{}: ok", path.display()));
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn every_key_of_the_file_arrives() {
    let (config, source) = run(&["--config", samples("good/full.toml").to_str().unwrap()], &[]);
    assert_eq!(source.file(), samples("good/full.toml"));
    assert_eq!(config.endpoints, [EndpointConfig::Hybrid { uds_path: PathBuf::from("/run/guest/vsock.sock") }]);
    assert_eq!((config.init_port, config.log_port), (6000, 6001));
    assert_eq!(config.monitor.to_string(), "[::1]:9999");
    assert_eq!(config.policy.ingress_address.to_string(), "127.0.0.1");
    assert_eq!(config.policy.ingress_ports.to_string(), "8080,9000-9010");
    let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(
        config.policy.egress,
        enclave_bridge_policy::EgressPolicy::new(
            rules(&["api.example.org:443", "*.s3.example.org:443", "10.20.0.0/16:5432"]),
            rules(&["10.20.0.1", "[2001:db8::/32]:443"]),
        )
        .with_server_names(rules(&["**:443"]))
    );
    assert!(config.policy.env.allows("APP_X") && config.policy.env.allows("TZ"));
    assert!(!config.policy.env.allows("APP_SECRET") && !config.policy.env.allows("HOME"));
    assert_eq!(config.allow_cids, Some(vec![16, 17]));
    assert!(config.strict);
    assert_eq!((config.log_format, config.on_loss), (LogFormat::Json, OnLoss::Exit));
    assert_eq!(config.log_level.as_str(), "warn,enclave_bridge::egress=debug");
    assert_eq!(config.drain_timeout, Duration::from_secs(90));
    assert_eq!(config.policy.idle_timeout, Duration::from_secs(7200));
    assert_eq!(config.policy.linger_timeout, Duration::from_millis(500));
    assert_eq!(config.max_streams, 2000);
    assert_eq!(config.resolv_conf, PathBuf::from("/run/resolv.conf"));
    assert_eq!(config.sandbox, enclave_bridge::config::SandboxMode::Require);
    let limits = &config.limits;
    assert_eq!((limits.servers, limits.clients, limits.unfinished_per_peer), (3, 0, 2));
    let times = [limits.handshake, limits.enclave_connect, limits.resolve, limits.connect];
    assert_eq!(times, [20, 1, 3, 4].map(Duration::from_secs));
    assert_eq!((limits.log_rate, limits.log_burst), (256 * 1024, 1024 * 1024));
    assert_eq!((config.operator_policy().max_servers, config.operator_policy().max_clients), (3, 0));
}

#[test]
fn every_limit_has_a_key() {
    let full = samples("good/full.toml");
    let text = std::fs::read_to_string(&full).unwrap();
    for key in KEYS.iter().filter(|key| key.in_file) {
        assert!(text.contains(&format!("\n{} = ", key.name)), "{} is not in full.toml", key.name);
    }
    let (config, _) = run(&["--config", full.to_str().unwrap()], &[]);
    assert_eq!(config.policy.intervals, Duration::from_secs(2)..=Duration::from_secs(1800));
    // Taken apart, so that a new limit without a key does not compile or does not pass.
    let Limits {
        servers,
        clients,
        handshake,
        handshake_step,
        settings_bytes,
        sessions,
        unfinished_per_peer,
        unfinished_total,
        beat_connections,
        beat_write,
        log_connections_per_peer,
        log_line_bytes,
        log_rate,
        log_burst,
        log_queue_bytes,
        log_stall,
        address_line,
        server_name,
        resolve,
        addresses_tried,
        connect,
        connect_race,
        enclave_connect,
        answer_write,
        monitor_connections,
        monitor_header,
        descriptors_reserved,
        pipes,
        session_end,
        cut,
    } = config.limits;
    assert_eq!((servers, clients, sessions, unfinished_per_peer, unfinished_total), (3, 0, 16, 2, 32));
    assert_eq!((beat_connections, log_connections_per_peer, addresses_tried, monitor_connections), (3, 5, 6, 7));
    assert_eq!((pipes, descriptors_reserved), (8, 90));
    assert_eq!((settings_bytes, log_line_bytes, log_queue_bytes), (64 << 10, 32 << 10, 1 << 20));
    assert_eq!((log_rate, log_burst), (256 << 10, 1 << 20));
    let times =
        [handshake, handshake_step, beat_write, answer_write, address_line, server_name, monitor_header, session_end];
    assert_eq!(times, [20, 6, 7, 8, 9, 11, 12, 13].map(Duration::from_secs));
    assert_eq!([enclave_connect, resolve, connect], [1, 3, 4].map(Duration::from_secs));
    assert_eq!([connect_race, cut, log_stall], [300, 400, 0].map(Duration::from_millis));
}

#[test]
fn limits_outside_their_bounds_say_why() {
    for (flag, value, message) in [
        ("--max-sessions", "0", "\"0\" is not from 1 to 4096: each may hold as many listeners as it has tunnels"),
        ("--max-beat-connections", "65", "\"65\" is not from 1 to 64: one is in use"),
        (
            "--settings-max",
            "1MiB",
            "\"1MiB\" is outside 1KiB to 256KiB: less holds no settings, more is more than the wire allows",
        ),
        ("--log-rate", "512", "\"512\" has no unit: write it as 32KiB or 4MiB"),
        ("--log-line-max", "2MiB", "\"2MiB\" is outside 1KiB to 1MiB: less cuts ordinary lines, more is no line"),
        ("--interval-min", "500ms", "\"500ms\" is outside 1s to 1h: what the wire allows"),
        ("--connect-race", "3s", "\"3s\" is outside 10ms to 2s: what RFC 8305 allows"),
        (
            "--reserved-descriptors",
            "x",
            "\"x\" is not from 64 to 100000: listeners, handshakes and monitoring have to fit",
        ),
    ] {
        assert_eq!(errors(&[flag, value], &[]), (format!("{flag}: {message}"), 64));
    }
}

#[test]
fn lists_in_the_file_replace_the_defaults() {
    let (config, _) = run(&["--config", samples("good/empty_lists.toml").to_str().unwrap()], &[]);
    assert_eq!(config.policy.egress, enclave_bridge_policy::EgressPolicy::default());
    assert!(!config.policy.env.allows("HOME"));
    assert_eq!(config.allow_cids, Some(vec![]));
    assert_eq!(config.policy.ingress_ports, PortRanges::none());
    let (config, _) = run(&["--config", samples("good/ports_as_list.toml").to_str().unwrap()], &[]);
    assert_eq!(config.policy.ingress_ports.to_string(), "8080,9000-9010");
}

#[test]
fn c7_a_named_file_must_exist_and_the_default_one_need_not() {
    let missing = "/nonexistent/named.toml";
    let message = format!("{missing}: cannot be read: no such file or directory");
    assert_eq!(errors(&["--config", missing], &[]), (message.clone(), 78));
    assert_eq!(errors(&["check", missing], &[]), (message.clone(), 78));
    assert_eq!(errors(&[], &[("ENCLAVE_BRIDGE_CONFIG", missing)]), (message, 78));
    assert_eq!(run(&[], &[("ENCLAVE_BRIDGE_CONFIG", "")]).0.init_port, 5000);

    let directory = tempfile::tempdir().unwrap();
    let default = file(&directory, "init_port = 7000\n");
    match parse_with(&[], &[], default.as_ref()) {
        Ok(Command::Run(config, _)) => assert_eq!(config.init_port, 7000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn c7_files_that_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "init_port = 7000\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let message = format!("{path}: everyone may write to it (mode 666); take that away with: chmod o-w");
    assert_eq!(errors(&["--config", &path], &[]), (message, 78));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();

    std::fs::write(&path, b"# caf\xc3\xa9\n# caf\xe9\n").unwrap();
    assert_eq!(errors(&["--config", &path], &[]), (format!("{path}: is not UTF-8 (line 2)"), 78));

    let large = format!("#{}\n", "x".repeat(usize::try_from(FILE_MAX_BYTES).unwrap()));
    std::fs::write(&path, large).unwrap();
    assert_eq!(errors(&["--config", &path], &[]), (format!("{path}: is larger than 1048576 bytes"), 78));

    let directory = directory.path().to_str().unwrap();
    assert_eq!(errors(&["--config", directory], &[]), (format!("{directory}: is not a regular file"), 78));
}

#[test]
fn a_file_at_the_limit_and_with_a_mark_of_byte_order_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let head = "init_port = 7000\n#";
    let rest = "x".repeat(usize::try_from(FILE_MAX_BYTES).unwrap() - head.len());
    let path = file(&directory, &format!("{head}{rest}"));
    assert_eq!(run(&["--config", &path], &[]).0.init_port, 7000);
    let path = file(&directory, "\u{feff}init_port = 7001\r\n");
    assert_eq!(run(&["--config", &path], &[]).0.init_port, 7001);
}

#[test]
fn control_characters_of_a_key_do_not_reach_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "\"\\u001b[2J\" = 1\n");
    assert_eq!(errors(&["--config", &path], &[]), (format!("{path}:1: \\u{{1b}}[2J: unknown key"), 78));
}

#[test]
fn c7_deep_nesting_is_an_error_and_no_crash() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, &format!("egress_allow = {}", "[".repeat(100_000)));
    assert_eq!(errors(&["--config", &path], &[]).1, 78);
}
