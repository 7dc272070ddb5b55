//! The two lines of the hybrid transport, by which the host reaches a port of a guest through a Unix socket.

/// The longest of either line in bytes, its `0A` not counted. The longest right one has 18.
pub const HYBRID_LINE_MAX_BYTES: usize = 32;

/// A line is not the one that the hybrid transport has in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of the form \"{expected} <number>\"")]
pub struct HybridLineError {
    /// The word that was to stand there.
    pub expected: &'static str,
}

/// `CONNECT <port>` with its `0A`: what the host asks for.
pub fn encode_hybrid_connect(port: u32) -> Vec<u8> {
    format!("{CONNECT} {port}\n").into_bytes()
}

/// `OK <number>` with its `0A`: the answer once the guest has taken the connection. The number is a port of the
/// device's choice and means nothing.
pub fn encode_hybrid_ok(number: u32) -> Vec<u8> {
    format!("{OK} {number}\n").into_bytes()
}

/// The port of a `CONNECT` line, given without its `0A`.
///
/// # Errors
/// It is no such line.
pub fn parse_hybrid_connect(line: &[u8]) -> Result<u32, HybridLineError> {
    parse(line, CONNECT)
}

/// The number of an `OK` line, given without its `0A`.
///
/// # Errors
/// It is no such line.
pub fn parse_hybrid_ok(line: &[u8]) -> Result<u32, HybridLineError> {
    parse(line, OK)
}

const CONNECT: &str = "CONNECT";
const OK: &str = "OK";

fn parse(line: &[u8], word: &'static str) -> Result<u32, HybridLineError> {
    let number = || {
        let text = std::str::from_utf8(line).ok()?;
        let digits = text.strip_prefix(word)?.strip_prefix(' ')?;
        let plain = (1..=10).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse().ok() } else { None }
    };
    number().ok_or(HybridLineError { expected: word })
}
