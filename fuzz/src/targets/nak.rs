//! Refusals: whatever sentence goes in, the line is one line within its cap and reads back; whatever line comes, what is
//! shown of it is harmless.

use enclave_bridge_proto::{NAK_BYTE, NAK_MAX_BYTES, Nak, NakCode, NakParseError};

use super::{check_nak, is_plain};
use crate::input::Input;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (choice, raw) = (usize::from(input.byte()), input.byte());
    let line = input.rest();
    let code = NakCode::ALL[choice % NakCode::ALL.len()];
    check_nak(&Nak::new(code, String::from_utf8_lossy(line)));
    read(line);
    if raw & 1 == 0 {
        read(&[&[NAK_BYTE], line].concat());
    } else {
        read(&[&[NAK_BYTE], code.as_str().as_bytes(), b" ", line].concat());
    }
}

fn read(line: &[u8]) {
    match Nak::parse(line) {
        Ok(nak) => {
            assert!(line.len() < NAK_MAX_BYTES && line.first() == Some(&NAK_BYTE));
            assert!(line[1..].starts_with(nak.code().as_str().as_bytes()), "the code is the line's");
            // A newline cannot be in a line; where one is given all the same, it becomes an escape like the others.
            check_nak(&nak);
        }
        Err(NakParseError::UnknownCode { code, sentence }) => {
            assert!(NakCode::ALL.iter().all(|known| known.as_str() != code));
            assert!(
                !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            );
            assert!(sentence.len() <= NAK_MAX_BYTES && is_plain(&sentence));
        }
        Err(NakParseError::TooLong) => assert!(line.len() >= NAK_MAX_BYTES),
        Err(NakParseError::NotANak) => assert!(line.first() != Some(&NAK_BYTE)),
        Err(NakParseError::BadCode) => {
            let code = line[1..].split(|byte| *byte == b' ').next().unwrap();
            assert!(
                code.is_empty() || !code.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
            );
        }
        Err(other) => panic!("{other}"),
    }
}
