//! One end of a stream: speaks a pattern and hears another at the same time, in one thread, by readiness.
//!
//! What lives here: an end with its habits (slow, stalled, in single bytes, late) and its own faults, and what it found. A read
//! is tried before every write: an error belongs to the first call that meets it, and an end of input that came before a
//! reset must be seen as what it was.

mod drive;

use crate::bytes::{Hash, Pattern};
use crate::wire::Wire;
use drive::Talker;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

/// A socket of either side.
#[derive(Debug)]
pub enum Socket {
    /// Of a client or a server.
    Tcp(TcpStream),
    /// Of the enclave, its bytes as they are.
    Raw(Wire),
    /// Of the enclave, in records.
    Framed(Wire),
}

/// A stream of bytes that can be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Which bytes.
    pub seed: u64,
    /// How many; at least two.
    pub length: u64,
}

/// How bytes are handed to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    /// As many at once as it takes.
    Large,
    /// One at a time.
    Single,
    /// A few, or many.
    Uneven,
    /// After a short pause each.
    Late,
    /// A few hundred at a time, with up to a fifth of a second between them.
    Drip,
}

/// How bytes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All that is there.
    Eager,
    /// A few, with a pause after each read.
    Slow,
    /// Not at all for a while once so many have come.
    Stalled {
        /// Bytes before it.
        at: u64,
        /// How long.
        pause: Duration,
    },
}

/// When this end begins to speak, and when it says that it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Speaks at once, and ends when all is said.
    AtOnce,
    /// Speaks at once, and ends when the other has ended.
    EndsLast,
    /// Begins when the other has ended.
    SpeaksLast,
}

/// What an end does to its own stream, once it has spoken so many bytes; fewer than its blob, so it never ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A reset: linger 0 on TCP, the record for it on a framed stream.
    Reset,
    /// The socket of a framed stream ends behind the header of a record.
    CutInRecord,
    /// It has read nothing; when there is something to read it closes.
    CloseUnread,
}

/// Everything that one end is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is said.
    pub speak: Blob,
    /// What must be heard.
    pub hear: Blob,
    /// How it is said.
    pub pieces: Pieces,
    /// How it is heard.
    pub reading: Reading,
    /// In which order.
    pub turn: Turn,
    /// The last byte, and the end, wait until this is set.
    pub withheld: Option<Arc<AtomicBool>>,
    /// The fault of this end and after how many bytes.
    pub deed: Option<(Deed, u64)>,
    /// What was said of it before: the first bytes of the blob, which are not said again.
    pub spoken: u64,
    /// What was heard so far, for who watches.
    pub progress: Arc<AtomicU64>,
}

impl Plan {
    /// Without habits or faults.
    #[must_use]
    pub fn new(speak: Blob, hear: Blob) -> Plan {
        Plan {
            speak,
            hear,
            pieces: Pieces::Large,
            reading: Reading::Eager,
            turn: Turn::AtOnce,
            withheld: None,
            deed: None,
            spoken: 0,
            progress: Arc::default(),
        }
    }
}

/// How hearing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order.
    Clean,
    /// By an error, which was visible here.
    Cut(ErrorKind),
    /// By this end's own fault.
    Own,
    /// Not at all: nothing moved for a minute.
    Hung,
}

/// What one end did and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Bytes that were handed over.
    pub spoke: u64,
    /// Whether the end of what was spoken was said.
    pub ended: bool,
    /// Bytes that came.
    pub heard: u64,
    /// The place of the first byte that is not the one that was spoken there.
    pub altered_at: Option<u64>,
    /// The SHA-256 of what came.
    pub hash: Hash,
    /// How hearing ended.
    pub end: End,
}

/// Does all of `plan` on `socket`.
#[must_use]
pub fn talk(socket: Socket, plan: Plan) -> Told {
    Talker::new(socket, plan).run()
}

