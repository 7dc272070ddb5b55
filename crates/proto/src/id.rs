//! The id of an enclave: what its beats carry. How it is drawn is the enclave's business.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The id of one run of an enclave: 16 bytes, not all zero. It is no secret and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnclaveId([u8; 16]);

impl EnclaveId {
    /// An id of these bytes; `None` if all are zero (the nil UUID).
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The raw bytes, as a beat carries them.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether a `0A` is among the bytes. A version-1 peer reads beats up to the first `0A` and cannot live with
    /// such an id.
    pub fn contains_newline(&self) -> bool {
        self.0.contains(&b'\n')
    }
}

impl fmt::Display for EnclaveId {
    /// Hyphenated, lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for EnclaveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnclaveId({self})")
    }
}

/// Why a text is no enclave id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// It is no spelling of a UUID.
    #[error("not a UUID")]
    NotAUuid,
    /// It is the UUID of zeros.
    #[error("the nil UUID")]
    Nil,
}

impl FromStr for EnclaveId {
    type Err = ParseIdError;

    /// Takes the spellings that version-1 peers may use: hyphenated or 32 plain digits, either in braces or behind
    /// `urn:uuid:`, digits in any case.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let inner = match text.strip_prefix("urn:uuid:") {
            Some(inner) => inner,
            None => match text.strip_prefix('{').map(|inner| inner.strip_suffix('}')) {
                Some(Some(inner)) => inner,
                Some(None) => return Err(ParseIdError::NotAUuid),
                None => text,
            },
        };
        if !matches!(inner.len(), 32 | 36) {
            return Err(ParseIdError::NotAUuid);
        }
        let uuid = Uuid::try_parse(inner).map_err(|_| ParseIdError::NotAUuid)?;
        EnclaveId::from_bytes(uuid.into_bytes()).ok_or(ParseIdError::Nil)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_the_same_id() {
        let plain = "f6a1c1a26f0e4f0e9a532f1f0c9d7d10";
        let hyphenated = "f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10";
        let id: EnclaveId = hyphenated.parse().unwrap();
        for inner in [plain.to_owned(), hyphenated.to_owned(), plain.to_uppercase(), hyphenated.to_uppercase()] {
            for spelling in [inner.clone(), format!("{{{inner}}}"), format!("urn:uuid:{inner}")] {
                assert_eq!(spelling.parse(), Ok(id), "{spelling}");
            }
        }
        assert_eq!(id.to_string(), hyphenated);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "{}",
            "urn:uuid:",
            "f6a1c1a26f0e4f0e9a532f1f0c9d7d1",
            "f6a1c1a26f0e4f0e9a532f1f0c9d7d1g",
            "f6a1c1a26f0e4f0e9a532f1f0c9d7d10 ",
            "{f6a1c1a26f0e4f0e9a532f1f0c9d7d10",
            "f6a1c1a26f0e4f0e9a532f1f0c9d7d10}",
            "{{f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10}}",
            "urn:uuid:{f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10}",
            "f6a1c1a2-6f0e-4f0e-9a532f1f-0c9d7d10",
            "f6a1c1a2_6f0e_4f0e_9a53_2f1f0c9d7d10",
            "ä6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d1",
        ] {
            assert_eq!(text.parse::<EnclaveId>(), Err(ParseIdError::NotAUuid), "{text}");
        }
        assert_eq!("00000000-0000-0000-0000-000000000000".parse::<EnclaveId>(), Err(ParseIdError::Nil));
        assert_eq!(EnclaveId::from_bytes([0; 16]), None);
    }
}
