//! The line reader: the same lines however the bytes are cut, never more than the cap held, nothing behind a newline taken.

use enclave_bridge_proto::{LineProgress, LineReader};

use crate::input::{Cut, Input};

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (cap, seed) = (usize::from(input.u16() % 300), input.u32());
    let stream = input.rest();
    let expected = expected(stream, cap);
    for cut in Cut::all(seed) {
        assert_eq!(read(&cut.pieces(stream), cap), expected);
    }
}

/// Whole lines, then what there is of the next one, or `None` where a line was too long.
type Lines<'a> = (Vec<Vec<u8>>, Option<Vec<u8>>);

fn expected(stream: &[u8], cap: usize) -> Lines<'_> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for part in stream.split_inclusive(|byte| *byte == b'\n') {
        let line = part.strip_suffix(b"\n");
        let (body, whole) = (line.unwrap_or(part), line.is_some());
        match (body.len() > cap, whole) {
            (true, _) => return (lines, None),
            (false, true) => lines.push(body.to_vec()),
            (false, false) => return (lines, Some(body.to_vec())),
        }
    }
    (lines, Some(Vec::new()))
}

fn read<'a>(pieces: &[&[u8]], cap: usize) -> Lines<'a> {
    let mut reader = LineReader::new(cap);
    let mut lines = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let progress = reader.push(rest);
            assert!(reader.len() <= cap, "{} bytes held", reader.len());
            match progress {
                LineProgress::NeedMore => break,
                LineProgress::TooLong => {
                    assert!(reader.is_empty());
                    assert_eq!(reader.push(b"\n"), LineProgress::TooLong, "too long stays too long");
                    return (lines, None);
                }
                LineProgress::Line { consumed } => {
                    assert_eq!(rest[..consumed].iter().filter(|byte| **byte == b'\n').count(), 1);
                    assert_eq!(rest[consumed - 1], b'\n');
                    assert_eq!(reader.push(rest), LineProgress::Line { consumed: 0 }, "the line was not taken yet");
                    lines.push(reader.take_line());
                    rest = &rest[consumed..];
                }
            }
        }
    }
    (lines, Some(reader.take_line()))
}
