//! Looks at the negotiation once a second: what pools are free goes into resolutions, what happened into the metrics.

use super::members::KnownMembers;
use super::negotiation::NegotiationHandle;
use crate::http::{Check, ReadinessCheck};
use crate::metrics::{CapacityKind, Cause, Metrics, OutcomeReason, State};
use crate::services::identifiers::StatusSource;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use cpi::ids::StableKey;
use cpi::resolve::Status;
use cpi::resource::{ClassStatus, Quantity};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

struct Seen {
    at: Instant,
    by_key: BTreeMap<StableKey, Status>,
}

/// The pools of the federation by the identifiers that describe them, as last told. Clones are one watch.
#[derive(Clone)]
pub struct PoolWatch(Arc<ArcSwap<Seen>>);

impl Default for PoolWatch {
    fn default() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Seen { at: Instant::now(), by_key: BTreeMap::new() })))
    }
}

impl StatusSource for PoolWatch {
    fn status_of(&self, key: &StableKey) -> Option<Status> {
        let seen = self.0.load();
        let mut status = seen.by_key.get(key)?.clone();
        let since = u64::try_from(seen.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        status.age_ms = status.age_ms.saturating_add(since);
        Some(status)
    }
}

impl PoolWatch {
    /// Looks until `stop`.
    pub async fn run(
        self,
        negotiation: NegotiationHandle,
        members: KnownMembers,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        let board = negotiation.board().clone();
        metrics.on_scrape(move |metrics| {
            for state in ["pending", "placing", "staging", "running", "finishing"] {
                metrics.tasks.get_or_create(&State { state }).set(0);
            }
            for (state, count) in board.open_states() {
                metrics.tasks.get_or_create(&State { state }).set(count as i64);
            }
        });
        loop {
            self.look(&negotiation, &members, &metrics).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self, negotiation: &NegotiationHandle, members: &KnownMembers, metrics: &Metrics) {
        // an overloaded driver is asked again later; what was seen stays, and ages
        let Ok(pools) = negotiation.pools().await else { return };
        let mut by_key = BTreeMap::new();
        for pool in &pools {
            let digest = &pool.digest;
            if pool.backend.is_some() {
                for class in &digest.classes {
                    let name = format!("{}/{}", digest.name, class.name);
                    for (kind, quantity) in
                        [("total", class.total()), ("free", class.free), ("largest_fit", class.largest_fit)]
                    {
                        show(metrics, &name, kind, &quantity);
                    }
                }
            }
            let Ok(region) = members.region(pool.member).parse() else { continue };
            let status = Status {
                region,
                pool: digest.name.clone(),
                age_ms: pool.age_ms,
                cordoned: digest.cordoned || pool.draining,
                queue: u64::from(digest.queue),
                classes: digest
                    .classes
                    .iter()
                    .map(|class| ClassStatus {
                        class: class.name.clone(),
                        chip: class.chip.clone(),
                        total: class.total(),
                        free: class.free,
                        largest_fit: class.largest_fit,
                    })
                    .collect(),
            };
            by_key.extend(digest.identifiers.iter().map(|key| (*key, status.clone())));
        }
        self.0.store(Arc::new(Seen { at: Instant::now(), by_key }));

        let Ok((origin, provider, holds)) = negotiation.stats().await else { return };
        let total = |outcome, reason, count: u64| {
            let counter = metrics.placements.get_or_create(&OutcomeReason { outcome, reason }).clone();
            counter.inc_by(count.saturating_sub(counter.get()));
        };
        total("placed", "none", origin.placed);
        origin.failed.iter().for_each(|(reason, count)| total("ended", reason.code(), *count));
        let given = |outcome, reason, count: u64| {
            let counter = metrics.offers.get_or_create(&OutcomeReason { outcome, reason }).clone();
            counter.inc_by(count.saturating_sub(counter.get()));
        };
        given("offered", "none", provider.offers);
        given("accepted", "none", provider.accepted);
        provider.declines.iter().for_each(|(reason, count)| given("declined", reason.code(), *count));
        metrics.holds.get_or_create(&State { state: "held" }).set(holds as i64);
        let lost = metrics.failovers.get_or_create(&Cause { cause: "run_lost" }).clone();
        lost.inc_by(origin.lost.saturating_sub(lost.get()));
    }
}

fn show(metrics: &Metrics, class: &str, kind: &'static str, quantity: &Quantity) {
    let parts = [
        ("cpu_milli", quantity.cpu_milli),
        ("memory_bytes", quantity.memory_bytes),
        ("chip_milli", quantity.chip_milli),
    ];
    for (resource, amount) in parts {
        let labels = CapacityKind { class: class.to_owned(), kind, resource };
        metrics.capacity.get_or_create(&labels).set(i64::try_from(amount).unwrap_or(i64::MAX));
    }
}

/// The disk is ready while enough of it is free.
pub struct DiskReady {
    /// The data folder.
    pub folder: PathBuf,
    /// Bytes that must stay free.
    pub free_bytes_min: u64,
}

#[async_trait]
impl ReadinessCheck for DiskReady {
    async fn check(&self) -> Check {
        let (ok, detail) = match nix::sys::statvfs::statvfs(&self.folder) {
            Ok(disk) => {
                let free = disk.blocks_available().saturating_mul(disk.fragment_size());
                let ok = free >= self.free_bytes_min;
                (ok, format!("{free} bytes free, {} needed", self.free_bytes_min))
            }
            Err(error) => (false, error.to_string()),
        };
        Check { name: "disk".to_owned(), ok, detail }
    }
}

/// Placement is ready while its driver answers and keeps up.
pub struct PlacementReady(pub NegotiationHandle);

#[async_trait]
impl ReadinessCheck for PlacementReady {
    async fn check(&self) -> Check {
        let asked = tokio::time::timeout(Duration::from_secs(1), self.0.stats()).await;
        let (ok, detail) = match asked {
            Ok(Ok((origin, ..))) => (true, format!("{} tasks open", origin.open)),
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, "the driver did not answer within 1 s".to_owned()),
        };
        Check { name: "placement".to_owned(), ok, detail }
    }
}
