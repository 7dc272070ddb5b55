//! Records of a framed tunnel: encoding, and taking the payload out in place. Only the payload of a stream is framed;
//! what stands before it (the address line and its answer, the PROXY header) is not read here.

/// Bytes of a record's length, little-endian, before its payload.
pub const RECORD_HEADER_BYTES: usize = 2;

/// The largest payload of a record: with its header it fills one write of 32 KiB, the most that may go to a vsock.
pub const RECORD_MAX_BYTES: usize = 32 * 1024 - RECORD_HEADER_BYTES;

/// The record that ends its direction.
pub const END_RECORD: [u8; RECORD_HEADER_BYTES] = [0x00, 0x00];

/// The record that resets the stream.
pub const RESET_RECORD: [u8; RECORD_HEADER_BYTES] = [0xFF, 0xFF];

/// The first record of `bytes`: its header, its payload, and what is left for further records. `None` where there is
/// nothing to send.
pub fn next_record(bytes: &[u8]) -> Option<([u8; RECORD_HEADER_BYTES], &[u8], &[u8])> {
    let (payload, rest) = bytes.split_at_checked(RECORD_MAX_BYTES).unwrap_or((bytes, &[]));
    let length = u16::try_from(payload.len()).ok().filter(|length| *length > 0)?;
    Some((length.to_le_bytes(), payload, rest))
}

/// Why a framed direction is no longer one. Each is a reset of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The peer sent the record that resets.
    #[error("framed stream: reset by the peer")]
    Reset,
    /// A length that no record has.
    #[error("framed stream: a record of {0} bytes, of which {RECORD_MAX_BYTES} are the most")]
    BadLength(u16),
    /// Something other than a reset followed the record that ends the direction.
    #[error("framed stream: bytes after its end")]
    AfterEnd,
    /// The socket ended without the record that ends the direction.
    #[error("framed stream: the connection ended without the end of the stream")]
    Truncated,
}

/// Takes one direction's payload out of its records, whatever pieces they arrive in.
///
/// It holds no payload: what is whole of a piece is handed out with it, and what it keeps is its place.
#[derive(Clone, Debug, Default)]
pub struct RecordReader {
    place: Place,
    ended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Header,
    /// Behind the first byte of a header.
    SecondByte(u8),
    /// Before so many bytes of payload.
    Payload(usize),
    Failed(RecordError),
}

impl RecordReader {
    /// A reader before the first record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and moves their payload to the front; returns how many bytes of it there are. Whether the
    /// direction has ended or failed behind them is what [`has_ended`](Self::has_ended) and [`failure`](Self::failure)
    /// say then.
    pub fn decode(&mut self, bytes: &mut [u8]) -> usize {
        let (mut read, mut payload) = (0_usize, 0_usize);
        while let Some(&byte) = bytes.get(read) {
            match self.place {
                Place::Header => {
                    self.place = Place::SecondByte(byte);
                    read += 1;
                }
                Place::SecondByte(first) => {
                    self.place = self.begin([first, byte]);
                    read += 1;
                }
                Place::Payload(left) => {
                    let taken = left.min(bytes.len() - read);
                    // Bulk data is cut in the middle of a record, so much of it stands in its place already.
                    if payload != read {
                        bytes.copy_within(read..read + taken, payload);
                    }
                    read += taken;
                    payload += taken;
                    self.place = if taken == left { Place::Header } else { Place::Payload(left - taken) };
                }
                Place::Failed(_) => break,
            }
        }
        payload
    }

    fn begin(&mut self, header: [u8; RECORD_HEADER_BYTES]) -> Place {
        match (header, self.ended) {
            (RESET_RECORD, _) => Place::Failed(RecordError::Reset),
            (_, true) => Place::Failed(RecordError::AfterEnd),
            (END_RECORD, false) => {
                self.ended = true;
                Place::Header
            }
            (header, false) => {
                let length = u16::from_le_bytes(header);
                match usize::from(length) {
                    payload if payload <= RECORD_MAX_BYTES => Place::Payload(payload),
                    _ => Place::Failed(RecordError::BadLength(length)),
                }
            }
        }
    }

    /// The socket has ended: a failure, unless the direction had ended before.
    pub fn end_of_input(&mut self) {
        match self.place {
            Place::Header if self.ended => {}
            Place::Failed(_) => {}
            Place::Header | Place::SecondByte(_) | Place::Payload(_) => {
                self.place = Place::Failed(RecordError::Truncated);
            }
        }
    }

    /// Whether the record that ends the direction has come. A failure behind it is told by [`failure`](Self::failure).
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What went wrong, from then on for ever.
    pub fn failure(&self) -> Option<RecordError> {
        match self.place {
            Place::Failed(error) => Some(error),
            Place::Header | Place::SecondByte(_) | Place::Payload(_) => None,
        }
    }
}
