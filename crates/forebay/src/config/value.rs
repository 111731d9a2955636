//! A value before its key gives it a type.
//!
//! YAML, environment variables, JSON and Python keyword arguments all become a [`Value`]; the table of keys decides
//! what it has to be. Reading one never fails on a number that is too large or not finite: that is for the key's own
//! check to refuse, in words that name the key.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Most characters of a value that an error message shows.
const SHOWN_CHARS_MAX: usize = 80;

/// What a configuration key was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing: the key falls back to its default.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number. One outside this range is read as [`Value::Float`].
    Int(i64),
    /// Any other number, NaN and the infinities included.
    Float(f64),
    /// Text; all that an environment variable can hold.
    Text(String),
    /// Values in order.
    List(Vec<Value>),
    /// Names and values, in the order they were written.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// How a message shows this value: on one line, cut to a readable length.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(it) => it.to_string(),
            Self::Int(it) => it.to_string(),
            Self::Float(it) => it.to_string(),
            Self::Text(it) if it.chars().count() > SHOWN_CHARS_MAX => {
                let head: String = it.chars().take(SHOWN_CHARS_MAX).collect();
                format!("{head:?}…")
            }
            Self::Text(it) => format!("{it:?}"),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a map".into(),
        }
    }
}

/// As a person reads it in a table: text without quotes, nothing for [`Value::Null`].
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("-"),
            Self::Text(it) => f.write_str(it),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(ToString::to_string).collect();
                f.write_str(&items.join(", "))
            }
            other => f.write_str(&other.shown()),
        }
    }
}

impl From<bool> for Value {
    fn from(it: bool) -> Self {
        Self::Bool(it)
    }
}

impl From<i32> for Value {
    fn from(it: i32) -> Self {
        Self::Int(it.into())
    }
}

impl From<u32> for Value {
    fn from(it: u32) -> Self {
        Self::Int(it.into())
    }
}

impl From<i64> for Value {
    fn from(it: i64) -> Self {
        Self::Int(it)
    }
}

impl From<u64> for Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a number this large is refused by every key, whatever its last digits"
    )]
    fn from(it: u64) -> Self {
        i64::try_from(it).map_or(Self::Float(it as f64), Self::Int)
    }
}

impl From<f64> for Value {
    fn from(it: f64) -> Self {
        Self::Float(it)
    }
}

impl From<&str> for Value {
    fn from(it: &str) -> Self {
        Self::Text(it.to_owned())
    }
}

impl From<String> for Value {
    fn from(it: String) -> Self {
        Self::Text(it)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(it: Option<T>) -> Self {
        it.map_or(Self::Null, Into::into)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(it) => to.serialize_bool(*it),
            Self::Int(it) => to.serialize_i64(*it),
            Self::Float(it) => to.serialize_f64(*it),
            Self::Text(it) => to.serialize_str(it),
            Self::List(items) => to.collect_seq(items),
            Self::Map(items) => {
                let mut map = to.serialize_map(Some(items.len()))?;
                for (name, value) in items {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        Value::deserialize(from)
    }

    fn visit_bool<E>(self, it: bool) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_i64<E>(self, it: i64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_u64<E>(self, it: u64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_f64<E>(self, it: f64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_str<E>(self, it: &str) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_entry::<String, Value>()? {
            items.push(item);
        }
        Ok(Value::Map(items))
    }
}
