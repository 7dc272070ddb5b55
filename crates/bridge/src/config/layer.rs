//! What one source gives, before it is typed: texts and where each stood.

use super::errors::Origin;
use super::keys::Key;

/// The values of one source (flags, environment or file), in the order in which they count.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    entries: Vec<(&'static Key, Given)>,
}

/// A value that was given: one item for single keys, any number for lists.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) items: Vec<Item>,
}

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Layer {
    pub(super) fn push(&mut self, key: &'static Key, items: Vec<Item>) {
        self.entries.push((key, Given { items }));
    }

    /// Everything given for a key; the first counts, the others are only checked.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Given> {
        self.entries.iter().filter(move |(key, _)| key.name == name).map(|(_, given)| given)
    }
}
