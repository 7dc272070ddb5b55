//! Beats: encoding, exact framing and the clock of one side. Which session a beat belongs to is decided elsewhere.

use std::time::{Duration, Instant};

use crate::EnclaveId;

/// The length of a beat: the 16 bytes of the id and a `0A`.
pub const BEAT_LEN: usize = 17;

/// How long a peer may be silent: one and a half intervals. Peers beat twice an interval or more often, so two late
/// beats in a row are still no loss.
pub fn loss_after(interval: Duration) -> Duration {
    interval.saturating_add(interval / 2)
}

/// One beat of this id.
pub fn encode_beat(id: &EnclaveId) -> [u8; BEAT_LEN] {
    let mut beat = [b'\n'; BEAT_LEN];
    for (to, from) in beat.iter_mut().zip(id.as_bytes()) {
        *to = *from;
    }
    beat
}

/// Counts the beats of one id in frames of exactly [`BEAT_LEN`] bytes; a `0A` inside the id is no boundary.
///
/// Holds no bytes, only its place in the frame. After [`WrongBeat`] the connection is to be closed: the frame is lost.
#[derive(Clone, Debug)]
pub struct BeatReader {
    frame: [u8; BEAT_LEN],
    place: usize,
    wrong: bool,
}

/// A byte came that is none of the expected beat: another id, or no beat at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("beat with another id, or no beat at all")]
pub struct WrongBeat {
    /// Whole beats of the right id that stood before it in the same push.
    pub counted: usize,
}

impl BeatReader {
    /// A reader at the beginning of a frame.
    pub fn new(id: EnclaveId) -> Self {
        Self { frame: encode_beat(&id), place: 0, wrong: false }
    }

    /// Takes bytes as they come and answers how many beats became whole.
    ///
    /// # Errors
    /// [`WrongBeat`] at the first byte that does not fit, and for ever after.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, WrongBeat> {
        if self.wrong {
            return Err(WrongBeat { counted: 0 });
        }
        let mut counted = 0;
        for byte in bytes {
            if self.frame.get(self.place) != Some(byte) {
                self.wrong = true;
                return Err(WrongBeat { counted });
            }
            self.place += 1;
            if self.place == BEAT_LEN {
                self.place = 0;
                counted += 1;
            }
        }
        Ok(counted)
    }

    /// Whether the bytes so far end with a whole beat; where they do not, an end of input cuts one short.
    pub fn is_between_beats(&self) -> bool {
        self.place == 0 && !self.wrong
    }
}

/// The time of one side of a beating session: when to send, and when the peer counts as lost.
///
/// Before asking [`lost`](Self::lost) after a pause, read what the socket holds and report it with
/// [`received`](Self::received): beats that waited there are no loss.
#[derive(Clone, Debug)]
pub struct BeatClock {
    loss_after: Duration,
    send_every: Duration,
    silent_since: Instant,
    last_received: Option<Instant>,
    next_send: Instant,
}

impl BeatClock {
    /// A clock that starts now: the first own beat is due at once, and the peer has [`loss_after`]`(interval)` to
    /// send its first one. Own beats are sent every `send_every`, which is to be `interval / 2` or less.
    pub fn new(interval: Duration, send_every: Duration, now: Instant) -> Self {
        Self { loss_after: loss_after(interval), send_every, silent_since: now, last_received: None, next_send: now }
    }

    /// A whole beat of the peer has come.
    pub fn received(&mut self, now: Instant) {
        self.silent_since = self.silent_since.max(now);
        self.last_received = Some(self.silent_since);
    }

    /// An own beat has been written.
    pub fn sent(&mut self, now: Instant) {
        self.next_send = later(now, self.send_every);
    }

    /// Whether an own beat is due.
    pub fn send_due(&self, now: Instant) -> bool {
        now >= self.next_send
    }

    /// Whether the peer has been silent for too long.
    pub fn lost(&self, now: Instant) -> bool {
        now >= self.loss_deadline()
    }

    /// When the peer will count as lost if nothing comes.
    pub fn loss_deadline(&self) -> Instant {
        later(self.silent_since, self.loss_after)
    }

    /// When to look again: the next own beat or the loss, whichever comes first.
    pub fn next_deadline(&self) -> Instant {
        self.next_send.min(self.loss_deadline())
    }

    /// When the last beat of the peer came.
    pub fn last_received(&self) -> Option<Instant> {
        self.last_received
    }
}

/// `now + by`, or `now` plus a day where an instant cannot hold the sum.
fn later(now: Instant, by: Duration) -> Instant {
    now.checked_add(by).or_else(|| now.checked_add(Duration::from_secs(86_400))).unwrap_or(now)
}
