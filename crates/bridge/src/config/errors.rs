//! Errors of the configuration: each says where, what and, if it can, what to write instead.

use std::fmt;
use std::path::PathBuf;

/// The exit code for a wrong command line (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// The exit code for an error in the file or the environment (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// Characters of one error's text. A value may be as long as the file; a line that nobody can read helps nobody.
const MESSAGE_MAX_CHARACTERS: usize = 400;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A flag, with its hyphens.
    Flag(&'static str),
    /// An environment variable, and which of its items.
    Variable {
        /// Its name.
        name: String,
        /// The place in the list, from 0.
        index: Option<usize>,
    },
    /// A key of the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The path of the key, as in `egress_allow[1]`.
        key: String,
    },
    /// A place in the file that is not TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// The file as such.
    Whole(PathBuf),
}

impl Origin {
    /// The path of the key, for a value of the file.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::File { key, .. } => Some(key),
            Self::Flag(_) | Self::Variable { .. } | Self::Syntax { .. } | Self::Whole(_) => None,
        }
    }

    /// What errors are ordered by: the source, then the line and column.
    fn place(&self) -> (u8, usize, usize) {
        match self {
            Self::Flag(_) => (0, 0, 0),
            Self::Variable { .. } => (1, 0, 0),
            Self::Whole(_) => (2, 0, 0),
            Self::File { line, .. } => (2, *line, 0),
            Self::Syntax { line, column, .. } => (2, *line, *column),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable { name, index: None } => f.write_str(name),
            Self::Variable { name, index: Some(index) } => write!(f, "{name}[{index}]"),
            Self::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
            Self::Syntax { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Whole(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One error: where and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    origin: Origin,
    message: String,
}

impl ConfigError {
    pub(super) fn new(origin: Origin, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(MESSAGE_MAX_CHARACTERS) {
            message.truncate(cut);
            message.push('…');
        }
        Self { origin, message }
    }

    /// Where the value was given.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What is wrong with it.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// All errors of a configuration; the text has one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    kind: ErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ErrorKind {
    /// The command line could not be taken apart; several lines.
    Usage(String),
    Values(Vec<ConfigError>),
    /// A value is missing although nothing was found wrong: a fault of this module.
    Internal,
}

impl ConfigErrors {
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Usage(text.into()) }
    }

    /// The errors in the order of flags, variables and lines of the file.
    pub(super) fn from_errors(mut errors: Vec<ConfigError>) -> Option<Self> {
        errors.sort_by_key(|error| error.origin.place());
        if errors.is_empty() { None } else { Some(Self { kind: ErrorKind::Values(errors) }) }
    }

    pub(super) fn internal() -> Self {
        Self { kind: ErrorKind::Internal }
    }

    /// The errors one by one; none for a command line that could not be taken apart.
    pub fn errors(&self) -> &[ConfigError] {
        match &self.kind {
            ErrorKind::Values(errors) => errors,
            ErrorKind::Usage(_) | ErrorKind::Internal => &[],
        }
    }

    /// 64 if only the command line is at fault, 78 if the file or the environment is.
    pub fn exit_code(&self) -> u8 {
        match &self.kind {
            ErrorKind::Usage(_) => EXIT_USAGE,
            ErrorKind::Values(errors) if errors.iter().all(|error| matches!(error.origin, Origin::Flag(_))) => {
                EXIT_USAGE
            }
            ErrorKind::Values(_) | ErrorKind::Internal => EXIT_CONFIG,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ErrorKind::Usage(text) => f.write_str(text),
            ErrorKind::Internal => f.write_str("configuration: a value is missing"),
            ErrorKind::Values(errors) => {
                for (index, error) in errors.iter().enumerate() {
                    let newline = if index == 0 { "" } else { "\n" };
                    write!(f, "{newline}{error}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}
