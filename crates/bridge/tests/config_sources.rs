//! Flags, environment and file together: precedence, strict mode, errors of all sources at once, reloading.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its setup too")]

mod config_common;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config_common::{NO_FILE, errors, file, parse, run};
use enclave_bridge::config::{
    Command, Config, EndpointConfig, KEYS, LogFormat, OnLoss, from_process, from_process_with, reload,
};
use enclave_bridge_policy::{EgressPolicy, PeerIdentity, permit_peer};
use proptest::prelude::*;

fn egress(allow: &[&str]) -> EgressPolicy {
    EgressPolicy::new(allow.iter().map(|text| text.parse().unwrap()).collect(), vec![])
}

#[test]
fn defaults() {
    for arguments in [&[][..], &["run"]] {
        let (config, source) = run(arguments, &[("PATH", "/bin"), ("HOME", "/")]);
        assert_eq!(config.endpoints, [EndpointConfig::Vsock { window: None }]);
        assert_eq!((config.init_port, config.log_port), (5000, 4999));
        assert_eq!(config.monitor.to_string(), "0.0.0.0:8888");
        assert_eq!(config.policy.ingress_address.to_string(), "0.0.0.0");
        assert_eq!(config.policy.ingress_ports.to_string(), "1024-65535");
        assert_eq!(config.policy.egress, egress(&["public"]));
        assert!(config.policy.env.allows("ANY_THING"));
        assert_eq!((config.allow_cids, config.strict), (None, false));
        assert_eq!((config.log_format, config.on_loss), (LogFormat::Raw, OnLoss::Wait));
        assert_eq!(config.log_level.as_str(), "info");
        assert_eq!(config.drain_timeout, Duration::from_secs(30));
        assert_eq!(config.policy.idle_timeout, Duration::from_secs(3600));
        assert_eq!(config.policy.linger_timeout, Duration::from_secs(60));
        assert_eq!(config.max_streams, 10_000);
        assert_eq!(config.resolv_conf, PathBuf::from("/etc/resolv.conf"));
        assert!(source.warnings().is_empty());
    }
}

/// The table of keys is read by people, the code is not: what it says about defaults is what they are.
#[test]
fn the_defaults_in_the_table_are_the_defaults() {
    let default = run(&[], &[]).0;
    for key in KEYS {
        let texts: Vec<&str> = match key.default.split(';').next().unwrap() {
            "none" => continue,
            text => vec![text],
        };
        let value = match key.name {
            "config" | "uds_path" | "allow_cid" | "vsock_window" => continue,
            "strict" | "splice" => "false",
            _ => texts[0],
        };
        let flag = format!("--{}={value}", key.flag);
        let mut given = run(&[&flag], &[]).0;
        given.max_streams_is_given = false;
        assert_eq!(given, default, "{flag}");
    }
    let strict = run(&["--strict"], &[]).0;
    assert_eq!(run(&["--strict", "--ingress-address=127.0.0.1"], &[]).0, strict);
}

#[test]
fn flags_win_over_the_environment_and_this_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        &directory,
        "init_port = 1\nlog_port = 2\nmax_streams = 3\negress_allow = [\"a.example\", \"b.example\"]\nstrict = true\n",
    );
    let environment = [
        ("ENCLAVE_BRIDGE_CONFIG", path.as_str()),
        ("ENCLAVE_BRIDGE_INIT_PORT", "10"),
        ("ENCLAVE_BRIDGE_LOG_PORT", "20"),
        ("ENCLAVE_BRIDGE_EGRESS_ALLOW", "c.example, d.example:443"),
    ];
    let (config, _) = run(&["--init-port", "100"], &environment);
    assert_eq!((config.init_port, config.log_port, config.max_streams), (100, 20, 3));
    assert_eq!(config.policy.egress, egress(&["c.example", "d.example:443"]));
    assert!(config.strict);

    let (config, _) = run(&["--egress-allow", "e.example", "--egress-allow=public", "--strict=false"], &environment);
    assert_eq!(config.policy.egress, egress(&["e.example", "public"]));
    assert!(!config.strict);
}

