//! Looks at the negotiation once a second, so that a resolution shows what of its pool is free; and says whether placement
//! and the disk are ready.

use super::members::KnownMembers;
use super::negotiation::NegotiationHandle;
use crate::http::{Check, ReadinessCheck};
use crate::services::disk::DiskRoom;
use crate::services::identifiers::StatusSource;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use cpi::ids::StableKey;
use cpi::resolve::Status;
use cpi::resource::ClassStatus;
use std::collections::BTreeMap;
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
    pub async fn run(self, negotiation: NegotiationHandle, members: KnownMembers, stop: CancellationToken) {
        loop {
            self.look(&negotiation, &members).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self, negotiation: &NegotiationHandle, members: &KnownMembers) {
        // an overloaded driver is asked again later; what was seen stays, and ages
        let Ok(pools) = negotiation.pools().await else { return };
        let mut by_key = BTreeMap::new();
        for pool in &pools {
            let digest = &pool.digest;
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
    }
}

/// The disk is ready while enough of it is free.
pub struct DiskReady(pub DiskRoom);

#[async_trait]
impl ReadinessCheck for DiskReady {
    async fn check(&self) -> Check {
        let needed = self.0.free_bytes_min();
        let (ok, detail) = match self.0.free_bytes() {
            Ok(free) => (free >= needed, format!("{free} bytes free, {needed} needed")),
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
