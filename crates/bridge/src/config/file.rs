//! The configuration file: read within bounds, taken apart with the place of every value, typed only as far as TOML goes.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::FileChoice;
use super::enclaves::Table;
use super::errors::{ConfigError, Origin};
use super::keys::{KEYS, Key, Kind, TABLE_KEYS, key};
use super::layer::{Item, Layer};
use super::rights::KEYS_OF_TABLES;
use super::suggest::nearest;

/// Bytes of a configuration file. The longest sensible list of rules is a few KiB; a mistaken path may be anything.
pub const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// The permission bit "others may write".
const WORLD_WRITABLE: u32 = 0o002;
/// Syntax errors told at once: behind the first few most are consequences.
const SYNTAX_ERRORS_MAX: usize = 10;
/// The tables of a file. A large host has hundreds of guests; each table holds its part of the environment in memory.
const ENCLAVES_MAX: usize = 256;
/// The name of the tables.
const ENCLAVE: &str = "enclave";

/// What a file says: its top level, and its `[[enclave]]` tables in their order.
#[derive(Debug, Default)]
pub(super) struct FileValues {
    pub(super) top: Layer,
    pub(super) enclaves: Vec<Table>,
}

pub(super) fn read(choice: &FileChoice, errors: &mut Vec<ConfigError>) -> FileValues {
    let text = match contents(choice) {
        Ok(Some(text)) => text,
        Ok(None) => return FileValues::default(),
        Err(message) => {
            errors.push(ConfigError::new(Origin::Whole(choice.path.clone()), message));
            return FileValues::default();
        }
    };
    parse(&choice.path, &text, errors)
}

/// The text of the file; `None` if it need not exist and does not.
fn contents(choice: &FileChoice) -> Result<Option<String>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {}", reason(&error));
    // Asked before opening: a FIFO would be waited for, and opening a device may do something.
    let metadata = match std::fs::metadata(&choice.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !choice.named => return Ok(None),
        metadata => metadata.map_err(unreadable)?,
    };
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = File::open(&choice.path).map_err(unreadable)?;
    // And of the file that is open now: the other may have been replaced.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & WORLD_WRITABLE != 0 {
        return Err(format!("everyone may write to it (mode {:03o}); take that away with: chmod o-w", mode & 0o777));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_MAX_BYTES) {
        return Err(format!("is larger than {FILE_MAX_BYTES} bytes"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
            Err(format!("is not UTF-8 (line {line})"))
        }
    }
}

/// The text of an error without the number of the system behind it.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut characters = text.chars();
    characters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(characters).collect()
}

fn parse(path: &Path, text: &str, errors: &mut Vec<ConfigError>) -> FileValues {
    let reader = Reader { path, text };
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        for error in syntax.iter().take(SYNTAX_ERRORS_MAX) {
            let (line, column) = reader.position(error.span().map_or(0, |span| span.start));
            let origin = Origin::Syntax { path: path.to_owned(), line, column };
            errors.push(ConfigError::new(origin, error.message().replace('\n', ", ")));
        }
        return FileValues::default();
    }
    let mut enclaves = Vec::new();
    let top = reader.layer(document.get_ref(), &Place::Top, errors, &mut |value, errors| {
        enclaves = reader.tables(value, errors);
    });
    FileValues { top, enclaves }
}
/// Characters of an unknown key that are shown.
const SHOWN_CHARACTERS: usize = 80;

/// A key as it can be printed on a terminal.
fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect()
}

fn unknown(name: &str, value: &DeValue<'_>, place: &Place) -> String {
    if name == "config" {
        return "is no key of the file: a file cannot name another".to_owned();
    }
    if let Place::Table(_) = place
        && key(name).is_some_and(|key| key.in_file)
    {
        return "is no key of a table: it holds for all enclaves and stands at the top level".to_owned();
    }
    if let Place::Top = place
        && TABLE_KEYS.iter().any(|key| key.name == name)
    {
        return "is a key of [[enclave]] tables only".to_owned();
    }
    let underscored = name.replace('-', "_").to_ascii_lowercase();
    match nearest(&underscored, place.keys().map(|key| key.name)) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None if value.is_table() => "unknown key; the only tables are [[enclave]]".to_owned(),
        None => "unknown key".to_owned(),
    }
}

/// Where in the file a key stands.
enum Place {
    /// At the top level.
    Top,
    /// In the table of that place, from 0.
    Table(usize),
}

impl Place {
    /// The keys that may stand there.
    fn keys(&self) -> Box<dyn Iterator<Item = &'static Key>> {
        match self {
            Place::Top => Box::new(KEYS.iter().filter(|key| key.in_file)),
            Place::Table(_) => {
                let shared = KEYS.iter().filter(|key| KEYS_OF_TABLES.contains(&key.name));
                Box::new(TABLE_KEYS.iter().chain(shared))
            }
        }
    }

    /// What stands before a key's name in an error.
    fn prefix(&self) -> String {
        match self {
            Place::Top => String::new(),
            Place::Table(index) => format!("{ENCLAVE}[{index}]."),
        }
    }
}

struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
}

