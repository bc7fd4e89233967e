//! Whether a region can and will take a task: policy, residency, quota, then the first place that fits.

use super::super::capacity::Chance;
use super::super::counter::{Counter, price_in_round};
use super::super::message::{AskMode, ClassUpdate, Limits, TARGETS_MAX, Target};
use super::super::need::Need;
use super::super::rank::in_words;
use super::waitlist::{WAITING_MS, start_between};
use super::{Due, Provider, Refusal, refuse};
use crate::time::Now;
use cpi::ids::{MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::Quantity;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// When a pool whose backend does not answer may be asked again, in ms.
const DOWN_RETRY_MS: u64 = 2_000;

/// A place that fits, with what it costs.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    pub target: Target,
    pub chance: Chance,
    pub quantity: Quantity,
    /// Per hour, in millionths.
    pub price: u64,
    pub start_in_ms: u64,
}

/// What is asked of a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub from: MemberId,
    pub need: &'a Need,
    pub limits: &'a Limits,
    /// Whether the run would be committed to at once.
    pub commit: bool,
    pub round: u8,
}

impl Provider {
    /// Policy, residency and quota.
    pub(super) fn check(&self, from: MemberId, need: &Need, mode: AskMode) -> Result<(), Refusal> {
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

    /// The first target that fits, or of those that serve the same way at the same price the one that costs the least of
    /// what others may need; else the refusal that came closest.
    pub(super) fn pick(&self, wanted: Wanted<'_>, targets: &[Target], rng: &mut ChaCha8Rng) -> Result<Fit, Refusal> {
        let mut closest: Option<Refusal> = None;
        let mut best: Option<Fit> = None;
        for target in targets.iter().take(TARGETS_MAX) {
            if best.as_ref().is_some_and(|best| best.target.variant != target.variant) {
                continue;
            }
            match self.fit(wanted, target, rng) {
                Ok(fit) => {
                    let same = |best: &Fit| best.price == fit.price && best.start_in_ms == fit.start_in_ms;
                    if best.as_ref().is_none_or(|best| same(best) && fit.chance.cost < best.chance.cost) {
                        best = Some(fit);
                    }
                }
                Err(refusal) => {
                    let further = |c: &Refusal| refusal.0.code.precedence() > c.0.code.precedence();
                    if closest.as_ref().is_none_or(further) {
                        closest = Some(refusal);
                    }
                }
            }
        }
        best.ok_or_else(|| closest.unwrap_or_else(|| refuse(ReasonCode::InvalidTask, "the ask names no place")))
    }

    fn fit(&self, wanted: Wanted<'_>, target: &Target, rng: &mut ChaCha8Rng) -> Result<Fit, Refusal> {
        let Wanted { from, need, limits, commit, round } = wanted;
        let way = need
            .variants
            .get(usize::from(target.variant))
            .ok_or_else(|| refuse(ReasonCode::InvalidTask, "no such variant"))?;
        let (pool, class) = self.book.find(target).ok_or_else(|| {
            refuse(ReasonCode::ChipUnavailable, format!("there is no class {}/{}", target.pool, target.class))
        })?;
        let spec = self.book.pool(pool);
        if let Some(why) = self.down.get(&spec.name) {
            return Err((Reason::new(ReasonCode::AdapterDown, why.clone()), DOWN_RETRY_MS));
        }
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
        let list = spec.price.hour_micro(&quantity);
        let floor = price_in_round(list, round, self.config.provider.discount_permille_max);
        let price = limits.price_hour_micro_max.map_or(list, |max| list.min(max).max(floor));
        if limits.price_hour_micro_max.is_some_and(|max| price > max) {
            let detail = format!("the price is {price} millionths of {} per hour", spec.price.currency);
            return Err(refuse(ReasonCode::BudgetExceeded, detail));
        }
        if spec.cordoned {
            return Err((Reason::new(ReasonCode::PoolCordoned, spec.name.clone()), 60_000));
        }
        let start_in_ms = self.starts.get(&pool).map_or(0, |starts| starts.mean_ms());
        if limits.start_in_ms_max.is_some_and(|max| start_in_ms > max) {
            let detail = format!("runs of {} start after {start_in_ms} ms", spec.name);
            return Err(refuse(ReasonCode::DeadlineTooSoon, detail));
        }
        let retry_ms = 250 + rng.random_range(0..500);
        let held = self.holds_of_class.get(&(pool, class)).copied().unwrap_or(0);
        let Some(chance) = self.book.would_take(pool, class, &quantity) else {
            let code = if held > 0 {
                ReasonCode::ChipsHeld
            } else if self.book.free(pool, class).fits(&quantity) {
                ReasonCode::Fragmented
            } else {
                ReasonCode::NoCapacityNow
            };
            let largest = in_words(&self.book.largest_fit(pool, class));
            let detail = format!("{}/{} has {largest} on its freest server", spec.name, target.class);
            return Err((Reason::new(code, detail), retry_ms));
        };
        if commit && held > 0 && self.is_last(pool, class, &quantity) {
            let others = self.holds.values().any(|h| (h.slot.pool, h.slot.class) == (pool, class) && h.origin != from);
            if others {
                return Err((Reason::new(ReasonCode::Contended, format!("others hold {}", target.class)), retry_ms));
            }
        }
        Ok(Fit { target: target.clone(), chance, quantity, price, start_in_ms })
    }

    /// Whether no second such task would fit after this one.
    pub(super) fn is_last(&self, pool: u16, class: u16, quantity: &Quantity) -> bool {
        let twice = quantity.saturating_add(quantity);
        !self.book.free(pool, class).fits(&twice)
    }

    /// What is proposed instead of what was refused with `code`.
    pub(super) fn counter(
        &mut self,
        now: Now,
        task: TaskId,
        wanted: Wanted<'_>,
        targets: &[Target],
        code: ReasonCode,
        rng: &mut ChaCha8Rng,
    ) -> Option<Counter> {
        match code {
            ReasonCode::BudgetExceeded => {
                let unbounded = Limits { price_hour_micro_max: None, ..*wanted.limits };
                let fit = self.pick(Wanted { limits: &unbounded, ..wanted }, targets, rng).ok()?;
                let floor = price_in_round(fit.price, wanted.round, self.config.provider.discount_permille_max);
                Some(Counter::Dearer { price_hour_micro: floor })
            }
            ReasonCode::NoCapacityNow | ReasonCode::Fragmented | ReasonCode::ChipsHeld => {
                if let Some(target) = self.another_way(wanted, targets, rng) {
                    return Some(Counter::Less { target });
                }
                let (pool, class) = targets.iter().find_map(|target| self.book.find(target))?;
                let position = self.waitlists.entry((pool, class)).or_default().turn_away(now.mono, task);
                self.timers.arm(Due::Waiting(pool, class), now.mono.plus_ms(WAITING_MS + 1));
                let (running, elapsed_ms) = self.running_in(now, pool);
                let runs = self.runs.get(&pool).copied().unwrap_or_default();
                let (low_ms, high_ms) = start_between(position, running, elapsed_ms, &runs);
                Some(Counter::Later { position, low_ms, high_ms })
            }
            _ => None,
        }
    }

    /// Another of the task's own ways that fits now, beside the places that were asked.
    fn another_way(&self, wanted: Wanted<'_>, targets: &[Target], rng: &mut ChaCha8Rng) -> Option<Target> {
        for variant in 0..wanted.need.variants.len() {
            for spec in self.book.specs() {
                for class in &spec.classes {
                    let pool = spec.name.clone();
                    let target = Target { variant: variant as u16, pool, class: class.name.clone() };
                    if !targets.contains(&target) && self.fit(wanted, &target, rng).is_ok() {
                        return Some(target);
                    }
                }
            }
        }
        None
    }

    /// How many runs a pool has, and how long they have been running in the mean.
    fn running_in(&self, now: Now, pool: u16) -> (usize, u64) {
        let running = self.runs_in(pool) as usize;
        let begun = self.begun_in.get(&pool).copied().unwrap_or_default();
        let since = (u128::from(now.mono.0) * running as u128).saturating_sub(begun);
        (running, (since / running.max(1) as u128) as u64)
    }

    /// Fresh figures of the asked places.
    pub(super) fn figures(&self, targets: &[Target]) -> Vec<ClassUpdate> {
        let mut places: Vec<(u16, u16)> = targets.iter().take(4).filter_map(|t| self.book.find(t)).collect();
        places.dedup();
        places.into_iter().map(|(pool, class)| self.book.update(pool, class)).collect()
    }
}
