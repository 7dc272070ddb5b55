//! What is said elsewhere about this crate: the table of refusals in the documentation, and what it depends on.

use std::path::Path;
use std::process::Command;

use enclave_bridge_proto::NakCode;

#[test]
fn the_table_of_refusals_in_the_documentation_is_the_one_in_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<String>> = text
        .lines()
        .skip_while(|line| *line != "| code | where | meaning |")
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    let expected: Vec<Vec<String>> = NakCode::ALL
        .iter()
        .map(|code| vec![format!("`{code}`"), code.place().to_string(), code.meaning().to_owned()])
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn nothing_here_can_do_io() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "enclave-bridge-proto", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let mut crates: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    crates.sort_unstable();
    crates.dedup();
    assert!(crates.contains(&"enclave-bridge-proto") && crates.contains(&"serde_json"), "{crates:?}");
    for io in [
        "async-io",
        "fastrand",
        "getrandom",
        "hyper",
        "libc",
        "mio",
        "nix",
        "rand",
        "rand_core",
        "rustix",
        "smol",
        "socket2",
        "tokio",
        "tokio-vsock",
        "vsock",
    ] {
        assert!(!crates.contains(&io), "{io} is a dependency: {crates:?}");
    }
}
