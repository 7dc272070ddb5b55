//! The first bytes of a connection to the init port: a handshake, or beats? What follows is read elsewhere.

use std::fmt;
use std::time::Duration;

use crate::{ACK, EnclaveId, encode_beat};

/// How long 15 more bytes may take to count as "at once" where an ACK may as well be the beginning of a beat. A beat
/// is one write of 17 bytes and arrives as one; a fifth of a second is far above any scheduling delay and not felt
/// in a handshake.
pub const AMBIGUITY_PAUSE: Duration = Duration::from_millis(200);

/// Tells a handshake from beats by their first bytes.
///
/// Feed what was read with [`push`](Self::push) until it answers. While [`is_ambiguous`](Self::is_ambiguous), wait
/// no longer than [`AMBIGUITY_PAUSE`] for more bytes, then call [`on_pause`](Self::on_pause). Once it has answered,
/// push no more: later bytes belong to whoever reads on. At most one push beyond the seventeenth byte is held.
pub struct FirstBytes {
    beat: Option<[u8; 17]>,
    bytes: Vec<u8>,
}

/// What a connection to the init port turned out to be.
#[derive(Clone, PartialEq, Eq)]
pub enum First {
    /// An ACK came: the handshake begins.
    Handshake {
        /// The bytes after the ACK, for the handshake.
        rest: Vec<u8>,
    },
    /// A whole beat of the live session, no less: whoever has guessed its first byte is told nothing. All bytes are in
    /// [`FirstBytes::into_bytes`], for a [`BeatReader`](crate::BeatReader).
    Beat,
    /// Neither: the connection is to be closed.
    Bad,
}

impl FirstBytes {
    /// `live` is the id of the session that this very peer holds, if it holds one.
    pub fn new(live: Option<EnclaveId>) -> Self {
        Self { beat: live.map(|id| encode_beat(&id)), bytes: Vec::new() }
    }

    /// Takes bytes; answers as soon as they are told apart.
    pub fn push(&mut self, bytes: &[u8]) -> Option<First> {
        self.bytes.extend_from_slice(bytes);
        let ack = begins_alike(&self.bytes, &ACK);
        let beat = self.beat.filter(|beat| begins_alike(&self.bytes, beat));
        match (ack, beat) {
            (false, None) => Some(First::Bad),
            (true, None) => self.handshake(),
            // Where the id begins as the ACK does, a byte that only one of the two has decides, or a whole beat.
            (_, Some(beat)) => (self.bytes.len() >= beat.len()).then_some(First::Beat),
        }
    }

    /// Nothing came for [`AMBIGUITY_PAUSE`]: an ACK that might have been the beginning of a beat is an ACK.
    /// `None` where not even an ACK is there yet.
    pub fn on_pause(&mut self) -> Option<First> {
        if begins_alike(&self.bytes, &ACK) { self.handshake() } else { None }
    }

    /// Whether only the [`AMBIGUITY_PAUSE`] can decide, should nothing more come.
    pub fn is_ambiguous(&self) -> bool {
        self.bytes.len() >= ACK.len() && begins_alike(&self.bytes, &ACK)
    }

    /// All bytes so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn handshake(&self) -> Option<First> {
        let (_, rest) = self.bytes.split_at_checked(ACK.len())?;
        Some(First::Handshake { rest: rest.to_vec() })
    }
}

/// Shows how many bytes are held, never which.
impl fmt::Debug for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            First::Handshake { rest } => f.debug_struct("Handshake").field("rest_bytes", &rest.len()).finish(),
            First::Beat => f.write_str("Beat"),
            First::Bad => f.write_str("Bad"),
        }
    }
}

impl fmt::Debug for FirstBytes {
    /// Without the bytes: they are a stranger's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstBytes").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Whether one of the two is the beginning of the other.
fn begins_alike(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}
