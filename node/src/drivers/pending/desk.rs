//! The desk: verifies what comes in, holds the table, and does what the table asks for.

use crate::mesh::{GossipVerdict, MeshHandle, PeerEvent, Topic};
use crate::metrics::{Metrics, RefusedReason};
use bytes::Bytes;
use consensus::codec::{self, CodecError};
use consensus::envelope::{ENVELOPE_BYTES_MAX, Envelope};
use consensus::raft::{RegistryHandle, Role};
use consensus::registry::Statement;
use consensus::registry::pending::{
    ClaimRefused, Kept, PendingAction, PendingLimits, PendingTable, PendingView, RepairItem, StatementId, Taken,
};
use consensus::store::{RecordBatch, Records, StoreError, Table};
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::ids::{MemberId, StableKey};
use governor::{DefaultDirectRateLimiter, Quota};
use rand::seq::IndexedRandom as _;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Others' pending statements, by id: format version, milliseconds since 1970, envelope.
const STATEMENTS: Table = Table(b'g');
/// Format version of a row.
const ROW_VERSION: u8 = 1;
/// Own statements published a second, and at once: below what others take of one author. More go to the leader alone, and
/// to others by repair.
const PUBLISH_PER_SECOND: u32 = 15;
const PUBLISH_BURST: u32 = 100;
/// Between two repairs with a random peer, at least; as much again at most.
const REPAIR_EVERY: Duration = Duration::from_secs(8);
/// From a new connection to a repair with that peer.
const REPAIR_AFTER_CONNECT: Duration = Duration::from_millis(300);
/// Repairs under way at one time.
const REPAIRS_MAX: usize = 4;
/// From an applied entry to a look at what it settled, so that a burst is looked at once.
const SETTLE_AFTER: Duration = Duration::from_millis(50);
/// The longest nap while something is pending: leadership may change.
const NAP: Duration = Duration::from_millis(500);
/// A fallback proposal is given so long.
const PROPOSE_WAIT: Duration = Duration::from_secs(3);

/// What the desk is made of.
pub struct PendingParts {
    /// This member.
    pub me: MemberId,
    /// The registry.
    pub registry: RegistryHandle,
    /// The mesh.
    pub mesh: MeshHandle,
    /// The node's records.
    pub records: Records,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
}

/// The desk. Clones are one.
#[derive(Clone)]
pub struct PendingDesk(Arc<Inner>);

struct Inner {
    parts: PendingParts,
    table: Mutex<PendingTable>,
    wake: Notify,
    budget: DefaultDirectRateLimiter,
    began: Instant,
}

impl PendingDesk {
    /// A desk with what the disk kept.
    ///
    /// # Errors
    /// [`StoreError`]: the rows cannot be read.
    pub fn open(parts: PendingParts) -> Result<Self, StoreError> {
        let limits = PendingLimits::default();
        let rows = parts.records.scan(STATEMENTS, &[], None, limits.statements_max)?;
        let rate = |n| NonZeroU32::new(n).expect("a positive constant");
        let quota = Quota::per_second(rate(PUBLISH_PER_SECOND)).allow_burst(rate(PUBLISH_BURST));
        let table = Mutex::new(PendingTable::new(parts.me, limits, rand::random()));
        let budget = DefaultDirectRateLimiter::direct(quota);
        let desk = Self(Arc::new(Inner { parts, table, wake: Notify::new(), budget, began: Instant::now() }));
        let (registry, now) = (desk.registry().reader(), desk.now());
        let federation = desk.registry().federation();
        let mut unreadable = RecordBatch::default();
        for (key, row) in rows {
            let statement = kept_of(&row).ok().and_then(|kept| {
                let statement = Statement::open(kept.envelope, &federation).ok()?;
                Some((statement, kept.since))
            });
            match statement {
                Some((statement, since)) => desk.table().restore(now, statement, since, &registry),
                None => unreadable.delete(STATEMENTS, &key),
            }
        }
        if !unreadable.is_empty() {
            tracing::warn!(rows = unreadable.len(), "kept statements that do not hold any more are dropped");
            drop(desk.0.parts.records.write(unreadable));
        }
        Ok(desk)
    }

