//! Drawing the id of a session.

use enclave_bridge_proto::EnclaveId;

use crate::Error;

/// How often an id is drawn before the source of randomness is called broken. One in 18.8 random ids holds `0A`: a
/// thousand in a row do not.
const DRAWS_MAX: usize = 1000;

/// A random UUID of version 4 without a byte `0A`: a version-1 bridge reads a beat up to the first `0A` and breaks on
/// any other. It cannot begin like a handshake (`06 0A`) either.
pub(crate) fn draw() -> Result<EnclaveId, Error> {
    for _ in 0..DRAWS_MAX {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).map_err(Error::Random)?;
        if let Some(id) = from_random(bytes) {
            return Ok(id);
        }
    }
    Err(Error::Random(getrandom::Error::UNEXPECTED))
}

fn from_random(bytes: [u8; 16]) -> Option<EnclaveId> {
    let [a, b, c, d, e, f, version, h, variant, rest @ ..] = bytes;
    let [j, k, l, m, n, o, p] = rest;
    let (version, variant) = (version & 0x0F | 0x40, variant & 0x3F | 0x80);
    let bytes = [a, b, c, d, e, f, version, h, variant, j, k, l, m, n, o, p];
    if bytes.contains(&0x0A) { None } else { EnclaveId::from_bytes(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_version_4_and_hold_no_newline() {
        for _ in 0..2000 {
            let id = draw().unwrap();
            let bytes = id.as_bytes();
            assert!(!bytes.contains(&0x0A));
            assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (4, 2));
        }
    }

    #[test]
    fn an_id_with_a_newline_anywhere_is_drawn_again() {
        for position in [0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 14, 15] {
            let mut bytes = [0x55; 16];
            bytes[position] = 0x0A;
            assert!(from_random(bytes).is_none(), "{position}");
        }
        assert!(from_random([0x0A; 16]).is_none());
        assert!(from_random([0x55; 16]).is_some());
    }
}
