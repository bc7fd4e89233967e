//! Pools: own ones with what runs in them, and those of other regions as last told; cordon, uncordon, drain.

use super::pool_views::{ClassView, InventoryView, PoolView, RunView};
use crate::drivers::members::KnownMembers;
use crate::drivers::negotiation::{HandleError, NegotiationHandle, PoolState};
use consensus::negotiation::LeasePhase;
use cpi::ids::MemberId;
use cpi::resource::{ChipKind, ComputeClass, Firmness};

/// Why a verb on pools failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// There is no own pool of this name.
    #[error("there is no own pool {pool}; the pools are {}", known.join(", "))]
    NotFound {
        /// As asked.
        pool: String,
        /// The own pools.
        known: Vec<String>,
    },
    /// The driver cannot answer.
    #[error(transparent)]
    Driver(#[from] HandleError),
}

/// Pools.
#[derive(Clone)]
pub struct PoolService {
    me: MemberId,
    negotiation: NegotiationHandle,
    members: KnownMembers,
}

impl PoolService {
    /// A service over the driver.
    pub fn new(me: MemberId, negotiation: NegotiationHandle, members: KnownMembers) -> Self {
        Self { me, negotiation, members }
    }

    /// All pools, or own ones only.
    ///
    /// # Errors
    /// [`PoolError::Driver`].
    pub async fn list(&self, own_only: bool) -> Result<Vec<PoolView>, PoolError> {
        let pools = self.negotiation.pools().await?;
        let shown = pools.iter().filter(|p| !own_only || p.member == self.me);
        Ok(shown.map(|p| self.view(p)).collect())
    }

    /// An own pool with what runs in it.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn inventory(&self, pool: &str) -> Result<InventoryView, PoolError> {
        let view = self.own(pool).await?;
        let runs = self.negotiation.runs().await?;
        let runs = runs.into_iter().filter(|run| run.pool == pool).map(|run| RunView {
            task: run.attempt.task.to_string(),
            fence: run.attempt.fence.to_string(),
            origin: self.members.region(run.origin),
            phase: match run.phase {
                LeasePhase::Accepted => "accepted",
                LeasePhase::Bound => "bound",
                LeasePhase::Started => "started",
                LeasePhase::Ended => "ended",
            }
            .to_owned(),
            class: run.class,
            server: run.server,
            quantity: run.quantity.into(),
        });
        Ok(InventoryView { pool: view, runs: runs.collect() })
    }

    async fn own(&self, pool: &str) -> Result<PoolView, PoolError> {
        let pools = self.list(true).await?;
        let known = || pools.iter().map(|p| p.name.clone()).collect();
        let found = pools.iter().find(|p| p.name == pool).cloned();
        found.ok_or_else(|| PoolError::NotFound { pool: pool.to_owned(), known: known() })
    }

    /// The pool takes no new work, or does again. Kept over restarts.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn cordon(&self, pool: &str, cordoned: bool) -> Result<PoolView, PoolError> {
        self.own(pool).await?;
        self.negotiation.cordon(pool, cordoned).await?;
        self.own(pool).await
    }

    /// The whole region takes no new work, or does again; what runs is let end. Kept over restarts.
    ///
    /// # Errors
    /// [`PoolError::Driver`].
    pub async fn drain_region(&self, draining: bool) -> Result<Vec<PoolView>, PoolError> {
        self.negotiation.drain(draining).await?;
        self.list(true).await
    }

    fn view(&self, pool: &PoolState) -> PoolView {
        let digest = &pool.digest;
        PoolView {
            region: self.members.region(pool.member),
            member: pool.member.to_string(),
            name: digest.name.clone(),
            backend: pool.backend.clone(),
            class: match digest.class {
                ComputeClass::General => "GC",
                ComputeClass::Intelligent => "IC",
                ComputeClass::Super => "SC",
                ComputeClass::Edge => "EC",
                ComputeClass::Hybrid => "HC",
            }
            .to_owned(),
            firmness: match digest.firmness {
                Firmness::Held => "held",
                Firmness::Reserved => "reserved",
                Firmness::Estimate => "estimate",
            }
            .to_owned(),
            cordoned: digest.cordoned,
            draining: pool.draining,
            currency: digest.price.currency.clone(),
            cpu_core_hour_micro: digest.price.cpu_core_hour_micro,
            memory_gib_hour_micro: digest.price.memory_gib_hour_micro,
            chip_hour_micro: digest.price.chip_hour_micro,
            carbon_g_per_kwh: digest.carbon_g_per_kwh,
            runs: pool.runs,
            identifiers: digest.identifiers.iter().map(ToString::to_string).collect(),
            classes: digest
                .classes
                .iter()
                .map(|class| ClassView {
                    name: class.name.clone(),
                    chip_model: class.chip.as_ref().map(|c| c.model.clone()),
                    chip_kind: class.chip.as_ref().map(|c| kind(c.kind).to_owned()),
                    servers: class.servers,
                    per_server: class.per_server.into(),
                    total: class.total().into(),
                    free: class.free.into(),
                    largest_fit: class.largest_fit.into(),
                })
                .collect(),
            age_ms: pool.age_ms,
            stale: pool.stale,
        }
    }
}

fn kind(kind: ChipKind) -> &'static str {
    match kind {
        ChipKind::Cpu => "CPU",
        ChipKind::Gpu => "GPU",
        ChipKind::Npu => "NPU",
        ChipKind::Tpu => "TPU",
        ChipKind::Dcu => "DCU",
        ChipKind::Dpu => "DPU",
        ChipKind::Fpg => "FPG",
        ChipKind::Asc => "ASC",
        ChipKind::Qpu => "QPU",
    }
}
