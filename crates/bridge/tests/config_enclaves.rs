//! `[[enclave]]` tables: what they say for whom, over what holds for all.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its setup too")]

mod config_common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use config_common::{errors, file, parse, run};
use enclave_bridge::config::{Command, EnclaveIdentity, EnclavePolicy, EndpointConfig, KEYS, KEYS_OF_TABLES};
use enclave_bridge_policy::{EgressPolicy, PeerIdentity, permit_peer};

fn sample() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_samples/good/enclaves.toml");
    path.to_str().unwrap().to_owned()
}

fn rules(texts: &[&str]) -> Vec<enclave_bridge_policy::Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_table_says_what_differs_and_the_top_level_the_rest() {
    let (config, _) = run(&["--config", &sample()], &[]);
    assert_eq!(
        config.endpoints,
        [
            EndpointConfig::Hybrid { uds_path: PathBuf::from("/run/dev/vsock.sock") },
            EndpointConfig::Vsock { window: None },
        ]
    );
    assert_eq!(config.policy.egress, EgressPolicy::new(rules(&["public"]), rules(&["10.0.0.1"])));
    assert_eq!((config.max_streams, config.policy.max_streams, config.policy.log_rate), (500, 500, 1024 * 1024));

    let [wallet, dev] = &config.enclaves[..] else { panic!("{:?}", config.enclaves) };
    assert_eq!((wallet.name.as_str(), &wallet.identity), ("wallet", &EnclaveIdentity::Cid(16)));
    let EnclavePolicy { ingress_address, ingress_ports, egress, env, intervals, .. } = &wallet.policy;
    assert_eq!((ingress_address.to_string(), ingress_ports.to_string()), ("127.0.0.1".into(), "8443".into()));
    // A list in the table is the list; the other stays that of the top level.
    let expected = EgressPolicy::new(rules(&["api.example.org:443"]), rules(&["10.0.0.1"]));
    assert_eq!(*egress, expected.with_server_names(rules(&["**:443"])));
    assert!(env.allows("WALLET_SEED") && !env.allows("HOME"));
    assert_eq!(*intervals, Duration::from_secs(5)..=Duration::from_secs(60));
    assert_eq!((wallet.policy.max_servers, wallet.policy.max_clients, wallet.policy.max_streams), (1, 0, 100));
    assert_eq!((wallet.policy.log_rate, wallet.policy.log_burst), (64 * 1024, 128 * 1024));
    assert_eq!(wallet.policy.idle_timeout, Duration::from_secs(30 * 60));

    assert_eq!(dev.name, "dev.box_2");
    assert_eq!(dev.identity, EnclaveIdentity::Path(PathBuf::from("/run/dev/vsock.sock")));
    assert_eq!(dev.policy.egress, EgressPolicy::new(rules(&["public"]), vec![]));
    assert_eq!(dev.policy.ingress_ports.to_string(), "8000-8999");
    assert_eq!(dev.policy.idle_timeout, Duration::from_secs(60));
    assert_eq!(dev.policy.linger_timeout, Duration::from_secs(5));
    assert!(dev.policy.env.allows("HOME"));
    assert_eq!(dev.policy.max_streams, 500);
}

#[test]
fn the_table_is_the_bound_of_its_enclave_wherever_the_rest_was_given() {
    let arguments = ["--config", &sample(), "--egress-allow", "any", "--log-rate", "2MiB", "--idle-timeout", "2h"];
    let (config, _) = run(&arguments, &[("ENCLAVE_BRIDGE_ENV_ALLOW", "TZ")]);
    let [wallet, dev] = &config.enclaves[..] else { panic!("{:?}", config.enclaves) };
    assert_eq!(config.policy.egress, EgressPolicy::new(rules(&["any"]), rules(&["10.0.0.1"])));
    assert_eq!(dev.policy.egress, EgressPolicy::new(rules(&["any"]), vec![]));
    let expected = EgressPolicy::new(rules(&["api.example.org:443"]), rules(&["10.0.0.1"]));
    assert_eq!(wallet.policy.egress, expected.with_server_names(rules(&["**:443"])));
    assert_eq!((config.policy.log_rate, wallet.policy.log_rate, dev.policy.log_rate), (2 << 20, 64 << 10, 2 << 20));
    assert_eq!(wallet.policy.idle_timeout, Duration::from_secs(7200));
    assert!(dev.policy.env.allows("TZ") && !dev.policy.env.allows("HOME"));
    assert!(!wallet.policy.env.allows("TZ"));
}

