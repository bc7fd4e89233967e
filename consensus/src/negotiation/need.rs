//! What a task needs, in the form that peers compare and check: resolved from its document once, at the origin.
//!
//! The document itself travels as its JSON text and is read only by the origin and by the region that runs it.

use cpi::dictionary::Dictionary;
use cpi::filter::{Filter, FilterError};
use cpi::ids::{ContentDigest, RegionName};
use cpi::resource::{ChipKind, ChipModel, Quantity};
use cpi::task::{Budget, Durability, Objective, OnPartition, Resources, TaskSpec};
use cpi::units::ComputeAmount;
use serde::{Deserialize, Serialize};

/// The most ways to run one task, the main one included.
pub const VARIANTS_MAX: usize = 9;
/// The longest task document, in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 128 << 10;

/// What a provider is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Ways to run the task; the first is the main one.
    pub variants: Vec<VariantNeed>,
    /// How long one run may take.
    pub max_runtime_ms: u64,
    /// Sum of the inputs' lengths.
    pub input_bytes: u64,
    /// Countries (ISO 3166) in which it must stay; empty for anywhere.
    pub residency: Vec<String>,
    /// 0 to 100.
    pub priority: u8,
    /// Whether a run goes on when its lease lapses.
    pub finish_on_partition: bool,
}

/// One way to run a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantNeed {
    /// Cores, memory and storage; its `chip_milli` is 0, see `chips`.
    pub base: Quantity,
    /// Accelerators.
    pub chips: ChipNeed,
    /// Whether it is a container image rather than a command.
    pub image: bool,
}

/// Accelerators asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChipNeed {
    /// None.
    None,
    /// So many thousandths of a chip, of a model, of a kind, or of a model that must be of a kind.
    Milli {
        /// Dictionary code.
        model: Option<String>,
        /// Kind.
        kind: Option<ChipKind>,
        /// Thousandths.
        milli: u64,
    },
    /// For each model that can, the thousandths that give the compute asked for.
    AnyOf(Vec<(String, u64)>),
}

impl ChipNeed {
    /// Thousandths of `chip` that satisfy this; `None` if that chip cannot.
    pub fn milli_on(&self, chip: Option<&ChipModel>) -> Option<u64> {
        match (self, chip) {
            (Self::None, _) => Some(0),
            (_, None) => None,
            (Self::Milli { model, kind, milli }, Some(chip)) => {
                let model_fits = model.as_ref().is_none_or(|m| *m == chip.model);
                let kind_fits = kind.is_none_or(|k| k == chip.kind);
                (model_fits && kind_fits).then_some(*milli)
            }
            (Self::AnyOf(options), Some(chip)) => {
                options.iter().find(|(model, _)| *model == chip.model).map(|(_, milli)| *milli)
            }
        }
    }
}

impl VariantNeed {
    /// What one server with this chip has to give; `None` if the chip is not the one.
    pub fn on(&self, chip: Option<&ChipModel>) -> Option<Quantity> {
        self.chips.milli_on(chip).map(|chip_milli| Quantity { chip_milli, ..self.base })
    }
}

impl Need {
    /// Digest of the canonical encoding: what an offer names.
    pub fn digest(&self) -> ContentDigest {
        ContentDigest::of(&crate::codec::encode(1, self).expect("a need has only plain fields"))
    }

    /// Reads the need out of a task document; amounts of compute are resolved with the dictionary.
    pub fn of(task: &TaskSpec, dictionary: &Dictionary) -> Self {
        let variant = |resources: &Resources, image: bool| VariantNeed {
            base: Quantity {
                cpu_milli: resources.cpu.milli,
                memory_bytes: resources.memory.0,
                storage_bytes: resources.storage.0,
                chip_milli: 0,
            },
            chips: match (&resources.chips, &resources.compute) {
                (Some(chips), _) => {
                    ChipNeed::Milli { model: chips.model.clone(), kind: chips.kind, milli: chips.chip_milli() }
                }
                (None, Some(amount)) => ChipNeed::AnyOf(chips_for(amount, dictionary)),
                (None, None) => ChipNeed::None,
            },
            image,
        };
        let mut variants = vec![variant(&task.resources, task.image.is_some())];
        variants.extend(task.variants.iter().map(|v| {
            let image = v.image.is_some() || (v.command.is_empty() && task.image.is_some());
            variant(&v.resources, image)
        }));
        variants.truncate(VARIANTS_MAX);
        Self {
            variants,
            max_runtime_ms: task.max_runtime.ms,
            input_bytes: task.inputs.iter().filter_map(|i| i.size_bytes).sum(),
            residency: task.placement.residency.clone(),
            priority: task.priority,
            finish_on_partition: task.on_partition == OnPartition::Finish,
        }
    }
}

/// For each chip model of the dictionary that can, the thousandths that give `amount`.
fn chips_for(amount: &ComputeAmount, dictionary: &Dictionary) -> Vec<(String, u64)> {
    let chips = dictionary.chips.iter();
    chips.filter_map(|chip| Some((chip.code.code.clone(), amount.chip_milli(&chip.peaks)?))).collect()
}

/// Where the origin lets a task go, and what it prefers. Stays at the origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// A filter that an identifier of the pool must match.
    pub filter: Option<Filter>,
    /// A prefix that an identifier of the pool must have.
    pub prefix: Option<String>,
    /// Only these regions, if any are named.
    pub regions: Vec<RegionName>,
    /// None of these regions.
    pub exclude_regions: Vec<RegionName>,
    /// Only these cities, if any are named.
    pub cities: Vec<String>,
    /// Soft wishes with weights from -100 to 100.
    pub affinity: Vec<(Filter, i8)>,
    /// Label of the environment by whose value tasks are spread, with this task's value.
    pub spread: Option<(String, String)>,
    /// The most it may cost in all.
    pub budget: Option<Budget>,
    /// What the choice prefers.
    pub objective: Objective,
    /// On how many disks it is kept, where the task says it.
    pub durability: Option<Durability>,
}

impl Wishes {
    /// Reads the wishes out of a task document.
    ///
    /// # Errors
    /// [`FilterError`] of the filter or of an affinity.
    pub fn of(task: &TaskSpec) -> Result<Self, FilterError> {
        let placement = &task.placement;
        let affinity = placement.affinity.iter().map(|a| Ok((Filter::parse(&a.filter)?, a.weight)));
        Ok(Self {
            filter: placement.filter.as_deref().map(Filter::parse).transpose()?,
            prefix: placement.prefix.clone(),
            regions: placement.regions.clone(),
            exclude_regions: placement.exclude_regions.clone(),
            cities: placement.cities.clone(),
            affinity: affinity.collect::<Result<_, _>>()?,
            spread: placement
                .spread
                .as_ref()
                .map(|label| (label.clone(), task.env.get(label).cloned().unwrap_or_default())),
            budget: task.budget.clone(),
            objective: task.objective,
            durability: task.durability,
        })
    }
}
