//! Pools as people and programs see them: the JSON shapes of `/v1/pools`.

use cpi::resource::Quantity;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Amounts on a server or in sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuantityView {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of scratch storage.
    pub storage_bytes: u64,
    /// Thousandths of a chip.
    pub chip_milli: u64,
}

impl From<Quantity> for QuantityView {
    fn from(q: Quantity) -> Self {
        Self {
            cpu_milli: q.cpu_milli,
            memory_bytes: q.memory_bytes,
            storage_bytes: q.storage_bytes,
            chip_milli: q.chip_milli,
        }
    }
}

/// A server class of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClassView {
    /// Its name.
    pub name: String,
    /// Dictionary code of the accelerator.
    pub chip_model: Option<String>,
    /// Kind of the accelerator, for example `GPU`.
    pub chip_kind: Option<String>,
    /// How many servers.
    pub servers: u32,
    /// What one empty server has.
    pub per_server: QuantityView,
    /// Sum of all servers.
    pub total: QuantityView,
    /// Sum of what is free.
    pub free: QuantityView,
    /// The most that one task could get on one server now.
    pub largest_fit: QuantityView,
}

/// A pool of this or another region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// Its region.
    pub region: String,
    /// Its member.
    pub member: String,
    /// Its name.
    pub name: String,
    /// The adapter behind it; only known for own pools.
    pub backend: Option<String>,
    /// `GC`, `IC`, `SC`, `EC`, `HC`.
    pub class: String,
    /// `held`, `reserved`, `estimate`.
    pub firmness: String,
    /// Takes no new work.
    pub cordoned: bool,
    /// The whole region takes no new work.
    pub draining: bool,
    /// ISO 4217.
    pub currency: String,
    /// Per core and hour in millionths.
    pub cpu_core_hour_micro: u64,
    /// Per GiB of memory and hour in millionths.
    pub memory_gib_hour_micro: u64,
    /// Per chip and hour in millionths.
    pub chip_hour_micro: u64,
    /// Grams of CO2 per kWh.
    pub carbon_g_per_kwh: Option<u32>,
    /// Tasks that run there (own pools).
    pub runs: Option<u32>,
    /// Stable keys of its identifiers.
    pub identifiers: Vec<String>,
    /// Its server classes.
    pub classes: Vec<ClassView>,
    /// Milliseconds since the figures were told; 0 for own pools.
    pub age_ms: u64,
    /// Whether the figures are too old to be believed.
    pub stale: bool,
}

/// A run in an own pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// The task.
    pub task: String,
    /// Its fence.
    pub fence: String,
    /// The region that submitted it.
    pub origin: String,
    /// `accepted`, `bound`, `started`, `ended`.
    pub phase: String,
    /// Class.
    pub class: String,
    /// Which server of the class.
    pub server: u32,
    /// What it takes.
    pub quantity: QuantityView,
}

/// One pool with what runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventoryView {
    /// The pool.
    pub pool: PoolView,
    /// Its runs.
    pub runs: Vec<RunView>,
}
