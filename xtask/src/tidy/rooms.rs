//! The rooms of the house: who may depend on whom, and that every room takes the house's lints.

use super::Findings;
use crate::run::cargo;
use serde_json::Value;
use std::path::Path;

/// Every package and the packages of ours that it may depend on: `proto <- {policy, net} <- {bridge, sdk}`, and nothing
/// depends on `bridge` but the workshop. A new room is a new line here.
const EDGES: &[(&str, &[&str])] = &[
    ("enclave-bridge-proto", &[]),
    ("enclave-bridge-policy", &["enclave-bridge-proto"]),
    ("enclave-bridge-net", &["enclave-bridge-proto"]),
    ("enclave-bridge", &["enclave-bridge-proto", "enclave-bridge-policy", "enclave-bridge-net"]),
    ("enclave-bridge-sdk", &["enclave-bridge-proto", "enclave-bridge-policy", "enclave-bridge-net"]),
    ("simple-enclave", &["enclave-bridge-sdk"]),
    ("enclave-bridge-demo", &[]),
    ("enclave-bridge-e2e", &[]),
    ("enclave-bridge-interleavings", &[]),
    ("enclave-bridge-fuzz", &["enclave-bridge-proto", "enclave-bridge-policy", "enclave-bridge"]),
    ("enclave-bridge-lab", &["enclave-bridge-net", "enclave-bridge-sdk", "enclave-bridge-e2e"]),
    ("enclave-bridge-bench", &["enclave-bridge-net"]),
    ("xtask", &["enclave-bridge-proto", "enclave-bridge", "enclave-bridge-fuzz", "enclave-bridge-lab"]),
];

/// Crates of I/O, of time and of chance that the wire must not come to depend on.
const NOT_IN_PROTO: &[&str] = &["tokio", "mio", "socket2", "rustix", "nix", "libc", "getrandom", "rand", "tracing"];

/// Reads cargo's own view of the workspace.
pub(super) fn check(root: &Path, findings: &mut Findings) -> Result<(), String> {
    let text = cargo(["metadata", "--format-version=1", "--no-deps", "--locked"]).capture()?;
    let metadata: Value = serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata.get("packages").and_then(Value::as_array).ok_or("cargo metadata: no packages")?;
    let ours: Vec<&str> = packages.iter().filter_map(|package| text_of(package, "name")).collect();
    for package in packages {
        let name = text_of(package, "name").ok_or("cargo metadata: a package without a name")?;
        let manifest = text_of(package, "manifest_path").ok_or("cargo metadata: a package without a manifest")?;
        lints(root, Path::new(manifest), findings);
        let Some((_, allowed)) = EDGES.iter().find(|(room, _)| *room == name) else {
            findings.error(name, "a room that xtask's table of edges does not know");
            continue;
        };
        let dependencies = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        for dependency in dependencies.filter_map(|dependency| text_of(dependency, "name")) {
            if ours.contains(&dependency) && !allowed.contains(&dependency) {
                findings.error(name, format_args!("must not depend on {dependency}"));
            }
        }
    }
    for (room, _) in EDGES.iter().filter(|(room, _)| !ours.contains(room)) {
        findings.error(room, "a room of the table of edges that is not in the workspace");
    }
    pure_proto(findings)
}

fn lints(root: &Path, manifest: &Path, findings: &mut Findings) {
    let shown = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    let taken = text.parse::<toml::Table>().ok().and_then(|manifest| {
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool)
    });
    if taken != Some(true) {
        findings.error(shown, "does not take the workspace's lints, which forbid unsafe code");
    }
}

/// The wire as values and state machines: its whole tree of dependencies holds no I/O.
fn pure_proto(findings: &mut Findings) -> Result<(), String> {
    let arguments = ["tree", "--package", "enclave-bridge-proto", "--edges", "normal", "--prefix", "none", "--locked"];
    let tree = cargo(arguments).capture()?;
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if NOT_IN_PROTO.contains(&name) {
            findings.error("enclave-bridge-proto", format_args!("depends on {name}"));
        }
    }
    Ok(())
}

fn text_of<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}
