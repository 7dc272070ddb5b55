//! The targets, a file for each. What a property is compared with is written plainly and shares nothing with the product.

pub(crate) mod beats;
mod definition;
pub(crate) mod environment;
pub(crate) mod first_bytes;
pub(crate) mod handshake_enclave;
pub(crate) mod handshake_host;
pub(crate) mod hybrid_line;
pub(crate) mod line_reader;
pub(crate) mod log_lines;
pub(crate) mod nak;
pub(crate) mod policy_addresses;
pub(crate) mod policy_rules;
pub(crate) mod policy_targets;
pub(crate) mod proxy_header;
pub(crate) mod records;
pub(crate) mod settings;
pub(crate) mod target_line;

use enclave_bridge_proto::{NAK_BYTE, NAK_MAX_BYTES, Nak};

/// What holds of every refusal: it is one line, within the wire's cap, and reads back.
fn check_nak(nak: &Nak) {
    let line = nak.encode();
    assert!(line.len() <= NAK_MAX_BYTES, "a refusal of {} bytes", line.len());
    assert_eq!(line.first(), Some(&NAK_BYTE));
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "a refusal is one line");
    assert!(is_plain(nak.sentence()), "a control character in a sentence");
    assert_eq!(Nak::parse(&line[..line.len() - 1]).as_ref(), Ok(nak), "a refusal reads back");
}

/// Whether a text stays on its line and moves no cursor.
fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}
