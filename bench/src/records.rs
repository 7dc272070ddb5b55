//! The server's end of a stream: its bytes as they are, or in the records of a framed tunnel, written from the wire's
//! description and not with the bridge's code.

use crate::socket::Stream;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

/// The largest payload of a record: with its length it makes 32 KiB.
const RECORD_MAX_BYTES: usize = 32766;

/// Bytes of a record's length.
const LENGTH_BYTES: usize = 2;

/// The record that ends a direction.
const END: [u8; LENGTH_BYTES] = [0, 0];

/// Records that one write carries: bulk is written in blocks of 64 KiB, framed or not.
const RECORDS_PER_WRITE: usize = 2;

/// Payload of a write that is records of the largest size and nothing else.
pub(crate) const BULK_BYTES: usize = RECORDS_PER_WRITE * RECORD_MAX_BYTES;

/// What the bytes of a stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The payload.
    Raw,
    /// Records.
    Framed,
}

/// A stream in one of the two forms.
#[derive(Debug)]
pub(crate) struct Served {
    stream: Stream,
    records: Option<Records>,
}

impl Served {
    /// A stream before its first byte of payload.
    pub(crate) fn new(stream: Stream, form: Form) -> Served {
        let records = match form {
            Form::Raw => None,
            Form::Framed => Some(Records::default()),
        };
        Served { stream, records }
    }

    /// The socket, for what is done to raw streams only.
    pub(crate) fn into_raw(self) -> io::Result<Stream> {
        if self.records.is_some() { Err(ErrorKind::Unsupported.into()) } else { Ok(self.stream) }
    }

    /// The bytes of a block of bulk that go out as one write of whole records, if there are records.
    pub(crate) fn block<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        match &self.records {
            None => block,
            Some(_) => block.get(..BULK_BYTES).unwrap_or(block),
        }
    }

    /// The next payload, at the front of `buffer`; 0 bytes are the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.take(buffer, |buffer, from, to, length| {
            if from != to {
                buffer.copy_within(from..from + length, to);
            }
        })
    }

    /// How much payload came next, for who only counts it: nothing is moved.
    pub(crate) fn count(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.take(buffer, |_, _, _, _| {})
    }

    fn take(&mut self, buffer: &mut [u8], mut place: impl FnMut(&mut [u8], usize, usize, usize)) -> io::Result<usize> {
        loop {
            if self.records.as_ref().is_some_and(|records| records.has_ended) {
                return Ok(0);
            }
            let read = read_once(&self.stream, buffer)?;
            let Some(records) = &mut self.records else { return Ok(read) };
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let came = buffer.get_mut(..read).unwrap_or_default();
            match records.pass(came, &mut place)? {
                0 => {}
                payload => return Ok(payload),
            }
        }
    }

    /// All of it, in as few writes as the form allows.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.records.is_none() {
            return (&self.stream).write_all(bytes);
        }
        for block in bytes.chunks(BULK_BYTES) {
            let (one, other) = block.split_at_checked(RECORD_MAX_BYTES).unwrap_or((block, &[]));
            let lengths = (length_of(one)?, length_of(other)?);
            let parts = [&lengths.0[..], one, &lengths.1, other].map(IoSlice::new);
            let parts = if other.is_empty() { parts.first_chunk::<2>().map_or(&[][..], |parts| parts) } else { &parts };
            write_parts(&self.stream, parts)?;
        }
        Ok(())
    }

    /// Ends the writing direction.
    pub(crate) fn end_writing(&mut self) -> io::Result<()> {
        match &self.records {
            None => self.stream.end_writing(),
            Some(_) => (&self.stream).write_all(&END),
        }
    }

    /// What a server does last: a close is the end of a raw direction, a framed one has to say it.
    pub(crate) fn close(mut self) -> io::Result<()> {
        match &self.records {
            None => Ok(()),
            Some(_) => self.end_writing(),
        }
    }
}

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Records {
    /// The first byte of a length whose second is still to come.
    half: Option<u8>,
    /// Payload of the current record that is still to come.
    left: usize,
    has_ended: bool,
}

