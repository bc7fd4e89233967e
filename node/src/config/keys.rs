//! The keys that are known, and the nearest one to a key that is not.

use super::section::{KeyDoc, Section};
use super::{
    ArtifactsConfig, DataConfig, DeskSection, FakeConfig, HostSection, HttpConfig, LocalConfig, LogConfig, MeshConfig,
    NegotiationSection, NodeSection, RegionConfig, RegistryConfig,
};
use cpi::resource::PoolSpec;
use serde_json::Value;
use std::collections::BTreeMap;

/// What may stand below a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyTree {
    /// A value, or a table whose keys are the operator's own.
    Leaf,
    /// A table of known keys.
    Table(BTreeMap<String, KeyTree>),
    /// A list of such things.
    List(Box<KeyTree>),
}

/// A section as the reference prints it.
#[derive(Debug, Clone, Copy)]
pub struct SectionDoc {
    /// Its dotted name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static [&'static str],
    /// Its keys.
    pub keys: &'static [KeyDoc],
}

const fn doc_of<S: Section>(name: &'static str) -> SectionDoc {
    SectionDoc { name, doc: S::DOC, keys: S::KEYS }
}

/// The keys of one `[[adapters.plugin]]`, and of its `limits`.
pub const PLUGIN_KEYS: &[&str] = &["name", "path", "args", "sha256", "config", "credentials", "replicas", "limits"];
pub const LIMIT_KEYS: &[&str] = &["memory_bytes", "cpu_milli", "files"];

/// All sections in the order of the reference; `[[adapters.plugin]]` and `[[pools]]` follow them.
pub const SECTIONS: &[SectionDoc] = &[
    doc_of::<RegionConfig>("region"),
    doc_of::<NodeSection>("node"),
    doc_of::<DataConfig>("data"),
    doc_of::<HttpConfig>("http"),
    doc_of::<MeshConfig>("mesh"),
    doc_of::<RegistryConfig>("registry"),
    doc_of::<NegotiationSection>("negotiation"),
    doc_of::<LocalConfig>("adapters.local"),
    doc_of::<FakeConfig>("adapters.fake"),
    doc_of::<HostSection>("adapters.host"),
    doc_of::<DeskSection>("adapters.desk"),
    doc_of::<ArtifactsConfig>("artifacts"),
    doc_of::<LogConfig>("log"),
];

impl KeyTree {
    /// The whole tree.
    pub fn known() -> Self {
        let mut root = BTreeMap::new();
        for section in SECTIONS {
            let keys = section.keys.iter().map(|key| (key.name.to_owned(), Self::Leaf)).collect();
            match section.name.split_once('.') {
                None => drop(root.insert(section.name.to_owned(), Self::Table(keys))),
                Some((outer, inner)) => {
                    let entry = root.entry(outer.to_owned()).or_insert_with(|| Self::Table(BTreeMap::new()));
                    if let Self::Table(table) = entry {
                        table.insert(inner.to_owned(), Self::Table(keys));
                    }
                }
            }
        }
        if let Some(Self::Table(adapters)) = root.get_mut("adapters") {
            let limits = LIMIT_KEYS.iter().map(|key| ((*key).to_owned(), Self::Leaf)).collect();
            let mut plugin: BTreeMap<String, Self> =
                PLUGIN_KEYS.iter().map(|key| ((*key).to_owned(), Self::Leaf)).collect();
            plugin.insert("limits".to_owned(), Self::Table(limits));
            adapters.insert("plugin".to_owned(), Self::List(Box::new(Self::Table(plugin))));
        }
        let schema = schemars::schema_for!(PoolSpec).to_value();
        root.insert("pools".to_owned(), Self::List(Box::new(Self::of_schema(&schema, &schema))));
        Self::Table(root)
    }

    /// The keys that a JSON Schema allows.
    fn of_schema(schema: &Value, root: &Value) -> Self {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            return Self::of_schema(&root["$defs"][name], root);
        }
        if let Some(any) = schema["anyOf"].as_array() {
            let first = any.iter().find(|branch| branch["type"] != "null");
            return first.map_or(Self::Leaf, |branch| Self::of_schema(branch, root));
        }
        if let Some(properties) = schema["properties"].as_object() {
            let keys = properties.iter().map(|(key, below)| (key.clone(), Self::of_schema(below, root)));
            return Self::Table(keys.collect());
        }
        match &schema["items"] {
            items @ Value::Object(_) => Self::List(Box::new(Self::of_schema(items, root))),
            _ => Self::Leaf,
        }
    }

    /// The key nearest to `unknown` among `known`, where one is near enough to be meant.
    pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
        known
            .map(|key| (strsim::jaro_winkler(unknown, key), key))
            .filter(|(likeness, _)| *likeness > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, key)| key.as_str())
    }
}

/// Whether a dotted path names a key; else the part that is unknown and the nearest known one.
pub fn check_path(tree: &KeyTree, path: &[&str]) -> Result<(), (String, Option<String>)> {
    let mut at = tree;
    for (depth, part) in path.iter().enumerate() {
        let KeyTree::Table(keys) = at else { return Ok(()) };
        at = keys.get(*part).ok_or_else(|| {
            let nearest = KeyTree::nearest(part, keys.keys());
            let prefix = &path[..depth];
            let full = |key: &str| prefix.iter().copied().chain([key]).collect::<Vec<_>>().join(".");
            (full(part), nearest.map(full))
        })?;
    }
    Ok(())
}
