//! Least privilege: what the process gives up once its listeners are bound, before it has a second thread.
//!
//! Four parts, each a file: no new privileges, capabilities, the file system, system calls. Nothing here can be taken back while
//! the process lives. What each part keeps open and why is said in `docs/sandbox.md`.

mod capabilities;
mod files;
mod filter;
mod system_calls;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use self::system_calls::{FATAL_CALLS, Guard, SYSTEM_CALLS, SystemCall};
use crate::config::SandboxMode;

/// The name of a folder that holds nothing but this program's files: all of it may be read, so that a file in it may be
/// replaced by renaming. Elsewhere only the file itself may be read.
const OWN_FOLDER: &str = "enclave-bridge";

/// The system's list of names, which the resolver reads on a reload.
const HOSTS_FILE: &str = "/etc/hosts";

/// What a running daemon still has to do.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Files that a reload reads.
    pub files: Vec<PathBuf>,
    /// Sockets of guests, beside which sessions make their own.
    pub uds_paths: Vec<PathBuf>,
    /// Whether sessions may ask for TCP ports below 1024.
    pub low_ports: bool,
}

/// One part of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Starting a program gives no rights.
    NoNewPrivileges,
    /// Nothing of root's.
    Capabilities,
    /// The configuration is read and sockets are made, else nothing.
    Files,
    /// What is in the table, else nothing.
    SystemCalls,
}

/// What holds now and what does not.
#[derive(Debug, Default)]
pub struct Report {
    holds: Vec<String>,
    missing: Vec<Missing>,
}

/// A part that is not to be had here.
#[derive(Debug, Error)]
#[error("sandbox: {part}: {source}")]
pub struct Missing {
    /// Which.
    pub part: Part,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Needs {
    /// A file that is read again, and what lies behind it if it is a link.
    pub fn read(&mut self, file: &Path) {
        self.files.extend(readable(file));
    }
}

impl Report {
    /// Whether the file system is closed.
    #[must_use]
    pub fn closes_files(&self) -> bool {
        !self.holds.is_empty() && self.missing.iter().all(|missing| missing.part != Part::Files)
    }

    /// The parts that do not hold although they were asked for.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }
}

/// Takes the calling thread, and all that it starts, into the sandbox. To be called while there is no other thread: capabilities
/// and the file system are each thread's own.
///
/// # Errors
/// With [`SandboxMode::Require`] the first part that cannot be had. The others hold then, and the process is to end.
pub fn enter(mode: SandboxMode, needs: &Needs) -> Result<Report, Missing> {
    let mut report = Report::default();
    if mode == SandboxMode::Off {
        return Ok(report);
    }
    // A program with glibc linked into it finds no getrandom (this crate, which also the resolver has its numbers from) and reads /dev/urandom, which it opens once and keeps. What fails
    // here would fail later, and be said then.
    if let Err(error) = getrandom::fill(&mut [0]) {
        tracing::warn!(%error, "random numbers");
    }
    let mut read = needs.files.clone();
    read.extend(readable(Path::new(HOSTS_FILE)));
    let sockets: Vec<PathBuf> = needs.uds_paths.iter().map(|path| folder_of(path)).collect();
    let held = if needs.low_ports { "ports below 1024" } else { "none" };
    // System calls at the end: the others make some that are not in the table.
    let parts: [(Part, &dyn Fn() -> io::Result<String>); 4] = [
        (Part::NoNewPrivileges, &|| {
            nix::sys::prctl::set_no_new_privs()?;
            Ok("no new privileges".to_owned())
        }),
        (Part::Files, &|| {
            files::close(&files::Files { read: &read, sockets: &sockets }).map(|by| format!("files ({by})"))
        }),
        (Part::Capabilities, &|| {
            capabilities::drop_all(needs.low_ports)?;
            Ok(format!("capabilities ({held})"))
        }),
        (Part::SystemCalls, &|| {
            filter::install()?;
            let allowed = SYSTEM_CALLS.iter().filter(|call| call.number.is_some()).count();
            Ok(format!("system calls ({allowed})"))
        }),
    ];
    for (part, enter) in parts {
        match enter() {
            Ok(held) => report.holds.push(held),
            Err(source) if mode == SandboxMode::Require => return Err(Missing { part, source }),
            Err(source) => report.missing.push(Missing { part, source }),
        }
    }
    Ok(report)
}

/// What has to be readable for a file to be readable again: its folder if that is ours, else itself.
fn readable(file: &Path) -> Vec<PathBuf> {
    let behind = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    [file, &behind]
        .into_iter()
        .map(|file| match file.parent() {
            Some(folder) if folder.file_name().is_some_and(|name| name == OWN_FOLDER) => folder.to_owned(),
            Some(_) | None => file.to_owned(),
        })
        .collect()
}

/// The folder of a path, which may be relative.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::NoNewPrivileges => "no new privileges",
            Part::Capabilities => "capabilities",
            Part::Files => "files",
            Part::SystemCalls => "system calls",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sandbox: ")?;
        match (self.holds.is_empty(), self.missing.is_empty()) {
            (true, true) => return f.write_str("off"),
            (true, false) => f.write_str("nothing holds")?,
            (false, _) => write!(f, "holds: {}", self.holds.join(", "))?,
        }
        for missing in &self.missing {
            write!(f, "; does not hold: {} ({})", missing.part, missing.source)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_open_only_if_it_is_ours() {
        assert_eq!(readable(Path::new("/nowhere/enclave-bridge/config.toml"))[0], Path::new("/nowhere/enclave-bridge"));
        assert_eq!(readable(Path::new("/nowhere/config.toml"))[0], Path::new("/nowhere/config.toml"));
        assert_eq!(folder_of(Path::new("guest.sock")), Path::new("."));
    }

    #[test]
    fn off_says_off() {
        assert_eq!(enter(SandboxMode::Off, &Needs::default()).unwrap().to_string(), "sandbox: off");
    }
}
