//! Which regions can take a task, in which order, and why the others cannot. A pure function of a snapshot.
//!
//! Scores are integers, lower is better: the weighted sum of terms that go from 0 (best) to 1,000 (worst), divided by
//! the sum of the weights. Every term is kept with the decision, so that `explain` and `plan` can show it.

use super::config::Weights;
use super::counter::Line;
use super::digest::ClassDigest;
use super::directory::{Region, Wanted};
use super::message::{Offer, TARGETS_MAX, Target};
use super::need::{Need, Wishes};
use crate::time::{Monotonic, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{Fence, MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{Firmness, Quantity};
use cpi::task::Objective;
use serde::{Deserialize, Serialize};

/// The terms of a score, each 0 (best) to 1,000 (worst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Terms {
    /// Against the cheapest candidate.
    pub price: u32,
    /// How full the region is, and what waits there.
    pub start: u32,
    /// Moving the inputs.
    pub data: u32,
    /// Round trip.
    pub latency: u32,
    /// Carbon of the site.
    pub carbon: u32,
    /// Broken promises.
    pub keep: u32,
    /// Capacity left behind that is hard to use.
    pub fragmentation: u32,
    /// Soft wishes and spread.
    pub affinity: u32,
    /// How long tasks waited there of late, in this origin's experience.
    pub waiting: u32,
    /// How often runs failed there, in this origin's experience.
    pub failure: u32,
}

/// A region that can take the task as far as its digest tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// Who.
    pub member: MemberId,
    /// Where in it, best first.
    pub targets: Vec<Target>,
    /// What it would take at the first target.
    pub quantity: Quantity,
    /// Lower is better.
    pub score: u32,
    /// What the score is made of.
    pub terms: Terms,
    /// By its price list, per hour in millionths.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// Round trip, 0 for this region itself.
    pub rtt_ms: u32,
    /// How sure its offers are.
    pub firmness: Firmness,
    /// How many such tasks its free capacity would take.
    pub slots: u32,
    /// What it may cost in all, moving the inputs included, in millionths.
    pub total_micro: u64,
    /// What became of it.
    pub answer: Answer,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Answer {
    /// It was not needed.
    #[default]
    NotAsked,
    /// It was asked and has not answered yet.
    Asked,
    /// It offered.
    Offered,
    /// It declined.
    Declined(Reason),
    /// It did not answer in time.
    TimedOut,
    /// It took the task.
    Chosen,
}

/// Which clause of the task kept a region out; counts of these tell a submitter what to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clause {
    /// The region's standing or reachability.
    Region,
    /// `placement.residency`.
    Residency,
    /// `placement.regions`, `exclude_regions`.
    Regions,
    /// `placement.cities`.
    Cities,
    /// `placement.filter`.
    Filter,
    /// `placement.prefix`.
    Prefix,
    /// Command or image.
    Payload,
    /// `resources.chips` and `resources.compute`.
    Chips,
    /// Sizes of `resources`.
    Shape,
    /// `budget`.
    Budget,
    /// What is free now.
    Capacity,
}

/// A region that cannot take it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Who.
    pub member: MemberId,
    /// Why: of its pools, the one that came closest.
    pub reason: Reason,
    /// Which clause.
    pub clause: Clause,
}

/// The outcome of ranking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranking {
    /// Best first.
    pub candidates: Vec<Ranked>,
    /// By member.
    pub refusals: Vec<Refused>,
}

/// How an attempt was decided: kept with the task for `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub fence: Fence,
    /// When it was decided.
    pub at: Timestamp,
    /// From the first ask to the binding, in ms.
    pub took_ms: u64,
    /// Best first.
    pub candidates: Vec<Ranked>,
    /// By member.
    pub refusals: Vec<Refused>,
    /// Proposals and answers to them, in their order.
    pub transcript: Vec<Line>,
}

/// The most regions that a decision keeps of each kind.
pub const DECISION_REGIONS_MAX: usize = 64;