#[test]
fn variables() {
    let (config, _) = run(
        &[],
        &[
            ("ENCLAVE_BRIDGE_UDS_PATH", "/run/vsock.sock"),
            ("ENCLAVE_BRIDGE_STRICT", "1"),
            ("ENCLAVE_BRIDGE_ALLOW_CID", "16,17"),
            ("ENCLAVE_BRIDGE_INGRESS_PORTS", "8080, 9000-9010"),
            ("ENCLAVE_BRIDGE_ENV_ALLOW", "APP_*"),
            ("ENCLAVE_BRIDGE_IDLE_TIMEOUT", "2m"),
            ("ENCLAVE_BRIDGE_MONITOR", ""),
        ],
    );
    assert_eq!(config.endpoints, [EndpointConfig::Hybrid { uds_path: PathBuf::from("/run/vsock.sock") }]);
    assert_eq!((config.strict, config.allow_cids), (true, Some(vec![16, 17])));
    assert_eq!(config.policy.ingress_ports.to_string(), "8080,9000-9010");
    assert_eq!(config.policy.idle_timeout, Duration::from_secs(120));
    assert_eq!(config.monitor.to_string(), "0.0.0.0:8888");

    // An empty list is a list.
    let (config, _) = run(
        &[],
        &[("ENCLAVE_BRIDGE_EGRESS_ALLOW", ""), ("ENCLAVE_BRIDGE_INGRESS_PORTS", ""), ("ENCLAVE_BRIDGE_ALLOW_CID", " ")],
    );
    assert_eq!(config.policy.egress, egress(&[]));
    assert!(config.policy.ingress_ports.is_empty());
    assert_eq!(config.allow_cids, Some(vec![]));
}

#[test]
fn the_older_names_of_the_ports_rank_below() {
    let (config, source) =
        run(&[], &[("ENCLAVE_BRIDGE_VSOCK_INIT_PORT", "6000"), ("ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT", "6001")]);
    assert_eq!((config.init_port, config.log_port), (6000, 6001));
    assert!(source.warnings().is_empty());

    let (config, source) =
        run(&[], &[("ENCLAVE_BRIDGE_VSOCK_INIT_PORT", "6000"), ("ENCLAVE_BRIDGE_INIT_PORT", "7000")]);
    assert_eq!(config.init_port, 7000);
    let warning = "ENCLAVE_BRIDGE_VSOCK_INIT_PORT is not used: ENCLAVE_BRIDGE_INIT_PORT is set too, to another value";
    assert_eq!(source.warnings(), [warning]);

    let empty = [("ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT", "6001"), ("ENCLAVE_BRIDGE_LOG_PORT", "")];
    assert_eq!(run(&[], &empty).0.log_port, 6001);
    let (text, code) = errors(&[], &[("ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT", "x"), ("ENCLAVE_BRIDGE_LOG_PORT", "1")]);
    assert_eq!(text, "ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT: \"x\" is no vsock port: a number from 1 to 4294967294");
    assert_eq!(code, 78);
}

#[test]
fn strange_variables_with_the_prefix_are_warned_of_without_their_values() {
    let (_, source) = run(
        &[],
        &[
            ("ENCLAVE_BRIDGE_PROTOCOL", "1.1 canary"),
            ("ENCLAVE_BRIDGE_MONITR", "canary"),
            ("ENCLAVE_BRIDGE", "canary"),
            ("OTHER", "canary"),
        ],
    );
    assert_eq!(
        source.warnings(),
        [
            "ENCLAVE_BRIDGE_MONITR is no variable of this program and is ignored; did you mean ENCLAVE_BRIDGE_MONITOR?",
            "ENCLAVE_BRIDGE_PROTOCOL is no variable of this program and is ignored",
        ]
    );
    assert!(!format!("{source:?}").contains("canary"));
}

#[test]
fn strict_means_nothing_by_default() {
    let (config, _) = run(&["--strict"], &[]);
    assert_eq!(config.policy.egress, egress(&[]));
    assert!(!config.policy.env.allows("HOME"));
    assert_eq!(config.policy.ingress_address.to_string(), "127.0.0.1");
    assert_eq!(config.allow_cids, Some(vec![]));
    assert!(permit_peer(&config.operator_policy(), PeerIdentity::Cid(16)).is_err());
    assert!(permit_peer(&config.operator_policy(), PeerIdentity::Path).is_ok());

    let arguments = [
        "--strict",
        "--egress-allow=a.example",
        "--env-allow=TZ",
        "--ingress-address=0.0.0.0",
        "--allow-cid=16",
        "--allow-cid=17",
    ];
    let (config, _) = run(&arguments, &[]);
    assert_eq!(config.policy.egress, egress(&["a.example"]));
    assert!(config.policy.env.allows("TZ") && !config.policy.env.allows("HOME"));
    assert_eq!(config.policy.ingress_address.to_string(), "0.0.0.0");
    assert_eq!(config.allow_cids, Some(vec![16, 17]));
}

#[test]
fn the_operators_policy_keeps_the_bridges_own_ports() {
    let arguments = ["--monitor=127.0.0.1:9000", "--init-port=6000", "--log-port=6001"];
    let policy = run(&arguments, &[]).0.operator_policy();
    assert_eq!((policy.own_tcp_ports, policy.own_vsock_ports), (vec![9000], vec![6000, 6001]));
    assert_eq!((policy.max_servers, policy.max_clients), (64, 64));
}

