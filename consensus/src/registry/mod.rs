//! The identifier registry: a replicated state machine over an ordered byte map.

pub mod kv;
