//! How much the bridge says about itself: a level, and levels for single modules.

use std::fmt;
use std::str::FromStr;

use super::suggest::nearest;

/// The levels, from silence to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A filter for the bridge's own log, as `tracing-subscriber` reads it: `info`, or `info,enclave_bridge=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

/// What is wrong with the text of a level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogLevelError {
    /// No level of that name.
    #[error("{word:?} is no level: off, error, warn, info, debug or trace{}", hint.map(|hint| format!("; did you mean {hint}?")).unwrap_or_default())]
    Level {
        /// The word.
        word: String,
        /// What it may have been meant to be.
        hint: Option<&'static str>,
    },
    /// The part before `=` is no module.
    #[error("{0:?} is no module: write one as enclave_bridge or enclave_bridge::egress")]
    Module(String),
}

impl LogLevel {
    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogLevel {
    type Err = LogLevelError;

    /// Spans and fields, which a filter may have too, are not taken: a mistyped level would be read as the name of a module.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (module, level) =
                part.split_once('=').map_or((None, part), |(module, level)| (Some(module.trim()), level.trim()));
            let lower = level.to_ascii_lowercase();
            if !LEVELS.contains(&lower.as_str()) {
                return Err(LogLevelError::Level { word: level.to_owned(), hint: nearest(&lower, LEVELS.into_iter()) });
            }
            match module {
                None => parts.push(lower),
                Some(module) if is_module(module) => parts.push(format!("{module}={lower}")),
                Some(module) => return Err(LogLevelError::Module(module.to_owned())),
            }
        }
        Ok(Self(parts.join(",")))
    }
}

fn is_module(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-'))
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for (text, expected) in [
            ("info", "info"),
            ("DEBUG", "debug"),
            ("info, enclave_bridge::egress=trace", "info,enclave_bridge::egress=trace"),
            ("off", "off"),
        ] {
            assert_eq!(text.parse::<LogLevel>().unwrap().as_str(), expected);
            assert!(tracing_subscriber::EnvFilter::builder().parse(expected).is_ok(), "{expected}");
        }
        for (text, message) in [
            ("inof", "\"inof\" is no level: off, error, warn, info, debug or trace; did you mean info?"),
            ("loud", "\"loud\" is no level: off, error, warn, info, debug or trace"),
            ("", "\"\" is no level: off, error, warn, info, debug or trace"),
            ("info,x=", "\"\" is no level: off, error, warn, info, debug or trace"),
            ("a[b]=info", "\"a[b]\" is no module: write one as enclave_bridge or enclave_bridge::egress"),
        ] {
            assert_eq!(text.parse::<LogLevel>().unwrap_err().to_string(), message, "{text}");
        }
    }
}
