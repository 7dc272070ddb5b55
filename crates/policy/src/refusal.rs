//! A refusal by policy: the code that the peer is told, and a sentence that names what decided.

use std::fmt;

use enclave_bridge_proto::{Nak, NakCode};

/// Why something was not permitted. Its text names the deciding rule, class or limit, never a payload or a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: NakCode,
    sentence: String,
}

impl Refusal {
    pub(crate) fn new(code: NakCode, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }

    pub(crate) fn denied(sentence: impl Into<String>) -> Self {
        Self::new(NakCode::Denied, sentence)
    }

    pub(crate) fn bad_target(sentence: impl Into<String>) -> Self {
        Self::new(NakCode::BadTarget, sentence)
    }

    /// The code for the peer: `Denied` or `BadTarget` for egress, `Busy` for a peer that is not permitted.
    pub fn code(&self) -> NakCode {
        self.code
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Nak {
    fn from(refusal: Refusal) -> Self {
        Nak::new(refusal.code, refusal.sentence)
    }
}
