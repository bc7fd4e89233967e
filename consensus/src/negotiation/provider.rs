//! The provider's part: answers asks from the capacity book, commits, runs under a lease, reports the end until it is
//! acknowledged. Never overcommits what is held or reserved, never leaves an ask without an answer.

use super::action::RunOrder;
use super::answers::{Answers, Remembered};
use super::capacity::{CapacityBook, Slot};
use super::config::NegotiationConfig;
use super::hold::Hold;
use super::input::RunNotice;
use super::lease::Lease;
use super::message::{
    Accepted, Ask, AskMode, Attempt, Award, ClassUpdate, Decline, Ended, Limits, Message, Offer, Progress,
    RENEW_ITEMS_MAX, Renew, Renewed, TARGETS_MAX, Target,
};
use super::need::Need;
use super::outbox::Outbox;
use super::outcome::RunOutcome;
use super::record::{LeasePhase, LeaseRecord, Record};
use super::timers::Timers;
use crate::time::{Monotonic, Now};
use bytes::Bytes;
use cpi::ids::{LeaseId, MemberId, OfferId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{PoolSpec, Quantity, RegionPlace};
use rand::{Rng as _, RngExt as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The longest hold of an offer, in ms.
const HOLD_MS_MAX: u64 = 5_000;
/// The longest hold of a plan's first choice, in ms.
const PLAN_HOLD_MS_MAX: u64 = 60_000;
/// Renewal rounds that may be answered late.
const ROUNDS_KEPT: usize = 4;
/// The longest pause between repeats of an end, in ms.
const RESEND_MS_MAX: u64 = 60_000;

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
enum Due {
    Hold(Attempt),
    Lapse(Attempt),
    Resend(Attempt),
    Renew(MemberId),
}

/// What is known of one origin.
#[derive(Debug, Default)]
struct Account {
    holds: u32,
    leases: BTreeSet<Attempt>,
    holds_used: u32,
    holds_unused: u32,
    round: u64,
    rounds: VecDeque<(u64, Monotonic, Vec<Attempt>)>,
    country: Option<String>,
}

impl Account {
    /// How many holds this origin may have: fewer the less it used of those it had.
    fn holds_max(&self, limit: u32) -> u32 {
        let all = self.holds_used + self.holds_unused;
        if all < 16 { limit } else { (limit * (self.holds_used + 1) / (all + 1)).max(4.min(limit)) }
    }

    fn count_hold(&mut self, used: bool) {
        if used {
            self.holds_used += 1;
        } else {
            self.holds_unused += 1;
        }
        if self.holds_used + self.holds_unused > 1024 {
            self.holds_used /= 2;
            self.holds_unused /= 2;
        }
    }
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
    me: MemberId,
    incarnation: u64,
    config: NegotiationConfig,
    place: Option<RegionPlace>,
    book: CapacityBook,
    runs_what: Vec<(bool, bool)>,
    draining: bool,
    holds: BTreeMap<Attempt, Hold>,
    holds_of_class: BTreeMap<(u16, u16), u32>,
    leases: BTreeMap<Attempt, Lease>,
    leases_of_pool: BTreeMap<u16, u32>,
    accounts: BTreeMap<MemberId, Account>,
    answers: Answers,
    timers: Timers<Due>,
    changes: u64,
    stats: ProviderStats,
}

type Refusal = (Reason, u64);

fn refuse(code: ReasonCode, detail: impl Into<String>) -> Refusal {
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
            draining: false,
            holds: BTreeMap::new(),
            holds_of_class: BTreeMap::new(),
            leases: BTreeMap::new(),
            leases_of_pool: BTreeMap::new(),
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

    /// Takes over the pools as declared; leases and holds keep what they have where the server is still there.
    pub fn set_pools(&mut self, pools: Vec<OwnPool>) {
        self.runs_what = pools.iter().map(|p| (p.commands, p.images)).collect();
        self.book = CapacityBook::new(pools.into_iter().map(|p| p.spec).collect());
        self.leases_of_pool.clear();
        for lease in self.leases.values_mut() {
            let place = self.book.find(&lease.record.target);
            let slot = place.map(|(pool, class)| Slot { pool, class, server: lease.record.server });
            let running = lease.record.phase != LeasePhase::Ended;
            lease.slot = slot.filter(|slot| running && self.book.take_at(*slot, &lease.record.quantity));
            if let Some(slot) = lease.slot {
                *self.leases_of_pool.entry(slot.pool).or_default() += 1;
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

    /// Stops or allows new work in a pool.
    pub fn cordon(&mut self, pool: &str, cordoned: bool) {
        if self.book.cordon(pool, cordoned) {
            self.changes += 1;
        }
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
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        while let Some(due) = self.timers.pop_due(now.mono) {
            match due {
                Due::Hold(attempt) => {
                    self.drop_hold(&attempt, false);
                }
                Due::Lapse(attempt) => self.lapse(now, attempt, out),
                Due::Resend(attempt) => self.resend(now, attempt, out),
                Due::Renew(origin) => self.ask_renewal(now, origin, out),
            }
        }
    }

    /// An ask.
    pub fn ask(&mut self, now: Now, from: MemberId, ask: Ask, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        let attempt = Attempt { task: ask.task, fence: ask.fence };
        if self.repeat(now, from, attempt, ask.mode, out) {
            return;
        }
        if let Some(code) = self.supersede(now, from, attempt, out) {
            self.decline(now, from, attempt, ask.mode, (code.into(), 0), Vec::new(), out);
            return;
        }
        let picked = self
            .check(from, &ask.need, ask.mode)
            .and_then(|()| self.pick(from, &ask.need, &ask.targets, &ask.limits, ask.mode == AskMode::CommitIf, rng));
        let (target, pool, class, quantity, price) = match picked {
            Ok(picked) => picked,
            Err(refusal) => {
                let status = self.figures(&ask.targets);
                self.decline(now, from, attempt, ask.mode, refusal, status, out);
                return;
            }
        };
        match ask.mode {
            AskMode::Quote => {
                let offer = self.offer(from, &ask, target, (pool, quantity, price), 0, rng);
                self.stats.offers += 1;
                out.send(from, Message::Offer(Box::new(offer)));
            }
            AskMode::Hold { ttl_ms } => {
                let slot = self.book.take(pool, class, &quantity).expect("it was found to fit");
                let longest = if ttl_ms > HOLD_MS_MAX { PLAN_HOLD_MS_MAX } else { HOLD_MS_MAX };
                let hold_ms = ttl_ms.min(longest);
                let offer = self.offer(from, &ask, target, (pool, quantity, price), hold_ms, rng);
                let until = now.mono.plus_ms(hold_ms);
                out.send(from, Message::Offer(Box::new(offer.clone())));
                self.holds.insert(attempt, Hold { origin: from, slot, offer: Box::new(offer), until });
                *self.holds_of_class.entry((pool, class)).or_default() += 1;
                self.accounts.entry(from).or_default().holds += 1;
                self.timers.arm(Due::Hold(attempt), until);
                self.stats.offers += 1;
                self.changes += 1;
            }
            AskMode::CommitIf => {
                let Some(document) = ask.document else {
                    let refusal = refuse(ReasonCode::InvalidTask, "an ask that may commit carries the document");
                    self.decline(now, from, attempt, ask.mode, refusal, Vec::new(), out);
                    return;
                };
                let slot = self.book.take(pool, class, &quantity).expect("it was found to fit");
                let terms = Terms { target, quantity, price };
                self.commit(now, from, attempt, &ask.need, slot, terms, document, rng, out);
            }
        }
    }

    /// An award: the held capacity becomes a lease; without the hold it is checked anew.
    pub fn award(&mut self, now: Now, from: MemberId, award: Award, rng: &mut ChaCha8Rng, out: &mut Outbox) {
        let attempt = Attempt { task: award.task, fence: award.fence };
        if let Some(lease) = self.leases.get(&attempt) {
            if lease.record.origin == from {
                self.say_accepted(attempt, out);
            }
            return;
        }
        let mode = AskMode::CommitIf;
        if self.answers.is_released(&attempt) {
            let refusal = refuse(ReasonCode::HoldLost, "it was released");
            self.decline(now, from, attempt, mode, refusal, Vec::new(), out);
            return;
        }
        let held = self.holds.get(&attempt).is_some_and(|h| h.origin == from && h.offer.offer == award.offer);
        if held && award.incarnation == self.incarnation {
            let hold = self.remove_hold(&attempt, true).expect("it was just found");
            let offer = hold.offer;
            let terms = Terms { target: offer.target, quantity: offer.quantity, price: offer.price_hour_micro };
            self.commit(now, from, attempt, &award.need, hold.slot, terms, award.document, rng, out);
            return;
        }
        if let Some(code) = self.supersede(now, from, attempt, out) {
            self.decline(now, from, attempt, mode, (code.into(), 0), Vec::new(), out);
            return;
        }
        self.drop_hold(&attempt, false);
        let targets = [award.target];
        let picked = self
            .check(from, &award.need, mode)
            .and_then(|()| self.pick(from, &award.need, &targets, &award.limits, false, rng));
        match picked {
            Ok((target, pool, class, quantity, price)) => {
                let slot = self.book.take(pool, class, &quantity).expect("it was found to fit");
                let terms = Terms { target, quantity, price };
                self.commit(now, from, attempt, &award.need, slot, terms, award.document, rng, out);
            }
            Err((why, retry_ms)) => {
                let status = self.figures(&targets);
                let reason = Reason::new(ReasonCode::HoldLost, format!("{}: {}", why.code, why.detail));
                self.decline(now, from, attempt, mode, (reason, retry_ms), status, out);
            }
        }
    }

    /// The origin needs it no longer.
    pub fn release(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        if self.holds.get(&attempt).is_some_and(|h| h.origin == from) {
            self.drop_hold(&attempt, false);
        }
        match self.leases.get_mut(&attempt) {
            Some(lease) if lease.record.origin != from => return,
            Some(lease) if lease.record.phase == LeasePhase::Started => {
                lease.superseded = true;
                out.run(RunOrder::Cancel(attempt));
            }
            Some(_) => self.settle(now, attempt, out),
            None => {}
        }
        self.answers.remember(now.mono, attempt, Remembered::Released);
    }

    /// The custodians bound this provider: the run starts.
    pub fn bound(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else {
            let why = Reason::new(ReasonCode::RunLost, "the region has no such lease");
            out.send(from, Message::Gone(attempt, why));
            return;
        };
        if lease.record.origin != from {
            return;
        }
        match lease.record.phase {
            LeasePhase::Accepted => {
                lease.record.phase = LeasePhase::Started;
                lease.until = now.mono.plus_ms(self.config.lease_ttl_ms);
                lease.persist = out.persist(vec![Record::Lease(Box::new(lease.record.clone()))]);
                out.run(RunOrder::Start(attempt));
            }
            LeasePhase::Bound | LeasePhase::Started => {}
            LeasePhase::Ended => self.say_ended(attempt, out),
        }
    }

    /// The origin wants the run ended.
    pub fn cancel(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else {
            let why = Reason::new(ReasonCode::Cancelled, "the region has no such lease");
            out.send(from, Message::Gone(attempt, why));
            return;
        };
        if lease.record.origin != from {
            return;
        }
        match lease.record.phase {
            LeasePhase::Accepted => {
                out.run(RunOrder::Cancel(attempt));
                let outcome = RunOutcome { reason: Some(ReasonCode::Cancelled.into()), ..RunOutcome::default() };
                self.end(now, attempt, outcome, out);
            }
            LeasePhase::Bound | LeasePhase::Started => out.run(RunOrder::Cancel(attempt)),
            LeasePhase::Ended => self.say_ended(attempt, out),
        }
    }

    /// The origin has the end.
    pub fn end_ack(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) {
        let known = self.leases.get(&attempt);
        if known.is_some_and(|l| l.record.origin == from && l.record.phase == LeasePhase::Ended) {
            self.settle(now, attempt, out);
        }
    }

    /// The origin renewed a round.
    pub fn renewed(&mut self, now: Now, from: MemberId, renewed: Renewed, out: &mut Outbox) {
        let Some(account) = self.accounts.get_mut(&from) else { return };
        let Some(position) = account.rounds.iter().position(|(round, ..)| *round == renewed.round) else { return };
        let Some((_, sent, runs)) = account.rounds.remove(position) else { return };
        let superseded: BTreeSet<Attempt> = renewed.superseded.into_iter().collect();
        let until = sent.plus_ms(self.config.lease_ttl_ms);
        let mut alive = Vec::new();
        for attempt in runs {
            let Some(lease) = self.leases.get_mut(&attempt) else { continue };
            if superseded.contains(&attempt) {
                lease.superseded = true;
                match lease.record.phase {
                    LeasePhase::Started => out.run(RunOrder::Cancel(attempt)),
                    _ => self.settle(now, attempt, out),
                }
                continue;
            }
            lease.until = lease.until.max(until);
            lease.frozen = false;
            if lease.record.phase == LeasePhase::Started {
                alive.push(attempt);
            }
        }
        let left = until.since_ms(now.mono);
        if !alive.is_empty() && left > 0 {
            out.run(RunOrder::Renew { runs: alive, ttl_ms: left });
        }
    }

    /// The executor reports.
    pub fn run(&mut self, now: Now, attempt: Attempt, notice: RunNotice, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else {
            out.run(RunOrder::Release(attempt));
            return;
        };
        if lease.record.phase == LeasePhase::Ended {
            return;
        }
        let origin = lease.record.origin;
        match notice {
            RunNotice::Staged => out.send(origin, Message::Progress(attempt, Progress::Staged)),
            RunNotice::Started => {
                if !std::mem::replace(&mut lease.running, true) {
                    self.changes += 1;
                }
                out.send(origin, Message::Progress(attempt, Progress::Started { since_ms: 0 }));
            }
            RunNotice::Frozen => {
                lease.frozen = true;
                out.send(origin, Message::Progress(attempt, Progress::Frozen));
            }
            RunNotice::Ended(outcome) => self.end(now, attempt, *outcome, out),
            RunNotice::Failed(reason) | RunNotice::Lost(reason) => {
                let outcome = RunOutcome { reason: Some(reason), ..RunOutcome::default() };
                self.end(now, attempt, outcome, out);
            }
        }
    }

    // ---- parts

    /// Answers a repeated ask as before. Says whether it did.
    fn repeat(&mut self, now: Now, from: MemberId, attempt: Attempt, mode: AskMode, out: &mut Outbox) -> bool {
        if let Some(lease) = self.leases.get(&attempt) {
            if lease.record.origin == from {
                self.say_accepted(attempt, out);
            }
            return true;
        }
        if let Some(hold) = self.holds.get(&attempt) {
            if hold.origin == from {
                let left = hold.until.since_ms(now.mono);
                let offer = Offer { hold_ms: left, ..(*hold.offer).clone() };
                out.send(from, Message::Offer(Box::new(offer)));
            }
            return true;
        }
        match self.answers.get(&attempt) {
            Some(Remembered::Released) => {
                let refusal = refuse(ReasonCode::Fenced, "it was released");
                self.decline(now, from, attempt, mode, refusal, Vec::new(), out);
                true
            }
            Some(Remembered::Declined(before, decline)) if *before == mode && decline.origin == from => {
                out.send(from, Message::Decline(decline.clone()));
                true
            }
            _ => false,
        }
    }

    /// Judges the attempt against others of the same task here: an older one of the same origin gives way.
    fn supersede(&mut self, now: Now, from: MemberId, attempt: Attempt, out: &mut Outbox) -> Option<ReasonCode> {
        let low = Attempt { task: attempt.task, fence: cpi::ids::Fence { attempt: 0, ..LOWEST } };
        let others: Vec<Attempt> = self
            .leases
            .range(low..)
            .take_while(|(a, _)| a.task == attempt.task)
            .filter(|(_, lease)| !lease.superseded && lease.record.phase != LeasePhase::Ended)
            .map(|(a, _)| *a)
            .collect();
        for other in others {
            if other.fence > attempt.fence {
                return Some(ReasonCode::Fenced);
            }
            self.release(now, from, other, out);
        }
        None
    }

    /// Policy, residency and quota.
    fn check(&self, from: MemberId, need: &Need, mode: AskMode) -> Result<(), Refusal> {
        let policy = &self.config.provider;
        let account = self.accounts.get(&from);
        let served = policy.serve_origins.is_empty() || policy.serve_origins.contains(&from) || from == self.me;
        if policy.refuse_origins.contains(&from) || !served {
            return Err(refuse(ReasonCode::PolicyRefused, format!("tasks of {from} are not served")));
        }
        if !policy.accept_countries.is_empty() && from != self.me {
            let country = account.and_then(|a| a.country.as_ref());
            if !country.is_some_and(|c| policy.accept_countries.contains(c)) {
                return Err(refuse(ReasonCode::PolicyRefused, "tasks of the origin's country are not served"));
            }
        }
        if need.max_runtime_ms > policy.max_runtime_ms_max {
            let detail = format!("runs last at most {} s here", policy.max_runtime_ms_max / 1000);
            return Err(refuse(ReasonCode::PolicyRefused, detail));
        }
        if need.input_bytes > policy.input_bytes_max {
            let detail = format!("inputs have at most {} bytes here", policy.input_bytes_max);
            return Err(refuse(ReasonCode::StagingFull, detail));
        }
        if !need.residency.is_empty() {
            let country = self.place.as_ref().map(|p| &p.country);
            if !country.is_some_and(|c| need.residency.contains(c)) {
                let detail = format!("the region lies in {}", country.map_or("an unknown country", String::as_str));
                return Err(refuse(ReasonCode::ResidencyViolated, detail));
            }
        }
        if self.draining {
            return Err((ReasonCode::RegionDraining.into(), 60_000));
        }
        if self.leases.len() >= policy.leases_max {
            return Err((Reason::new(ReasonCode::Busy, "the region has its most runs"), 1_000));
        }
        if let Some(account) = account {
            if account.leases.len() >= policy.leases_per_origin_max as usize {
                let detail = format!("{from} has its most runs here: {}", account.leases.len());
                return Err((Reason::new(ReasonCode::QuotaExceeded, detail), 1_000));
            }
            let holds_max = account.holds_max(policy.holds_per_origin_max);
            if matches!(mode, AskMode::Hold { .. }) && account.holds >= holds_max {
                let detail = format!("{from} holds {} offers here, the most it may", account.holds);
                return Err((Reason::new(ReasonCode::QuotaExceeded, detail), 500));
            }
        }
        Ok(())
    }

    /// The first target that fits, or the refusal that came closest.
    fn pick(
        &self,
        from: MemberId,
        need: &Need,
        targets: &[Target],
        limits: &Limits,
        commit: bool,
        rng: &mut ChaCha8Rng,
    ) -> Result<(Target, u16, u16, Quantity, u64), Refusal> {
        let mut closest: Option<Refusal> = None;
        for target in targets.iter().take(TARGETS_MAX) {
            match self.fit(from, need, target, limits, commit, rng) {
                Ok((pool, class, quantity, price)) => return Ok((target.clone(), pool, class, quantity, price)),
                Err(refusal) => {
                    let further = |c: &Refusal| refusal.0.code.precedence() > c.0.code.precedence();
                    if closest.as_ref().is_none_or(further) {
                        closest = Some(refusal);
                    }
                }
            }
        }
        Err(closest.unwrap_or_else(|| refuse(ReasonCode::InvalidTask, "the ask names no place")))
    }

    fn fit(
        &self,
        from: MemberId,
        need: &Need,
        target: &Target,
        limits: &Limits,
        commit: bool,
        rng: &mut ChaCha8Rng,
    ) -> Result<(u16, u16, Quantity, u64), Refusal> {
        let way = need
            .variants
            .get(usize::from(target.variant))
            .ok_or_else(|| refuse(ReasonCode::InvalidTask, "no such variant"))?;
        let (pool, class) = self.book.find(target).ok_or_else(|| {
            refuse(ReasonCode::ChipUnavailable, format!("there is no class {}/{}", target.pool, target.class))
        })?;
        let spec = self.book.pool(pool);
        let (commands, images) = self.runs_what[usize::from(pool)];
        if if way.image { !images } else { !commands } {
            return Err(refuse(ReasonCode::BackendUnsupported, format!("pool {} does not run this", spec.name)));
        }
        let chip = spec.classes[usize::from(class)].chip.as_ref();
        let quantity = way.on(chip).ok_or_else(|| {
            let has = chip.map_or("no chips", |c| c.model.as_str());
            refuse(ReasonCode::ChipUnavailable, format!("class {}/{} has {has}", spec.name, target.class))
        })?;
        if !self.book.per_server(pool, class).fits(&quantity) {
            return Err(refuse(ReasonCode::ShapeTooLarge, format!("no server of {} is so large", target.class)));
        }
        let price = spec.price.hour_micro(&quantity);
        if limits.price_hour_micro_max.is_some_and(|max| price > max) {
            let detail = format!("the price is {price} millionths of {} per hour", spec.price.currency);
            return Err(refuse(ReasonCode::BudgetExceeded, detail));
        }
        if spec.cordoned {
            return Err((Reason::new(ReasonCode::PoolCordoned, spec.name.clone()), 60_000));
        }
        let retry_ms = 250 + rng.random_range(0..500);
        let held = self.holds_of_class.get(&(pool, class)).copied().unwrap_or(0);
        if self.book.would_take(pool, class, &quantity).is_none() {
            let code = if held > 0 {
                ReasonCode::ChipsHeld
            } else if self.book.free(pool, class).fits(&quantity) {
                ReasonCode::Fragmented
            } else {
                ReasonCode::NoCapacityNow
            };
            let largest = super::rank::in_words(&self.book.largest_fit(pool, class));
            let detail = format!("{}/{} has {largest} on its freest server", spec.name, target.class);
            return Err((Reason::new(code, detail), retry_ms));
        }
        if commit && held > 0 && self.is_last(pool, class, &quantity) {
            let others = self.holds.values().any(|h| (h.slot.pool, h.slot.class) == (pool, class) && h.origin != from);
            if others {
                return Err((Reason::new(ReasonCode::Contended, format!("others hold {}", target.class)), retry_ms));
            }
        }
        Ok((pool, class, quantity, price))
    }

    /// Whether no second such task would fit after this one.
    fn is_last(&self, pool: u16, class: u16, quantity: &Quantity) -> bool {
        let twice = quantity.saturating_add(quantity);
        !self.book.free(pool, class).fits(&twice)
    }

    fn offer(
        &mut self,
        origin: MemberId,
        ask: &Ask,
        target: Target,
        (pool, quantity, price): (u16, Quantity, u64),
        hold_ms: u64,
        rng: &mut ChaCha8Rng,
    ) -> Offer {
        let spec = self.book.pool(pool);
        Offer {
            task: ask.task,
            fence: ask.fence,
            offer: OfferId(random_id(rng)),
            origin,
            need: ask.need.digest(),
            target,
            quantity,
            price_hour_micro: price,
            currency: spec.price.currency.clone(),
            start_in_ms: 0,
            firmness: spec.firmness,
            hold_ms,
            carbon_g_per_kwh: spec.carbon_g_per_kwh,
            incarnation: self.incarnation,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the facts of one lease")]
    fn commit(
        &mut self,
        now: Now,
        origin: MemberId,
        attempt: Attempt,
        need: &Need,
        slot: Slot,
        terms: Terms,
        document: Bytes,
        rng: &mut ChaCha8Rng,
        out: &mut Outbox,
    ) {
        let spec = self.book.pool(slot.pool);
        let record = LeaseRecord {
            attempt,
            lease: LeaseId(random_id(rng)),
            origin,
            target: terms.target,
            server: slot.server,
            quantity: terms.quantity,
            firmness: spec.firmness,
            price_hour_micro: terms.price,
            currency: spec.price.currency.clone(),
            need: need.digest(),
            finish_on_partition: need.finish_on_partition,
            document,
            phase: LeasePhase::Accepted,
            outcome: None,
        };
        let persist = out.persist(vec![Record::Lease(Box::new(record.clone()))]);
        out.run(RunOrder::Prepare(Box::new(record.grant(self.config.lease_ttl_ms))));
        let until = now.mono.plus_ms(self.config.lease_ttl_ms);
        let lease = Lease {
            record,
            slot: Some(slot),
            persist,
            until,
            superseded: false,
            running: false,
            frozen: false,
            resend_ms: self.config.resend_every_ms,
            ended_at: now.mono,
        };
        self.leases.insert(attempt, lease);
        *self.leases_of_pool.entry(slot.pool).or_default() += 1;
        let account = self.accounts.entry(origin).or_default();
        if account.leases.is_empty() {
            self.timers.arm(Due::Renew(origin), now.mono.plus_ms(self.config.renew_every_ms));
        }
        account.leases.insert(attempt);
        self.timers.arm(Due::Lapse(attempt), until);
        self.stats.accepted += 1;
        self.changes += 1;
        self.say_accepted(attempt, out);
    }

    fn say_accepted(&self, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get(&attempt) else { return };
        let record = &lease.record;
        let accepted = Accepted {
            task: attempt.task,
            fence: attempt.fence,
            origin: record.origin,
            lease: record.lease,
            need: record.need,
            target: record.target.clone(),
            quantity: record.quantity,
            price_hour_micro: record.price_hour_micro,
            currency: record.currency.clone(),
            firmness: record.firmness,
            lease_ttl_ms: self.config.lease_ttl_ms,
            incarnation: self.incarnation,
        };
        out.send_after(lease.persist, record.origin, Message::Accepted(Box::new(accepted)));
    }

    fn say_ended(&self, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get(&attempt) else { return };
        let Some(outcome) = lease.record.outcome.clone() else { return };
        let ended = Ended { task: attempt.task, fence: attempt.fence, origin: lease.record.origin, outcome };
        out.send_after(lease.persist, lease.record.origin, Message::Ended(Box::new(ended)));
    }

    #[allow(clippy::too_many_arguments, reason = "the facts of one decline")]
    fn decline(
        &mut self,
        now: Now,
        origin: MemberId,
        attempt: Attempt,
        mode: AskMode,
        (reason, retry_after_ms): Refusal,
        status: Vec<ClassUpdate>,
        out: &mut Outbox,
    ) {
        *self.stats.declines.entry(reason.code).or_default() += 1;
        let decline =
            Box::new(Decline { task: attempt.task, fence: attempt.fence, origin, reason, retry_after_ms, status });
        self.answers.remember(now.mono, attempt, Remembered::Declined(mode, decline.clone()));
        out.send(origin, Message::Decline(decline));
    }

    /// Fresh figures of the asked places.
    fn figures(&self, targets: &[Target]) -> Vec<ClassUpdate> {
        let mut places: Vec<(u16, u16)> = targets.iter().take(4).filter_map(|t| self.book.find(t)).collect();
        places.dedup();
        places.into_iter().map(|(pool, class)| self.book.update(pool, class)).collect()
    }

    fn remove_hold(&mut self, attempt: &Attempt, used: bool) -> Option<Hold> {
        let hold = self.holds.remove(attempt)?;
        self.timers.disarm(Due::Hold(*attempt));
        let place = (hold.slot.pool, hold.slot.class);
        if let Some(count) = self.holds_of_class.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.holds_of_class.remove(&place);
            }
        }
        let account = self.accounts.entry(hold.origin).or_default();
        account.holds = account.holds.saturating_sub(1);
        account.count_hold(used);
        Some(hold)
    }

    /// Drops a hold and gives its capacity back.
    fn drop_hold(&mut self, attempt: &Attempt, used: bool) {
        if let Some(hold) = self.remove_hold(attempt, used) {
            self.book.give_back(hold.slot, &hold.offer.quantity);
            self.changes += 1;
        }
    }

    fn free(&mut self, attempt: &Attempt) {
        let Some(lease) = self.leases.get_mut(attempt) else { return };
        if let Some(slot) = lease.slot.take() {
            self.book.give_back(slot, &lease.record.quantity);
            if let Some(count) = self.leases_of_pool.get_mut(&slot.pool) {
                *count = count.saturating_sub(1);
            }
            self.changes += 1;
        }
    }

    /// The run is over: capacity is free, the outcome goes to disk and then to the origin.
    fn end(&mut self, now: Now, attempt: Attempt, outcome: RunOutcome, out: &mut Outbox) {
        self.free(&attempt);
        self.stats.ended += 1;
        let Some(lease) = self.leases.get_mut(&attempt) else { return };
        self.stats.ended_for_others += u64::from(lease.record.origin != self.me);
        if lease.superseded {
            self.settle(now, attempt, out);
            return;
        }
        lease.record.phase = LeasePhase::Ended;
        lease.record.outcome = Some(outcome);
        lease.record.document = Bytes::new();
        lease.ended_at = now.mono;
        lease.persist = out.persist(vec![Record::Lease(Box::new(lease.record.clone()))]);
        self.timers.disarm(Due::Lapse(attempt));
        self.timers.arm(Due::Resend(attempt), now.mono.plus_ms(lease.resend_ms));
        self.say_ended(attempt, out);
    }

    /// Nothing is left to do for this attempt.
    fn settle(&mut self, now: Now, attempt: Attempt, out: &mut Outbox) {
        self.free(&attempt);
        let Some(lease) = self.leases.remove(&attempt) else { return };
        if let Some(account) = self.accounts.get_mut(&lease.record.origin) {
            account.leases.remove(&attempt);
        }
        self.timers.disarm(Due::Lapse(attempt));
        self.timers.disarm(Due::Resend(attempt));
        out.persist(vec![Record::LeaseSettled(attempt)]);
        if lease.record.phase != LeasePhase::Ended {
            out.run(RunOrder::Cancel(attempt));
        }
        out.run(RunOrder::Release(attempt));
        self.answers.remember(now.mono, attempt, Remembered::Released);
    }

    /// A lease is due: it was renewed meanwhile, or it lapsed.
    fn lapse(&mut self, now: Now, attempt: Attempt, out: &mut Outbox) {
        let Some(lease) = self.leases.get_mut(&attempt) else { return };
        if lease.until > now.mono {
            self.timers.arm(Due::Lapse(attempt), lease.until);
            return;
        }
        match lease.record.phase {
            // Never bound: the origin is gone or chose another.
            LeasePhase::Accepted => self.settle(now, attempt, out),
            LeasePhase::Bound | LeasePhase::Started => {
                let last = lease.until.plus_ms(self.config.provider.frozen_ms_max);
                if lease.record.finish_on_partition {
                    self.timers.arm(Due::Lapse(attempt), now.mono.plus_ms(self.config.lease_ttl_ms));
                } else if now.mono < last {
                    // The run's supervisor froze it by its own clock; it waits for the origin's word.
                    lease.frozen = true;
                    self.timers.arm(Due::Lapse(attempt), last);
                } else {
                    lease.superseded = true;
                    out.run(RunOrder::Cancel(attempt));
                }
            }
            LeasePhase::Ended => {}
        }
    }

    /// The end was not acknowledged yet.
    fn resend(&mut self, now: Now, attempt: Attempt, out: &mut Outbox) {
        let keep_ms = self.config.provider.result_ms_max;
        let Some(lease) = self.leases.get_mut(&attempt) else { return };
        if now.mono.since_ms(lease.ended_at) > keep_ms {
            self.settle(now, attempt, out);
            return;
        }
        lease.resend_ms = (lease.resend_ms * 2).min(RESEND_MS_MAX);
        let next = now.mono.plus_ms(lease.resend_ms);
        self.timers.arm(Due::Resend(attempt), next);
        self.say_ended(attempt, out);
    }

    /// Asks an origin to renew all its leases here.
    fn ask_renewal(&mut self, now: Now, origin: MemberId, out: &mut Outbox) {
        let Some(account) = self.accounts.get_mut(&origin) else { return };
        if account.leases.is_empty() {
            account.rounds.clear();
            return;
        }
        let complete = account.leases.len() <= RENEW_ITEMS_MAX;
        let leases: Vec<Attempt> = account.leases.iter().copied().collect();
        for runs in leases.chunks(RENEW_ITEMS_MAX) {
            account.round += 1;
            let round = account.round;
            account.rounds.push_back((round, now.mono, runs.to_vec()));
            let renew = Renew { round, incarnation: self.incarnation, runs: runs.to_vec(), complete };
            out.send(origin, Message::Renew(renew));
        }
        let kept = ROUNDS_KEPT * leases.len().div_ceil(RENEW_ITEMS_MAX);
        while account.rounds.len() > kept {
            account.rounds.pop_front();
        }
        self.timers.arm(Due::Renew(origin), now.mono.plus_ms(self.config.renew_every_ms));
    }
}

/// What a lease is granted on.
struct Terms {
    target: Target,
    quantity: Quantity,
    price: u64,
}

const LOWEST: cpi::ids::Fence =
    cpi::ids::Fence { epoch: cpi::ids::Epoch { counter: 0, member: MemberId(0) }, attempt: 0 };

fn random_id(rng: &mut ChaCha8Rng) -> [u8; 16] {
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    id
}
