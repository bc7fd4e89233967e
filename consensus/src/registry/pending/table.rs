//! The table: pending statements by issuer and sequence, found by key, bounded per author and in all.

use super::claim::{self, Change, Claim, ClaimRefused, Signed};
use super::repair::RepairItem;
use crate::registry::{RegistryReader, Standing, Statement};
use crate::time::{Monotonic, Now, Timestamp};
use cpi::ids::{MemberId, StableKey};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Statements that left the table and are not wanted again, so that a peer that lags does not bring them back.
const GONE_MAX: usize = 16_384;

/// A statement among members: the first 16 bytes of its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatementId(pub [u8; 16]);

impl StatementId {
    /// The id of a statement.
    pub fn of(digest: &[u8; 32]) -> Self {
        Self(digest[..16].try_into().expect("16 of 32 bytes"))
    }
}

/// Bounds and times.
#[derive(Debug, Clone)]
pub struct PendingLimits {
    /// A statement is forgotten after so long, in ms. Its owner goes on sending it.
    pub lifetime_ms: u64,
    /// Statements of one author.
    pub author_statements_max: usize,
    /// Bytes of one author's statements.
    pub author_bytes_max: usize,
    /// Statements in all.
    pub statements_max: usize,
    /// Bytes in all.
    pub bytes_max: usize,
    /// The leader proposes what came to nothing for so long, in ms; doubled with each attempt up to `fallback_ms_max`.
    pub fallback_ms: u64,
    /// Longest pause between two attempts, in ms.
    pub fallback_ms_max: u64,
    /// At most this is added to each pause, in ms.
    pub jitter_ms: u64,
    /// Statements that the leader proposes at the same time.
    pub proposals_max: usize,
}

impl Default for PendingLimits {
    fn default() -> Self {
        Self {
            lifetime_ms: 7 * 24 * 3_600 * 1_000,
            // half of the registry's window of sequences, so that none falls out of it while it waits
            author_statements_max: 512,
            author_bytes_max: 8 << 20,
            statements_max: 8_192,
            bytes_max: 64 << 20,
            fallback_ms: 2_000,
            fallback_ms_max: 60_000,
            jitter_ms: 1_000,
            proposals_max: 16,
        }
    }
}

/// Whether a statement was news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is pending here from now on.
    New,
    /// It was pending already, or was and is no more.
    Known,
}

/// A statement as the driver keeps it on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// When it became pending, by the wall clock here.
    pub since: Timestamp,
    /// The envelope as signed.
    pub envelope: Vec<u8>,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PendingAction {
    /// Write another member's statement to disk.
    Keep {
        /// Under this id.
        id: StatementId,
        /// This.
        kept: Kept,
    },
    /// Remove it from the disk.
    Drop {
        /// Which.
        id: StatementId,
    },
    /// Propose it, and tell [`PendingTable::returned`] when that ended.
    Propose {
        /// Which.
        id: StatementId,
        /// These bytes.
        envelope: Vec<u8>,
    },
}

/// What is pending on one identifier, for reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingView {
    /// The identifier.
    pub key: StableKey,
    /// Who claims it.
    pub issuer: MemberId,
    /// What is to happen.
    pub change: Change,
    /// The new text; `None` where it ends.
    pub text: Option<String>,
    /// The revision that is replaced, 0 for a new one.
    pub expected_revision: u64,
    /// The statement's sequence.
    pub sequence: u64,
    /// Since when, by the wall clock here.
    pub since: Timestamp,
}

/// Issuer, sequence, and the statement itself: a key may sign two with one sequence, and only one of them is held.
type Place = (MemberId, u64, StatementId);

struct Held {
    signed: Signed,
    claims: Vec<Claim>,
    since: Timestamp,
    envelope: Vec<u8>,
    due: Monotonic,
    attempts: u32,
    in_flight: bool,
}

