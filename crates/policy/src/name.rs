//! Host names: one spelling for each, and patterns of whole labels.

use std::fmt;

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("the name is empty or has an empty label")]
    EmptyLabel,
    #[error("the name is longer than DNS allows (253 bytes, 63 for a label)")]
    TooLong,
    #[error("not an internationalised name that can be written in ASCII")]
    NotIdna,
    #[error("a host name has only letters, digits, '-' and '_' between its dots")]
    BadCharacter,
    #[error("ends in a number, so it can only be an IPv4 address, which is written as four decimal numbers")]
    EndsInNumber,
}

/// Bytes of a name without its trailing dot: RFC 1035's 255 octets of wire form, less the length of the first label and the root.
const NAME_MAX_BYTES: usize = 253;
/// Bytes of a label: RFC 1035, six bits of length.
const LABEL_MAX_BYTES: usize = 63;

/// One spelling for every way of writing a name: lower case, IDNA in ASCII, no trailing dot.
///
/// A name whose last label is a number is refused: resolvers take it for an IPv4 address in short, octal or hexadecimal form.
pub(crate) fn normalise(raw: &str) -> Result<String, NameError> {
    let trimmed = raw.strip_suffix('.').unwrap_or(raw);
    if trimmed.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong);
    }
    let ascii = idna::domain_to_ascii(trimmed).map_err(|_| NameError::NotIdna)?;
    // IDNA maps other full stops (U+3002) to dots, so a trailing one may only now be seen: that is an empty label.
    if ascii.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong);
    }
    for label in ascii.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if label.len() > LABEL_MAX_BYTES {
            return Err(NameError::TooLong);
        }
        if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
        {
            return Err(NameError::BadCharacter);
        }
    }
    if ends_in_number(&ascii) {
        return Err(NameError::EndsInNumber);
    }
    Ok(ascii)
}

/// The URL standard's test for "this can only be an IPv4 address": the last label is decimal, octal or hexadecimal digits.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// A name or a pattern: `*` stands for exactly one label, `**` for one or more, both only as whole labels at the front.
///
/// `*.example.org` is met by `a.example.org`, not by `example.org` nor `a.b.example.org`; `**.example.org` is met by the first
/// and the last of these. Only the first label may be `**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamePattern {
    front: Front,
    /// How many single labels precede the suffix (besides a `**`).
    stars: usize,
    /// Normalised labels that must stand at the end; empty if the pattern is nothing but wildcards.
    suffix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Exact,
    Any,
}