/// What ranking is told beside the regions.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What is needed.
    pub need: &'a Need,
    /// Where it may go.
    pub wishes: &'a Wishes,
    /// What the choice weighs.
    pub weights: &'a Weights,
    /// Where filters look codes up.
    pub dictionary: &'a Dictionary,
    /// The origin: its own inputs need not move.
    pub me: MemberId,
    /// The moment, for the age of digests.
    pub now: Monotonic,
    /// How old a digest may be.
    pub digest_age_ms_max: u64,
    /// What a GiB costs that leaves this region, in millionths of the currency.
    pub egress_gib_micro: u64,
    /// Whether refusals are worded in full; ranking for its own sake leaves that out.
    pub verbose: bool,
}

/// Ranks `regions` for the question.
pub fn rank<'a>(question: &Question<'_>, regions: impl Iterator<Item = (&'a MemberId, &'a Region)>) -> Ranking {
    let mut ranking = Ranking::default();
    for (&member, region) in regions {
        match judge(question, member, region) {
            Ok(ranked) => ranking.candidates.push(ranked),
            Err((clause, reason)) => ranking.refusals.push(Refused { member, reason, clause }),
        }
    }
    score(question, &mut ranking.candidates);
    ranking.candidates.sort_by_key(|c| (c.score, c.member));
    ranking
}

type Refusal = (Clause, Reason);

fn refuse(question: &Question<'_>, clause: Clause, code: ReasonCode, detail: impl FnOnce() -> String) -> Refusal {
    (clause, if question.verbose { Reason::new(code, detail()) } else { code.into() })
}

/// The region's best targets, or the refusal of the pool that came closest.
fn judge(question: &Question<'_>, member: MemberId, region: &Region) -> Result<Ranked, Refusal> {
    let wishes = question.wishes;
    let place = &region.place;
    if !region.active {
        return Err(refuse(question, Clause::Region, ReasonCode::MemberSuspended, || {
            format!("{} is suspended", place.region)
        }));
    }
    let residency = &question.need.residency;
    if !residency.is_empty() && !residency.contains(&place.country) {
        return Err(refuse(question, Clause::Residency, ReasonCode::ResidencyViolated, || {
            format!("{} lies in {}, the task stays in {}", place.region, place.country, residency.join(", "))
        }));
    }
    if (!wishes.regions.is_empty() && !wishes.regions.contains(&place.region))
        || wishes.exclude_regions.contains(&place.region)
    {
        return Err(refuse(question, Clause::Regions, ReasonCode::RegionExcluded, || {
            format!("{} is not among the regions the task allows", place.region)
        }));
    }
    if !wishes.cities.is_empty() && !wishes.cities.contains(&place.city) {
        return Err(refuse(question, Clause::Cities, ReasonCode::RegionExcluded, || {
            format!("{} is in city {}, the task asks for {}", place.region, place.city, wishes.cities.join(", "))
        }));
    }
    let Some(digest) = &region.digest else {
        return Err(refuse(question, Clause::Region, ReasonCode::PeerUnreachable, || {
            format!("{} has not told its capacity yet", place.region)
        }));
    };
    let mut closest: Option<Refusal> = None;
    let mut best: Option<Ranked> = None;
    for pool in &digest.pools {
        for class in &pool.classes {
            for (variant, way) in question.need.variants.iter().enumerate() {
                let wanted = Wanted { pool, class, way };
                match fit(question, region, &wanted) {
                    Ok((quantity, price)) => {
                        let target =
                            Target { variant: variant as u16, pool: pool.name.clone(), class: class.name.clone() };
                        let stranded = stranded_permille(&wanted, &quantity);
                        let slots = slots_of(&class.free, &quantity);
                        match &mut best {
                            Some(ranked) => {
                                let better = (price, stranded) < (ranked.price_hour_micro, ranked.terms.fragmentation);
                                if better {
                                    ranked.targets.insert(0, target);
                                    ranked.quantity = quantity;
                                    ranked.price_hour_micro = price;
                                    ranked.total_micro = total_micro(question, member, price);
                                    ranked.currency.clone_from(&pool.price.currency);
                                    ranked.firmness = pool.firmness;
                                    ranked.terms = raw_terms(question, member, region, &wanted, stranded);
                                } else {
                                    ranked.targets.push(target);
                                }
                                ranked.slots = ranked.slots.saturating_add(slots);
                                ranked.targets.truncate(TARGETS_MAX);
                            }
                            None => {
                                best = Some(Ranked {
                                    member,
                                    targets: vec![target],
                                    quantity,
                                    score: 0,
                                    terms: raw_terms(question, member, region, &wanted, stranded),
                                    price_hour_micro: price,
                                    currency: pool.price.currency.clone(),
                                    rtt_ms: if member == question.me { 0 } else { region.rtt_ms.unwrap_or(0) },
                                    firmness: pool.firmness,
                                    slots,
                                    total_micro: total_micro(question, member, price),
                                    answer: Answer::NotAsked,
                                });
                            }
                        }
                    }
                    Err(refusal) => {
                        if closest.as_ref().is_none_or(|c| refusal.1.code.precedence() > c.1.code.precedence()) {
                            closest = Some(refusal);
                        }
                    }
                }
            }
        }
    }
    match best {
        // A region that could take it but cannot be asked: said last, so that the other reasons show first.
        Some(_) if digest.draining => Err(refuse(question, Clause::Region, ReasonCode::RegionDraining, || {
            format!("{} is being drained", place.region)
        })),
        Some(_) if member != question.me && region.rtt_ms.is_none() => {
            Err(refuse(question, Clause::Region, ReasonCode::PeerUnreachable, || {
                format!("{} is not connected", place.region)
            }))
        }
        Some(_) if member != question.me && region.breaker.left_ms(question.now) > 0 => {
            Err(refuse(question, Clause::Region, ReasonCode::PeerTimeout, || {
                format!(
                    "{} was silent {} times and is asked again in {} ms",
                    place.region,
                    region.breaker.misses(),
                    region.breaker.left_ms(question.now)
                )
            }))
        }
        Some(_) if question.now.since_ms(region.digest_at) > question.digest_age_ms_max.max(digest.ttl_ms) => {
            Err(refuse(question, Clause::Region, ReasonCode::PeerUnreachable, || {
                format!(
                    "{} has not told its capacity for {} s",
                    place.region,
                    question.now.since_ms(region.digest_at) / 1000
                )
            }))
        }
        Some(ranked) => Ok(ranked),
        None => Err(closest.unwrap_or_else(|| {
            refuse(question, Clause::Chips, ReasonCode::ChipUnavailable, || format!("{} shares no pool", place.region))
        })),
    }
}

