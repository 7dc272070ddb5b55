//! The host's environment as a structure of the program's: a serde deserializer over strings whose errors name the
//! variable and what was expected there, and never what it holds.

use std::fmt;

use enclave_bridge_proto::Environment;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::Error;

/// Reads `T` from the variables, keys as given.
pub(crate) fn from_environment<T: DeserializeOwned>(environment: &Environment) -> Result<T, Error> {
    let variables = environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    from_variables(variables.collect())
}

fn from_variables<T: DeserializeOwned>(variables: Vec<(String, String)>) -> Result<T, Error> {
    T::deserialize(Variables(variables)).map_err(|problem| match problem {
        Problem::Missing(variable) => Error::MissingVariable { variable: variable.to_owned() },
        Problem::At(variable, expected) => Error::Value { variable, expected },
        Problem::Value(expected) => Error::Value { variable: String::new(), expected },
    })
}

#[derive(Debug)]
enum Problem {
    Missing(&'static str),
    Value(String),
    At(String, String),
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(variable) => write!(out, "{variable}: missing"),
            Self::Value(expected) => write!(out, "expected {expected}"),
            Self::At(variable, expected) => write!(out, "{variable}: expected {expected}"),
        }
    }
}

impl std::error::Error for Problem {}

/// Serde's own texts quote what they found; here only what was expected is kept.
impl de::Error for Problem {
    fn custom<T: fmt::Display>(_may_quote_the_value: T) -> Self {
        Self::Value("another value".to_owned())
    }

    fn invalid_type(_found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Value(expected.to_string())
    }

    fn invalid_value(_found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Value(expected.to_string())
    }

    fn unknown_variant(_found: &str, expected: &'static [&'static str]) -> Self {
        Self::Value(format!("one of {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn unknown_field(field: &str, _expected: &'static [&'static str]) -> Self {
        Self::At(field.to_owned(), "no such variable".to_owned())
    }
}

struct Variables(Vec<(String, String)>);

impl<'de> de::Deserializer<'de> for Variables {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_map(Pairs { left: self.0.into_iter(), current: None })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Pairs {
    left: std::vec::IntoIter<(String, String)>,
    current: Option<(String, String)>,
}

impl<'de> MapAccess<'de> for Pairs {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        self.current = self.left.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        seed.deserialize(StrDeserializer::<Problem>::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let (name, value) = self.current.take().unwrap_or_default();
        seed.deserialize(Value(value)).map_err(|problem| match problem {
            Problem::Value(expected) => Problem::At(name, expected),
            named @ (Problem::Missing(_) | Problem::At(..)) => named,
        })
    }
}

struct Value(String);

macro_rules! parsed {
    ($($method:ident => $visit:ident, $expected:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match self.0.trim().parse() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Problem::Value($expected.to_owned())),
            }
        })*
    };
}

impl<'de> de::Deserializer<'de> for Value {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_string(self.0)
    }

    parsed! {
        deserialize_bool => visit_bool, "true or false";
        deserialize_i8 => visit_i8, "a whole number of 8 bits";
        deserialize_i16 => visit_i16, "a whole number of 16 bits";
        deserialize_i32 => visit_i32, "a whole number of 32 bits";
        deserialize_i64 => visit_i64, "a whole number of 64 bits";
        deserialize_i128 => visit_i128, "a whole number of 128 bits";
        deserialize_u8 => visit_u8, "a whole number from 0 to 255";
        deserialize_u16 => visit_u16, "a whole number from 0 to 65535";
        deserialize_u32 => visit_u32, "a whole number of 32 bits, not negative";
        deserialize_u64 => visit_u64, "a whole number of 64 bits, not negative";
        deserialize_u128 => visit_u128, "a whole number of 128 bits, not negative";
        deserialize_f32 => visit_f32, "a number";
        deserialize_f64 => visit_f64, "a number";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_enum(Variant(self.0))
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Variant(String);

impl<'de> EnumAccess<'de> for Variant {
    type Error = Problem;
    type Variant = UnitOnly;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, UnitOnly), Problem> {
        let name: de::value::StringDeserializer<Problem> = self.0.into_deserializer();
        seed.deserialize(name).map(|value| (value, UnitOnly))
    }
}

/// A string names a variant without content, nothing else.
struct UnitOnly;

impl<'de> de::VariantAccess<'de> for UnitOnly {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Problem> {
        Err(Problem::Value("a variant without content".to_owned()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Problem> {
        Err(Problem::Value("a variant without content".to_owned()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Problem> {
        Err(Problem::Value("a variant without content".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    struct Wanted {
        database_url: String,
        workers: u16,
        verbose: Option<bool>,
        mode: Mode,
        listen: Option<IpAddr>,
        #[serde(default)]
        ratio: f64,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
        Safe,
    }

    fn read(changed: &[(&str, &str)]) -> Result<Wanted, Error> {
        let mut variables = vec![("DATABASE_URL", "db"), ("WORKERS", "4"), ("MODE", "safe"), ("HOME", "/")];
        variables.retain(|(name, _)| changed.iter().all(|(other, _)| other != name));
        variables.extend(changed.iter().filter(|(_, value)| *value != "-"));
        from_variables(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn fields_are_read_from_strings() {
        let read = read(&[("VERBOSE", "true"), ("LISTEN", "::1"), ("RATIO", "0.5")]).unwrap();
        let expected = Wanted {
            database_url: "db".to_owned(),
            workers: 4,
            verbose: Some(true),
            mode: Mode::Safe,
            listen: Some("::1".parse().unwrap()),
            ratio: 0.5,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn errors_name_the_variable_and_never_its_value() {
        for (changed, named) in [
            (("WORKERS", "s3cret"), "WORKERS: expected a whole number from 0 to 65535"),
            (("WORKERS", "65536"), "WORKERS"),
            (("MODE", "s3cret"), "MODE: expected one of fast, safe"),
            (("LISTEN", "s3cret"), "LISTEN"),
            (("VERBOSE", "s3cret"), "VERBOSE: expected true or false"),
            (("DATABASE_URL", "-"), "DATABASE_URL: missing"),
        ] {
            let error = read(&[changed]).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(named), "{shown}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}