/// Why a text is no pattern of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("'*' and '**' stand for whole labels at the front of a name, as in *.example.org")]
    MisplacedWildcard,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl NamePattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut rest = text;
        let mut front = Front::Exact;
        let mut stars = 0;
        let mut first = true;
        loop {
            let (label, after) = rest.split_once('.').map_or((rest, None), |(label, after)| (label, Some(after)));
            match label {
                "**" if first => front = Front::Any,
                "*" => stars += 1,
                _ => break,
            }
            first = false;
            match after {
                Some(after) => rest = after,
                None => return Ok(Self { front, stars, suffix: String::new() }),
            }
        }
        if rest.contains('*') {
            return Err(PatternError::MisplacedWildcard);
        }
        Ok(Self { front, stars, suffix: normalise(rest)? })
    }

    /// Whether the pattern can be met by more than one name.
    pub(crate) fn is_wildcard(&self) -> bool {
        self.front == Front::Any || self.stars > 0
    }

    /// Whether a normalised name meets the pattern.
    pub(crate) fn matches(&self, name: &str) -> bool {
        if !self.is_wildcard() {
            return name == self.suffix;
        }
        let before = if self.suffix.is_empty() {
            name
        } else {
            let Some(before) = name.strip_suffix(self.suffix.as_str()).and_then(|before| before.strip_suffix('.'))
            else {
                return false;
            };
            before
        };
        if before.is_empty() {
            return false;
        }
        let labels = before.split('.').count();
        match self.front {
            Front::Exact => labels == self.stars,
            Front::Any => labels > self.stars,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels = Vec::new();
        if self.front == Front::Any {
            labels.push("**");
        }
        labels.extend(std::iter::repeat_n("*", self.stars));
        if !self.suffix.is_empty() {
            labels.push(&self.suffix);
        }
        f.write_str(&labels.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each_name() {
        for (raw, expected) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("example。org", "example.org"),
            ("ｅｘａｍｐｌｅ.org", "example.org"),
            ("_sip._tcp.example.org", "_sip._tcp.example.org"),
            ("r3---sn-x.example", "r3---sn-x.example"),
            ("localhost", "localhost"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("0xg", "0xg"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn what_is_no_name() {
        for (raw, expected) in [
            ("", NameError::EmptyLabel),
            (".", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a..", NameError::EmptyLabel),
            ("a b", NameError::BadCharacter),
            ("fe80::1%eth0", NameError::BadCharacter),
            ("user@host", NameError::BadCharacter),
            ("xn--a", NameError::NotIdna),
            ("127.1", NameError::EndsInNumber),
            ("2130706433", NameError::EndsInNumber),
            ("0x7f000001", NameError::EndsInNumber),
            ("0X7F.1", NameError::EndsInNumber),
            ("0177.0.0.1", NameError::EndsInNumber),
            ("127.0.0.0x", NameError::EndsInNumber),
            ("127.0.0.1.", NameError::EndsInNumber),
            ("１２７.０.０.１", NameError::EndsInNumber),
            ("127。0。0。1", NameError::EndsInNumber),
            ("foo.1", NameError::EndsInNumber),
        ] {
            assert_eq!(normalise(raw), Err(expected), "{raw}");
        }
        assert_eq!(normalise(&"a".repeat(64)), Err(NameError::TooLong));
        assert_eq!(normalise(&"a.".repeat(127)), Ok(["a"; 127].join(".")));
        assert_eq!(normalise(&format!("{}aa", "a.".repeat(126))), Err(NameError::TooLong));
    }

    /// The first four rows are the cases of enclaver's own matcher, whose meaning this pattern has. Its wildcard in the middle
    /// (`foo.*.com`) is refused here, and so is its `**` behind another label, which there makes all before it meaningless.
    #[test]
    fn patterns() {
        for (pattern, met, not_met) in [
            ("example.com", vec!["example.com"], vec!["example.net", "foo.com", "abc.example.com", "example"]),
            ("*.com", vec!["example.com", "cnn.com"], vec!["example.net", "news.ycombinator.com", "com", "a.b.c.com"]),
            (
                "**.amazonaws.com",
                vec!["kms.us-east-1.amazonaws.com", "s3.amazonaws.com"],
                vec!["amazonaws.com", "example.com", "xamazonaws.com"],
            ),
            ("**", vec!["a", "a.b", "a.b.c"], vec![]),
            ("*", vec!["a"], vec!["a.b"]),
            ("*.*.org", vec!["a.b.org"], vec!["a.org", "a.b.c.org"]),
            ("**.*.org", vec!["a.b.org", "a.b.c.org"], vec!["a.org", "org"]),
            ("*.Example.ORG.", vec!["a.example.org"], vec!["example.org", "notexample.org", "a.notexample.org"]),
        ] {
            let pattern = NamePattern::parse(pattern).unwrap();
            for name in met {
                assert!(pattern.matches(name), "{pattern} {name}");
            }
            for name in not_met {
                assert!(!pattern.matches(name), "{pattern} {name}");
            }
        }
        for text in ["foo.*.com", "foo.*", "a*.com", "*a.com", "***.com", "*.**.com", "foo.**"] {
            assert_eq!(NamePattern::parse(text), Err(PatternError::MisplacedWildcard), "{text}");
        }
        assert_eq!(NamePattern::parse("*."), Err(PatternError::Name(NameError::EmptyLabel)));
    }
}
