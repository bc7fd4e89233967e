//! The one northbound task model: the document a submitter writes, in YAML or JSON, with a published JSON Schema.
//!
//! Unknown fields are refused. Amounts may be written with units (`8 GiB`, `500m`, `2h`); see [`crate::units`].

mod document;
mod validate;

pub use document::{DOCUMENT_BYTES_MAX, Format, TaskDocumentError, parse_document};
pub use validate::{ARGUMENT_BYTES_MAX, FILES_MAX, FieldError, PATH_BYTES_MAX, VARIANTS_MAX, is_run_path, validate};

use crate::ids::{ContentDigest, RegionName};
use crate::measures::Measures;
use crate::resource::{ChipKind, Quantity};
use crate::units::{ByteSize, ComputeAmount, CpuAmount, DurationText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A task document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// For people: 1 to 64 characters.
    pub name: String,
    /// Program and arguments. A program given as an input is found in the run's folder (`./name`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Container image, for backends that run containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Environment of the command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it needs of one server.
    #[serde(default)]
    pub resources: Resources,
    /// Other ways to run it, tried beside the main one: another chip with its own command or image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// Where it may run.
    #[serde(default)]
    pub placement: Placement,
    /// Files put into the run's folder before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputFile>,
    /// Files brought back to the origin after it ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputFile>,
    /// 0 (last) to 100 (first).
    #[serde(default = "default_priority")]
    pub priority: u8,
    /// How long after submission it must have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DurationText>,
    /// How long one run may take.
    #[serde(default = "default_max_runtime")]
    pub max_runtime: DurationText,
    /// The most it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What the choice among offers prefers.
    #[serde(default)]
    pub objective: Objective,
    /// What to do after a run failed or was lost.
    #[serde(default)]
    pub retry: Retry,
    /// What a run does when its region loses touch with the custodians.
    #[serde(default)]
    pub on_partition: OnPartition,
    /// On how many disks the task is kept. Default: as its origin is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

fn default_priority() -> u8 {
    50
}

fn default_max_runtime() -> DurationText {
    DurationText::from_secs(3600)
}

/// What a task needs of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Cores, for example `4` or `500m`. Default one core.
    #[serde(default)]
    pub cpu: CpuAmount,
    /// Memory, for example `8 GiB`. Default 256 MiB.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
    /// Scratch storage. Default 1 GiB.
    #[serde(default = "default_storage")]
    pub storage: ByteSize,
    /// Accelerators by model or kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chips: Option<ChipRequest>,
    /// Accelerators by dense peak instead, for example `5 PFLOPS FP16`: as many chips as give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<ComputeAmount>,
}

fn default_memory() -> ByteSize {
    ByteSize(256 << 20)
}

fn default_storage() -> ByteSize {
    ByteSize(1 << 30)
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu: CpuAmount::default(),
            memory: default_memory(),
            storage: default_storage(),
            chips: None,
            compute: None,
        }
    }
}

impl Resources {
    /// What this asks of a server whose accelerator has these `peaks` (`None`: a server without accelerators). `None` where
    /// such a server can never do: chips are asked and it has none, or its chip states no peak at the asked precision.
    pub fn need(&self, peaks: Option<&Measures>) -> Option<Quantity> {
        let chip_milli = match (&self.chips, &self.compute) {
            (Some(chips), _) => peaks.map(|_| chips.chip_milli())?,
            // a whole number of chips: a peak cannot be shared out in thousandths without losing some of it
            (None, Some(compute)) => compute.chips(peaks?)?.checked_mul(1000)?,
            (None, None) => 0,
        };
        Some(Quantity {
            cpu_milli: self.cpu.milli,
            memory_bytes: self.memory.0,
            storage_bytes: self.storage.0,
            chip_milli,
        })
    }
}

/// The JSON Schema of the task document.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(TaskSpec).to_value()
}

/// Accelerators asked for. At least one of `model` and `kind`, and exactly one of `count` and `milli`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChipRequest {
    /// Dictionary code, for example `NVH800S80`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Kind, for example `GPU`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ChipKind>,
    /// Whole chips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Thousandths of a chip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milli: Option<u64>,
}

impl ChipRequest {
    /// Thousandths of a chip asked for.
    pub fn chip_milli(&self) -> u64 {
        self.milli.unwrap_or_else(|| u64::from(self.count.unwrap_or(1)) * 1000)
    }
}

/// Another way to run the same task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// For people and for `explain`.
    pub name: String,
    /// Replaces the task's resources.
    pub resources: Resources,
    /// Replaces the task's command, where given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the task's image, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Where a task may run. All given clauses must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// A filter over identifier fields, measures and status; must match an identifier of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// A prefix of an identifier of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Only these regions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionName>,
    /// None of these regions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_regions: Vec<RegionName>,
    /// Only these cities, by code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cities: Vec<String>,
    /// Only regions in these countries; holds for data and custodians too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub residency: Vec<String>,
    /// Filters that make a region more or less welcome without excluding it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<Affinity>,
    /// Prefer regions that run fewer tasks with the same value of this label of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
}

/// A soft wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Affinity {
    /// Which pools.
    pub filter: String,
    /// -100 to 100; below 0 repels.
    pub weight: i8,
}

/// A file put into the run's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Relative path in the run's folder, without `..`.
    pub path: String,
    /// A file on the submitter's machine; the CLI uploads it and fills in `digest` and `size_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The content, once it was uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ContentDigest>,
    /// Its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Whether the file is a program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// A file brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputFile {
    /// Relative path in the run's folder, without `..`.
    pub path: String,
    /// Whether its absence is no failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// The most a task may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// In minor units of the currency (cents, fen).
    pub amount_minor: u64,
    /// ISO 4217 code.
    pub currency: String,
}

/// What the choice among offers prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// All terms by the policy's weights.
    #[default]
    Balanced,
    /// The cheapest.
    Cost,
    /// The earliest start.
    Start,
    /// The least carbon.
    Carbon,
}

/// What to do after a run failed or was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// 1 to 20 runs in all. A lost region counts as one.
    #[serde(default = "default_attempts")]
    pub max_attempts: u32,
    /// Exit codes after which another attempt is made. Empty: the program's own failure is final.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_exit: Vec<i32>,
}

fn default_attempts() -> u32 {
    3
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: default_attempts(), on_exit: Vec::new() }
    }
}

/// On how many disks a task is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On its origin's disk alone; nobody goes on with it if that is lost.
    Local,
    /// With two other members: a step counts once two of the three disks have it. Where no other member can be had, the
    /// task is kept as `local`, and the answer says so.
    Quorum,
}

impl Durability {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Quorum => "quorum",
        }
    }
}

/// What a run does when its lease cannot be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnPartition {
    /// Freezes at the lapse and is killed once superseded; another attempt starts meanwhile.
    #[default]
    Stop,
    /// Runs on; no other attempt starts until its end is known.
    Finish,
}
