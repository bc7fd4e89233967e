//! Whether a region can take a task as far as its digest tells, where in it, and if not, why.

use super::directory::{Region, Wanted};
use super::message::{TARGETS_MAX, Target};
use super::need::VariantNeed;
use super::rank::{Answer, Clause, Question, Ranked, in_words};
use super::score::{raw_terms, slots_of, spoilt, total_micro};
use super::shape::{BestPlace, Shape, ShapeDigest, Told, told};
use cpi::ids::MemberId;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{ChipModel, Quantity};

/// Which clause keeps a region out, and why.
pub(super) type Refusal = (Clause, Reason);

fn refuse(question: &Question<'_>, clause: Clause, code: ReasonCode, detail: impl FnOnce() -> String) -> Refusal {
    (clause, if question.verbose { Reason::new(code, detail()) } else { code.into() })
}

/// The region's best targets, or the refusal of the pool that came closest.
pub(super) fn judge(question: &Question<'_>, member: MemberId, region: &Region) -> Result<Ranked, Refusal> {
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
    let mut best_is_down = false;
    let ways: Vec<ToldOfWay<'_>> =
        question.need.variants.iter().map(|way| ToldOfWay::new(&digest.shapes, way)).collect();
    let mut position = 0u32;
    for pool in &digest.pools {
        for class in &pool.classes {
            let class_told = |way: &ToldOfWay<'_>| way.of_class(&digest.shapes, class.chip.as_ref(), position);
            for (variant, way) in question.need.variants.iter().enumerate() {
                let known = class_told(&ways[variant]);
                let wanted = Wanted { pool, class, way };
                match fit(question, region, &wanted, known) {
                    Ok((quantity, price)) => {
                        let target =
                            Target { variant: variant as u16, pool: pool.name.clone(), class: class.name.clone() };
                        let (fragmentation, left) = spoilt(&wanted, &quantity, known);
                        let slots = slots_of(&class.free, &quantity);
                        match &mut best {
                            Some(ranked) => {
                                let present = (ranked.price_hour_micro, ranked.terms.fragmentation, ranked.left);
                                if (pool.down, price, fragmentation, left)
                                    < (best_is_down, present.0, present.1, present.2)
                                {
                                    best_is_down = pool.down;
                                    ranked.targets.insert(0, target);
                                    ranked.quantity = quantity;
                                    ranked.price_hour_micro = price;
                                    ranked.total_micro = total_micro(question, member, price);
                                    ranked.currency.clone_from(&pool.price.currency);
                                    ranked.firmness = pool.firmness;
                                    ranked.terms = raw_terms(question, member, region, &wanted, fragmentation);
                                    ranked.left = left;
                                } else {
                                    ranked.targets.push(target);
                                }
                                ranked.slots = ranked.slots.saturating_add(slots);
                                ranked.targets.truncate(TARGETS_MAX);
                            }
                            None => {
                                best_is_down = pool.down;
                                best = Some(Ranked {
                                    member,
                                    targets: vec![target],
                                    quantity,
                                    score: 0,
                                    terms: raw_terms(question, member, region, &wanted, fragmentation),
                                    left,
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
            position += 1;
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
fn fit(
    question: &Question<'_>,
    region: &Region,
    wanted: &Wanted<'_>,
    known: ToldOfClass,
) -> Result<(Quantity, u64), Refusal> {
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
    let room = match known {
        ToldOfClass::Full => false,
        // What was asked there since the digest is taken off the sum only.
        ToldOfClass::Best(_) => class.free.fits(&quantity),
        _ => class.largest_fit.fits(&quantity),
    };
    if !room {
        let code = if class.free.fits(&quantity) { ReasonCode::Fragmented } else { ReasonCode::NoCapacityNow };
        return Err(refuse(question, Clause::Capacity, code, || {
            format!("{place}/{}/{} has {} on its freest server", pool.name, class.name, in_words(&class.largest_fit))
        }));
    }
    Ok((quantity, price))
}

/// What a digest tells about one class for one way of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToldOfClass {
    /// Nothing.
    Nothing,
    /// It fits nowhere in the region.
    Full,
    /// This class has the best place.
    Best(BestPlace),
    /// Another class has the best place, which is so good.
    Second(BestPlace),
    /// A near shape's best place is so good.
    Near(BestPlace),
}

/// What a digest tells about one way of a task; looked up once where it does not depend on the chip.
enum ToldOfWay<'a> {
    Once(Told),
    ByChip(&'a VariantNeed),
}

impl<'a> ToldOfWay<'a> {
    fn new(shapes: &[ShapeDigest], way: &'a VariantNeed) -> Self {
        if shapes.is_empty() {
            return Self::Once(Told::Nothing);
        }
        match &Shape::of_way(way)[..] {
            [shape] => Self::Once(told(shapes, shape)),
            _ => Self::ByChip(way),
        }
    }

    fn of_class(&self, shapes: &[ShapeDigest], chip: Option<&ChipModel>, position: u32) -> ToldOfClass {
        let told = match self {
            Self::Once(told) => *told,
            Self::ByChip(way) => Shape::of_way_on(way, chip).map_or(Told::Nothing, |shape| told(shapes, &shape)),
        };
        match told {
            Told::Nothing => ToldOfClass::Nothing,
            Told::Exactly(None) => ToldOfClass::Full,
            Told::Exactly(Some(best)) if u32::from(best.class) == position => ToldOfClass::Best(best),
            Told::Exactly(Some(best)) => ToldOfClass::Second(best),
            Told::Nearly(best) => ToldOfClass::Near(best),
        }
    }
}
