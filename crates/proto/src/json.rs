//! A JSON document read into a tree that a schema bounds: what the schema does not name is passed over, not kept.
//! What the values mean is decided by the caller.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::text::path_step;
use crate::{Nak, NakCode};

/// The shape of what is kept.
#[derive(Debug)]
pub(crate) enum Schema {
    /// A number, a text, true, false or null.
    Leaf,
    /// An object; keys in any letter case.
    Object(&'static [(&'static str, Schema)]),
    /// A list of at most `max` elements; a longer one is refused with `beyond`.
    List { of: &'static Schema, max: usize, beyond: NakCode },
}

/// A value of the document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative,
    /// A number with a fraction or an exponent, or one that 64 bits do not hold.
    Fraction,
    Text(String),
    /// Keys spelled as in the schema.
    Object(BTreeMap<&'static str, Node>),
    List(Vec<Node>),
    /// An object or a list where the schema has a leaf.
    Container,
}

impl Node {
    /// What it is, for a sentence.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "true or false",
            Node::Unsigned(_) => "a number",
            Node::Negative => "a negative number",
            Node::Fraction => "a number with a fraction, an exponent or too many digits",
            Node::Text(_) => "a text",
            Node::Object(_) | Node::List(_) | Node::Container => "an object or a list",
        }
    }
}

/// A value as under [`Schema::Leaf`]: nothing of an object or a list is kept.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut walk = Walk::new(Limits { depth: 0, keys: 0, unknown_keys: 0 });
        Seed { schema: &Schema::Leaf, path: String::new(), walk: &mut walk }.deserialize(deserializer)
    }
}

/// Limits of one document; their reasons stand with the constants that the caller gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) depth: usize,
    pub(crate) keys: usize,
    pub(crate) unknown_keys: usize,
}

/// Reads one document and nothing behind it but white space. The second part of the answer are the paths of keys
/// that the schema does not name, the first `limits.unknown_keys` of them.
pub(crate) fn read(line: &[u8], schema: &'static Schema, limits: Limits) -> Result<(Node, Vec<String>), Nak> {
    let text = std::str::from_utf8(line)
        .map_err(|error| refusal("", &format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    check_depth(line, limits.depth)?;
    let mut walk = Walk::new(limits);
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = Seed { schema, path: String::new(), walk: &mut walk };
    let result = seed.deserialize(&mut reader).and_then(|node| {
        reader.end()?;
        Ok(node)
    });
    match result {
        Ok(node) => Ok((node, walk.unknown)),
        Err(error) => Err(match walk.refusal {
            Some(refusal) => refusal,
            // serde_json's own sentences repeat nothing of the document.
            None if error.is_syntax() || error.is_eof() => refusal(&walk.at, &format!("not JSON: {error}")),
            None => refusal(&walk.at, "not readable"),
        }),
    }
}

/// `BAD_CONFIG` about the value at `path`.
pub(crate) fn refusal(path: &str, what: &str) -> Nak {
    let path = if path.is_empty() { "settings" } else { path };
    Nak::new(NakCode::BadConfig, format!("{path}: {what}"))
}

/// Counts brackets outside of texts, so that no reader has to go deeper than that.
fn check_depth(line: &[u8], max: usize) -> Result<(), Nak> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in line {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max {
            return Err(refusal("", &format!("nested deeper than {max}")));
        }
    }
    Ok(())
}

/// State of one reading.
struct Walk {
    limits: Limits,
    /// Why the reading was broken off, if not by a syntax error.
    refusal: Option<Nak>,
    /// The last path entered, for a syntax error.
    at: String,
    unknown: Vec<String>,
}

impl Walk {
    fn new(limits: Limits) -> Self {
        Self { limits, refusal: None, at: String::new(), unknown: Vec::new() }
    }
}

struct Seed<'w> {
    schema: &'static Schema,
    path: String,
    walk: &'w mut Walk,
}