    pub(super) fn table(&self) -> MutexGuard<'_, PendingTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Now {
        let mono = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Now { mono: Monotonic(mono), wall: Timestamp(wall) }
    }

    fn registry(&self) -> &RegistryHandle {
        &self.0.parts.registry
    }

    pub(super) fn mesh(&self) -> &MeshHandle {
        &self.0.parts.mesh
    }

    /// Claims pending on one identifier.
    pub fn of_key(&self, key: &StableKey) -> Vec<PendingView> {
        self.table().of_key(key)
    }

    /// How many claims are pending.
    pub fn claims(&self) -> usize {
        self.table().claims()
    }

    /// All claims that are pending.
    pub fn all(&self) -> Vec<PendingView> {
        self.table().all().collect()
    }

    /// Shows an own statement that is on disk by now, and spreads it.
    pub fn announce(&self, envelope: &[u8]) {
        if !self.show(envelope) {
            return;
        }
        if self.0.budget.check().is_err() {
            tracing::debug!("too many own statements at once: others learn of this one by repair");
            return;
        }
        if let Err(error) = self.mesh().publish(Topic::Registrations, Bytes::copy_from_slice(envelope)) {
            tracing::debug!(%error, "an own statement was not published");
        }
    }

    /// Shows an own statement. Returns whether it is one that can be pending and was not shown yet.
    pub fn show(&self, envelope: &[u8]) -> bool {
        let opened = Statement::open(envelope.to_vec(), &self.registry().federation());
        let Ok(statement) = opened else { return false };
        let new = self.table().offer(self.now(), statement, 0, &self.registry().reader());
        self.0.wake.notify_one();
        new == Ok(Taken::New)
    }

    /// Judges a gossiped statement of `author` before it is forwarded.
    pub fn on_registration(&self, author: MemberId, payload: &[u8]) -> GossipVerdict {
        match self.take(Some(author), payload.to_vec(), 0) {
            Ok(Taken::New) => {
                self.0.wake.notify_one();
                GossipVerdict::Accept
            }
            Ok(Taken::Known) => GossipVerdict::Ignore,
            Err(refused) => {
                self.count(author, &refused);
                if refused.is_wrong_by_itself() { GossipVerdict::Reject } else { GossipVerdict::Ignore }
            }
        }
    }

    fn take(&self, author: Option<MemberId>, envelope: Vec<u8>, age_ms: u64) -> Result<Taken, ClaimRefused> {
        let federation = self.registry().federation();
        // A known statement needs no second look at its signature.
        let id = StatementId::of(&cpi::ids::ContentDigest::of(&envelope).0);
        if !self.table().is_news(&id) {
            return Ok(Taken::Known);
        }
        let said = Envelope::from_bytes(&envelope).map(|envelope| envelope.federation);
        let statement = Statement::open(envelope, &federation).map_err(|error| match said {
            // Another epoch may be news to us.
            Ok(said) if said.id == federation.id && said.epoch != federation.epoch => ClaimRefused::Epoch,
            _ => ClaimRefused::from(&error),
        })?;
        let registry = self.registry().reader();
        if let Some(author) = author
            && let Some(signer) = registry.member_of_key(&statement.key)
            && signer.member != author
        {
            return Err(ClaimRefused::Author { signer: signer.member, author });
        }
        self.table().offer(self.now(), statement, age_ms, &registry)
    }

    /// Counts a refusal, and names the peer where it is no matter of timing.
    pub(super) fn count(&self, from: MemberId, refused: &ClaimRefused) {
        let reason = refused.name();
        self.0.parts.metrics.registry_refused.get_or_create(&RefusedReason { reason }).inc();
        match refused {
            ClaimRefused::Settled
            | ClaimRefused::Epoch
            | ClaimRefused::Format
            | ClaimRefused::UnknownSigner
            | ClaimRefused::Stale { .. }
            | ClaimRefused::Expired => tracing::debug!(member = %from, reason, %refused, "a statement is not pending"),
            _ => tracing::warn!(member = %from, reason, %refused, "a statement was refused"),
        }
    }

    /// Takes in what a peer gave; many signatures, so not for a thread that others wait for. Returns how much was new.
    ///
    /// # Errors
    /// The first statement that is wrong by itself: the peer has not looked at what it gives.
    pub(super) fn take_all(&self, from: MemberId, items: Vec<RepairItem>) -> Result<u32, ClaimRefused> {
        let mut new = 0;
        for item in items {
            match self.take(None, item.envelope, item.age_ms) {
                Ok(Taken::New) => new += 1,
                Ok(Taken::Known) => {}
                Err(refused) => {
                    self.count(from, &refused);
                    if refused.is_wrong_by_itself() {
                        return Err(refused);
                    }
                }
            }
        }
        if new > 0 {
            self.0.wake.notify_one();
        }
        Ok(new)
    }

    /// Runs the desk until `stop`; one task per node does.
    pub async fn run(self, stop: CancellationToken) {
        let mut applied = self.registry().watch_applied();
        let mut events = self.mesh().events();
        let mut settle_at: Option<Instant> = None;
        let mut next_repair = Instant::now() + repair_pause();
        let mut soon: BTreeMap<MemberId, Instant> = BTreeMap::new();
        let (mut repairs, mut proposals) = (JoinSet::new(), JoinSet::new());
        loop {
            self.turn(&mut proposals);
            let waits = !self.table().is_empty();
            let nap = if waits { self.nap() } else { REPAIR_EVERY };
            let first_repair = soon.values().min().copied().map_or(next_repair, |at| at.min(next_repair));
            let mut until = (Instant::now() + nap).min(first_repair);
            until = settle_at.map_or(until, |at| at.min(until));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = proposals.join_next(), if !proposals.is_empty() => {}
                Some(_) = repairs.join_next(), if !repairs.is_empty() => {}
                () = self.0.wake.notified() => {}
                event = events.recv() => match event {
                    Ok(PeerEvent::Connected(member)) => {
                        soon.insert(member, Instant::now() + REPAIR_AFTER_CONNECT);
                    }
                    Ok(PeerEvent::Disconnected(member)) => {
                        soon.remove(&member);
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => next_repair = Instant::now(),
                },
                changed = applied.changed(), if waits && settle_at.is_none() => {
                    if changed.is_err() {
                        return;
                    }
                    settle_at = Some(Instant::now() + SETTLE_AFTER);
                }
                () = tokio::time::sleep_until(until.into()) => {}
            }
            let now = Instant::now();
            if settle_at.is_some_and(|at| at <= now) {
                settle_at = None;
                let registry = self.registry().reader();
                self.table().settle(&registry);
            }
            let mut with: Vec<MemberId> = soon.iter().filter(|(_, at)| **at <= now).map(|(who, _)| *who).collect();
            soon.retain(|_, at| *at > now);
            if next_repair <= now {
                next_repair = now + repair_pause();
                with.extend(self.somebody());
            }
            for member in with {
                if repairs.len() < REPAIRS_MAX {
                    let desk = self.clone();
                    repairs.spawn(async move { desk.repair_with(member).await });
                } else {
                    soon.insert(member, now + REPAIR_AFTER_CONNECT);
                }
            }
        }
    }

    fn somebody(&self) -> Option<MemberId> {
        let connected: Vec<MemberId> =
            self.mesh().peers().into_iter().filter(|peer| peer.connected).map(|peer| peer.member).collect();
        connected.choose(&mut rand::rng()).copied()
    }

    fn nap(&self) -> Duration {
        let now = self.now();
        let due = self.table().poll_timeout(now);
        due.map_or(NAP, |due| Duration::from_millis(due.since_ms(now.mono))).min(NAP).max(Duration::from_millis(5))
    }

    /// Lets the table look at the time, and does what it asks for.
    fn turn(&self, proposals: &mut JoinSet<()>) {
        let handle = self.registry();
        let now = self.now();
        let mut actions = Vec::new();
        {
            let mut table = self.table();
            if !table.is_empty() {
                table.lead(now, handle.freshness().role == Role::Leader);
                table.handle_timeout(now, &handle.reader(), |digest| handle.is_in_flight(digest));
            }
            actions.extend(std::iter::from_fn(|| table.poll_action()));
        }
        let mut batch = RecordBatch::default();
        for action in actions {
            match action {
                PendingAction::Keep { id, kept } => batch.put(STATEMENTS, &id.0, &row_of(&kept)),
                PendingAction::Drop { id } => batch.delete(STATEMENTS, &id.0),
                PendingAction::Propose { id, envelope } => {
                    let desk = self.clone();
                    proposals.spawn(async move { desk.propose(id, envelope).await });
                }
            }
        }
        if !batch.is_empty() {
            self.0.parts.records.write_then(batch, |written| {
                if let Err(error) = written {
                    tracing::error!(%error, "others' pending statements cannot be kept on disk");
                }
            });
        }
    }

    async fn propose(&self, id: StatementId, envelope: Vec<u8>) {
        match self.registry().propose(envelope, PROPOSE_WAIT).await {
            Ok(committed) => match committed.response.refusals().next() {
                None => tracing::info!(index = committed.index, "a pending statement of another member was committed"),
                Some(refusal) => tracing::info!(%refusal, "a pending statement of another member was refused"),
            },
            Err(error) => tracing::debug!(%error, "a pending statement could not be committed"),
        }
        let (registry, now) = (self.registry().reader(), self.now());
        let mut table = self.table();
        table.returned(now, &id);
        table.settle(&registry);
    }
}

fn repair_pause() -> Duration {
    REPAIR_EVERY + REPAIR_EVERY.mul_f64(rand::random::<f64>())
}

fn row_of(kept: &Kept) -> Vec<u8> {
    codec::encode(ROW_VERSION, &(kept.since, &kept.envelope)).expect("plain fields")
}

fn kept_of(row: &[u8]) -> Result<Kept, CodecError> {
    let (since, envelope) = codec::decode(ROW_VERSION, row, ENVELOPE_BYTES_MAX + 64)?;
    Ok(Kept { since, envelope })
}
