//! The one northbound resource model: what a region has, in classes of equal servers, and what a task needs of it.
//!
//! Integers only. Accelerators count in thousandths of a chip and are never rounded to 0. Precisions are never added.

use crate::ids::RegionName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One GiB in bytes.
pub const GIB: u64 = 1 << 30;

/// Quantities on one server, or asked of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quantity {
    /// Thousandths of a processor core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of scratch storage.
    pub storage_bytes: u64,
    /// Thousandths of accelerator chips, all of one model.
    pub chip_milli: u64,
}

impl Quantity {
    /// Whether `need` fits into `self`, dimension by dimension.
    pub fn fits(&self, need: &Quantity) -> bool {
        self.cpu_milli >= need.cpu_milli
            && self.memory_bytes >= need.memory_bytes
            && self.storage_bytes >= need.storage_bytes
            && self.chip_milli >= need.chip_milli
    }

    /// `self - other` where it fits, else `None`.
    #[must_use]
    pub fn checked_sub(&self, other: &Quantity) -> Option<Quantity> {
        Some(Quantity {
            cpu_milli: self.cpu_milli.checked_sub(other.cpu_milli)?,
            memory_bytes: self.memory_bytes.checked_sub(other.memory_bytes)?,
            storage_bytes: self.storage_bytes.checked_sub(other.storage_bytes)?,
            chip_milli: self.chip_milli.checked_sub(other.chip_milli)?,
        })
    }

    /// `self + other`, capped at the largest value.
    #[must_use]
    pub fn saturating_add(&self, other: &Quantity) -> Quantity {
        Quantity {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            storage_bytes: self.storage_bytes.saturating_add(other.storage_bytes),
            chip_milli: self.chip_milli.saturating_add(other.chip_milli),
        }
    }
}

/// What kind of compute a pool is sold as; decides the unit of its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ComputeClass {
    /// General: FP64 and FP32.
    #[serde(rename = "GC")]
    General,
    /// Intelligent: FP16 and BF16.
    #[serde(rename = "IC")]
    Intelligent,
    /// Supercomputing: FP64.
    #[serde(rename = "SC")]
    Super,
    /// Edge.
    #[serde(rename = "EC")]
    Edge,
    /// Hybrid.
    #[serde(rename = "HC")]
    Hybrid,
}

/// The kind of an accelerator, as the identifier's path names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are the field's own abbreviations")]
pub enum ChipKind {
    Cpu,
    Gpu,
    Npu,
    Tpu,
    Dcu,
    Dpu,
    Fpg,
    Asc,
    Qpu,
}

impl ComputeClass {
    /// The two letters of the identifier.
    pub fn code(self) -> &'static str {
        match self {
            Self::General => "GC",
            Self::Intelligent => "IC",
            Self::Super => "SC",
            Self::Edge => "EC",
            Self::Hybrid => "HC",
        }
    }
}

impl ChipKind {
    /// The three letters of the identifier.
    pub fn code(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Gpu => "GPU",
            Self::Npu => "NPU",
            Self::Tpu => "TPU",
            Self::Dcu => "DCU",
            Self::Dpu => "DPU",
            Self::Fpg => "FPG",
            Self::Asc => "ASC",
            Self::Qpu => "QPU",
        }
    }

    /// From the three letters; `None` for `ANY` and for what is not known.
    pub fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "CPU" => Self::Cpu,
            "GPU" => Self::Gpu,
            "NPU" => Self::Npu,
            "TPU" => Self::Tpu,
            "DCU" => Self::Dcu,
            "DPU" => Self::Dpu,
            "FPG" => Self::Fpg,
            "ASC" => Self::Asc,
            "QPU" => Self::Qpu,
            _ => return None,
        })
    }
}

/// Equal servers of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerClass {
    /// Unique in the pool, for example `h800-8`.
    pub name: String,
    /// Dictionary code of the CPU model.
    pub cpu_model: String,
    /// Dictionary code and kind of the accelerator, where the servers have one.
    #[serde(default)]
    pub chip: Option<ChipModel>,
    /// What one empty server has.
    pub per_server: Quantity,
    /// How many such servers.
    pub servers: u32,
}

/// An accelerator model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChipModel {
    /// Dictionary code, for example `NVH800S80`.
    pub model: String,
    /// Its kind, for example `GPU`.
    pub kind: ChipKind,
}

/// How sure capacity is once it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Firmness {
    /// Ours and set aside; never overcommitted.
    Held,
    /// The platform reserved it; never overcommitted.
    Reserved,
    /// A shared platform; may be gone.
    Estimate,
}

/// Prices in millionths of the currency's main unit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// ISO 4217 code, for example `CNY`.
    pub currency: String,
    /// Per core and hour.
    #[serde(default)]
    pub cpu_core_hour_micro: u64,
    /// Per GiB of memory and hour.
    #[serde(default)]
    pub memory_gib_hour_micro: u64,
    /// Per chip and hour.
    #[serde(default)]
    pub chip_hour_micro: u64,
}

impl PriceList {
    /// The price of `need` for one hour in millionths of the currency's main unit, each part rounded up.
    pub fn hour_micro(&self, need: &Quantity) -> u64 {
        let part =
            |amount: u64, unit: u64, price: u64| (u128::from(amount) * u128::from(price)).div_ceil(u128::from(unit));
        let sum = part(need.cpu_milli, 1000, self.cpu_core_hour_micro)
            + part(need.memory_bytes, GIB, self.memory_gib_hour_micro)
            + part(need.chip_milli, 1000, self.chip_hour_micro);
        u64::try_from(sum).unwrap_or(u64::MAX)
    }
}

/// A pool that a region shares: declared by its operator, filled by its adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// Unique in the region.
    pub name: String,
    /// The adapter that drives it, for example `local`.
    pub backend: String,
    /// What it is sold as.
    pub class: ComputeClass,
    /// Text of the identifiers that describe it; they are what filters and prefixes match.
    #[serde(default)]
    pub identifiers: Vec<String>,
    /// Its servers.
    pub classes: Vec<ServerClass>,
    /// How sure its offers are.
    pub firmness: Firmness,
    /// What it costs.
    #[serde(default)]
    pub price: PriceList,
    /// grams of CO2 per kWh at the site, where known.
    #[serde(default)]
    pub carbon_g_per_kwh: Option<u32>,
    /// Takes no new work while true.
    #[serde(default)]
    pub cordoned: bool,
}

/// What is said of one server class in a digest and in `pool list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClassStatus {
    /// The class's name.
    pub class: String,
    /// Its accelerator.
    pub chip: Option<ChipModel>,
    /// Sum over its servers.
    pub total: Quantity,
    /// Sum of what is free over its servers.
    pub free: Quantity,
    /// The most that one task could get on one server now.
    pub largest_fit: Quantity,
}

/// Where a region is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionPlace {
    /// The region's name in the federation.
    pub region: RegionName,
    /// City code as in the identifier, for example `G110100` or `UDEFRA`.
    pub city: String,
    /// ISO 3166 country, two letters; what residency is judged by.
    pub country: String,
}
