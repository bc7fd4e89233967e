//! Plans in the words of `/v1`: every offer, every refusal, and how many regions each clause of the task kept out.

use super::task_views::{ClauseCount, OfferView, PlanView, ReasonView, RefusalView, TermsView};
use super::tasks::rfc3339;
use crate::drivers::members::KnownMembers;
use consensus::negotiation::{PlanResult, Refused, Terms};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::Firmness;
use std::collections::BTreeMap;

/// The terms of a score.
pub fn terms_view(terms: &Terms) -> TermsView {
    TermsView {
        price: terms.price,
        start: terms.start,
        data: terms.data,
        latency: terms.latency,
        carbon: terms.carbon,
        keep: terms.keep,
        fragmentation: terms.fragmentation,
        affinity: terms.affinity,
        waiting: terms.waiting,
        failure: terms.failure,
    }
}

fn clause_name(refused: &Refused) -> String {
    serde_json::to_value(refused.clause).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A region that could not take the task.
pub fn refusal_view(refused: &Refused, members: &KnownMembers) -> RefusalView {
    RefusalView {
        region: members.region(refused.member),
        member: refused.member.to_string(),
        reason: (&refused.reason).into(),
        clause: clause_name(refused),
    }
}

/// How many regions each clause kept out, most first.
pub fn clause_counts(refusals: &[Refused]) -> Vec<ClauseCount> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for refused in refusals {
        *counts.entry(clause_name(refused)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().map(|(clause, regions)| ClauseCount { clause, regions }).collect();
    counts.sort_by_key(|c| std::cmp::Reverse(c.regions));
    counts
}

/// A plan as people see it.
pub fn plan_view(plan: &PlanResult, members: &KnownMembers, input_bytes: u64, max_runtime_ms: u64) -> PlanView {
    let chosen = plan.choice.as_ref().map(|c| c.member);
    let offers = plan.offers.iter().map(|planned| {
        let offer = &planned.offer;
        let cost = u128::from(offer.price_hour_micro) * u128::from(max_runtime_ms) / 3_600_000;
        OfferView {
            region: members.region(planned.member),
            member: planned.member.to_string(),
            pool: offer.target.pool.clone(),
            class: offer.target.class.clone(),
            variant: offer.target.variant,
            price_hour_micro: offer.price_hour_micro,
            cost_max_micro: u64::try_from(cost).unwrap_or(u64::MAX),
            currency: offer.currency.clone(),
            start_in_ms: offer.start_in_ms,
            firmness: match offer.firmness {
                Firmness::Held => "held",
                Firmness::Reserved => "reserved",
                Firmness::Estimate => "estimate",
            }
            .to_owned(),
            rtt_ms: planned.rtt_ms,
            answered_ms: planned.answered_ms,
            data_bytes: if planned.rtt_ms == 0 { 0 } else { input_bytes },
            carbon_g_per_kwh: offer.carbon_g_per_kwh,
            score: planned.score,
            terms: terms_view(&planned.terms),
            chosen: chosen == Some(planned.member),
        }
    });
    let clauses = clause_counts(&plan.refusals);
    PlanView {
        id: plan.plan.to_string(),
        at: rfc3339(plan.at),
        feasible: plan.choice.is_some(),
        reason: plan.choice.is_none().then(|| why_infeasible(plan)),
        offers: offers.collect(),
        refusals: plan.refusals.iter().map(|r| refusal_view(r, members)).collect(),
        clauses,
        held_for_s: plan.choice.as_ref().map_or(0, |c| c.hold_ms / 1000),
        took_ms: plan.took_ms,
    }
}

/// No region takes the task now: for ever, or for a reason that may pass.
fn why_infeasible(plan: &PlanResult) -> ReasonView {
    let counts = clause_counts(&plan.refusals);
    let detail: Vec<String> = counts.iter().map(|c| format!("{}: {}", c.clause, c.regions)).collect();
    let passing = plan.refusals.iter().map(|r| &r.reason).filter(|r| r.code.is_retryable());
    match passing.min_by_key(|r| r.code.precedence()) {
        Some(reason) => reason.into(),
        None => (&Reason::new(ReasonCode::NoCandidates, detail.join(", "))).into(),
    }
}
