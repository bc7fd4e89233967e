//! Why a task is where it is, in one sentence, with every region that was asked and every answer.

use super::plans::{clause_counts, refusal_view, terms_view};
use super::task_views::{AttemptView, CandidateView, ExplainView, TaskView};
use super::tasks::rfc3339;
use crate::drivers::members::KnownMembers;
use consensus::negotiation::{Answer, Decision, Ranked};

/// Explains a task by its decisions, newest first.
pub fn explain_view(task: &TaskView, decisions: &[Decision], members: &KnownMembers) -> ExplainView {
    let attempts: Vec<AttemptView> = decisions
        .iter()
        .map(|decision| AttemptView {
            fence: decision.fence.to_string(),
            at: rfc3339(decision.at),
            took_ms: decision.took_ms,
            candidates: decision.candidates.iter().map(|c| candidate_view(c, members)).collect(),
            refusals: decision.refusals.iter().map(|r| refusal_view(r, members)).collect(),
        })
        .collect();
    let next_step = match (&task.reason, task.state.as_str()) {
        (Some(reason), _) => reason.next_step.clone(),
        (None, "succeeded") => "Its results: `causeway task artifacts`.".to_owned(),
        (None, "running") => "Follow it: `causeway task logs -f`.".to_owned(),
        _ => "Nothing: watch `causeway task events`.".to_owned(),
    };
    ExplainView {
        id: task.id.clone(),
        state: task.state.clone(),
        summary: summary(task, decisions, members),
        reason: task.reason.clone(),
        next_step,
        attempts,
        clauses: decisions.first().map(|d| clause_counts(&d.refusals)).unwrap_or_default(),
    }
}

fn summary(task: &TaskView, decisions: &[Decision], members: &KnownMembers) -> String {
    let place = task.place.as_ref().map(|p| format!("{}, pool {}", p.region, p.pool)).unwrap_or_default();
    let why = task.reason.as_ref().map(|reason| {
        if reason.detail.is_empty() {
            reason.sentence.clone()
        } else {
            format!("{} ({})", reason.sentence, reason.detail)
        }
    });
    let chosen = decisions.iter().find_map(|decision| {
        let chosen = decision.candidates.iter().position(|c| c.answer == Answer::Chosen)?;
        let others = decision.candidates.len() - 1;
        let better = decision.candidates[..chosen].iter().map(|c| members.region(c.member)).collect::<Vec<_>>();
        Some(if better.is_empty() {
            format!("the best of {} candidates", others + 1)
        } else {
            format!("after {} could not take it", better.join(", "))
        })
    });
    let chosen = chosen.map(|c| format!(": {c}")).unwrap_or_default();
    match task.state.as_str() {
        "pending" => {
            let asked = decisions.first().map_or(0, |d| d.candidates.len());
            let refused = decisions.first().map_or(0, |d| d.refusals.len());
            match why {
                Some(why) => format!("It waits: {why} {asked} regions were asked last, {refused} cannot take it now."),
                None => "It waits for its turn: this node places other tasks first.".to_owned(),
            }
        }
        "placing" => "Regions are being asked at this moment.".to_owned(),
        "staging" => format!("{place} has it{chosen}; its inputs are on their way there."),
        "running" => format!("It runs in {place}{chosen}."),
        "finishing" => format!("It ended in {place}; its results are on their way here."),
        "succeeded" => format!("It ran in {place}{chosen}, and its results are here."),
        "cancelled" => "It was cancelled.".to_owned(),
        _ => match (why, task.place.is_some()) {
            (Some(why), true) => format!("It failed in {place}: {why}"),
            (Some(why), false) => format!("It was not placed: {why}"),
            (None, _) => "It ended.".to_owned(),
        },
    }
}

fn candidate_view(ranked: &Ranked, members: &KnownMembers) -> CandidateView {
    let (answer, reason) = match &ranked.answer {
        Answer::NotAsked => ("not_asked", None),
        Answer::Asked => ("asked", None),
        Answer::Offered => ("offered", None),
        Answer::Declined(reason) => ("declined", Some(reason.into())),
        Answer::TimedOut => ("timed_out", None),
        Answer::Chosen => ("chosen", None),
    };
    let target = ranked.targets.first();
    CandidateView {
        region: members.region(ranked.member),
        member: ranked.member.to_string(),
        pool: target.map(|t| t.pool.clone()).unwrap_or_default(),
        class: target.map(|t| t.class.clone()).unwrap_or_default(),
        score: ranked.score,
        terms: terms_view(&ranked.terms),
        price_hour_micro: ranked.price_hour_micro,
        currency: ranked.currency.clone(),
        rtt_ms: ranked.rtt_ms,
        answer: answer.to_owned(),
        reason,
    }
}