impl Seed<'_> {
    fn refuse<E: serde::de::Error>(&mut self, refusal: Nak) -> E {
        self.walk.refusal = Some(refusal);
        E::custom("refused")
    }

    /// A leaf has come; only null may stand where the schema has an object or a list.
    fn leaf<E: serde::de::Error>(mut self, node: Node) -> Result<Node, E> {
        let wanted = match self.schema {
            Schema::Leaf => return Ok(node),
            Schema::Object(_) | Schema::List { .. } if node == Node::Null => return Ok(node),
            Schema::Object(_) => "an object",
            Schema::List { .. } => "a list",
        };
        let what = format!("{} is not {wanted}", node.kind());
        let refusal = refusal(&self.path, &what);
        Err(self.refuse(refusal))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.leaf(Node::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.leaf(Node::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.leaf(Node::Unsigned(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.leaf(u64::try_from(value).map_or(Node::Negative, Node::Unsigned))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Node, E> {
        self.leaf(Node::Fraction)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        self.leaf(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Node, A::Error> {
        let (of, max, beyond) = match self.schema {
            Schema::List { of, max, beyond } => (*of, *max, *beyond),
            Schema::Leaf => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Node::Container);
            }
            Schema::Object(_) => {
                let refusal = refusal(&self.path, "a list is not an object");
                return Err(self.refuse(refusal));
            }
        };
        let mut nodes = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, nodes.len());
            self.walk.at.clone_from(&path);
            let element = if nodes.len() < max {
                seq.next_element_seed(Seed { schema: of, path, walk: &mut *self.walk })?
            } else if seq.next_element::<IgnoredAny>()?.is_some() {
                let refusal = Nak::new(beyond, format!("{}: more than {max}", self.path));
                return Err(self.refuse(refusal));
            } else {
                None
            };
            match element {
                Some(node) => nodes.push(node),
                None => return Ok(Node::List(nodes)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Node, A::Error> {
        let fields = match self.schema {
            Schema::Object(fields) => *fields,
            Schema::Leaf => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(Node::Container);
            }
            Schema::List { .. } => {
                let refusal = refusal(&self.path, "an object is not a list");
                return Err(self.refuse(refusal));
            }
        };
        let mut known = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let field = fields.iter().find(|(name, _)| same_key(name, &key));
            let step = field.map_or_else(|| path_step(&key), |(name, _)| (*name).to_owned());
            let path = if self.path.is_empty() { step } else { format!("{}.{step}", self.path) };
            self.walk.at.clone_from(&path);
            let duplicate = match field {
                Some((name, _)) => known.contains_key(name),
                None => unknown.contains(&key),
            };
            if duplicate {
                let refusal = refusal(&path, "given twice");
                return Err(self.refuse(refusal));
            }
            if let Some((name, schema)) = field {
                let node = map.next_value_seed(Seed { schema, path, walk: &mut *self.walk })?;
                known.insert(*name, node);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if unknown.len() >= self.walk.limits.keys {
                let refusal = refusal(&self.path, &format!("more than {} unknown keys", self.walk.limits.keys));
                return Err(self.refuse(refusal));
            }
            if self.walk.unknown.len() < self.walk.limits.unknown_keys {
                self.walk.unknown.push(path);
            }
            unknown.insert(key);
        }
        Ok(Node::Object(known))
    }
}

/// Whether a key of the document is this key of the schema, as Go's reader of version 1 compares them: letters in
/// any case, and the two other letters that fold into ASCII ones.
fn same_key(name: &str, key: &str) -> bool {
    let fold = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(key.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { depth: 3, keys: 4, unknown_keys: 2 };
    static NUMBERS: Schema = Schema::List { of: &Schema::Leaf, max: 2, beyond: NakCode::TooMany };
    static SCHEMA: Schema = Schema::Object(&[
        ("tasks", Schema::List { of: &NUMBERS, max: 2, beyond: NakCode::TooMany }),
        ("name", Schema::Leaf),
    ]);

    fn sentence(text: &str) -> String {
        read(text.as_bytes(), &SCHEMA, LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn unknown_values_are_passed_over() {
        let (node, unknown) =
            read(br#" {"TASKS": [[1], null], "x": {"name": [1e999]}, "y": 1, "z": 2, "naMe": "n"} "#, &SCHEMA, LIMITS)
                .unwrap();
        let Node::Object(fields) = node else { panic!("an object") };
        assert_eq!(fields.get("name"), Some(&Node::Text("n".into())));
        assert_eq!(fields.get("tasks"), Some(&Node::List(vec![Node::List(vec![Node::Unsigned(1)]), Node::Null])));
        assert_eq!(unknown, ["x", "y"]);
    }

    #[test]
    fn go_folds_two_letters_that_are_not_ascii() {
        assert!(same_key("tasks", "ta\u{17f}\u{212a}S"));
        assert!(!same_key("tasks", "task"));
        assert!(!same_key("name", "näme"));
    }

    #[test]
    fn a_refusal_names_the_path() {
        assert_eq!(sentence(r#"{"tasks": [[], [1,2,3]]}"#), "TOO_MANY: tasks[1]: more than 2");
        assert_eq!(sentence(r#"{"tasks": [{}]}"#), "BAD_CONFIG: tasks[0]: an object is not a list");
        assert_eq!(sentence(r#"{"tasks": 7}"#), "BAD_CONFIG: tasks: a number is not a list");
        assert_eq!(sentence("[]"), "BAD_CONFIG: settings: a list is not an object");
        assert_eq!(sentence(r#"{"name": 1, "NAME": 2}"#), "BAD_CONFIG: name: given twice");
        assert_eq!(sentence(r#"{"a": 1, "a": 2}"#), "BAD_CONFIG: a: given twice");
        assert_eq!(sentence(r#"{"a":1,"b":1,"c":1,"d":1,"e":1}"#), "BAD_CONFIG: settings: more than 4 unknown keys");
        assert_eq!(sentence(r#"{"x": [[[1]]]}"#), "BAD_CONFIG: settings: nested deeper than 3");
        assert!(sentence(r#"{"tasks": [[1e999]]}"#).starts_with("BAD_CONFIG: tasks[0][0]: not JSON: number out"));
        assert!(sentence(r#"{"name": "#).starts_with("BAD_CONFIG: name: not JSON: EOF"));
        assert!(sentence(r#"{"name": 1} x"#).contains("trailing characters"));
        assert!(read(b"{\"a\xff\":1}", &SCHEMA, LIMITS).unwrap_err().to_string().contains("not UTF-8 at byte 3"));
    }

    #[test]
    fn brackets_in_texts_are_no_depth() {
        assert!(read(br#"{"name": "[[[[\"[[[[{{{{"}"#, &SCHEMA, LIMITS).is_ok());
    }
}
