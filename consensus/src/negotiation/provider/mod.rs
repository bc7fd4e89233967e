//! The provider's part: answers asks from the capacity book, commits, runs under a lease, reports the end until it is
//! acknowledged. Never overcommits what is held or reserved, never leaves an ask without an answer.
//!
//! This file holds the state and its upkeep; `fitting` judges, `asked` answers, `leased` commits and ends, `renewing`
//! keeps leases alive, `account` knows one origin.

mod account;
mod asked;
mod fitting;
mod leased;
mod renewing;
mod waitlist;

use super::action::RunOrder;
use super::answers::Answers;
use super::capacity::{CapacityBook, Slot};
use super::config::NegotiationConfig;
use super::hold::Hold;
use super::lease::Lease;
use super::message::{Ask, Attempt};
use super::outbox::Outbox;
use super::peer::{AnswerTimes, Estimate};
use super::record::{LeasePhase, LeaseRecord};
use super::shape::Shape;
use super::timers::Timers;
use crate::time::{Monotonic, Now};
use account::Account;
use cpi::ids::MemberId;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{PoolSpec, Quantity, RegionPlace};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use waitlist::Waitlist;

/// What a backend can run, beside the pool's declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPool {
    /// As declared or discovered.
    pub spec: PoolSpec,
    /// Whether it runs commands.
    pub commands: bool,
    /// Whether it runs container images.
    pub images: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Hold(Attempt),
    Lapse(Attempt),
    Resend(Attempt),
    Renew(MemberId),
    Waiting(u16, u16),
    Batch(u16, u16),
}

/// Counters for people and metrics.
#[derive(Debug, Clone, Default)]
pub struct ProviderStats {
    /// Offers made.
    pub offers: u64,
    /// Leases granted.
    pub accepted: u64,
    /// Declines by reason.
    pub declines: BTreeMap<ReasonCode, u64>,
    /// Runs that ended.
    pub ended: u64,
    /// Those of them that were of other origins.
    pub ended_for_others: u64,
}

/// The provider's side of one node.
pub struct Provider {
    pub(super) me: MemberId,
    pub(super) incarnation: u64,
    pub(super) config: NegotiationConfig,
    pub(super) place: Option<RegionPlace>,
    pub(super) book: CapacityBook,
    pub(super) runs_what: Vec<(bool, bool)>,
    /// Pools whose backend does not answer, and what is wrong with it.
    pub(super) down: BTreeMap<String, String>,
    pub(super) draining: bool,
    pub(super) holds: BTreeMap<Attempt, Hold>,
    pub(super) holds_of_class: BTreeMap<(u16, u16), u32>,
    pub(super) leases: BTreeMap<Attempt, Lease>,
    pub(super) leases_of_pool: BTreeMap<u16, u32>,
    /// Sum of the moments at which the runs of a pool were granted: with their number it gives their mean age.
    pub(super) begun_in: BTreeMap<u16, u128>,
    /// From the order to start until the program runs, by pool.
    pub(super) starts: BTreeMap<u16, AnswerTimes>,
    /// How long runs take, by pool.
    pub(super) runs: BTreeMap<u16, Estimate>,
    pub(super) waitlists: BTreeMap<(u16, u16), Waitlist>,
    /// Asks for what is contended, gathered for a moment, by pool and class.
    pub(super) batches: BTreeMap<(u16, u16), Vec<(MemberId, Ask)>>,
    pub(super) accounts: BTreeMap<MemberId, Account>,
    pub(super) answers: Answers,
    pub(super) timers: Timers<Due>,
    pub(super) changes: u64,
    pub(super) stats: ProviderStats,
}

pub(super) type Refusal = (Reason, u64);

pub(super) fn refuse(code: ReasonCode, detail: impl Into<String>) -> Refusal {
    (Reason::new(code, detail), 0)
}