/// Pending statements of all members, as far as this one heard of them. Holds no clock, disk or socket.
///
/// Offer what comes in, settle after the registry applied something, call `handle_timeout` when `poll_timeout` is due, and
/// drain `poll_action` after each.
pub struct PendingTable {
    me: MemberId,
    limits: PendingLimits,
    rng: ChaCha8Rng,
    leads: bool,
    held: BTreeMap<Place, Held>,
    by_id: BTreeMap<StatementId, Place>,
    by_key: BTreeSet<(StableKey, Place)>,
    bytes: usize,
    gone: BTreeSet<StatementId>,
    gone_order: VecDeque<StatementId>,
    actions: VecDeque<PendingAction>,
}

impl PendingTable {
    /// An empty table of member `me`.
    pub fn new(me: MemberId, limits: PendingLimits, seed: u64) -> Self {
        Self {
            me,
            limits,
            rng: ChaCha8Rng::seed_from_u64(seed),
            leads: false,
            held: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_key: BTreeSet::new(),
            bytes: 0,
            gone: BTreeSet::new(),
            gone_order: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes a verified statement in, if it can still come to something. `age_ms` is how long it has been pending elsewhere.
    ///
    /// # Errors
    /// [`ClaimRefused`] says why it is not taken, and whether it is wrong by itself.
    pub fn offer(
        &mut self,
        now: Now,
        statement: Statement,
        age_ms: u64,
        registry: &RegistryReader,
    ) -> Result<Taken, ClaimRefused> {
        let claims = claim::claims_of(&statement)?;
        let id = StatementId::of(&statement.digest);
        if !self.is_news(&id) {
            return Ok(Taken::Known);
        }
        if age_ms >= self.limits.lifetime_ms {
            return Err(ClaimRefused::Expired);
        }
        let issuer = claim::judge(&Signed::from(&statement), &claims, registry).inspect_err(|refused| {
            // what is over stays so; all else may look different to a replica that has caught up
            if *refused == ClaimRefused::Settled {
                self.entomb(id);
            }
        })?;
        self.make_room(issuer, statement.sequence, &statement)?;
        let since = Timestamp(now.wall.0.saturating_sub(age_ms));
        if issuer != self.me {
            let kept = Kept { since, envelope: statement.envelope.clone() };
            self.actions.push_back(PendingAction::Keep { id, kept });
        }
        self.insert(now, issuer, id, statement, claims, since);
        Ok(Taken::New)
    }

    /// Takes in what the disk kept. What cannot come to anything any more is dropped.
    pub fn restore(&mut self, now: Now, statement: Statement, since: Timestamp, registry: &RegistryReader) {
        let id = StatementId::of(&statement.digest);
        let age_ms = now.wall.0.saturating_sub(since.0);
        if self.offer(now, statement, age_ms, registry) != Ok(Taken::New) {
            self.actions.push_back(PendingAction::Drop { id });
        }
    }

    fn make_room(&self, issuer: MemberId, sequence: u64, statement: &Statement) -> Result<(), ClaimRefused> {
        let (mut count, mut bytes) = (0, 0);
        for ((_, other, _), held) in self.of_issuer(issuer) {
            if *other == sequence && held.signed.key == statement.key {
                return Err(ClaimRefused::Equivocation { sequence });
            }
            count += 1;
            bytes += held.envelope.len();
        }
        let more = statement.envelope.len();
        if count >= self.limits.author_statements_max || bytes + more > self.limits.author_bytes_max {
            return Err(ClaimRefused::Full { of_author: true });
        }
        if self.held.len() >= self.limits.statements_max || self.bytes + more > self.limits.bytes_max {
            return Err(ClaimRefused::Full { of_author: false });
        }
        Ok(())
    }

    fn insert(
        &mut self,
        now: Now,
        issuer: MemberId,
        id: StatementId,
        statement: Statement,
        claims: Vec<Claim>,
        since: Timestamp,
    ) {
        let place = (issuer, statement.sequence, id);
        self.by_key.extend(claims.iter().map(|claim| (claim.key, place)));
        self.by_id.insert(id, place);
        self.bytes += statement.envelope.len();
        let due = now.mono.plus_ms(self.pause(0));
        let held = Held {
            signed: Signed::from(&statement),
            claims,
            since,
            envelope: statement.envelope,
            due,
            attempts: 0,
            in_flight: false,
        };
        self.held.insert(place, held);
    }

    fn pause(&mut self, attempts: u32) -> u64 {
        let base = self.limits.fallback_ms.saturating_mul(1 << attempts.min(16)).min(self.limits.fallback_ms_max);
        base + self.rng.random_range(0..=self.limits.jitter_ms)
    }

    fn of_issuer(&self, issuer: MemberId) -> impl Iterator<Item = (&Place, &Held)> {
        let from = (issuer, 0, StatementId([0; 16]));
        let until = (issuer, u64::MAX, StatementId([255; 16]));
        self.held.range(from..=until)
    }

    /// Drops what the registry has an outcome for, and what can come to nothing by its state. What only stands in its way for
    /// a while (a suspension, an admission or a rotated key that this replica has not seen) stays until it is too old.
    pub fn settle(&mut self, registry: &RegistryReader) {
        let over: Vec<Place> = self
            .held
            .iter()
            .filter(|(place, held)| {
                claim::judge(&held.signed, &held.claims, registry).is_err_and(|refused| {
                    !refused.may_pass() || registry.member(place.0).is_none_or(|by| by.standing == Standing::Expelled)
                })
            })
            .map(|(place, _)| *place)
            .collect();
        for place in over {
            self.remove(place);
        }
    }

    fn remove(&mut self, place: Place) {
        let Some(held) = self.held.remove(&place) else { return };
        for claim in &held.claims {
            self.by_key.remove(&(claim.key, place));
        }
        self.bytes -= held.envelope.len();
        self.by_id.remove(&place.2);
        self.entomb(place.2);
        if place.0 != self.me {
            self.actions.push_back(PendingAction::Drop { id: place.2 });
        }
    }

    fn entomb(&mut self, id: StatementId) {
        if self.gone.insert(id) {
            self.gone_order.push_back(id);
        }
        while self.gone_order.len() > GONE_MAX {
            if let Some(oldest) = self.gone_order.pop_front() {
                self.gone.remove(&oldest);
            }
        }
    }

    /// Whether this node leads the registry. A new leader gives the owners time to find it.
    pub fn lead(&mut self, now: Now, leads: bool) {
        if leads && !self.leads {
            let pauses: Vec<u64> = (0..self.held.len()).map(|_| self.pause(0)).collect();
            for (held, pause) in self.held.values_mut().zip(pauses) {
                (held.due, held.attempts) = (now.mono.plus_ms(pause), 0);
            }
        }
        self.leads = leads;
    }

    /// Forgets what is too old, and proposes what is due where this node leads: of each author one at a time, in the order of
    /// its sequences, and nothing whose owner's own proposal is in flight.
    pub fn handle_timeout(&mut self, now: Now, registry: &RegistryReader, is_in_flight: impl Fn(&[u8; 32]) -> bool) {
        let lifetime = self.limits.lifetime_ms;
        let old: Vec<Place> = self
            .held
            .iter()
            .filter(|(place, held)| place.0 != self.me && now.wall.0.saturating_sub(held.since.0) >= lifetime)
            .map(|(place, _)| *place)
            .collect();
        for place in old {
            self.remove(place);
        }
        if !self.leads {
            return;
        }
        let mut room = self.limits.proposals_max.saturating_sub(self.held.values().filter(|h| h.in_flight).count());
        let issuers: BTreeSet<MemberId> = self.held.keys().map(|place| place.0).filter(|who| *who != self.me).collect();
        for issuer in issuers {
            if room == 0 || self.of_issuer(issuer).any(|(_, held)| held.in_flight) {
                continue;
            }
            let due: Vec<Place> =
                self.of_issuer(issuer).filter(|(_, held)| held.due <= now.mono).map(|(place, _)| *place).collect();
            for place in due {
                let pause = self.pause(0);
                let Some(held) = self.held.get_mut(&place) else { continue };
                // what the registry refuses it remembers: nothing is proposed that only waits for better times
                let stands = claim::judge(&held.signed, &held.claims, registry).is_ok();
                if is_in_flight(&held.signed.digest) || !stands || !claim::is_ready(&held.claims, registry) {
                    held.due = now.mono.plus_ms(pause);
                    continue;
                }
                held.in_flight = true;
                room -= 1;
                self.actions.push_back(PendingAction::Propose { id: place.2, envelope: held.envelope.clone() });
                break;
            }
        }
    }

    /// A proposal ended. If it has an outcome, [`PendingTable::settle`] finds it; if not, it is due again later.
    pub fn returned(&mut self, now: Now, id: &StatementId) {
        let Some(place) = self.by_id.get(id).copied() else { return };
        let attempts = self.held.get(&place).map_or(0, |held| held.attempts + 1);
        let pause = self.pause(attempts);
        if let Some(held) = self.held.get_mut(&place) {
            (held.in_flight, held.attempts, held.due) = (false, attempts, now.mono.plus_ms(pause));
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<PendingAction> {
        self.actions.pop_front()
    }

    /// When [`PendingTable::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self, now: Now) -> Option<Monotonic> {
        let others = || self.held.iter().filter(|(place, _)| place.0 != self.me).map(|(_, held)| held);
        let age = |held: &Held| now.wall.0.saturating_sub(held.since.0);
        let old = others().map(|held| now.mono.plus_ms(self.limits.lifetime_ms.saturating_sub(age(held)))).min();
        let due = others().filter(|held| self.leads && !held.in_flight).map(|held| held.due).min();
        old.into_iter().chain(due).min()
    }

    /// How many statements are pending.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many claims on identifiers they make.
    pub fn claims(&self) -> usize {
        self.by_key.len()
    }

    /// Bytes of all statements.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Claims on one identifier, by issuer and sequence.
    pub fn of_key(&self, key: &StableKey) -> Vec<PendingView> {
        let least = (MemberId(0), 0, StatementId([0; 16]));
        let of = self.by_key.range((*key, least)..).take_while(|(other, _)| other == key);
        of.flat_map(|(_, place)| self.views(place).filter(|view| view.key == *key)).collect()
    }

    /// All claims, by issuer and sequence.
    pub fn all(&self) -> impl Iterator<Item = PendingView> {
        self.held.keys().flat_map(|place| self.views(place))
    }

    fn views(&self, place: &Place) -> impl Iterator<Item = PendingView> {
        let held = self.held.get(place);
        held.into_iter().flat_map(|held| held.claims.iter().map(move |claim| (held, claim))).map(|(held, claim)| {
            PendingView {
                key: claim.key,
                issuer: place.0,
                change: claim.change,
                text: claim.text.clone(),
                expected_revision: claim.expected_revision,
                sequence: place.1,
                since: held.since,
            }
        })
    }

    /// Ids in order.
    pub fn ids(&self) -> impl Iterator<Item = StatementId> {
        self.by_id.keys().copied()
    }

    /// Whether a statement is not known here.
    pub fn is_news(&self, id: &StatementId) -> bool {
        !self.by_id.contains_key(id) && !self.gone.contains(id)
    }

    /// A statement with its age. The owner vouches for its own: they are as new as on the first day.
    pub(super) fn item(&self, now: Now, id: &StatementId) -> Option<RepairItem> {
        let place = self.by_id.get(id)?;
        let held = self.held.get(place)?;
        let age_ms = if place.0 == self.me { 0 } else { now.wall.0.saturating_sub(held.since.0) };
        Some(RepairItem { age_ms, envelope: held.envelope.clone() })
    }
}
