//! The values of one key over the sources: all are checked, the first source counts.

use enclave_bridge_policy::PortRanges;

use super::errors::{ConfigError, Origin};
use super::layer::Layer;
use super::parse::parsed;

/// The sources from the strongest to the weakest, and the errors found in them.
pub(super) struct Values<'l> {
    pub(super) layers: &'l [&'l Layer],
    pub(super) errors: &'l mut Vec<ConfigError>,
}

impl Values<'_> {
    /// Reads everything that was given for a list; what the strongest source gave is the value, unless it is wrong.
    pub(super) fn list<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        self.given(name, parse).map(|items| items.into_iter().map(|(value, _)| value).collect())
    }

    /// As [`list`](Self::list) for a single value, with where it was given.
    pub(super) fn one<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<(T, Origin)> {
        self.given(name, parse).and_then(|items| items.into_iter().next_back())
    }

    /// As [`one`](Self::one) where it makes no difference where it was given.
    pub(super) fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.one(name, parse).map(|(value, _)| value)
    }

    /// Each item is checked alone, so that an error names it; an empty list is no port.
    pub(super) fn ports(&mut self, name: &str) -> Option<PortRanges> {
        let checked = |text: &str| parsed::<PortRanges>(text).map(|_| text.to_owned());
        let items = self.list(name, checked)?;
        if items.is_empty() { Some(PortRanges::none()) } else { items.join(",").parse().ok() }
    }

    fn given<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<(T, Origin)>> {
        let mut value = None;
        for given in self.layers.iter().flat_map(|layer| layer.all(name)) {
            let mut items = Vec::with_capacity(given.items.len());
            for item in &given.items {
                match parse(&item.text) {
                    Ok(parsed) => items.push((parsed, item.origin.clone())),
                    Err(reason) => self.errors.push(ConfigError::new(item.origin.clone(), reason)),
                }
            }
            value.get_or_insert(items);
        }
        value
    }
}