impl Provider {
    /// A provider without pools.
    pub fn new(me: MemberId, incarnation: u64, config: NegotiationConfig) -> Self {
        Self {
            me,
            incarnation,
            config,
            place: None,
            book: CapacityBook::default(),
            runs_what: Vec::new(),
            down: BTreeMap::new(),
            draining: false,
            holds: BTreeMap::new(),
            holds_of_class: BTreeMap::new(),
            leases: BTreeMap::new(),
            leases_of_pool: BTreeMap::new(),
            begun_in: BTreeMap::new(),
            starts: BTreeMap::new(),
            runs: BTreeMap::new(),
            waitlists: BTreeMap::new(),
            batches: BTreeMap::new(),
            accounts: BTreeMap::new(),
            answers: Answers::default(),
            timers: Timers::default(),
            changes: 0,
            stats: ProviderStats::default(),
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.timers.next()
    }

    /// Counts up with every change that a digest would show.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The book, to look at.
    pub fn book(&self) -> &CapacityBook {
        &self.book
    }

    /// What each pool of the book runs: commands, images.
    pub fn payloads(&self) -> &[(bool, bool)] {
        &self.runs_what
    }

    /// Whether the region takes no new work.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Its counters.
    pub fn stats(&self) -> &ProviderStats {
        &self.stats
    }

    /// All leases.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// How many holds there are.
    pub fn holds(&self) -> usize {
        self.holds.len()
    }

    /// Runs per pool position.
    pub fn runs_in(&self, pool: u16) -> u32 {
        self.leases_of_pool.get(&pool).copied().unwrap_or(0)
    }

    /// Tasks that were committed to a pool and do not run yet: their inputs are on the way, or the backend lets them wait.
    pub fn waiting_of(&self, pool: u16) -> u32 {
        let waits = |lease: &&Lease| lease.record.phase != LeasePhase::Ended && !lease.running;
        let here = self.leases.values().filter(|lease| lease.slot.is_some_and(|slot| slot.pool == pool));
        here.filter(waits).count() as u32
    }

    /// Whether the book agrees with holds and leases: the invariant behind "never overcommits".
    pub fn is_sound(&self) -> bool {
        let mut taken: BTreeMap<(u16, u16), Quantity> = BTreeMap::new();
        let slots = self
            .holds
            .values()
            .map(|h| (h.slot, h.offer.quantity))
            .chain(self.leases.values().filter_map(|l| l.slot.map(|s| (s, l.record.quantity))));
        for (slot, quantity) in slots {
            let sum = taken.entry((slot.pool, slot.class)).or_default();
            *sum = sum.saturating_add(&quantity);
        }
        let classes = self.book.specs().enumerate().flat_map(|(pool, spec)| {
            spec.classes.iter().enumerate().map(move |(class, c)| (pool as u16, class as u16, c))
        });
        let sums_agree = classes.into_iter().all(|(pool, class, spec)| {
            let total = super::digest::total_of(&spec.per_server, spec.servers);
            let held = taken.get(&(pool, class)).copied().unwrap_or_default();
            total.checked_sub(&held) == Some(self.book.free(pool, class))
        });
        sums_agree && self.book.is_sound()
    }

    /// Takes over the pools as declared; leases and holds keep what they have where the server is still there, and a pool
    /// that was known keeps its switch.
    pub fn set_pools(&mut self, mut pools: Vec<OwnPool>) {
        for pool in &mut pools {
            if let Some(known) = self.book.specs().find(|spec| spec.name == pool.spec.name) {
                pool.spec.cordoned = known.cordoned;
            }
        }
        self.down.retain(|name, _| pools.iter().any(|pool| pool.spec.name == *name));
        self.runs_what = pools.iter().map(|p| (p.commands, p.images)).collect();
        let mut book = CapacityBook::new(pools.into_iter().map(|p| p.spec).collect());
        book.remember_shapes_of(&self.book);
        self.book = book;
        self.leases_of_pool.clear();
        self.begun_in.clear();
        self.waitlists.clear();
        for lease in self.leases.values_mut() {
            let place = self.book.find(&lease.record.target);
            let slot =
                place.map(|(pool, class)| Slot { pool, class, server: lease.record.server, chips: lease.record.chips });
            let running = lease.record.phase != LeasePhase::Ended;
            lease.slot = slot.filter(|slot| running && self.book.take_at(*slot, &lease.record.quantity));
            if let Some(slot) = lease.slot {
                *self.leases_of_pool.entry(slot.pool).or_default() += 1;
                *self.begun_in.entry(slot.pool).or_default() += u128::from(lease.granted.0);
            }
        }
        let book = &mut self.book;
        let mut holds_of_class = BTreeMap::new();
        self.holds.retain(|_, hold| {
            let Some((pool, class)) = book.find(&hold.offer.target) else { return false };
            hold.slot = Slot { pool, class, ..hold.slot };
            let kept = book.take_at(hold.slot, &hold.offer.quantity);
            if kept {
                *holds_of_class.entry((pool, class)).or_default() += 1;
            }
            kept
        });
        self.holds_of_class = holds_of_class;
        self.changes += 1;
    }

    /// Takes over what is asked lately, most asked first.
    pub fn set_shapes(&mut self, asked: Vec<(Shape, u64)>) {
        self.book.set_shapes(asked);
        self.changes += u64::from(self.book.has_chips());
    }

    /// Stops or allows new work in a pool.
    pub fn cordon(&mut self, pool: &str, cordoned: bool) {
        if self.book.cordon(pool, cordoned) {
            self.changes += 1;
        }
    }

    /// Notes that a pool's backend does not answer, or does again. Asks for it are declined meanwhile; its runs stay.
    pub fn set_down(&mut self, pool: String, why: Option<String>) {
        let was = match why {
            Some(why) => self.down.insert(pool.clone(), why).is_some(),
            None => self.down.remove(&pool).is_some(),
        };
        self.changes += u64::from(was != self.is_down(&pool));
    }

    /// Whether a pool's backend does not answer.
    pub fn is_down(&self, pool: &str) -> bool {
        self.down.contains_key(pool)
    }

    /// Stops or allows new work in the region.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
        self.changes += 1;
    }

