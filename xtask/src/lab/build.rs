//! Static builds of everything that runs in a guest, which has no library of its own.

use crate::run::{self, Line, cargo};
use crate::static_target;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What was built.
pub(crate) struct Programs {
    /// The folder of all of them, under plain names.
    pub(crate) folder: PathBuf,
    /// The programs of the project.
    pub(crate) products: Vec<PathBuf>,
    /// The end-to-end suites that run over AF_VSOCK as they run over the hybrid transport.
    pub(crate) e2e: Vec<PathBuf>,
    /// The program of `cargo xtask measure`.
    pub(crate) measure: Option<PathBuf>,
    /// `bench-bridge`, where it is wanted.
    pub(crate) bench: Option<PathBuf>,
    /// The suites of `net` that run over every kind of socket.
    pub(crate) net: Vec<PathBuf>,
    /// The lab's own suites.
    pub(crate) lab: Vec<PathBuf>,
}

impl Programs {
    /// The lab's suite of that name.
    pub(crate) fn suite(&self, name: &str) -> Result<&PathBuf, String> {
        let suite = self.lab.iter().find(|path| path.file_name().is_some_and(|file| file == name));
        suite.ok_or_else(|| format!("no suite {name} in lab/tests"))
    }
}

/// What is not run in a guest: these test the harness, files and command lines, or this machine with its tools and networks,
/// enclaves by their socket paths, or more streams than a translated processor carries.
const NOT_OVER_VSOCK: &[&str] = &["config", "demo", "enclaves", "faults", "harness", "links", "means"];

/// Suites of `net` that try pairs of sockets.
const OF_NET: &[&str] = &["prefixed", "relay_pairs", "workers"];

/// Builds everything that runs in guests; for the bench its program instead of the suites.
pub(crate) fn programs(folder: &Path, for_bench: bool) -> Result<Programs, String> {
    let line = |arguments: &[&str]| line(folder, arguments);
    let products = line(&["build", "--package", "enclave-bridge", "--package", "simple-enclave", "--bins"]);
    let enclaves = line(&["build", "--package", "enclave-bridge-lab", "--examples"]);
    let suites = line(&["test", "--no-run", "--tests"]);
    let packages =
        ["--package", "enclave-bridge-e2e", "--package", "enclave-bridge-lab", "--package", "enclave-bridge-net"];
    let suites = suites.args(packages);
    let staging = folder.join("programs");
    std::fs::create_dir_all(&staging).map_err(|error| format!("{}: {error}", staging.display()))?;
    let mut programs = Programs {
        folder: staging,
        products: Vec::new(),
        e2e: Vec::new(),
        measure: None,
        bench: None,
        net: Vec::new(),
        lab: Vec::new(),
    };
    let mut all = executables(&products)?;
    if for_bench {
        all.extend(executables(&line(&["build", "--package", "enclave-bridge-bench", "--bins"]))?);
    } else {
        all.extend(executables(&enclaves)?);
        all.extend(executables(&suites)?);
    }
    let mut copied = HashSet::new();
    for built in &all {
        let place = programs.folder.join(&built.name);
        let kept = match (built.package.as_str(), built.name.as_str()) {
            _ if !built.is_test && !built.is_program => continue,
            ("lab", _) if built.is_test => &mut programs.lab,
            ("e2e", name) if built.is_test && !NOT_OVER_VSOCK.contains(&name) => &mut programs.e2e,
            ("crates/net", name) if built.is_test && OF_NET.contains(&name) => &mut programs.net,
            ("e2e", "measure") if built.is_program => {
                copy(&built.path, &place, &mut copied)?;
                programs.measure = Some(place);
                continue;
            }
            ("bench", _) => {
                copy(&built.path, &place, &mut copied)?;
                programs.bench = Some(place);
                continue;
            }
            // Only what is kept is copied: packages may have suites of the same name.
            ("e2e" | "crates/net", _) => continue,
            _ => &mut programs.products,
        };
        copy(&built.path, &place, &mut copied)?;
        kept.push(place);
    }
    programs.e2e.sort();
    programs.net.sort();
    programs.lab.sort();
    Ok(programs)
}

/// One program of the product, built as for a guest.
pub(crate) fn product(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let built = executables(&line(folder, &["build", "--package", name, "--bins"]))?;
    let product = built.into_iter().find(|built| built.name == name && built.is_program);
    product.map(|product| product.path).ok_or_else(|| format!("cargo named no program {name}"))
}

/// A cargo line that builds as everything in the lab is built.
fn line(folder: &Path, arguments: &[&str]) -> Line {
    let target = static_target::target();
    cargo(arguments)
        .args(["--locked", "--profile", "lab", "--message-format", "json-render-diagnostics", "--target", &target])
        .args(["--target-dir".as_ref(), folder.join("build").as_os_str()])
        .variable("RUSTFLAGS", static_target::FLAG)
}

/// In a guest all programs lie in one folder, so no two may have one name.
fn copy(from: &Path, place: &Path, copied: &mut HashSet<PathBuf>) -> Result<(), String> {
    if !copied.insert(place.to_owned()) {
        return Err(format!("{}: two programs of this name", place.display()));
    }
    std::fs::copy(from, place).map(drop).map_err(|error| format!("{}: {error}", from.display()))
}

struct Built {
    name: String,
    /// The folder of its package.
    package: String,
    is_test: bool,
    /// A program, and not the unit tests of one.
    is_program: bool,
    path: PathBuf,
}

/// Runs cargo, with its words on the terminal, and reads which executables it names.
fn executables(line: &Line) -> Result<Vec<Built>, String> {
    let output = line.command().stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{line}: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut built = Vec::new();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        let Some(path) = message.get("executable").and_then(serde_json::Value::as_str) else { continue };
        let text = |pointer: &str| message.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
        let manifest = Path::new(text("/manifest_path"));
        let package = manifest.parent().and_then(|folder| folder.strip_prefix(run::root()).ok());
        built.push(Built {
            name: text("/target/name").to_owned(),
            package: package.map(|package| package.display().to_string()).unwrap_or_default(),
            is_test: text("/target/kind/0") == "test",
            is_program: matches!(text("/target/kind/0"), "bin" | "example")
                && message.pointer("/profile/test") == Some(&serde_json::Value::Bool(false)),
            path: path.into(),
        });
    }
    Ok(built)
}
