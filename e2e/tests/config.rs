//! Configuration through the program: exit codes, and every error at once with its place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::{Bridge, programs};
use enclave_bridge_e2e::process::{Output, Process};
use enclave_bridge_e2e::{ports, wait};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Runs the program to its end: code, standard output, standard error.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(&programs().bridge);
    command.args(arguments).env_clear().envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn file(folder: &Path, text: &str) -> String {
    let path = folder.join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const WRONG: &str = "\
init_port = \"five thousand\"
no_such_key = 1
log_level = 7

idle_timeout = \"a while\"
egress_allow = [\"public\", \"not a rule!\"]
max_streams = -1
monitor = \"nowhere\"
";

#[test]
fn c7_every_error_of_a_file_at_once_with_key_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), WRONG);
    for arguments in [vec!["check", path.as_str()], vec!["run", "--config", path.as_str()]] {
        let (code, _, errors) = run(&arguments, &[]);
        assert_eq!(code, Some(78), "{errors}");
        for (line, key) in [
            (1, "init_port"),
            (2, "no_such_key"),
            (3, "log_level"),
            (5, "idle_timeout"),
            (6, "egress_allow[1]"),
            (7, "max_streams"),
            (8, "monitor"),
        ] {
            let place = format!("config.toml:{line}: {key}");
            assert!(errors.contains(&place), "no {place:?} in:\n{errors}");
        }
    }
}

#[test]
fn c7_every_item_of_a_list_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "egress_deny = [\n  \"not a rule!\",\n  3,\n  \"neither this!\",\n]\n");
    let (code, _, errors) = run(&["check", &path], &[]);
    assert_eq!(code, Some(78), "{errors}");
    for item in ["egress_deny[0]", "egress_deny[1]", "egress_deny[2]"] {
        assert!(errors.contains(item), "no {item} in:\n{errors}");
    }
}

#[test]
fn c7_a_file_that_is_no_toml_or_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "init_port = 5000\nmonitor = \"\nlog_port = 4999\n");
    let (code, _, errors) = run(&["check", &path], &[]);
    assert_eq!(code, Some(78), "{errors}");
    assert!(errors.contains("config.toml:2"), "{errors}");

    let missing = folder.path().join("missing.toml");
    for unreadable in [missing.as_path(), folder.path()] {
        let unreadable = unreadable.to_str().unwrap();
        for arguments in [vec!["check", unreadable], vec!["run", "--config", unreadable]] {
            let (code, _, errors) = run(&arguments, &[]);
            assert_eq!(code, Some(78), "{errors}");
            assert!(errors.contains(unreadable), "{errors}");
        }
    }
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"\xff\xfe\0\0").unwrap();
    assert_eq!(run(&["check", binary.to_str().unwrap()], &[]).0, Some(78));
}

#[test]
fn a_file_that_is_right_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let text = "init_port = 5000\negress_allow = [\"public\", \"example.org:443\", \"10.0.0.0/8:1-1024\"]\ndrain_timeout = \"5s\"\nstrict = true\n";
    let (code, _, errors) = run(&["check", &file(folder.path(), text)], &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(run(&["check", &file(folder.path(), "")], &[]).0, Some(0));
}

#[test]
fn usage() {
    for arguments in [
        vec!["run", "--no-such-flag"],
        vec!["no-such-command"],
        vec!["check"],
        vec!["run", "--idle-timeout", "a while"],
        vec!["run", "--init-port", "five"],
        vec!["run", "--egress-allow", "not a rule!"],
        vec!["run", "--log-format", "yaml"],
    ] {
        let (code, _, errors) = run(&arguments, &[]);
        assert_eq!(code, Some(64), "{arguments:?}: {errors}");
        assert!(!errors.is_empty());
    }
    for arguments in [vec!["--help"], vec!["run", "--help"], vec!["--version"]] {
        let (code, output, errors) = run(&arguments, &[]);
        assert_eq!(code, Some(0), "{arguments:?}: {errors}");
        assert!(!output.is_empty(), "{arguments:?}");
    }
}

#[test]
fn variables_are_read_and_their_errors_name_them() {
    let (code, _, errors) =
        run(&["run"], &[("ENCLAVE_BRIDGE_INIT_PORT", "x"), ("ENCLAVE_BRIDGE_IDLE_TIMEOUT", "later")]);
    assert_eq!(code, Some(78), "{errors}");
    assert!(errors.contains("ENCLAVE_BRIDGE_INIT_PORT") && errors.contains("ENCLAVE_BRIDGE_IDLE_TIMEOUT"), "{errors}");
    // The original's names.
    for key in ["ENCLAVE_BRIDGE_VSOCK_INIT_PORT", "ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT"] {
        let (code, _, errors) = run(&["run"], &[(key, "x")]);
        assert_eq!(code, Some(78), "{errors}");
        assert!(errors.contains(key), "{errors}");
    }
}

#[test]
fn h18_what_cannot_be_bound_is_69_and_one_clear_line() {
    let taken = TcpListener::bind(("127.0.0.1", ports::free())).unwrap();
    let monitor = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let uds_path = folder.path().join("guest.sock");
    let (code, _, errors) = run(&["run", "--uds-path", uds_path.to_str().unwrap(), "--monitor", &monitor], &[]);
    assert_eq!(code, Some(69), "{errors}");
    assert!(errors.contains(&monitor), "{errors}");

    let nowhere = folder.path().join("no-such-folder/guest.sock");
    let free = format!("127.0.0.1:{}", ports::free());
    let (code, _, errors) = run(&["run", "--uds-path", nowhere.to_str().unwrap(), "--monitor", &free], &[]);
    assert_eq!(code, Some(69), "{errors}");
    assert!(errors.contains("no-such-folder"), "{errors}");
}

#[test]
fn h18_a_second_bridge_at_the_same_place_is_refused_and_the_first_lives() {
    let mut first = Bridge::builder().start();
    let mut command = Command::new(&programs().bridge);
    command.arg("run").args(first.meeting.bridge_arguments());
    command.args(["--monitor", &format!("127.0.0.1:{}", ports::free())]).env_clear();
    let mut second = Process::start(command, "a second enclave-bridge", Output::Kept);
    assert_eq!(second.wait(wait::SOON).code(), Some(69), "{}", second.stderr.text());
    first.assert_serves();
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (in_file, in_variable) = (ports::free(), ports::free());
    let path = file(folder.path(), &format!("monitor = \"127.0.0.1:{in_file}\"\nlog_port = 4998\n"));
    // The builder gives --monitor as a flag; a bridge that took another would not answer there.
    let bridge = Bridge::builder()
        .arguments(["--config", path.as_str(), "--log-port", "4999"])
        .variable("ENCLAVE_BRIDGE_MONITOR", format!("127.0.0.1:{in_variable}"))
        .start();
    assert!(bridge.meeting.dial_host(4998).is_err());
}

#[test]
fn a_number_of_threads_that_is_none_is_no_start() {
    for number in ["many", "0", "1025", "-1"] {
        let (code, _, errors) = run(&["run"], &[("TOKIO_WORKER_THREADS", number)]);
        assert_eq!(code, Some(78), "{number}: {errors}");
        assert!(errors.starts_with("environment variable TOKIO_WORKER_THREADS: "), "{number}: {errors}");
    }
}
