//! Sizes in memory as an operator writes them: a whole number with its unit, `KiB` or `MiB`.

use thiserror::Error;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * 1024;

/// What is wrong with a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum SizeError {
    #[error("{0:?} has no unit: write it as 32KiB or 4MiB")]
    NoUnit(String),
    #[error("{0:?} is no size: a whole number and KiB or MiB, as in 32KiB or 4MiB")]
    NoSize(String),
}

/// The bytes of a size.
pub(super) fn parse_size(text: &str) -> Result<u32, SizeError> {
    let units = [("KiB", KIB), ("MiB", MIB)];
    let Some((number, unit)) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), unit)))
    else {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        return Err(if digits { SizeError::NoUnit(text.to_owned()) } else { SizeError::NoSize(text.to_owned()) });
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = number.parse::<u32>().ok().filter(|_| digits).and_then(|number| number.checked_mul(*unit));
    bytes.ok_or_else(|| SizeError::NoSize(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(parse_size("32KiB"), Ok(32 * 1024));
        assert_eq!(parse_size("4 MiB"), Ok(4 * 1024 * 1024));
        assert_eq!(parse_size("32768"), Err(SizeError::NoUnit("32768".to_owned())));
        for bad in ["", "KiB", "1.5MiB", "-1KiB", "+1KiB", "4MB", "4mib", "99999999MiB"] {
            assert_eq!(parse_size(bad), Err(SizeError::NoSize(bad.to_owned())), "{bad}");
        }
    }
}
