//! Refusals: the table of codes and the line that carries one. What leads to a refusal is decided elsewhere.

use std::fmt;
use std::str::FromStr;

use crate::text::{cut_to, one_line};

/// The first byte of a refusal line.
pub const NAK_BYTE: u8 = 0x15;

/// The longest refusal line in bytes, `15` and `0A` included. The wire's own number.
pub const NAK_MAX_BYTES: usize = 256;

/// Where a code is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NakPlace {
    /// On the init port, where the final ACK would have stood.
    Handshake,
    /// On an egress port, where the ACK to the address line would have stood.
    Egress,
    /// On either.
    Both,
}

impl NakPlace {
    /// The word in the table of `docs/protocol.md`.
    pub fn as_str(self) -> &'static str {
        match self {
            NakPlace::Handshake => "handshake",
            NakPlace::Egress => "egress",
            NakPlace::Both => "both",
        }
    }
}

impl fmt::Display for NakPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One row a code: the enum, its text, its place and its meaning come from here and from nowhere else.
macro_rules! nak_codes {
    ($($name:ident $text:literal $place:ident $meaning:literal)*) => {
        /// Why something was refused. More codes may come.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum NakCode {
            $(#[doc = concat!("`", $text, "`: ", $meaning)] $name,)*
        }

        impl NakCode {
            /// Every code, in the order of the table in `docs/protocol.md`.
            pub const ALL: &'static [NakCode] = &[$(NakCode::$name,)*];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(NakCode::$name => $text,)* }
            }

            /// Where it is used.
            pub fn place(self) -> NakPlace {
                match self { $(NakCode::$name => NakPlace::$place,)* }
            }

            /// What it means, as in the table.
            pub fn meaning(self) -> &'static str {
                match self { $(NakCode::$name => $meaning,)* }
            }
        }
    };
}

nak_codes! {
    BadConfig "BAD_CONFIG" Handshake "not the settings object; the sentence names the path"
    BadId "BAD_ID" Handshake "the id is nil, or one that the peer could not beat with"
    BadInterval "BAD_INTERVAL" Handshake "outside 1 s to 1 h"
    CidMismatch "CID_MISMATCH" Handshake "`enclaveCid` is not the peer's own"
    PortNotAllowed "PORT_NOT_ALLOWED" Handshake "not a port, or one that the operator does not allow"
    PortInUse "PORT_IN_USE" Handshake "the port could not be bound"
    DuplicatePort "DUPLICATE_PORT" Handshake "the port was asked for twice"
    TooMany "TOO_MANY" Handshake "more tunnels than the limit"
    Busy "BUSY" Handshake "no free session, or this peer is not among the allowed"
    BadTarget "BAD_TARGET" Egress "the line is no `host:port`"
    Denied "DENIED" Egress "the policy says no; the sentence names the rule"
    Dns "DNS" Egress "no address: not found, server failure or time-out"
    Refused "REFUSED" Egress "the target refused the connection"
    Unreachable "UNREACHABLE" Egress "no way to the target"
    Timeout "TIMEOUT" Egress "the target did not answer in time"
    Limit "LIMIT" Egress "too many streams"
    Internal "INTERNAL" Both "the bridge's own fault"
}

impl fmt::Display for NakCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is no code of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown refusal code")]
pub struct UnknownNakCode;

impl FromStr for NakCode {
    type Err = UnknownNakCode;

    fn from_str(text: &str) -> Result<Self, UnknownNakCode> {
        NakCode::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownNakCode)
    }
}

/// A refusal: a code and a sentence for a human, which is always one line and always fits the wire's cap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}{sentence}", if sentence.is_empty() { "" } else { ": " })]
pub struct Nak {
    code: NakCode,
    sentence: String,
}

impl Nak {
    /// A refusal. Control characters in the sentence are escaped, and it is cut, between two characters, to what
    /// [`NAK_MAX_BYTES`] leaves for it.
    pub fn new(code: NakCode, sentence: impl Into<String>) -> Self {
        // 15, the code, a space, the sentence, 0A.
        let room = NAK_MAX_BYTES.saturating_sub(3).saturating_sub(code.as_str().len());
        let sentence = one_line(&sentence.into());
        Self { code, sentence: cut_to(&sentence, room).to_owned() }
    }

    /// The code.
    pub fn code(&self) -> NakCode {
        self.code
    }

