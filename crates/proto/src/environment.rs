//! The environment that the host sends, and what the bridge announces in it. Which variables go is policy.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};

use crate::json::Node;
use crate::text::quoted;

/// The longest environment line in bytes, its `0A` not counted; a process's own environment has a like bound.
pub const ENVIRONMENT_MAX_BYTES: usize = 1024 * 1024;

/// How many variables an environment may have. Container hosts set some seven for each service they know; this is
/// for two thousand services, and bounds what a line of short names can take in memory.
pub const ENVIRONMENT_NAMES_MAX: usize = 16_384;

/// The variable in which a bridge says that it speaks 1.1, and what it can do.
pub const PROTOCOL_KEY: &str = "ENCLAVE_BRIDGE_PROTOCOL";

/// How many announced features are kept; far above what there is.
pub const FEATURES_MAX: usize = 64;

/// Environment variables of the host. `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

/// The environment does not fit its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "environment of {variables} variables and {bytes} bytes, above {ENVIRONMENT_NAMES_MAX} or {ENVIRONMENT_MAX_BYTES}"
)]
pub struct EnvironmentTooLarge {
    /// The length of the line without its `0A`.
    pub bytes: usize,
    /// The number of variables.
    pub variables: usize,
}

/// Why a line is no environment. No value is ever repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// The line is longer than [`ENVIRONMENT_MAX_BYTES`].
    #[error("environment longer than {ENVIRONMENT_MAX_BYTES} bytes")]
    TooLong,
    /// It has more variables than [`ENVIRONMENT_NAMES_MAX`].
    #[error("environment of more than {ENVIRONMENT_NAMES_MAX} variables")]
    TooMany,
    /// It is no JSON.
    #[error("environment: not JSON: {0}")]
    Syntax(String),
    /// It is JSON, but no object.
    #[error("environment: not an object")]
    NotAnObject,
    /// A name stands twice.
    #[error("environment: variable {0} given twice")]
    Duplicate(String),
    /// A value is no text.
    #[error("environment: the value of variable {0} is not a text")]
    NotAText(String),
}

impl Environment {
    /// An empty environment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a variable; answers whether it was there before.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) -> bool {
        self.variables.insert(name.into(), value.into()).is_some()
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.variables.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// The environment line with its `0A`. [`PROTOCOL_KEY`] is added, in the place of a variable of that name.
    ///
    /// # Errors
    /// The line would be too long for the enclave to read.
    pub fn encode_line(&self, announce: &Announcement) -> Result<Vec<u8>, EnvironmentTooLarge> {
        let announced = announce.to_string();
        let mut variables: BTreeMap<&str, &str> = self.iter().collect();
        variables.insert(PROTOCOL_KEY, &announced);
        let count = variables.len();
        // Writing a map of texts into memory cannot fail.
        let mut line = serde_json::to_vec(&variables).unwrap_or_default();
        if line.len() > ENVIRONMENT_MAX_BYTES || count > ENVIRONMENT_NAMES_MAX {
            return Err(EnvironmentTooLarge { bytes: line.len(), variables: count });
        }
        line.push(b'\n');
        Ok(line)
    }