impl Reader<'_> {
    /// Line and column of a byte, both from 1; the column counts characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        (line, column)
    }

    fn origin(&self, offset: usize, key: String) -> Origin {
        Origin::File { path: PathBuf::from(self.path), line: self.position(offset).0, key }
    }

    /// The values of one table; what stands under `enclave` at the top level is given to `tables`.
    fn layer(
        &self,
        table: &DeTable<'_>,
        place: &Place,
        errors: &mut Vec<ConfigError>,
        tables: &mut dyn FnMut(&Spanned<DeValue<'_>>, &mut Vec<ConfigError>),
    ) -> Layer {
        let mut entries: Vec<_> = table.iter().collect();
        // The parser keeps keys in alphabetical order; errors are told in that of the file.
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut layer = Layer::default();
        for (name, value) in entries {
            let path_of_key = name.get_ref().as_ref();
            if path_of_key == ENCLAVE && matches!(place, Place::Top) {
                tables(value, errors);
                continue;
            }
            match place.keys().find(|key| key.name == path_of_key) {
                Some(key) => {
                    let found = errors.len();
                    let items = self.items(key, place, value, errors);
                    // Items of the right type are looked at beside those of a wrong one: all errors come at once.
                    if errors.len() == found || !items.is_empty() {
                        layer.push(key, items);
                    }
                }
                None => {
                    let shown = format!("{}{}", place.prefix(), shown(path_of_key));
                    let origin = self.origin(name.span().start, shown);
                    errors.push(ConfigError::new(origin, unknown(path_of_key, value.get_ref(), place)));
                }
            }
        }
        layer
    }

    /// The `[[enclave]]` tables.
    fn tables(&self, value: &Spanned<DeValue<'_>>, errors: &mut Vec<ConfigError>) -> Vec<Table> {
        let DeValue::Array(array) = value.get_ref() else {
            let message = format!("expected tables, each under [[enclave]]; found {}", described(value.get_ref()));
            errors.push(ConfigError::new(self.origin(value.span().start, ENCLAVE.to_owned()), message));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let origin = self.origin(value.span().start, format!("{ENCLAVE}[{index}]"));
            if index >= ENCLAVES_MAX {
                errors.push(ConfigError::new(origin, format!("more than {ENCLAVES_MAX} enclaves")));
                break;
            }
            let DeValue::Table(table) = value.get_ref() else {
                let message = format!("expected a table under [[enclave]]; found {}", described(value.get_ref()));
                errors.push(ConfigError::new(origin, message));
                continue;
            };
            let layer = self.layer(table, &Place::Table(index), errors, &mut |_, _| {});
            tables.push(Table { origin, layer });
        }
        tables
    }

    /// The items of a key's value, as texts in the spelling of flags.
    fn items(
        &self,
        key: &Key,
        place: &Place,
        value: &Spanned<DeValue<'_>>,
        errors: &mut Vec<ConfigError>,
    ) -> Vec<Item> {
        let prefix = place.prefix();
        let at = |value: &Spanned<DeValue<'_>>, index: Option<usize>| {
            let index = index.map_or_else(String::new, |index| format!("[{index}]"));
            let name = format!("{prefix}{}{index}", key.name);
            self.origin(value.span().start, name)
        };
        let mut items = Vec::new();
        let mut one = |value: &Spanned<DeValue<'_>>, index: Option<usize>| {
            let origin = at(value, index);
            match text_of(key.kind, value.get_ref()) {
                Ok(text) => items.push(Item { text, origin }),
                Err(message) => errors.push(ConfigError::new(origin, message)),
            }
        };
        match (key.kind, value.get_ref()) {
            (Kind::Texts | Kind::Integers | Kind::Ports, DeValue::Array(array)) => {
                for (index, value) in array.iter().enumerate() {
                    one(value, Some(index));
                }
            }
            (Kind::Ports, DeValue::String(text)) => {
                let parts = text.split(',').map(str::trim).filter(|_| !text.is_empty());
                items.extend(parts.map(|part| Item { text: part.to_owned(), origin: at(value, None) }));
            }
            (Kind::Texts | Kind::Integers | Kind::Ports, other) => {
                let example = match key.kind {
                    Kind::Integers => "[16, 17]",
                    Kind::Ports => "\"8080,9000-9010\" or [8080, \"9000-9010\"]",
                    Kind::Text | Kind::Integer | Kind::Switch | Kind::Texts => "[\"…\", \"…\"]",
                };
                let message = format!("expected a list, as in {} = {example}; found {}", key.name, described(other));
                errors.push(ConfigError::new(at(value, None), message));
            }
            (Kind::Text | Kind::Integer | Kind::Switch, _) => one(value, None),
        }
        items
    }
}

/// One value as text, if TOML's type fits the key.
fn text_of(kind: Kind, value: &DeValue<'_>) -> Result<String, String> {
    let integer = |value: &DeValue<'_>| {
        value.as_integer().map(|integer| {
            i128::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| integer.to_string(), |number| number.to_string())
        })
    };
    let string = || value.as_str().map(str::to_owned);
    let (found, expected) = match kind {
        Kind::Text => (string(), "a string"),
        Kind::Texts => (string(), "a string"),
        Kind::Integer | Kind::Integers => (integer(value), "a whole number"),
        Kind::Switch => (value.as_bool().map(|on| on.to_string()), "true or false"),
        Kind::Ports => (string().or_else(|| integer(value)), "a port or a range in a string"),
    };
    found.ok_or_else(|| match (kind, integer(value)) {
        // The common mistake: a duration, or an address, without its quotes.
        (Kind::Text, Some(number)) => {
            format!("expected a string, found the number {number}; a duration is written as \"{number}s\"")
        }
        _ => format!("expected {expected}, found {}", described(value)),
    })
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
