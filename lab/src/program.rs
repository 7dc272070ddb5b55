//! The programs of this machine that the lab calls: found or named, run, and listened to.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::LabError;

/// The Debian packages that the lab needs, each with the program by which it is known.
pub const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("xz", "xz-utils"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
];

/// Where a program is.
///
/// # Errors
/// [`LabError::Missing`] with the command that installs it.
pub fn find(program: &str) -> Result<PathBuf, LabError> {
    #[expect(clippy::disallowed_methods, reason = "where programs are is what this variable is for")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path);
    places.find_map(|folder| Some(folder.join(program)).filter(|place| place.is_file())).ok_or_else(|| {
        let package = PACKAGES.iter().find(|(known, _)| *known == program).map(|(_, package)| *package);
        LabError::Missing {
            what: program.to_owned(),
            remedy: match package {
                Some(package) => {
                    format!("apt-get install --no-install-recommends {package} (or cargo xtask lab --install)")
                }
                None => format!("no package known for {program}"),
            },
        }
    })
}

/// The packages whose programs are not here.
#[must_use]
pub fn missing_packages() -> Vec<&'static str> {
    PACKAGES.iter().filter(|(program, _)| find(program).is_err()).map(|(_, package)| *package).collect()
}

/// Installs the packages that are missing. For root on Debian.
///
/// # Errors
/// What apt-get said.
pub fn install() -> Result<(), LabError> {
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    let root = Path::new("/");
    capture("apt-get", ["update", "-qq"], root)?;
    let arguments = ["install", "-y", "-qq", "--no-install-recommends"];
    capture("apt-get", arguments.into_iter().chain(missing), root).map(drop)
}

/// Runs a program in a folder and gives what it wrote to standard output.
///
/// # Errors
/// [`LabError::Command`] with what it wrote to standard error.
pub fn capture<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    folder: &Path,
) -> Result<Vec<u8>, LabError> {
    let mut command = Command::new(find(program)?);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    // What is read below is meant for programs, not for the people of one country.
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    let called = || {
        let arguments = command.get_args().map(|argument| format!(" {}", argument.to_string_lossy()));
        format!("{program}{}", arguments.collect::<String>())
    };
    let called = called();
    let failed = |reason: String| LabError::Command { command: called.clone(), reason };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())))
}
