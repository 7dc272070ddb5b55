//! The two lines of the hybrid transport: exactly the documented form is read, and what is written reads back.

use enclave_bridge_proto::{
    HYBRID_LINE_MAX_BYTES, encode_hybrid_connect, encode_hybrid_ok, parse_hybrid_connect, parse_hybrid_ok,
};

use crate::input::Input;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let number = input.u32();
    let line = input.rest();
    for (word, parsed) in [("CONNECT ", parse_hybrid_connect(line)), ("OK ", parse_hybrid_ok(line))] {
        assert_eq!(parsed.ok(), expected(word, line));
        if let Err(error) = parsed {
            assert!(error.to_string().len() < 80, "an error repeats nothing of the line");
        }
    }
    let connect = encode_hybrid_connect(number);
    let ok = encode_hybrid_ok(number);
    assert!(connect.len().max(ok.len()) <= HYBRID_LINE_MAX_BYTES + 1);
    assert_eq!(connect.strip_suffix(b"\n").map(parse_hybrid_connect), Some(Ok(number)));
    assert_eq!(ok.strip_suffix(b"\n").map(parse_hybrid_ok), Some(Ok(number)));
}

/// A word, one space, one to ten digits, a number of 32 bits.
fn expected(word: &str, line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(word.as_bytes())?;
    if !(1..=10).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    u32::try_from(number).ok()
}
