//! The terms of a score and what they add up to.

use super::config::Weights;
use super::digest::ClassDigest;
use super::directory::{Region, Wanted};
use super::judge::ToldOfClass;
use super::message::Offer;
use super::rank::{Question, Ranked, Terms};
use super::shape::{steps, term_of};
use cpi::ids::MemberId;
use cpi::resource::Quantity;
use cpi::task::Objective;

/// How many tasks of `need` the sum `free` would take, at most 1,000,000.
pub(super) fn slots_of(free: &Quantity, need: &Quantity) -> u32 {
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

/// The term of fragmentation, and what would be left behind. By what the digest tells of the shape; where it tells
/// nothing, a guess from sums, which no place that is known to mend or spoil nothing loses against.
pub(super) fn spoilt(wanted: &Wanted<'_>, quantity: &Quantity, known: ToldOfClass) -> (u32, u8) {
    match known {
        ToldOfClass::Best(best) | ToldOfClass::Near(best) => (term_of(i64::from(best.added)), best.left),
        ToldOfClass::Second(best) => (term_of(i64::from(best.added)), u8::MAX),
        ToldOfClass::Nothing | ToldOfClass::Full => {
            let fragmentation = 500 + stranded_permille(wanted, quantity) / 2;
            let (server, free) = (&wanted.class.per_server, &wanted.class.largest_fit);
            let left = |free: u64, need: u64, whole: u64| permille(free.saturating_sub(need), whole);
            let left = left(free.cpu_milli, quantity.cpu_milli, server.cpu_milli)
                + left(free.memory_bytes, quantity.memory_bytes, server.memory_bytes)
                + 2 * left(free.chip_milli, quantity.chip_milli, server.chip_milli);
            (fragmentation, (left / 16).min(255) as u8)
        }
    }
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
pub(super) fn total_micro(question: &Question<'_>, member: MemberId, price_hour_micro: u64) -> u64 {
    let run = u128::from(price_hour_micro) * u128::from(question.need.max_runtime_ms) / 3_600_000;
    let moved = if member == question.me { 0 } else { u128::from(question.need.input_bytes) };
    let egress = moved * u128::from(question.egress_gib_micro) / (1 << 30);
    u64::try_from(run + egress).unwrap_or(u64::MAX)
}

/// A candidate's terms once it has offered: its own price, start and fragmentation instead of its digest's.
pub(super) fn offered(terms: &Terms, offer: &Offer, listed_hour_micro: u64) -> Terms {
    let dearer = offer.price_hour_micro.saturating_sub(listed_hour_micro);
    // A second until the start counts 10 of 1,000.
    let start = u64::from(terms.start) + offer.start_in_ms / 100;
    Terms {
        price: (terms.price + permille(dearer, offer.price_hour_micro)).min(1000),
        start: start.min(1000) as u32,
        fragmentation: term_of(steps(offer.fragmentation_milli)),
        ..*terms
    }
}

/// The terms that need no other candidate.
pub(super) fn raw_terms(
    question: &Question<'_>,
    member: MemberId,
    region: &Region,
    wanted: &Wanted<'_>,
    fragmentation: u32,
) -> Terms {
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
        fragmentation,
        affinity: region.affinity_term(pool, question.wishes, question.dictionary),
        waiting: region.learned.waiting_term(),
        failure: region.learned.failure_term(),
    }
}

/// Fills in the terms that compare candidates, and the scores.
pub(super) fn score(question: &Question<'_>, candidates: &mut [Ranked]) {
    let Some(cheapest) = candidates.iter().map(|c| c.total_micro).min() else { return };
    let weights = weights_for(question.weights, question.wishes.objective);
    for candidate in candidates {
        let over = candidate.total_micro - cheapest;
        candidate.terms.price = permille(over, candidate.total_micro);
        candidate.score = weighted(&weights, &candidate.terms);
    }
}

/// The weighted mean of the terms, in tenths of a permille so that close candidates differ.
pub(super) fn weighted(weights: &Weights, terms: &Terms) -> u32 {
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
pub(super) fn weights_for(policy: &Weights, objective: Objective) -> Weights {
    let strong = 5_000;
    match objective {
        Objective::Balanced => *policy,
        Objective::Cost => Weights { price: strong, ..*policy },
        Objective::Start => Weights { start: strong, latency: policy.latency.max(500), ..*policy },
        Objective::Carbon => Weights { carbon: strong, ..*policy },
    }
}
