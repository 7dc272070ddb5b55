//! `{:?}` of what the configuration makes of a process's arguments and environment shows no value of that environment, and neither do the errors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its setup too")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use enclave_bridge::app::{App, BoundSockets, Means};
use enclave_bridge::config::{Command, from_process_with};
use enclave_bridge_net::Workers;

/// A file that does not exist, in the place of the default one.
const NO_FILE: &str = "/nonexistent/enclave-bridge/config.toml";

fn is_silent(what: &dyn std::fmt::Debug) {
    let text = format!("{what:?} {what:#?}");
    assert!(!text.contains("canary"), "{text}");
}

fn environment() -> Vec<(OsString, OsString)> {
    [
        ("API_KEY", "canary-1"),
        ("HOME", "canary-2"),
        ("ENCLAVE_BRIDGE_STRANGER", "canary-3"),
        ("ENCLAVE_BRIDGE_STRICT", "0"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec()
}

#[test]
fn configuration_and_its_source() {
    let command = from_process_with(vec!["enclave-bridge".into()], environment(), Path::new(NO_FILE)).unwrap();
    is_silent(&command);
    let Command::Run(config, source) = command else { panic!("not to be run") };
    is_silent(&config);
    is_silent(&source);
    is_silent(&source.warnings());
    is_silent(&enclave_bridge::config::reload(&source));
    let mut unreadable = environment();
    unreadable.push(("ENCLAVE_BRIDGE_CONFIG".into(), OsString::from_vec(b"canary\xff".to_vec())));
    is_silent(&from_process_with(vec!["enclave-bridge".into()], unreadable, Path::new(NO_FILE)).unwrap_err());
}

#[tokio::test]
async fn an_environment_that_cannot_go_to_an_enclave() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.sock");
    let arguments = ["enclave-bridge".into(), "--uds-path".into(), path.into_os_string()].to_vec();
    let Command::Run(config, _) = from_process_with(arguments, Vec::new(), Path::new(NO_FILE)).unwrap() else {
        panic!("not to be run")
    };
    let monitor = SocketAddr::from(([127, 0, 0, 1], 8888));
    for value in [b"canary\xff".to_vec(), b"canary".repeat(1_000_000)] {
        let mut environment = environment();
        environment.push(("SEED".into(), OsString::from_vec(value)));
        let sockets = BoundSockets::bind(&config).unwrap();
        is_silent(&sockets);
        let means = Means { descriptors: 10_000, workers: Workers::none() };
        let Err(error) = App::over(sockets, &config, &environment, means, monitor) else { panic!("it started") };
        is_silent(&error);
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
