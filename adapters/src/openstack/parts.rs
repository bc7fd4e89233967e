//! What providers have and flavours ask for, in the standard model's integers.

use crate::rules::{ConvertError, Direction, Rules};
use cpi::resource::{ChipKind, ChipModel, Quantity};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Quantities with the accelerators still apart by kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Parts {
    cpu_milli: u64,
    memory_bytes: u64,
    storage_bytes: u64,
    chips: BTreeMap<ChipKind, Chips>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Chips {
    milli: u64,
    models: BTreeSet<String>,
}

/// As the rules say it.
#[derive(Deserialize)]
struct Converted {
    #[serde(default)]
    cpu_milli: u64,
    #[serde(default)]
    memory_bytes: u64,
    #[serde(default)]
    storage_bytes: u64,
    #[serde(default)]
    chips: BTreeMap<String, ConvertedChips>,
}

#[derive(Deserialize)]
struct ConvertedChips {
    milli: u64,
    models: Vec<String>,
}

/// Accelerators of one kind: how much, and of which model where one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accelerators {
    pub(super) kind: ChipKind,
    pub(super) milli: u64,
    pub(super) model: Option<String>,
}

/// Why platform's numbers have no place in the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PartsError {
    /// The rules lack something.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The rules make something that is not expected.
    #[error("the rules' section [north.{section}] makes {what}")]
    Result { section: &'static str, what: String },
    /// One server has accelerators of several kinds or models.
    #[error("several kinds or models of accelerators in one: {0}")]
    Several(String),
}

impl Parts {
    /// `resources` by the platform's class; `traits` of the same provider.
    pub(super) fn of_resources(
        rules: &Rules,
        resources: &BTreeMap<String, u64>,
        traits: &[String],
    ) -> Result<Self, PartsError> {
        // most providers have dozens of traits that say what a hypervisor can; the rules look at those of accelerators
        let traits: Vec<&String> = traits.iter().filter(|name| name.starts_with("CUSTOM_")).collect();
        let source = json!({ "resources": resources, "traits": traits });
        Self::convert(rules, "resources", &source)
    }

    /// A flavour's own numbers.
    pub(super) fn of_flavour(rules: &Rules, numbers: &Value) -> Result<Self, PartsError> {
        Self::convert(rules, "flavour", numbers)
    }

    fn convert(rules: &Rules, section: &'static str, source: &Value) -> Result<Self, PartsError> {
        let wrong = |what: String| PartsError::Result { section, what };
        let made = rules.convert(Direction::North, section, source)?;
        let made: Converted = serde_json::from_value(made).map_err(|error| wrong(error.to_string()))?;
        let mut chips = BTreeMap::new();
        for (code, found) in made.chips {
            let kind = ChipKind::from_code(&code).ok_or_else(|| wrong(format!("chips.{code}: expected a kind")))?;
            chips.insert(kind, Chips { milli: found.milli, models: found.models.into_iter().collect() });
        }
        let (cpu_milli, memory_bytes, storage_bytes) = (made.cpu_milli, made.memory_bytes, made.storage_bytes);
        Ok(Self { cpu_milli, memory_bytes, storage_bytes, chips })
    }

    /// Adds what another provider of the same tree, or another group of a profile, has.
    pub(super) fn add(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.storage_bytes = self.storage_bytes.saturating_add(other.storage_bytes);
        for (kind, more) in &other.chips {
            let chips = self.chips.entry(*kind).or_default();
            chips.milli = chips.milli.saturating_add(more.milli);
            chips.models.extend(more.models.iter().cloned());
        }
    }

    /// The accelerators, all of one kind and model.
    pub(super) fn accelerators(&self) -> Result<Option<Accelerators>, PartsError> {
        let mut there = self.chips.iter().filter(|(_, chips)| chips.milli > 0);
        let Some((kind, chips)) = there.next() else { return Ok(None) };
        if there.next().is_some() || chips.models.len() > 1 {
            let all: Vec<String> =
                self.chips.iter().map(|(kind, chips)| format!("{}: {:?}", kind.code(), chips.models)).collect();
            return Err(PartsError::Several(all.join(", ")));
        }
        Ok(Some(Accelerators { kind: *kind, milli: chips.milli, model: chips.models.first().cloned() }))
    }

    /// Everything but models.
    pub(super) fn quantity(&self) -> Quantity {
        Quantity {
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            storage_bytes: self.storage_bytes,
            chip_milli: self.chips.values().map(|chips| chips.milli).fold(0, u64::saturating_add),
        }
    }
}

impl Accelerators {
    /// As a dictionary's chip, where a model is named.
    pub(super) fn chip(&self) -> Option<ChipModel> {
        self.model.clone().map(|model| ChipModel { model, kind: self.kind })
    }
}
