//! What can go wrong in the lab, told apart by whether anything was tried.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that the lab reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Something that the lab needs is not here; nothing was tried.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What.
        what: String,
        /// The command that brings it.
        remedy: String,
    },
    /// A program that the lab calls did not succeed.
    #[error("{command}: {reason}")]
    Command {
        /// As it was called.
        command: String,
        /// What it said.
        reason: String,
    },
    /// A file of the lab could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest was stopped at its time limit.
    #[error("guest {guest}: stopped at its limit of {} s; its console said last:\n{console}", limit.as_secs())]
    Limit {
        /// Its name.
        guest: String,
        /// How long it ran.
        limit: Duration,
        /// The end of its console.
        console: String,
    },
    /// The guest ended before its command did: a panic of its kernel, or QEMU failed.
    #[error("guest {guest}: ended without the status of its command ({qemu}); its console said last:\n{console}")]
    Lost {
        /// Its name.
        guest: String,
        /// How QEMU ended.
        qemu: String,
        /// The end of its console.
        console: String,
    },
    /// The lab was told to stop.
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    /// For errors of a file.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LabError {
        let path = path.into();
        move |source| LabError::File { path, source }
    }

    /// Whether nothing was tried, because something is not here.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, LabError::Missing { .. })
    }
}