    /// The sentence; may be empty.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The whole line, from `15` to `0A`; at most [`NAK_MAX_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        let mut line = vec![NAK_BYTE];
        line.extend_from_slice(self.code.as_str().as_bytes());
        if !self.sentence.is_empty() {
            line.push(b' ');
            line.extend_from_slice(self.sentence.as_bytes());
        }
        line.push(b'\n');
        line
    }

    /// Reads a refusal line, given without its `0A`. Bytes of the sentence that are not UTF-8 are replaced, control
    /// characters escaped.
    ///
    /// # Errors
    /// [`NakParseError`], also for a well-formed line whose code this version does not know.
    pub fn parse(line: &[u8]) -> Result<Self, NakParseError> {
        if line.len() >= NAK_MAX_BYTES {
            return Err(NakParseError::TooLong);
        }
        let Some((&NAK_BYTE, text)) = line.split_first() else { return Err(NakParseError::NotANak) };
        let mut parts = text.splitn(2, |&byte| byte == b' ');
        let code = parts.next().unwrap_or_default();
        let sentence = String::from_utf8_lossy(parts.next().unwrap_or_default());
        let is_code = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
        let code = match std::str::from_utf8(code) {
            Ok(text) if !text.is_empty() && code.iter().all(is_code) => text,
            Ok(_) | Err(_) => return Err(NakParseError::BadCode),
        };
        match code.parse::<NakCode>() {
            Ok(known) => Ok(Nak::new(known, sentence)),
            Err(UnknownNakCode) => {
                let sentence = one_line(&sentence);
                let sentence = cut_to(&sentence, NAK_MAX_BYTES).to_owned();
                Err(NakParseError::UnknownCode { code: code.to_owned(), sentence })
            }
        }
    }
}

/// Why a line is no refusal of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NakParseError {
    /// It does not begin with `15`.
    #[error("not a refusal: its first byte is not 15")]
    NotANak,
    /// It does, but no code of capital letters, digits and underscores follows.
    #[error("not a refusal: no code after the first byte")]
    BadCode,
    /// It is longer than [`NAK_MAX_BYTES`].
    #[error("not a refusal: longer than {NAK_MAX_BYTES} bytes")]
    TooLong,
    /// A refusal with a code that a later version may have; still a refusal.
    #[error("refused with the unknown code {code}{}{sentence}", if sentence.is_empty() { "" } else { ": " })]
    UnknownCode {
        /// The code: capital letters, digits, underscores.
        code: String,
        /// The sentence, as in [`Nak::sentence`].
        sentence: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        for code in NakCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(NakCode::ALL.iter().filter(|other| other.as_str() == code.as_str()).count(), 1);
        }
        assert_eq!("denied".parse::<NakCode>(), Err(UnknownNakCode));
    }

    #[test]
    fn the_longest_sentence_fills_the_line_exactly() {
        for code in NakCode::ALL {
            let nak = Nak::new(*code, "x".repeat(1000));
            assert_eq!(nak.encode().len(), NAK_MAX_BYTES);
            let nak = Nak::new(*code, "ä".repeat(1000));
            assert!((NAK_MAX_BYTES - 1..=NAK_MAX_BYTES).contains(&nak.encode().len()));
        }
    }

    #[test]
    fn a_sentence_cannot_end_the_line() {
        let nak = Nak::new(NakCode::Denied, "a\nb\0");
        assert_eq!(nak.encode(), b"\x15DENIED a\\nb\\u{0}\n");
        assert_eq!(nak.to_string(), "DENIED: a\\nb\\u{0}");
        assert_eq!(Nak::new(NakCode::Dns, "").to_string(), "DNS");
    }

    #[test]
    fn what_is_no_refusal_is_told_apart() {
        assert_eq!(Nak::parse(b""), Err(NakParseError::NotANak));
        assert_eq!(Nak::parse(b"\x06"), Err(NakParseError::NotANak));
        assert_eq!(Nak::parse(b"\x15"), Err(NakParseError::BadCode));
        assert_eq!(Nak::parse(b"\x15 x"), Err(NakParseError::BadCode));
        assert_eq!(Nak::parse(b"\x15denied"), Err(NakParseError::BadCode));
        assert_eq!(Nak::parse(&[0x15; 256]), Err(NakParseError::TooLong));
        assert_eq!(
            Nak::parse(b"\x15LATER so it is\x1b"),
            Err(NakParseError::UnknownCode { code: "LATER".into(), sentence: "so it is\\u{1b}".into() })
        );
        assert_eq!(Nak::parse(b"\x15DNS"), Ok(Nak::new(NakCode::Dns, "")));
        assert_eq!(Nak::parse(b"\x15DNS "), Ok(Nak::new(NakCode::Dns, "")));
    }
}