/// Whether one way of the task fits one server class now, and for how much.
fn fit(question: &Question<'_>, region: &Region, wanted: &Wanted<'_>) -> Result<(Quantity, u64), Refusal> {
    let Wanted { pool, class, way } = wanted;
    let place = &region.place.region;
    if let Some(prefix) = &question.wishes.prefix
        && !region.has_prefix(pool, prefix)
    {
        return Err(refuse(question, Clause::Prefix, ReasonCode::FilterMismatch, || {
            format!("no identifier of {place}/{} begins with {prefix}", pool.name)
        }));
    }
    if let Some(filter) = &question.wishes.filter
        && !region.matches(pool, filter, question.dictionary)
    {
        return Err(refuse(question, Clause::Filter, ReasonCode::FilterMismatch, || {
            format!("no identifier of {place}/{} matches `{filter}`", pool.name)
        }));
    }
    if if way.image { !pool.images } else { !pool.commands } {
        return Err(refuse(question, Clause::Payload, ReasonCode::BackendUnsupported, || {
            let what = if way.image { "images" } else { "commands" };
            format!("{place}/{} does not run {what}", pool.name)
        }));
    }
    let Some(quantity) = way.on(class.chip.as_ref()) else {
        return Err(refuse(question, Clause::Chips, ReasonCode::ChipUnavailable, || {
            let has = class.chip.as_ref().map_or("no chips", |c| c.model.as_str());
            format!("{place}/{} has {has}", pool.name)
        }));
    };
    if !class.per_server.fits(&quantity) {
        return Err(refuse(question, Clause::Shape, ReasonCode::ShapeTooLarge, || {
            format!("one empty server of {place}/{}/{} has {}", pool.name, class.name, in_words(&class.per_server))
        }));
    }
    let price = pool.price.hour_micro(&quantity);
    if let Some(budget) = &question.wishes.budget {
        let cost_micro = u128::from(price) * u128::from(question.need.max_runtime_ms) / 3_600_000;
        if budget.currency != pool.price.currency || cost_micro > u128::from(budget.amount_minor) * 10_000 {
            return Err(refuse(question, Clause::Budget, ReasonCode::BudgetExceeded, || {
                format!(
                    "{place}/{} would cost up to {}.{:02} {}",
                    pool.name,
                    cost_micro / 1_000_000,
                    cost_micro / 10_000 % 100,
                    pool.price.currency
                )
            }));
        }
    }
    if pool.cordoned {
        return Err(refuse(question, Clause::Capacity, ReasonCode::PoolCordoned, || {
            format!("{place}/{} is cordoned", pool.name)
        }));
    }
    if !class.largest_fit.fits(&quantity) {
        let code = if class.free.fits(&quantity) { ReasonCode::Fragmented } else { ReasonCode::NoCapacityNow };
        return Err(refuse(question, Clause::Capacity, code, || {
            format!("{place}/{}/{} has {} on its freest server", pool.name, class.name, in_words(&class.largest_fit))
        }));
    }
    Ok((quantity, price))
}

