//! A static program that is the same bytes wherever it is built: no path of this machine, no clock and no variable of the
//! person who builds is in it. The compiler and the C compiler have to be the same ones.

use crate::run::{self, Line, cargo};
use crate::static_target;
use std::path::{Path, PathBuf};

/// Between flags in the one variable whose flags may hold spaces.
const BETWEEN_FLAGS: &str = "\u{1f}";

/// Builds `program` from the workspace at `sources` into `folder`.
pub(super) fn build(sources: &Path, folder: &Path, program: &str, profile: &str) -> Result<PathBuf, String> {
    let target = static_target::target();
    let home = cargo_home()?;
    let places = [(sources, "/source"), (home.as_path(), "/cargo"), (folder, "/target")];
    let remap = places.map(|(place, name)| format!("--remap-path-prefix={}={name}", place.display()));
    let c_flags = places.map(|(place, name)| format!("-ffile-prefix-map={}={name}", place.display()));
    let line = cargo(["build", "--locked", "--package", program, "--bin", program, "--profile", profile]);
    line.args(["--target".as_ref(), target.as_ref(), "--target-dir".as_ref(), folder.as_os_str()])
        .args(["--manifest-path".as_ref(), sources.join("Cargo.toml").as_os_str()])
        // Takes the place of RUSTFLAGS and of every flag in a configuration of cargo's.
        .variable(
            "CARGO_ENCODED_RUSTFLAGS",
            [&[static_target::FLAG.to_owned()], &remap[..]].concat().join(BETWEEN_FLAGS),
        )
        .variable("CFLAGS", c_flags.join(" "))
        .variable("CARGO_INCREMENTAL", "0")
        .variable("SOURCE_DATE_EPOCH", "0")
        .run()?;
    let profile = if profile == "dev" { "debug" } else { profile };
    Ok(folder.join(&target).join(profile).join(program))
}

/// Copies what belongs to the sources of this workspace to `copy`, with the times of the files: a build that has seen them
/// has seen the copies.
pub(super) fn copy_sources(copy: &Path) -> Result<(), String> {
    let root = run::root();
    let listed = Line::new("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).capture()?;
    let named = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if copy.exists() {
        std::fs::remove_dir_all(copy).map_err(|error| named(copy, error))?;
    }
    for file in listed.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (root.join(file), copy.join(file));
        // In the index and deleted: not part of the sources as they are.
        if !from.is_file() {
            continue;
        }
        let parent = to.parent().unwrap_or(copy);
        std::fs::create_dir_all(parent).map_err(|error| named(parent, error))?;
        std::fs::copy(&from, &to).map_err(|error| named(&from, error))?;
        let time = from.metadata().and_then(|about| about.modified()).map_err(|error| named(&from, error))?;
        let file = std::fs::OpenOptions::new().write(true).open(&to).map_err(|error| named(&to, error))?;
        file.set_modified(time).map_err(|error| named(&to, error))?;
    }
    Ok(())
}

/// Where cargo keeps the sources of dependencies.
fn cargo_home() -> Result<PathBuf, String> {
    #[expect(clippy::disallowed_methods, reason = "cargo is told by this variable where its home is")]
    let told = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    told.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).ok_or_else(|| "no CARGO_HOME".to_owned())
}
