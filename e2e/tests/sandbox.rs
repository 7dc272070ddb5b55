//! Least privilege as the running daemon has it: every thread of it, by what the kernel says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::v1::{Answer, Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::Duration;

const CALM: Duration = Duration::from_secs(30);

/// What the kernel says of one key for every thread.
fn of_every_thread(bridge: &Bridge, key: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", bridge.pid())).unwrap();
    let status = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let value =
        |text: String| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::to_owned));
    status.map(|text| value(text).unwrap().trim().to_owned()).collect()
}

fn assert_held(bridge: &Bridge) {
    assert!(of_every_thread(bridge, "Seccomp").len() > 2, "the threads of the runtime and of monitoring");
    for (key, held) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        for value in of_every_thread(bridge, key) {
            assert_eq!(value, held, "{key}");
        }
    }
}

#[test]
fn it_holds_in_every_thread_and_is_said() {
    let bridge = Bridge::builder().start();
    let _enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    assert_held(&bridge);
    wait::until("the line about the sandbox", SOON, || bridge.stderr.text().contains("sandbox: "));
    let text = bridge.stderr.text();
    for part in ["no new privileges", "capabilities (none)", "system calls ("] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn without_it_nothing_is_given_up() {
    let bridge = Bridge::builder().arguments(["--sandbox", "off"]).start();
    assert!(of_every_thread(&bridge, "Seccomp").iter().all(|mode| mode == "0"));
    wait::until("the line about the sandbox", SOON, || bridge.stderr.text().contains("sandbox: off"));
}

#[test]
fn low_ports_keep_the_one_capability_for_them() {
    let mut bridge = Bridge::builder().arguments(["--ingress-ports", "81,1024-65535"]).start();
    let root = nix::unistd::geteuid().is_root();
    // CAP_NET_BIND_SERVICE is number 10.
    let expected = if root { "0000000000000400" } else { "0000000000000000" };
    assert!(of_every_thread(&bridge, "CapEff").iter().all(|set| set == expected));
    bridge.assert_serves();
}

#[test]
fn it_serves_under_a_sandbox_that_is_required_and_reads_its_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("enclave-bridge");
    std::fs::create_dir(&own).unwrap();
    for (file, replaced) in [(own.join("config.toml"), true), (folder.path().join("config.toml"), false)] {
        reloads(file, replaced);
    }
}

/// A file in a folder of the program's may be replaced; elsewhere it is written into.
fn reloads(file: PathBuf, replaced: bool) {
    std::fs::write(&file, "egress_allow = []\n").unwrap();
    let arguments = ["--sandbox".into(), "require".into(), "--config".into(), file.clone().into_os_string()];
    let mut bridge = Bridge::builder().arguments(arguments).start();
    let server = Server::echo();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    assert_eq!(enclave.dial(5002, &server.target()).1.code(), "DENIED");
    let text = "egress_allow = [\"127.0.0.0/8\"]\n";
    if replaced {
        let next = file.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    } else {
        std::fs::write(&file, text).unwrap();
    }
    bridge.signal(Signal::SIGHUP);
    wait::until("the reload", SOON, || bridge.stderr.text().contains("reloaded"));
    assert_eq!(enclave.dial(5002, &server.target()).1, Answer::Ack);
    assert_held(&bridge);
    drop(enclave);
    bridge.assert_serves();
    assert_eq!(bridge.end_with(Signal::SIGTERM, SOON).0, Some(0));
}