/// Amounts for people.
pub fn in_words(quantity: &Quantity) -> String {
    let mut words = format!(
        "{}.{:03} cores, {} MiB memory",
        quantity.cpu_milli / 1000,
        quantity.cpu_milli % 1000,
        quantity.memory_bytes >> 20
    );
    if quantity.chip_milli > 0 {
        words.push_str(&format!(", {}.{:03} chips", quantity.chip_milli / 1000, quantity.chip_milli % 1000));
    }
    words
}

/// How many tasks of `need` the sum `free` would take, at most 1,000,000.
fn slots_of(free: &Quantity, need: &Quantity) -> u32 {
    let part = |free: u64, need: u64| free.checked_div(need).unwrap_or(u64::MAX);
    part(free.cpu_milli, need.cpu_milli)
        .min(part(free.memory_bytes, need.memory_bytes))
        .min(part(free.storage_bytes, need.storage_bytes))
        .min(part(free.chip_milli, need.chip_milli))
        .min(1_000_000) as u32
}

fn permille(part: u64, whole: u64) -> u32 {
    if whole == 0 { 0 } else { (u128::from(part) * 1000 / u128::from(whole)).min(1000) as u32 }
}

/// Chips that the task would strand, or what it would leave of the chips it breaks, as far as a digest tells.
fn stranded_permille(wanted: &Wanted<'_>, quantity: &Quantity) -> u32 {
    let (class, server) = (wanted.class, &wanted.class.per_server);
    if server.chip_milli == 0 {
        return 0;
    }
    let cpu = permille(quantity.cpu_milli, server.cpu_milli);
    let memory = permille(quantity.memory_bytes, server.memory_bytes);
    let chips = permille(quantity.chip_milli, server.chip_milli);
    cpu.max(memory).saturating_sub(chips).max(left_over_permille(class, quantity.chip_milli))
}

/// What would be left of the tightest chip or server for `chip_milli`, in permille of it. An exact fit leaves nothing.
fn left_over_permille(class: &ClassDigest, chip_milli: u64) -> u32 {
    if chip_milli == 0 {
        return 0;
    }
    if chip_milli < 1000 {
        let tenths = (0..10u32).filter(|n| class.chip_parts & (1 << n) != 0).map(|n| u64::from(n) * 100);
        let tightest = tenths.filter(|free| *free >= chip_milli).min();
        return (tightest.unwrap_or(1000) - chip_milli) as u32;
    }
    let asked = chip_milli.div_ceil(1000);
    let counts = (0..32u64).filter(|n| class.whole_chips & (1 << n) != 0 && *n >= asked);
    let server = class.per_server.chip_milli.div_ceil(1000);
    counts.min().map_or(0, |tightest| permille(tightest - asked, server))
}

/// What a run may cost in all: its longest time at this price, and its inputs on their way.
fn total_micro(question: &Question<'_>, member: MemberId, price_hour_micro: u64) -> u64 {
    let run = u128::from(price_hour_micro) * u128::from(question.need.max_runtime_ms) / 3_600_000;
    let moved = if member == question.me { 0 } else { u128::from(question.need.input_bytes) };
    let egress = moved * u128::from(question.egress_gib_micro) / (1 << 30);
    u64::try_from(run + egress).unwrap_or(u64::MAX)
}