    /// Reads an environment line, given without its `0A`.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub fn parse(line: &[u8]) -> Result<Self, EnvironmentError> {
        if line.len() > ENVIRONMENT_MAX_BYTES {
            return Err(EnvironmentError::TooLong);
        }
        let mut reader = serde_json::Deserializer::from_slice(line);
        let mut error = None;
        let result = reader.deserialize_map(Variables { error: &mut error }).and_then(|variables| {
            reader.end()?;
            Ok(variables)
        });
        match result {
            Ok(variables) => Ok(Self { variables }),
            Err(serde) => Err(error.unwrap_or_else(|| {
                // serde_json's sentences about syntax repeat nothing of the line; those about types do.
                let syntax = serde.is_syntax() || serde.is_eof();
                if syntax { EnvironmentError::Syntax(serde.to_string()) } else { EnvironmentError::NotAnObject }
            })),
        }
    }

    /// What the bridge announces; `None` from a bridge that speaks version 1, and where the announcement is not to be
    /// understood.
    pub fn announcement(&self) -> Option<Announcement> {
        self.get(PROTOCOL_KEY).and_then(Announcement::parse)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")?;
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

struct Variables<'e> {
    error: &'e mut Option<EnvironmentError>,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a value is a text; any other is refused")]
impl<'de> Visitor<'de> for Variables<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut variables = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if variables.len() >= ENVIRONMENT_NAMES_MAX {
                *self.error = Some(EnvironmentError::TooMany);
                return Err(A::Error::custom("refused"));
            }
            match variables.entry(name) {
                Entry::Occupied(entry) => {
                    *self.error = Some(EnvironmentError::Duplicate(quoted(entry.key())));
                    return Err(A::Error::custom("refused"));
                }
                Entry::Vacant(entry) => match map.next_value::<Node>()? {
                    Node::Text(value) => {
                        entry.insert(value);
                    }
                    _ => {
                        *self.error = Some(EnvironmentError::NotAText(quoted(entry.key())));
                        return Err(A::Error::custom("refused"));
                    }
                },
            }
        }
        Ok(variables)
    }
}

/// Something of 1.1 that a bridge can do and an enclave may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// `proxy-v2`: a PROXY protocol v2 header before an ingress stream.
    ProxyV2,
    /// `sni`: ingress routed by TLS server name.
    Sni,
    /// `bind`: an address to listen on.
    Bind,
    /// `framed`: framed tunnels.
    Framed,
}

impl Feature {
    /// Every feature that this version knows.
    pub const ALL: &'static [Feature] = &[Feature::ProxyV2, Feature::Sni, Feature::Bind, Feature::Framed];

    /// The word in the announcement.
    pub fn as_str(self) -> &'static str {
        match self {
            Feature::ProxyV2 => "proxy-v2",
            Feature::Sni => "sni",
            Feature::Bind => "bind",
            Feature::Framed => "framed",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a bridge says of itself: version 1.x and a list of features, those unknown to this version included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    minor: u32,
    features: Vec<String>,
}

impl Announcement {
    /// Version 1.1 with these features.
    pub fn v1_1(features: &[Feature]) -> Self {
        let mut words: Vec<String> = Vec::new();
        for feature in features {
            if !words.iter().any(|word| word == feature.as_str()) {
                words.push(feature.as_str().to_owned());
            }
        }
        Self { minor: 1, features: words }
    }

    /// Reads `1.1 proxy-v2,bind`. A later 1.x and unknown features are taken, at most [`FEATURES_MAX`] of them;
    /// anything else is `None`: such a bridge is spoken to as version 1.
    pub fn parse(text: &str) -> Option<Self> {
        let (version, list) = text.split_once(' ').unwrap_or((text, ""));
        let minor = minor_version(version)?;
        let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
        Some(Self { minor, features: words.take(FEATURES_MAX).map(str::to_owned).collect() })
    }

    /// The x of version 1.x, at least 1.
    pub fn minor(&self) -> u32 {
        self.minor
    }

    /// Whether the bridge can do this.
    pub fn offers(&self, feature: Feature) -> bool {
        self.features.iter().any(|word| word == feature.as_str())
    }

    /// All announced words.
    pub fn features(&self) -> impl Iterator<Item = &str> {
        self.features.iter().map(String::as_str)
    }
}

impl fmt::Display for Announcement {
    /// As on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.minor)?;
        if !self.features.is_empty() {
            write!(f, " {}", self.features.join(","))?;
        }
        Ok(())
    }
}

/// The x of `1.x` where it is 1 or more.
pub(crate) fn minor_version(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("1.")?;
    let plain = !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || digits.starts_with('0') {
        return None;
    }
    digits.parse().ok()
}
