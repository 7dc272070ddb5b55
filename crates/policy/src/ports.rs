//! TCP ports as text: `443`, `1-1024`, lists of both, and `*` in rules.

use std::fmt;
use std::str::FromStr;

/// What is wrong with a port, a range or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortRangesError {
    /// Nothing stands where a port is expected.
    #[error("a port is missing")]
    Empty,
    /// Not a decimal number.
    #[error("{0:?} is not a port: ports are written as 443 or 1-1024")]
    NotANumber(String),
    /// A number that no TCP port has.
    #[error("port {0} is outside 1 to 65535")]
    OutOfRange(String),
    /// The range ends before it begins.
    #[error("range {0}-{1} ends before it begins")]
    Backwards(u16, u16),
}

/// An inclusive range of TCP ports, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    pub(crate) const ALL: Self = Self { first: 1, last: u16::MAX };

    pub(crate) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = PortRangesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first.trim(), text)?, port(last.trim(), text)?),
            None => {
                let only = port(text, text)?;
                (only, only)
            }
        };
        if last < first {
            return Err(PortRangesError::Backwards(first, last));
        }
        Ok(Self { first, last })
    }
}

fn port(text: &str, whole: &str) -> Result<u16, PortRangesError> {
    if whole.is_empty() {
        return Err(PortRangesError::Empty);
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PortRangesError::NotANumber(whole.to_owned()));
    }
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(PortRangesError::OutOfRange(text.to_owned())),
        Ok(port) => Ok(port),
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A set of TCP ports, written as `1024-65535` or `8080,9000-9010`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRanges {
    ranges: Vec<PortRange>,
}

impl PortRanges {
    /// The empty set: no port at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether `port` is in the set; 0 never is.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(port))
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromStr for PortRanges {
    type Err = PortRangesError;

    /// Reads a comma-separated list of ports and ranges; an empty list is an error, [`PortRanges::none`] says it in code.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ranges = text.split(',').map(|item| item.trim().parse()).collect::<Result<Vec<PortRange>, _>>()?;
        Ok(Self { ranges })
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranges.is_empty() {
            return f.write_str("none");
        }
        for (index, range) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read_and_written() {
        let ranges: PortRanges = "8080, 9000-9010".parse().unwrap();
        assert!(ranges.contains(8080) && ranges.contains(9000) && ranges.contains(9010));
        assert!(!ranges.contains(8081) && !ranges.contains(8999) && !ranges.contains(9011) && !ranges.contains(0));
        assert_eq!(ranges.to_string(), "8080,9000-9010");
        assert!(!ranges.is_empty());
        assert!(PortRanges::none().is_empty() && !PortRanges::none().contains(1));
    }

    #[test]
    fn errors_name_the_text() {
        for (text, message) in [
            ("", "a port is missing"),
            ("80,", "a port is missing"),
            ("http", "\"http\" is not a port: ports are written as 443 or 1-1024"),
            ("+80", "\"+80\" is not a port: ports are written as 443 or 1-1024"),
            ("1-", "\"1-\" is not a port: ports are written as 443 or 1-1024"),
            ("0", "port 0 is outside 1 to 65535"),
            ("1-65536", "port 65536 is outside 1 to 65535"),
            ("90-80", "range 90-80 ends before it begins"),
        ] {
            assert_eq!(text.parse::<PortRanges>().unwrap_err().to_string(), message, "{text}");
        }
    }
}
