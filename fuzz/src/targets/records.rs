//! Records of framed tunnels: the same payload, end or reset however the bytes are cut; an end only where there is the
//! record of one; what is written reads back, and cut short it is never an orderly end.

use enclave_bridge_proto::{
    END_RECORD, RECORD_HEADER_BYTES, RECORD_MAX_BYTES, RESET_RECORD, RecordError, RecordReader, next_record,
};

use crate::input::{Cut, Input};

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (flags, seed, at) = (input.byte(), input.u32(), usize::from(input.u16()));
    let rest = input.rest();
    same_however_cut(rest, seed);

    // What a relay writes: pieces of the stream as records, then an end, a reset, or neither. Seldom records of full size:
    // they take a hundred times as long as others.
    let repeated = if flags & 0xfc == 0xfc && at > 0xfff0 {
        rest.repeat(RECORD_MAX_BYTES / rest.len().max(1) + 2)
    } else {
        rest.to_vec()
    };
    let mut written = Vec::new();
    for piece in Cut::Odd(seed).pieces(&repeated) {
        let mut left = piece;
        while let Some((header, payload, more)) = next_record(left) {
            assert!((1..=RECORD_MAX_BYTES).contains(&payload.len()));
            written.extend_from_slice(&header);
            written.extend_from_slice(payload);
            assert!(more.len() < left.len());
            left = more;
        }
    }
    let data = written.len();
    match flags & 3 {
        0 | 1 => written.extend_from_slice(&END_RECORD),
        2 => written.extend_from_slice(&RESET_RECORD),
        _ => {}
    }
    let whole = same_however_cut(&written, seed);
    assert_eq!(whole.payload, repeated, "no byte is lost, moved or invented");
    match flags & 3 {
        0 | 1 => assert_eq!((whole.ended, whole.failure), (true, None), "an end"),
        2 => assert_eq!((whole.ended, whole.failure), (false, Some(RecordError::Reset)), "a reset"),
        _ => assert_eq!((whole.ended, whole.failure), (false, Some(RecordError::Truncated)), "neither"),
    }
    let short = &written[..at.min(written.len().saturating_sub(1))];
    let outcome = decode(&[short]);
    assert!(!outcome.ended && outcome.failure.is_some(), "a stream that is cut short has no orderly end");
    assert!(repeated.starts_with(&outcome.payload) && short.len() <= data + RECORD_HEADER_BYTES);
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    payload: Vec<u8>,
    ended: bool,
    /// With the end of the socket behind everything.
    failure: Option<RecordError>,
}

fn same_however_cut(stream: &[u8], seed: u32) -> Outcome {
    let expected = expected(stream);
    for cut in Cut::all(seed) {
        assert_eq!(decode(&cut.pieces(stream)), expected);
    }
    expected
}

fn decode(pieces: &[&[u8]]) -> Outcome {
    let mut reader = RecordReader::new();
    let mut payload = Vec::new();
    for piece in pieces {
        let failed = reader.failure();
        let at = payload.len();
        payload.extend_from_slice(piece);
        let taken = reader.decode(&mut payload[at..]);
        assert!(failed.is_none() || (taken == 0 && reader.failure() == failed), "what failed stays failed");
        payload.truncate(at + taken);
    }
    reader.end_of_input();
    Outcome { payload, ended: reader.has_ended(), failure: reader.failure() }
}

/// The definition, from the wire's description.
fn expected(stream: &[u8]) -> Outcome {
    let mut rest = stream;
    let (mut payload, mut ended) = (Vec::new(), false);
    let failure = loop {
        let Some((header, behind)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            break (!ended || !rest.is_empty()).then_some(RecordError::Truncated);
        };
        let length = u16::from_le_bytes(*header);
        match length {
            0xffff => break Some(RecordError::Reset),
            _ if ended => break Some(RecordError::AfterEnd),
            0 => ended = true,
            1..=32766 => {}
            _ => break Some(RecordError::BadLength(length)),
        }
        let (data, more) = behind.split_at(behind.len().min(length.into()));
        payload.extend_from_slice(data);
        if data.len() < length.into() {
            break Some(RecordError::Truncated);
        }
        rest = more;
    };
    Outcome { payload, ended, failure }
}