#[test]
fn a_table_lists_its_cid_and_strict_leaves_nothing_to_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path =
        file(&directory, "strict = true\n[[enclave]]\nname = \"a\"\ncid = 16\n[[enclave]]\nname = \"b\"\ncid = 1\n");
    let (config, _) = run(&["--config", &path], &[]);
    assert_eq!(config.endpoints, [EndpointConfig::Vsock { window: None }]);
    let permitted = |index: usize, cid| {
        let operator =
            config.enclaves.get(index).map_or_else(|| config.operator_policy(), |e| config.operator_policy_of(e));
        permit_peer(&operator, PeerIdentity::Cid(cid)).is_ok()
    };
    assert!(permitted(0, 16) && permitted(1, 1));
    assert!(!permitted(0, 17) && !permitted(9, 16) && !permitted(9, 17));
    // Nothing by default, for those with tables too.
    assert_eq!(config.enclaves[0].policy.egress, EgressPolicy::default());
    assert!(!config.enclaves[0].policy.env.allows("HOME"));
    assert_eq!(config.enclaves[0].policy.ingress_address.to_string(), "127.0.0.1");
    // With a CID on the list of all, an enclave without a table has what the top level says.
    let (config, _) = run(&["--config", &path, "--allow-cid", "20"], &[]);
    assert!(permit_peer(&config.operator_policy(), PeerIdentity::Cid(20)).is_ok());
    assert!(permit_peer(&config.operator_policy(), PeerIdentity::Cid(16)).is_err(), "it has a table of its own");
}

#[test]
fn the_path_of_the_top_level_may_have_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "[[enclave]]\nname = \"a\"\nuds_path = \"/run/a\"\nenv_allow = []\n");
    let (config, _) = run(&["--config", &path, "--uds-path", "/run/a"], &[]);
    assert_eq!(config.endpoints, [EndpointConfig::Hybrid { uds_path: PathBuf::from("/run/a") }]);
    let (config, _) = run(&["--config", &path, "--uds-path", "/run/b"], &[]);
    let path_of = |path: &str| EndpointConfig::Hybrid { uds_path: PathBuf::from(path) };
    assert_eq!(config.endpoints, [path_of("/run/b"), path_of("/run/a")]);
}

#[test]
fn other_shapes_are_told() {
    let directory = tempfile::tempdir().unwrap();
    for (text, message) in [
        ("enclave = 1\n", "1: enclave: expected tables, each under [[enclave]]; found a whole number"),
        ("[enclave]\ncid = 1\n", "1: enclave: expected tables, each under [[enclave]]; found a table"),
        ("enclave = [1]\n", "1: enclave[0]: expected a table under [[enclave]]; found a whole number"),
        (
            "[[enclave]]\nname = \"a\"\ncid = 3\nuds_path = \"/a\"\n",
            "4: enclave[0].uds_path: an enclave has a cid or a uds_path, not both",
        ),
        (
            "[[enclave]]\nname = \"a\"\ncid = 3\n[enclave.egress]\nx = 1\n",
            "4: enclave[0].egress: unknown key; the only tables are [[enclave]]",
        ),
    ] {
        let path = file(&directory, text);
        let (told, code) = errors(&["--config", &path], &[]);
        assert_eq!((told.replace(&path, "FILE").as_str(), code), (format!("FILE:{message}").as_str(), 78), "{text}");
    }
    let many: String = (0..257).map(|n| format!("[[enclave]]\nname = \"e{n}\"\ncid = {}\n", n + 3)).collect();
    let path = file(&directory, &many);
    assert!(errors(&["--config", &path], &[]).0.ends_with("enclave[256]: more than 256 enclaves"));
}

#[test]
fn check_knows_the_names() {
    let path = sample();
    let checked = parse(&["check", &path, "--explain", "example.org:443", "--enclave", "wallet"], &[]);
    let Ok(Command::Check { enclave, .. }) = checked else { panic!("{checked:?}") };
    assert_eq!(enclave.as_deref(), Some("wallet"));
    let (told, code) = errors(&["check", &path, "--explain", "example.org:443", "--enclave", "walet"], &[]);
    assert_eq!((told.as_str(), code), ("--enclave walet: no [[enclave]] table has that name: wallet, dev.box_2", 64));
    assert_eq!(errors(&["check", &path, "--enclave", "wallet"], &[]).1, 64);
}

#[test]
fn keys_of_tables_are_keys() {
    for name in KEYS_OF_TABLES {
        assert!(KEYS.iter().any(|key| key.name == *name && key.in_file), "{name}");
    }
}
