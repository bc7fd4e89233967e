//! A rule file as it is written.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The one format there is.
pub(super) const FORMAT: u32 = 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    /// Of this file's grammar.
    pub(super) format: u32,
    /// Shown in errors.
    pub(super) name: String,
    /// Of the rules: grows with each change.
    pub(super) version: u32,
    /// The backend kind.
    pub(super) backend: String,
    /// How the platform's version begins; empty for all.
    #[serde(default)]
    pub(super) platform: String,
    /// For these pools only; empty for all.
    #[serde(default)]
    pub(super) pools: Vec<String>,
    /// Names: standard = platform, or several of the platform's that mean the same.
    #[serde(default)]
    pub(super) tables: BTreeMap<String, BTreeMap<String, Value>>,
    #[serde(default)]
    pub(super) south: BTreeMap<String, SectionText>,
    #[serde(default)]
    pub(super) north: BTreeMap<String, SectionText>,
    /// How requests are made; the grammar is the `rest` backend's.
    pub(super) http: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SectionText {
    /// Fields that have no place on the other side, and why that is right.
    #[serde(default)]
    pub(super) ignore: BTreeMap<String, String>,
    pub(super) field: Vec<FieldText>,
    #[serde(default)]
    pub(super) example: Vec<Example>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FieldText {
    /// Dotted path in the result.
    pub(super) to: String,
    /// Where its values come from; nothing for a constant.
    #[serde(default)]
    pub(super) from: Option<From>,
    /// CEL over the names of `from`; a single path is called `it`.
    pub(super) value: Option<String>,
    /// CEL; the field is left out where it is false.
    pub(super) when: Option<String>,
    /// The table that the value goes through at last.
    pub(super) table: Option<String>,
    /// All its sources absent is an error.
    #[serde(default)]
    pub(super) required: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum From {
    One(String),
    Named(BTreeMap<String, Source>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Source {
    Path(String),
    /// A name that goes through a table before the expression sees it.
    Through(Through),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Through {
    pub(super) path: String,
    pub(super) table: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Example {
    pub(super) from: Value,
    pub(super) to: Value,
}
