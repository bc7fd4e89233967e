//! JSON in, CEL out, and back.

use cel::Value as Cel;
use cel::objects::{Key, Map};
use serde_json::{Number, Value};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(bool) => Cel::Bool(*bool),
        Value::Number(number) => number
            .as_i64()
            .map(Cel::Int)
            .or_else(|| number.as_u64().map(Cel::UInt))
            .unwrap_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN))),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(pairs) => {
            let pair = |(name, value): (&String, &Value)| (Key::String(Arc::new(name.clone())), to_cel(value));
            let map: HashMap<Key, Cel> = pairs.iter().map(pair).collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// `None` for what JSON cannot say.
pub(super) fn from_cel(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(bool) => Value::Bool(*bool),
        Cel::Int(int) => Value::from(*int),
        Cel::UInt(int) => Value::from(*int),
        Cel::Float(float) => Value::Number(Number::from_f64(*float)?),
        Cel::String(text) => Value::String(text.as_str().to_owned()),
        Cel::List(items) => Value::Array(items.iter().map(from_cel).collect::<Option<_>>()?),
        Cel::Map(map) => {
            let pair = |(key, value): (&Key, &Cel)| match key {
                Key::String(name) => Some((name.as_str().to_owned(), from_cel(value)?)),
                _ => None,
            };
            Value::Object(map.map.iter().map(pair).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