/// What one receiver found of what its sender said: nothing, or what is wrong with it.
///
/// # Errors
/// In words: a clean end of a short stream, bytes that nobody said, or no end at all.
pub fn judge(sender: &Told, said: Blob, receiver: &Told) -> Result<(), String> {
    if let Some(place) = receiver.altered_at {
        return Err(format!("byte {place} is not the one that was said"));
    }
    if receiver.heard > sender.spoke {
        return Err(format!("{} bytes came of {} that were said", receiver.heard, sender.spoke));
    }
    match receiver.end {
        End::Hung => Err(format!("hung after {} of {} bytes", receiver.heard, said.length)),
        End::Cut(_) | End::Own => Ok(()),
        End::Clean if !sender.ended => Err(format!("an end after {} bytes where nobody ended", receiver.heard)),
        End::Clean if receiver.heard != said.length => {
            Err(format!("a clean end after {} of {} bytes", receiver.heard, said.length))
        }
        End::Clean if receiver.hash != Pattern::hash(said.seed, said.length) => Err("another SHA-256".to_owned()),
        End::Clean => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    const SAID: Blob = Blob { seed: 1, length: 1000 };
    const HEARD: Blob = Blob { seed: 2, length: 1000 };

    /// An end whose other one says `bytes` and closes.
    fn hears(bytes: &[u8], socket: fn(Wire) -> Socket) -> Told {
        let (own, mut other) = UnixStream::pair().unwrap();
        let other_end = std::thread::spawn({
            let bytes = bytes.to_owned();
            move || {
                other.write_all(&bytes).unwrap();
                other.shutdown(std::net::Shutdown::Write).unwrap();
                std::io::copy(&mut other, &mut std::io::sink()).unwrap();
            }
        });
        let told = talk(socket(Wire::Unix(own)), Plan::new(SAID, HEARD));
        other_end.join().unwrap();
        told
    }

    fn pattern() -> Vec<u8> {
        let mut bytes = Vec::new();
        Pattern::new(HEARD.seed, HEARD.length).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn speaker(spoke: u64, ended: bool) -> Told {
        Told { spoke, ended, heard: 0, altered_at: None, hash: [0; 32], end: End::Clean }
    }

    #[test]
    fn what_came_whole_is_right() {
        let told = hears(&pattern(), Socket::Raw);
        assert_eq!((told.end, told.heard, told.ended, told.spoke), (End::Clean, 1000, true, 1000));
        assert_eq!(judge(&speaker(1000, true), HEARD, &told), Ok(()));
    }

    #[test]
    fn a_clean_end_of_a_short_stream_is_wrong() {
        let told = hears(&pattern()[..999], Socket::Raw);
        assert!(judge(&speaker(1000, true), HEARD, &told).unwrap_err().contains("999 of 1000"));
        assert!(judge(&speaker(999, false), HEARD, &told).unwrap_err().contains("nobody ended"));
    }

    #[test]
    fn another_byte_is_wrong_wherever_it_is() {
        for place in [0, 500, 999] {
            let mut bytes = pattern();
            bytes[place] ^= 1;
            let told = hears(&bytes, Socket::Raw);
            assert_eq!(told.altered_at, Some(place as u64));
            assert!(judge(&speaker(1000, true), HEARD, &told).is_err());
        }
        let mut more = pattern();
        more.push(0);
        assert_eq!(hears(&more, Socket::Raw).altered_at, Some(1000));
    }

    #[test]
    fn a_framed_stream_ends_by_its_record_only() {
        let mut records = 1000_u16.to_le_bytes().to_vec();
        records.extend_from_slice(&pattern());
        assert_eq!(hears(&records, Socket::Framed).end, End::Cut(ErrorKind::UnexpectedEof));
        let reset = [records.as_slice(), b"\xFF\xFF"].concat();
        assert_eq!(hears(&reset, Socket::Framed).end, End::Cut(ErrorKind::ConnectionReset));
        let ended = [records.as_slice(), b"\0\0"].concat();
        let told = hears(&ended, Socket::Framed);
        assert_eq!((told.end, told.heard), (End::Clean, 1000));
    }
}