    /// Where a member is; its own place decides residency.
    pub fn learn_place(&mut self, member: MemberId, place: &RegionPlace) {
        if member == self.me {
            self.place = Some(place.clone());
        }
        self.accounts.entry(member).or_default().country = Some(place.country.clone());
    }

    /// Takes up the leases of an earlier incarnation: asks for renewals at once, finds runs again.
    pub fn restore(&mut self, now: Now, leases: Vec<LeaseRecord>, out: &mut Outbox) {
        for record in leases {
            let attempt = record.attempt;
            let origin = record.origin;
            match record.phase {
                LeasePhase::Accepted => out.run(RunOrder::Prepare(Box::new(record.grant(self.config.lease_ttl_ms)))),
                LeasePhase::Bound | LeasePhase::Started => {
                    out.run(RunOrder::Reattach(Box::new(record.grant(self.config.lease_ttl_ms))));
                }
                LeasePhase::Ended => self.timers.arm(Due::Resend(attempt), now.mono.plus_ms(100)),
            }
            let until = now.mono.plus_ms(self.config.lease_ttl_ms);
            if record.phase != LeasePhase::Ended {
                self.timers.arm(Due::Lapse(attempt), until);
            }
            self.accounts.entry(origin).or_default().leases.insert(attempt);
            self.timers.arm(Due::Renew(origin), now.mono.plus_ms(200));
            self.leases.insert(
                attempt,
                Lease {
                    record,
                    slot: None,
                    persist: Default::default(),
                    granted: now.mono,
                    starting: None,
                    until,
                    superseded: false,
                    running: false,
                    frozen: false,
                    resend_ms: self.config.resend_every_ms,
                    ended_at: now.mono,
                },
            );
        }
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        while let Some(due) = self.timers.pop_due(now.mono) {
            match due {
                Due::Hold(attempt) => {
                    self.drop_hold(&attempt, false);
                }
                Due::Lapse(attempt) => self.lapse(now, attempt, out),
                Due::Resend(attempt) => self.resend(now, attempt, out),
                Due::Renew(origin) => self.ask_renewal(now, origin, out),
                Due::Batch(pool, class) => self.answer_batch(now, (pool, class), rng, out),
                Due::Waiting(pool, class) => {
                    // Nobody was turned away for a while: those who were have found a place elsewhere or gave up.
                    self.waitlists.remove(&(pool, class));
                    self.changes += 1;
                }
            }
        }
    }
}

fn random_id(rng: &mut ChaCha8Rng) -> [u8; 16] {
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    id
}