#[test]
fn errors_of_all_sources_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "on_loss = \"never\"\nmonitor = \"x\"\n");
    let (text, code) = errors(
        &["--config", &path, "--idle-timeout=1", "--monitor=y"],
        &[
            ("ENCLAVE_BRIDGE_MONITOR", "z"),
            ("ENCLAVE_BRIDGE_EGRESS_ALLOW", "public,foo.*.com"),
            ("ENCLAVE_BRIDGE_STRICT", "maybe"),
        ],
    );
    let expected = [
        "--monitor: \"y\" is no address with a port, as in 0.0.0.0:8888 or [::]:8888",
        "--idle-timeout: \"1\" has no unit: write it as 30s, 2m or 1m 30s",
        "ENCLAVE_BRIDGE_STRICT: \"maybe\" is neither true nor false",
        "ENCLAVE_BRIDGE_MONITOR: \"z\" is no address with a port, as in 0.0.0.0:8888 or [::]:8888",
        "ENCLAVE_BRIDGE_EGRESS_ALLOW[1]: \"foo.*.com\" is no host name: '*' and '**' stand for whole labels at the front of a name, as in *.example.org",
        "FILE:1: on_loss: \"never\" is not what can follow a loss: wait or exit",
        "FILE:2: monitor: \"x\" is no address with a port, as in 0.0.0.0:8888 or [::]:8888",
    ];
    assert_eq!(text.replace(&path, "FILE").lines().collect::<Vec<_>>(), expected);
    assert_eq!(code, 78);
}

#[test]
fn only_flags_at_fault_is_a_usage_error() {
    for (arguments, expected) in [
        (
            &["--max-streams=0"][..],
            "--max-streams: \"0\" is not from 1 to 500000: a stream takes two descriptors, and a process has at most 1048576",
        ),
        (&["--log-port=5000"], "--log-port: init_port and log_port are both 5000; they must differ"),
        (&["--init-port=4999"], "--init-port: init_port and log_port are both 4999; they must differ"),
        (&["--strict=perhaps"], "--strict: \"perhaps\" is neither true nor false"),
        (&["--ingress-ports=80,http"], "--ingress-ports: \"http\" is not a port: ports are written as 443 or 1-1024"),
        (&["run", "--monitor="], "--monitor: \"\" is no address with a port, as in 0.0.0.0:8888 or [::]:8888"),
        (&["--egress-allow="], "--egress-allow: the rule is empty"),
        (&["--log-level=verbose"], "--log-level: \"verbose\" is no level: off, error, warn, info, debug or trace"),
        (
            &["--idle-timeout=8d"],
            "--idle-timeout: \"8d\" is outside 1s to 7d: less would cut streams in an ordinary pause, more would never free dead ones",
        ),
    ] {
        assert_eq!(errors(arguments, &[]), (expected.to_owned(), 64), "{arguments:?}");
    }
    let long = format!("--uds-path=/{}", "x".repeat(96));
    let expected =
        "--uds-path: the path is 97 bytes long; a Unix socket's name with a port behind it leaves room for 96";
    assert_eq!(errors(&[&long], &[]), (expected.to_owned(), 64));
    // The cross-check names the source that is at fault.
    let environment = [("ENCLAVE_BRIDGE_LOG_PORT", "6000")];
    let expected = "ENCLAVE_BRIDGE_LOG_PORT: init_port and log_port are both 6000; they must differ";
    assert_eq!(errors(&["--init-port=6000"], &environment), (expected.to_owned(), 78));
}

#[test]
fn usage_errors() {
    for (arguments, expected) in [
        (&["--moniter=x"][..], "unexpected argument '--moniter' found"),
        (&["status"], "unrecognized subcommand 'status'"),
        (&["top"], "unrecognized subcommand 'top'"),
        (&["check"], "the following required arguments were not provided"),
        (&["check", "a", "b"], "unexpected argument 'b' found"),
        (&["check", "--config=x", "a"], "unexpected argument '--config' found"),
        (&["--monitor"], "a value is required for '--monitor"),
        (&["--monitor=a:1", "--monitor=b:1"], "the argument '--monitor"),
        (&["--strict", "run"], "the subcommand 'run' cannot be used with"),
    ] {
        let (text, code) = errors(arguments, &[("ENCLAVE_BRIDGE_MONITOR", "also wrong")]);
        assert!(text.starts_with(expected), "{arguments:?}: {text}");
        assert_eq!(code, 64, "{arguments:?}");
    }
}

