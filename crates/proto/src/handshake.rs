//! The handshake as two state machines, the host's and the enclave's, with their limits and their errors. Neither
//! knows a socket or a clock: bytes and instants are given, bytes, events and deadlines are asked for.

pub mod enclave;
pub mod host;

use std::fmt;
use std::time::{Duration, Instant};

use crate::{EnvironmentError, SETTINGS_MAX_BYTES};

/// Limits of a handshake, both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// Host: how long a new connection may take to show its first bytes; runs before
    /// [`host::Handshake`] begins. 5 s: an enclave sends them in the moment it connects. A peer with a live session may
    /// be about to beat, and has until its first beat is due.
    pub ack: Duration,
    /// Host: how long writing the environment may take. 5 s: it fits the buffers of most sockets.
    pub environment_write: Duration,
    /// Host: how long the enclave may take to send its settings once the environment is written. 10 s, what the
    /// original gives version-1 enclaves; `total` is what runs out first.
    pub settings: Duration,
    /// Host: the longest settings line that is read, in bytes, `0A` not counted; more than [`SETTINGS_MAX_BYTES`] counts as that.
    pub settings_bytes: usize,
    /// Host: how long all of it may take until the settings line is whole. 10 s.
    pub total: Duration,
    /// Host: how long writing the answer may take. 5 s: it has at most 256 bytes.
    pub answer_write: Duration,
    /// Enclave: how long writing the ACK may take. 5 s.
    pub ack_write: Duration,
    /// Enclave: how long the environment may take after the ACK. 10 s: a host that is at work sends it at once.
    pub environment: Duration,
    /// Enclave: how long writing the settings may take. 10 s, the host's own patience.
    pub settings_write: Duration,
    /// Enclave: how long the answer may take after the settings. 30 s: the host ends an older session and binds up to
    /// 128 listeners meanwhile.
    pub answer: Duration,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        const STEP: Duration = Duration::from_secs(5);
        const WHOLE: Duration = Duration::from_secs(10);
        Self {
            ack: STEP,
            environment_write: STEP,
            settings: WHOLE,
            settings_bytes: SETTINGS_MAX_BYTES,
            total: WHOLE,
            answer_write: STEP,
            ack_write: STEP,
            environment: WHOLE,
            settings_write: WHOLE,
            answer: Duration::from_secs(30),
        }
    }
}

/// The step that a handshake was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The first ACK, enclave to host.
    Ack,
    /// The environment, host to enclave.
    Environment,
    /// The settings, enclave to host.
    Settings,
    /// The final ACK or NAK, host to enclave.
    Answer,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Ack => "ack",
            Phase::Environment => "environment",
            Phase::Settings => "settings",
            Phase::Answer => "answer",
        })
    }
}

/// Why a handshake came to nothing without a refusal. Of the peer's bytes no error repeats any but a refusal's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A step took longer than its limit.
    #[error("handshake: time is over at the {phase}")]
    Timeout {
        /// The step.
        phase: Phase,
    },
    /// The peer ended the connection in the middle of a step.
    #[error("handshake: the peer closed the connection at the {phase}")]
    Truncated {
        /// The step.
        phase: Phase,
    },
    /// A line was longer than its cap.
    #[error("handshake: {phase} line longer than {limit} bytes")]
    LineTooLong {
        /// The step.
        phase: Phase,
        /// The cap in bytes, `0A` not counted.
        limit: usize,
    },
    /// Host: what came first is no ACK. For whoever reads the [`First`](crate::First) bytes.
    #[error("handshake: the first bytes are no ACK")]
    BadAck,
    /// Enclave: the environment cannot be read.
    #[error("handshake: {0}")]
    BadEnvironment(#[from] EnvironmentError),
    /// Enclave: the answer to the settings is neither ACK nor refusal.
    #[error("handshake: the answer to the settings is neither ACK nor refusal")]
    BadAnswer,
    /// Enclave: the bridge acknowledged settings that were not sent yet.
    #[error("handshake: an ACK before the settings were sent")]
    EarlyAnswer,
    /// Enclave: the own settings are longer than the bridge reads.
    #[error("handshake: own settings of {bytes} bytes are longer than the bridge reads")]
    SettingsTooLong {
        /// Their length, `0A` not counted.
        bytes: usize,
    },
    /// Enclave: refused with a code that this version does not know.
    #[error("refused with the unknown code {code}: {sentence}")]
    UnknownRefusal {
        /// The code.
        code: String,
        /// The sentence.
        sentence: String,
    },
}

/// `now + limit`, or no deadline where an instant cannot hold the sum.
fn after(now: Instant, limit: Duration) -> Option<Instant> {
    now.checked_add(limit)
}

/// The earlier of two deadlines that may not be there.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