/// A candidate's terms once it has offered: its own price, start and fragmentation instead of its digest's.
pub fn offered(terms: &Terms, offer: &Offer, listed_hour_micro: u64) -> Terms {
    let dearer = offer.price_hour_micro.saturating_sub(listed_hour_micro);
    // A second until the start counts 10 of 1,000. Four chips spoilt or mended reach from the middle to either end.
    let start = u64::from(terms.start) + offer.start_in_ms / 100;
    let spoilt = 500 + offer.fragmentation_milli.clamp(-4_096_000, 4_096_000) / 8_192;
    Terms {
        price: (terms.price + permille(dearer, offer.price_hour_micro)).min(1000),
        start: start.min(1000) as u32,
        fragmentation: spoilt as u32,
        ..*terms
    }
}

/// The terms that need no other candidate.
fn raw_terms(question: &Question<'_>, member: MemberId, region: &Region, wanted: &Wanted<'_>, stranded: u32) -> Terms {
    let Wanted { pool, class, .. } = wanted;
    let own = member == question.me;
    let whole = class.total();
    let scarce = if whole.chip_milli > 0 {
        permille(whole.chip_milli.saturating_sub(class.free.chip_milli), whole.chip_milli)
    } else {
        permille(whole.cpu_milli.saturating_sub(class.free.cpu_milli), whole.cpu_milli)
    };
    let queued = pool.queue.min(1000);
    let rtt = if own { 0 } else { region.rtt_ms.unwrap_or(1000) };
    // One second of transfer counts 10 of 1,000; 100 seconds and more count in full.
    let data = if own { 0 } else { (region.learned.transfer_ms(question.need.input_bytes) / 100).min(1000) as u32 };
    Terms {
        price: 0,
        start: (scarce + queued).min(1000),
        data,
        latency: (rtt * 2).min(1000),
        carbon: pool.carbon_g_per_kwh.unwrap_or(500).min(1000),
        keep: region.broken_permille(),
        fragmentation: stranded,
        affinity: region.affinity_term(pool, question.wishes, question.dictionary),
        waiting: region.learned.waiting_term(),
        failure: region.learned.failure_term(),
    }
}

/// Fills in the terms that compare candidates, and the scores.
fn score(question: &Question<'_>, candidates: &mut [Ranked]) {
    let Some(cheapest) = candidates.iter().map(|c| c.total_micro).min() else { return };
    let weights = weights_for(question.weights, question.wishes.objective);
    for candidate in candidates {
        let over = candidate.total_micro - cheapest;
        candidate.terms.price = permille(over, candidate.total_micro);
        candidate.score = weighted(&weights, &candidate.terms);
    }
}

/// The weighted mean of the terms, in tenths of a permille so that close candidates differ.
pub fn weighted(weights: &Weights, terms: &Terms) -> u32 {
    let pairs = [
        (weights.price, terms.price),
        (weights.start, terms.start),
        (weights.data, terms.data),
        (weights.latency, terms.latency),
        (weights.carbon, terms.carbon),
        (weights.keep, terms.keep),
        (weights.fragmentation, terms.fragmentation),
        (weights.affinity, terms.affinity),
        (weights.waiting, terms.waiting),
        (weights.failure, terms.failure),
    ];
    let sum: u64 = pairs.iter().map(|(w, t)| u64::from(*w) * u64::from(*t)).sum();
    let whole: u64 = pairs.iter().map(|(w, _)| u64::from(*w)).sum();
    (sum * 10 / whole.max(1)) as u32
}

/// The policy's weights, bent to what the task prefers.
pub fn weights_for(policy: &Weights, objective: Objective) -> Weights {
    let strong = 5_000;
    match objective {
        Objective::Balanced => *policy,
        Objective::Cost => Weights { price: strong, ..*policy },
        Objective::Start => Weights { start: strong, latency: policy.latency.max(500), ..*policy },
        Objective::Carbon => Weights { carbon: strong, ..*policy },
    }
}