#[test]
fn help_and_version_end_well_whatever_else_is_wrong() {
    let environment = [("ENCLAVE_BRIDGE_MONITOR", "wrong")];
    for arguments in [&["--help"][..], &["run", "--help"], &["check", "--help"], &["-h"], &["help"]] {
        let Ok(Command::Help(text)) = parse(arguments, &environment) else { panic!("{arguments:?}") };
        assert!(text.contains("Usage: enclave-bridge"), "{text}");
    }
    let Ok(Command::Help(text)) = parse(&["--help"], &[]) else { panic!("no help") };
    for key in KEYS {
        assert!(text.contains(&format!("--{}", key.flag)), "{}", key.flag);
        assert!(text.contains(key.variable), "{}", key.variable);
    }
    let Ok(Command::Version(text)) = parse(&["--version"], &environment) else { panic!("no version") };
    assert_eq!(text.trim(), format!("enclave-bridge {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_not_utf_8_is_named_and_not_replaced() {
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let environment = vec![
        (raw(b"ENCLAVE_BRIDGE_MONITOR"), raw(b"\xff")),
        (raw(b"ENCLAVE_BRIDGE_EGRESS_ALLOW"), raw(b"public,\xff")),
        (raw(b"ENCLAVE_BRIDGE_\xff"), raw(b"x")),
        (raw(b"OTHER"), raw(b"\xff")),
    ];
    let arguments = vec![raw(b"enclave-bridge"), raw(b"--uds-path=/run/\xff")];
    let errors = from_process_with(arguments, environment, Path::new(NO_FILE)).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "--uds-path: the value is not UTF-8\nENCLAVE_BRIDGE_MONITOR: the value is not UTF-8\nENCLAVE_BRIDGE_EGRESS_ALLOW: the value is not UTF-8"
    );
    assert_eq!(errors.exit_code(), 78);
}

#[test]
fn reloading_reads_the_file_again_under_the_same_flags_and_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "log_level = \"warn\"\nmax_streams = 1\n");
    let (config, source) = run(&["--config", &path, "--max-streams=7"], &[("ENCLAVE_BRIDGE_INIT_PORT", "6000")]);
    assert_eq!((config.log_level.as_str(), config.max_streams, config.init_port), ("warn", 7, 6000));
    assert_eq!(reload(&source).unwrap(), config);

    file(&directory, "log_level = \"debug\"\nmax_streams = 2\ninit_port = 1\negress_allow = [\"a.example\"]\n");
    let newer = reload(&source).unwrap();
    let expected: Config = {
        let mut expected = config;
        expected.log_level = "debug".parse().unwrap();
        expected.policy.egress = egress(&["a.example"]);
        expected
    };
    assert_eq!(newer, expected);

    file(&directory, "log_level = \"loud\"\n");
    let errors = reload(&source).unwrap_err();
    let message = format!("{path}:1: log_level: \"loud\" is no level: off, error, warn, info, debug or trace");
    assert_eq!((errors.to_string(), errors.exit_code()), (message, 78));

    std::fs::remove_file(&path).unwrap();
    assert_eq!(reload(&source).unwrap_err().to_string(), format!("{path}: cannot be read: no such file or directory"));
}

#[test]
fn a_long_wrong_value_does_not_make_a_long_error() {
    let long = format!("--log-level={}", "x".repeat(100_000));
    assert!(errors(&[&long], &[]).0.len() < 1500);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands on the command line, in the environment and in the file: an answer, and an exit code of the three.
    #[test]
    fn nothing_given_is_a_panic(
        words in prop::collection::vec("(--[a-z-]{0,15}(=\\PC{0,10})?|\\PC{0,10}|run|check|--strict)", 0..5),
        variables in prop::collection::vec((prop::sample::select(KEYS), "\\PC{0,20}"), 0..4),
        lines in prop::collection::vec(
            (prop::sample::select(KEYS), "(\\PC{0,20}|\"\\PC{0,10}\"|\\[[0-9\", ]{0,10}\\]|-?[0-9]{1,30}|true)"), 0..5),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let text: String = lines.iter().map(|(key, value)| format!("{} = {value}\n", key.name)).collect();
        let path = file(&directory, &text);
        let arguments = std::iter::once("enclave-bridge".to_owned()).chain(words).map(OsString::from).collect();
        let environment = variables.iter().map(|(key, value)| (key.variable.into(), value.into())).collect();
        if let Err(errors) = from_process_with(arguments, environment, path.as_ref()) {
            prop_assert!([64, 78].contains(&errors.exit_code()));
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}

#[test]
fn a_process_may_be_started_with_nothing_at_all() {
    // No name either: what clap sees is an empty line.
    assert!(matches!(from_process(vec![], vec![]), Ok(Command::Run(..)) | Err(_)));
}