impl Records {
    /// Walks over what came and says of each piece of payload from where, to where and how much; the sum of them.
    fn pass(&mut self, came: &mut [u8], place: &mut impl FnMut(&mut [u8], usize, usize, usize)) -> io::Result<usize> {
        let (mut at, mut payload) = (0, 0);
        while at < came.len() {
            if self.left > 0 {
                let length = self.left.min(came.len() - at);
                place(came, at, payload, length);
                at += length;
                payload += length;
                self.left -= length;
                continue;
            }
            let byte = came.get(at).copied().unwrap_or_default();
            at += 1;
            let Some(first) = self.half.take() else {
                self.half = Some(byte);
                continue;
            };
            match usize::from(u16::from_le_bytes([first, byte])) {
                _ if self.has_ended => return Err(ErrorKind::InvalidData.into()),
                0 => self.has_ended = true,
                0xffff => return Err(ErrorKind::ConnectionReset.into()),
                length if length > RECORD_MAX_BYTES => return Err(ErrorKind::InvalidData.into()),
                length => self.left = length,
            }
        }
        Ok(payload)
    }
}

fn length_of(payload: &[u8]) -> io::Result<[u8; LENGTH_BYTES]> {
    u16::try_from(payload.len()).map(u16::to_le_bytes).map_err(|_| ErrorKind::InvalidInput.into())
}

/// Writes all parts, what the socket does not take at once in further writes.
fn write_parts(mut stream: &Stream, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let mut written = loop {
        match stream.write_vectored(parts) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => break written,
        }
    };
    // A blocking socket takes everything unless a signal or its time limit comes between.
    for part in parts {
        let rest = part.get(written.min(part.len())..).unwrap_or_default();
        written = written.saturating_sub(part.len());
        stream.write_all(rest)?;
    }
    Ok(())
}

fn read_once(mut stream: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, Served) {
        let (peer, ours) = UnixStream::pair().unwrap();
        (peer, Served::new(Stream::Unix(ours), Form::Framed))
    }

    fn block() -> Vec<u8> {
        [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89].iter().copied().cycle().take(3 * BULK_BYTES + 5).collect()
    }

    #[test]
    fn records_go_out_as_the_wire_describes_them() {
        let (mut peer, mut ours) = pair();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all
        });
        ours.write_all(b"hello").unwrap();
        ours.write_all(&block()).unwrap();
        ours.close().unwrap();
        let all = reading.join().unwrap();
        assert_eq!(&all[..7], b"\x05\x00hello");
        assert_eq!(&all[7..9], b"\xfe\x7f");
        assert!(all.ends_with(&[0, 0]));
        assert_eq!(all.len(), 7 + block().len() + 7 * LENGTH_BYTES + END.len());
    }

    #[test]
    fn payload_comes_out_of_records_that_arrive_in_any_pieces() {
        let records = b"\x05\x00hello\x01\x00,\x06\x00 world\x00\x00";
        for step in 1..=records.len() {
            let (mut reader, mut payload) = (Records::default(), Vec::new());
            for piece in records.chunks(step) {
                let mut piece = piece.to_vec();
                let mut moving = |buffer: &mut [u8], from: usize, to: usize, length: usize| {
                    buffer.copy_within(from..from + length, to);
                };
                let count = reader.pass(&mut piece, &mut moving).unwrap();
                payload.extend_from_slice(&piece[..count]);
            }
            assert_eq!(payload, b"hello, world", "in steps of {step}");
            assert!(reader.has_ended);
        }
    }

    #[test]
    fn a_reset_and_an_end_without_a_record_are_no_ends() {
        for bytes in [&b"\x01\x00a\xff\xff"[..], b"\x01\x00a"] {
            let (mut peer, mut ours) = pair();
            peer.write_all(bytes).unwrap();
            drop(peer);
            let mut buffer = [0; 64];
            let mut last = Ok(1);
            while matches!(last, Ok(count) if count > 0) {
                last = ours.read(&mut buffer);
            }
            assert!(last.is_err(), "{bytes:?}: {last:?}");
        }
    }

    #[test]
    fn counting_and_reading_see_the_same() {
        let (mut peer, mut ours) = pair();
        let writing = std::thread::spawn(move || {
            let (_, mut theirs) = (0, Served::new(Stream::Unix(peer.try_clone().unwrap()), Form::Framed));
            theirs.write_all(&block()).unwrap();
            theirs.end_writing().unwrap();
            let mut rest = Vec::new();
            peer.read_to_end(&mut rest).unwrap();
        });
        let mut buffer = vec![0; 50_000];
        let mut sum = ours.read(&mut buffer).unwrap();
        assert_eq!(buffer[..sum], block()[..sum]);
        loop {
            match ours.count(&mut buffer).unwrap() {
                0 => break,
                count => sum += count,
            }
        }
        assert_eq!(sum, block().len());
        drop(ours);
        writing.join().unwrap();
    }
}
