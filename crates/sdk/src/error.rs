//! What can go wrong, as one type. No variant carries a value of the environment or a byte of a stream.

use std::io;
use std::time::Duration;

use enclave_bridge_net::{AcceptError, BindError, DialError, RegisterError};
use enclave_bridge_proto::{EnvironmentError, Feature, HandshakeError, Nak, NakCode};

/// Everything that the SDK reports.
///
/// [`Error::code`] gives the bridge's own word for a refusal; [`Error::find`] finds this type again inside the errors
/// of hyper and other layers above.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An environment variable of this process does not hold what the SDK expects there.
    #[error("{variable}: {reason}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What was expected.
        reason: String,
    },
    /// The interval of the beats is outside of what the wire allows.
    #[error("interval of the beats: {given:?} is not from 1 s to 1 h")]
    Interval {
        /// What was asked for.
        given: Duration,
    },
    /// The bridge (or whatever took its place) sent something that is no environment.
    #[error("from the host: {0}")]
    Environment(#[source] EnvironmentError),
    /// A variable that the program's type asks for is not among those that the host sent.
    #[error("environment from the host: {variable}: missing")]
    MissingVariable {
        /// The variable, as the type names it.
        variable: String,
    },
    /// A variable of the host's environment does not hold what the program's type asks for.
    #[error("environment from the host: {variable}: expected {expected}")]
    Value {
        /// The variable; empty where the type is no structure of variables.
        variable: String,
        /// What the type asks for. Never what the variable holds.
        expected: String,
    },
    /// Asked for something that this bridge has not announced (a version-1 bridge announces nothing).
    #[error("server on port {port}: the bridge does not offer {feature}")]
    NotOffered {
        /// The enclave's port that asked for it.
        port: u32,
        /// What was asked for.
        feature: Feature,
    },
    /// The bridge refused, with its reason.
    #[error("{object}: {code}: {sentence}")]
    Refused {
        /// What was refused: "handshake" or "egress to example.org:443".
        object: String,
        /// The code on the wire.
        code: NakCode,
        /// The bridge's sentence; may be empty.
        sentence: String,
    },
    /// The bridge refused with a code that this SDK does not know: it is newer.
    #[error("{object}: {code}: {sentence}")]
    RefusedUnknown {
        /// What was refused.
        object: String,
        /// The code on the wire.
        code: String,
        /// The bridge's sentence; may be empty.
        sentence: String,
    },
    /// The handshake ended in another way.
    #[error(transparent)]
    Handshake(HandshakeError),
    /// The socket of the handshake failed.
    #[error("handshake: {0}")]
    HandshakeIo(#[source] io::Error),
    /// The bridge could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Nobody answers on AF_VSOCK where the bridge should be. The host's CID is not the same everywhere.
    #[error(
        "no bridge answers at CID {cid} port {port}: {reason}; if the host has another CID, set ENCLAVE_BRIDGE_HOST_CID \
         (AWS Nitro's parent is 3, other hosts are 2)"
    )]
    NoBridge {
        /// Where the host was looked for.
        cid: u32,
        /// The init port.
        port: u32,
        /// What the system's answer means.
        reason: String,
        /// What the system said.
        source: DialError,
    },
    /// An enclave's port could not be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// An enclave's port was asked for twice.
    #[error(transparent)]
    PortTaken(#[from] RegisterError),
    /// A listener is dead.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// The enclave's own policy does not allow it ([`Dialer::with_policy`](crate::Dialer::with_policy)); the bridge was not asked.
    #[error("egress to {target}: the enclave's own policy: {reason}")]
    OwnPolicy {
        /// The target.
        target: String,
        /// The deciding rule, or that there is none.
        reason: String,
    },
    /// The bridge closed an egress connection without an answer, as a version-1 bridge does when it refuses.
    #[error("egress to {target}: the bridge closed the connection without a reason")]
    EgressClosed {
        /// The target.
        target: String,
    },
    /// What stands where the bridge's answer should stand is none.
    #[error("egress to {target}: the bridge's answer is neither ACK nor NAK")]
    BadAnswer {
        /// The target.
        target: String,
    },
    /// No answer came in time.
    #[error("egress to {target}: no answer within {limit:?}")]
    EgressTimeout {
        /// The target.
        target: String,
        /// The dialer's limit.
        limit: Duration,
    },
    /// The socket failed before the bridge's answer.
    #[error("egress to {target}: {source}")]
    EgressIo {
        /// The target.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// A URI without what a connection needs.
    #[error("uri: {reason}")]
    Uri {
        /// What is missing.
        reason: &'static str,
    },
    /// The enclave's own CID could not be read.
    #[error("the enclave's own CID: {0}")]
    OwnCid(#[source] io::Error),
    /// The system gives no random bytes.
    #[error("random bytes: {0}")]
    Random(getrandom::Error),
    /// The thread that sends log lines could not be started.
    #[error("log layer: {0}")]
    LogThread(#[source] io::Error),
    /// The session was shut down.
    #[error("the session is closed")]
    Closed,
}

impl Error {
    /// The bridge's code, where the bridge refused with one.
    #[must_use]
    pub fn code(&self) -> Option<NakCode> {
        if let Self::Refused { code, .. } = self { Some(*code) } else { None }
    }

    /// The first error of this type in a chain of sources, for example below a hyper error.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    pub(crate) fn refused(object: impl Into<String>, nak: &Nak) -> Self {
        Self::Refused { object: object.into(), code: nak.code(), sentence: nak.sentence().to_owned() }
    }
}
