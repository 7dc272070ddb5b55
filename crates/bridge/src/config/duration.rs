//! Durations as people write them: `500ms`, `30s`, `1m 30s`, `2h`, `7d`.

use std::time::Duration;

/// What is wrong with the text of a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// Nothing stands there.
    #[error("the duration is empty: write it as 30s, 2m or 1m 30s")]
    Empty,
    /// A number without its unit.
    #[error("{0:?} has no unit: write it as 30s, 2m or 1m 30s")]
    NoUnit(String),
    /// Something else.
    #[error("{0:?} is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s")]
    Malformed(String),
    /// More than 64 bits of milliseconds.
    #[error("{0:?} is too long")]
    TooLong(String),
}

/// Units from the largest, in milliseconds; a duration names them in this order, each at most once.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration: whole numbers with the units `d h m s ms`, from the largest to the smallest, with or without spaces.
///
/// # Errors
/// What is wrong with it, with the text.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let too_long = || DurationError::TooLong(text.to_owned());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (digits, after) = split(rest, |byte| byte.is_ascii_digit());
        let (unit, after) = split(after, |byte| byte.is_ascii_alphabetic());
        if digits.is_empty() {
            return Err(malformed());
        }
        if unit.is_empty() {
            return Err(if after.is_empty() { DurationError::NoUnit(text.to_owned()) } else { malformed() });
        }
        let (_, milliseconds) = units.find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let amount: u64 = digits.parse().map_err(|_| too_long())?;
        let part = amount.checked_mul(*milliseconds).ok_or_else(too_long)?;
        total = total.checked_add(part).ok_or_else(too_long)?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(total))
}

/// The longest beginning of ASCII bytes that are `wanted`, and the rest.
fn split(text: &str, wanted: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !wanted(byte)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("1m 30s", 90_000),
            ("1m30s", 90_000),
            (" 1h 1ms ", 3_600_001),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, message) in [
            ("", "the duration is empty: write it as 30s, 2m or 1m 30s"),
            ("30", "\"30\" has no unit: write it as 30s, 2m or 1m 30s"),
            ("1m 30", "\"1m 30\" has no unit: write it as 30s, 2m or 1m 30s"),
            ("s", "\"s\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("-5s", "\"-5s\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("1.5s", "\"1.5s\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("30s 1m", "\"30s 1m\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("1s 1s", "\"1s 1s\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("5 s", "\"5 s\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("1w", "\"1w\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("5é", "\"5é\" is no duration: write it as 500ms, 30s, 2m, 1h or 1m 30s"),
            ("99999999999999999999s", "\"99999999999999999999s\" is too long"),
            ("999999999999999d", "\"999999999999999d\" is too long"),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
