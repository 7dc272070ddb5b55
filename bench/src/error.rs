//! What can go wrong with a run, each with the object it happened to.

use std::io;

/// Why a measurement, a target or the whole run came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A socket, file or process did not do what was asked of it.
    #[error("{what}: {source}")]
    Io {
        /// The object and the deed.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes were lost or invented: the result is void.
    #[error("{what}: {got} bytes arrived of {expected}")]
    Mismatch {
        /// The transfer.
        what: &'static str,
        /// Bytes sent.
        expected: u64,
        /// Bytes that arrived.
        got: u64,
    },
    /// A peer that is not on this machine.
    #[error("{program} is not installed{hint}")]
    Missing {
        /// The program.
        program: &'static str,
        /// How to get it.
        hint: String,
    },
    /// A process did not come up, or went away.
    #[error("{name}: {reason}")]
    Process {
        /// The target.
        name: String,
        /// What was seen.
        reason: String,
    },
    /// The arguments or the environment do not allow the run.
    #[error("{0}")]
    Usage(String),
    /// A file of results that is not what this program writes, or a document without its marks.
    #[error("{what}: {reason}")]
    Document {
        /// The file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    /// Names the object of an I/O error: `.map_err(BenchError::io("connect to the relay"))`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
        let what = what.into();
        move |source| BenchError::Io { what, source }
    }
}
