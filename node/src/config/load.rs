//! Loading: defaults, then the file, then the environment, then flags; each value remembers where it came from.

use super::error::{ConfigError, ConfigProblem};
use super::keys::{KeyTree, check_path};
use super::{NodeConfig, validate};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Everything that a configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct ConfigInput {
    /// The file, where one is named.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are not `CAUSEWAY_SECTION__KEY` are passed over.
    pub env: Vec<(String, String)>,
    /// `section.key=value` given as flags.
    pub flags: Vec<String>,
}

/// A loaded, validated configuration that can still say where each value came from.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The values.
    pub config: NodeConfig,
    /// The file it was read from.
    pub file: Option<PathBuf>,
    text: String,
    figment: Figment,
}

/// The loader of configurations.
#[derive(Debug)]
pub struct ConfigLoader;

/// One layer of values with the name of its source.
struct Layer {
    source: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl ConfigLoader {
    /// Loads from the process's environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every unknown key and wrong value.
    pub fn load(file: Option<&Path>, flags: &[String]) -> Result<LoadedConfig, ConfigError> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::load_from(&ConfigInput { file: file.map(Path::to_owned), env, flags: flags.to_vec() })
    }

    /// Loads from what is given and nothing else.
    ///
    /// # Errors
    /// [`ConfigError`] with every unknown key and wrong value.
    pub fn load_from(input: &ConfigInput) -> Result<LoadedConfig, ConfigError> {
        let tree = KeyTree::known();
        let mut problems = Vec::new();
        let mut text = String::new();
        let mut figment = Figment::from(figment::providers::Serialized::defaults(NodeConfig::default()));

        if let Some(path) = &input.file {
            text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let table = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
                path: path.clone(),
                line: error.span().map_or(1, |span| line_at(&text, span.start)),
                message: error.message().to_owned(),
            })?;
            unknown_in_table(table.get_ref(), &tree, &mut Vec::new(), &text, path, &mut problems);
            let values: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
                path: path.clone(),
                line: error.span().map_or(1, |span| line_at(&text, span.start)),
                message: error.message().to_owned(),
            })?;
            if let Ok(Value::Dict(_, values)) = Value::serialize(values) {
                figment = figment.merge(Layer { source: path.display().to_string(), values });
            }
        }
        for (name, value) in &input.env {
            let Some(rest) = name.strip_prefix("CAUSEWAY_").filter(|rest| rest.contains("__")) else { continue };
            let key = rest.split("__").map(str::to_ascii_lowercase).collect::<Vec<_>>().join(".");
            figment = set(figment, name.clone(), &key, value, &tree, &mut problems);
        }
        for flag in &input.flags {
            match flag.split_once('=') {
                Some((key, value)) => {
                    figment = set(figment, format!("--set {key}"), key, value, &tree, &mut problems);
                }
                None => problems.push(ConfigProblem {
                    place: format!("--set {flag}"),
                    key: flag.clone(),
                    message: "expected `section.key=value`".to_owned(),
                    hint: None,
                }),
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError::Refused { problems });
        }
        let mut loaded = LoadedConfig { config: NodeConfig::default(), file: input.file.clone(), text, figment };
        loaded.config = loaded.figment.extract().map_err(|error| ConfigError::Refused {
            problems: error.into_iter().map(|one| loaded.problem_of(&one)).collect(),
        })?;
        let problems: Vec<_> = validate::validate(&loaded.config)
            .into_iter()
            .map(|problem| ConfigProblem { place: loaded.place_of(&problem.key), ..problem })
            .collect();
        if problems.is_empty() { Ok(loaded) } else { Err(ConfigError::Refused { problems }) }
    }
}

impl LoadedConfig {
    /// Where a key's value came from: `default`, `file:line`, a variable or a flag.
    pub fn source_of(&self, key: &str) -> String {
        let place = self.place_of(key);
        if place.is_empty() { "default".to_owned() } else { place }
    }

    fn place_of(&self, key: &str) -> String {
        let Some(metadata) = self.figment.find_metadata(key) else { return String::new() };
        let name = metadata.name.as_ref();
        match &self.file {
            Some(file) if file.display().to_string() == name => {
                line_of(&self.text, key).map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"))
            }
            _ if name.starts_with("CAUSEWAY_") || name.starts_with("--set") => name.to_owned(),
            _ => String::new(),
        }
    }

    fn problem_of(&self, error: &figment::Error) -> ConfigProblem {
        let key = error.path.join(".");
        ConfigProblem { place: self.place_of(&key), key, message: error.kind.to_string(), hint: None }
    }
}

fn set(
    figment: Figment,
    source: String,
    key: &str,
    value: &str,
    tree: &KeyTree,
    problems: &mut Vec<ConfigProblem>,
) -> Figment {
    let path: Vec<&str> = key.split('.').collect();
    if let Err((unknown, nearest)) = check_path(tree, &path) {
        problems.push(unknown_key(source, unknown, nearest));
        return figment;
    }
    let parsed: Value = value.parse().expect("figment reads any text, as a string where it is nothing else");
    let mut nested = parsed;
    for part in path.iter().rev() {
        nested = Value::from(Dict::from([((*part).to_owned(), nested)]));
    }
    match nested {
        Value::Dict(_, values) => figment.merge(Layer { source, values }),
        _ => figment,
    }
}

fn unknown_key(place: String, key: String, nearest: Option<String>) -> ConfigProblem {
    ConfigProblem {
        place,
        key,
        message: "there is no such key".to_owned(),
        hint: Some(match nearest {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "`causeway config print` lists all keys".to_owned(),
        }),
    }
}

fn unknown_in_table(
    table: &DeTable<'_>,
    tree: &KeyTree,
    path: &mut Vec<String>,
    text: &str,
    file: &Path,
    problems: &mut Vec<ConfigProblem>,
) {
    let KeyTree::Table(keys) = tree else { return };
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let Some(below) = keys.get(name) else {
            let full = |last: &str| path.iter().map(String::as_str).chain([last]).collect::<Vec<_>>().join(".");
            let place = format!("{}:{}", file.display(), line_at(text, key.span().start));
            let nearest = KeyTree::nearest(name, keys.keys()).map(full);
            problems.push(unknown_key(place, full(name), nearest));
            continue;
        };
        path.push(name.to_owned());
        unknown_in_value(value, below, path, text, file, problems);
        path.pop();
    }
}

fn unknown_in_value(
    value: &Spanned<DeValue<'_>>,
    tree: &KeyTree,
    path: &mut Vec<String>,
    text: &str,
    file: &Path,
    problems: &mut Vec<ConfigProblem>,
) {
    match (value.get_ref(), tree) {
        (DeValue::Table(table), KeyTree::Table(_)) => unknown_in_table(table, tree, path, text, file, problems),
        (DeValue::Array(items), KeyTree::List(item)) => {
            for one in items {
                unknown_in_value(one, item, path, text, file, problems);
            }
        }
        _ => {}
    }
}

/// The line of a byte offset, from 1.
fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// The line on which the value of a dotted key stands, as deep as the file goes.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut parts = key.split('.');
    let first = table.get_ref().get(parts.next()?)?;
    let mut at = first;
    for part in parts {
        let below = match at.get_ref() {
            DeValue::Table(table) => table.get(part),
            DeValue::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        match below {
            Some(below) => at = below,
            None => break,
        }
    }
    Some(line_at(text, at.span().start))
}
