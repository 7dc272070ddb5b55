//! The environment: variables with the program's prefix. No other variable is looked at.

use std::ffi::OsString;

use super::errors::{ConfigError, Origin};
use super::keys::{KEYS, Key, VARIABLE_PREFIX};
use super::layer::{Item, Layer};
use super::suggest::nearest;

/// The values of the environment, and warnings about variables that look like ours and are not.
pub(super) fn read(environment: Vec<(OsString, OsString)>, errors: &mut Vec<ConfigError>) -> (Layer, Vec<String>) {
    let ours: Vec<(String, OsString)> = environment
        .into_iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .collect();
    let mut layer = Layer::default();
    let mut warnings = Vec::new();
    for key in KEYS {
        let mut first: Option<(&str, &OsString)> = None;
        for variable in std::iter::once(&key.variable).chain(key.also) {
            let Some((name, value)) = ours.iter().find(|(name, _)| name == variable) else { continue };
            let Some(items) = items(key, name, value, errors) else { continue };
            layer.push(key, items);
            match first {
                Some((used, other)) if other != value => {
                    warnings.push(format!("{name} is not used: {used} is set too, to another value"));
                }
                Some(_) => {}
                None => first = Some((name, value)),
            }
        }
    }
    let known = || KEYS.iter().flat_map(|key| std::iter::once(&key.variable).chain(key.also)).copied();
    let mut strangers: Vec<&str> =
        ours.iter().map(|(name, _)| name.as_str()).filter(|name| known().all(|known| known != *name)).collect();
    strangers.sort_unstable();
    for name in strangers {
        let hint = nearest(name, known()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        warnings.push(format!("{} is no variable of this program and is ignored{hint}", name.escape_debug()));
    }
    (layer, warnings)
}

/// The items of a variable; `None` if it counts as not given.
fn items(key: &Key, name: &str, value: &OsString, errors: &mut Vec<ConfigError>) -> Option<Vec<Item>> {
    let origin = |index| Origin::Variable { name: name.to_owned(), index };
    let Some(text) = value.to_str() else {
        errors.push(ConfigError::new(origin(None), "the value is not UTF-8"));
        return None;
    };
    if !key.kind.is_list() {
        return (!text.is_empty()).then(|| vec![Item { text: text.to_owned(), origin: origin(None) }]);
    }
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let item = |(index, part): (usize, &str)| Item { text: part.trim().to_owned(), origin: origin(Some(index)) };
    Some(text.split(',').enumerate().map(item).collect())
}
