//! Records of framed tunnels: bytes as written in the description, every split, every truncation, every bad length.

use enclave_bridge_proto::{END_RECORD, RECORD_MAX_BYTES, RESET_RECORD, RecordError, RecordReader, next_record};
use proptest::prelude::*;

/// What a reader makes of pieces: payload, whether the direction ended, what failed.
type Read = (Vec<u8>, bool, Option<RecordError>);

fn read(pieces: &[&[u8]]) -> Read {
    let mut reader = RecordReader::new();
    let mut payload = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let count = reader.decode(&mut piece);
        payload.extend_from_slice(&piece[..count]);
    }
    reader.end_of_input();
    (payload, reader.has_ended(), reader.failure())
}

fn encode(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((header, payload, rest)) = next_record(bytes) {
        out.extend_from_slice(&header);
        out.extend_from_slice(payload);
        bytes = rest;
    }
    out
}

#[test]
fn records_are_the_bytes_of_the_description() {
    assert_eq!(encode(b"hello"), b"\x05\x00hello");
    assert_eq!(encode(b""), b"");
    assert_eq!((END_RECORD, RESET_RECORD), ([0, 0], [0xFF, 0xFF]));
    let two = encode(&[7; RECORD_MAX_BYTES + 1]);
    assert_eq!(two.len(), 32768 + 3);
    assert_eq!(two[..3], [0xFE, 0x7F, 7]);
    assert_eq!(two[32768..], [1, 0, 7]);
}

#[test]
fn ends_and_failures() {
    type Case = (&'static [u8], &'static [u8], bool, Option<RecordError>);
    let cases: &[Case] = &[
        (b"\0\0", b"", true, None),
        (b"\x02\0ab\0\0", b"ab", true, None),
        (b"", b"", false, Some(RecordError::Truncated)),
        (b"\x02\0ab", b"ab", false, Some(RecordError::Truncated)),
        (b"\x02\0a", b"a", false, Some(RecordError::Truncated)),
        (b"\x02", b"", false, Some(RecordError::Truncated)),
        (b"\x01\0a\xFF\xFF\x01\0b", b"a", false, Some(RecordError::Reset)),
        (b"\x01\0a\0\0\xFF\xFF", b"a", true, Some(RecordError::Reset)),
        (b"\x01\0a\0\0\x01\0b", b"a", true, Some(RecordError::AfterEnd)),
        (b"\x01\0a\0\0\0\0", b"a", true, Some(RecordError::AfterEnd)),
        (b"\x01\0a\0\0\0", b"a", true, Some(RecordError::Truncated)),
        (b"\xFF\x7F", b"", false, Some(RecordError::BadLength(32767))),
        (b"\x00\x80", b"", false, Some(RecordError::BadLength(32768))),
        (b"\xFE\xFF", b"", false, Some(RecordError::BadLength(65534))),
    ];
    for (bytes, payload, ended, failure) in cases {
        assert_eq!(read(&[bytes]), (payload.to_vec(), *ended, *failure), "{bytes:?}");
    }
}

#[test]
fn every_length_is_what_it_is_said_to_be() {
    for length in 0..=u16::MAX {
        let mut reader = RecordReader::new();
        assert_eq!(reader.decode(&mut length.to_le_bytes()), 0);
        let expected = match length {
            0..=32766 => None,
            0xFFFF => Some(RecordError::Reset),
            _ => Some(RecordError::BadLength(length)),
        };
        assert_eq!((reader.failure(), reader.has_ended()), (expected, length == 0), "{length}");
    }
}

fn wire() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let length = prop_oneof![4 => 1..10_usize, 2 => 1..2000_usize, 1 => 32_700..=RECORD_MAX_BYTES];
    prop::collection::vec((length, any::<u8>()), 0..12).prop_map(|records| {
        let (mut payload, mut wire) = (Vec::new(), Vec::new());
        for (length, seed) in records {
            let bytes: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            wire.extend_from_slice(&(length as u16).to_le_bytes());
            wire.extend_from_slice(&bytes);
            payload.extend_from_slice(&bytes);
        }
        wire.extend_from_slice(&[0, 0]);
        (payload, wire)
    })
}

fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_reads_the_same(
        (payload, wire) in wire(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        prop_assert!(read(&split(&wire, &cuts)) == (payload.clone(), true, None));
        let single: Vec<&[u8]> = wire.chunks(1).collect();
        prop_assert!(read(&single) == (payload, true, None));
    }

    #[test]
    fn decode_takes_back_what_encode_did(
        len in prop_oneof![0..200_usize, 0..150_000_usize],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let wire = [encode(&bytes), END_RECORD.to_vec()].concat();
        prop_assert!(read(&split(&wire, &cuts)) == (bytes, true, None));
    }

    #[test]
    fn every_truncation_is_a_failure_and_its_payload_a_prefix(
        (payload, wire) in wire(), cut in any::<prop::sample::Index>(),
    ) {
        let (got, ended, failure) = read(&[&wire[..cut.index(wire.len())]]);
        prop_assert!(payload.starts_with(&got));
        prop_assert_eq!((ended, failure), (false, Some(RecordError::Truncated)));
    }

    #[test]
    fn any_bytes_are_read_without_harm(
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xFF), any::<u8>()], 0..300),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let whole = read(&[&bytes]);
        prop_assert_eq!(&whole, &read(&split(&bytes, &cuts)));
        prop_assert!(whole.1 || whole.2.is_some(), "neither an end nor a failure");
    }
}
