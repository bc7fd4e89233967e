//! Plans and explanations for people.

use super::exit::CliError;
use super::output::{Column, Kind, Output, column, items, text_at, wide};
use serde_json::{Value, json};

const OFFERS: &[Column] = &[
    column("", "mark", Kind::Text),
    column("REGION", "region", Kind::Text),
    column("POOL", "pool", Kind::Text),
    column("CLASS", "class", Kind::Text),
    column("PRICE/H", "price", Kind::Text),
    column("START IN", "start_in_ms", Kind::Millis),
    column("FIRMNESS", "firmness", Kind::Text),
    column("RTT", "rtt_ms", Kind::Millis),
    column("ANSWERED", "answered_ms", Kind::Millis),
    wide("CO2 G/KWH", "carbon_g_per_kwh", Kind::Text),
    column("SCORE", "score", Kind::Text),
];

const REFUSALS: &[Column] = &[
    column("REGION", "region", Kind::Text),
    column("REASON", "reason.code", Kind::Text),
    column("CLAUSE", "clause", Kind::Text),
    column("WHY", "reason.sentence", Kind::Text),
    column("DETAIL", "reason.detail", Kind::Text),
];

const CANDIDATES: &[Column] = &[
    column("REGION", "region", Kind::Text),
    column("POOL", "pool", Kind::Text),
    column("ANSWER", "answer", Kind::Text),
    column("REASON", "reason", Kind::Reason),
    column("PRICE/H", "price", Kind::Text),
    column("RTT", "rtt_ms", Kind::Millis),
    column("SCORE", "score", Kind::Text),
];

/// A plan for people: every offer, every refusal, and what comes of it.
pub(super) fn plan_text(output: &Output, plan: &Value) -> Result<String, CliError> {
    let mut offers = plan["offers"].clone();
    for offer in offers.as_array_mut().into_iter().flatten() {
        offer["mark"] = json!(if offer["chosen"].as_bool().unwrap_or(false) { "*" } else { " " });
        offer["price"] = json!(price(offer));
    }
    let mut out = String::new();
    if !items(&offers).is_empty() {
        out.push_str(&output.list_text(&offers, OFFERS, "region")?);
    }
    if !items(&plan["refusals"]).is_empty() {
        out.push_str(if out.is_empty() { "Refused by\n" } else { "\nRefused by\n" });
        out.push_str(&output.list_text(&plan["refusals"], REFUSALS, "region")?);
    }
    let took = plan["took_ms"].as_u64().unwrap_or(0);
    let held = plan["held_for_s"].as_u64().unwrap_or(0);
    let line = if plan["feasible"].as_bool().unwrap_or(false) {
        format!("\nPlan {}: would place, decided in {took} ms, held for {held} s\n", text_at(plan, "id"))
    } else {
        let (why, next) = (text_at(plan, "reason.sentence"), text_at(plan, "reason.next_step"));
        format!("\nPlan {}: no region would take it, decided in {took} ms. {why} {next}\n", text_at(plan, "id"))
    };
    out.push_str(&line);
    Ok(out)
}

/// A price for people, from millionths: `3.60 CNY`.
fn price(offer: &Value) -> String {
    let micro = offer["price_hour_micro"].as_u64().unwrap_or(0);
    let hundredths = micro.div_ceil(10_000);
    format!("{}.{:02} {}", hundredths / 100, hundredths % 100, text_at(offer, "currency"))
}

/// An explanation for people: the answer first, then each attempt with every region.
pub(super) fn explain_text(output: &Output, answer: &Value) -> Result<String, CliError> {
    let mut out = format!("{}\n", text_at(answer, "summary"));
    let next = text_at(answer, "next_step");
    if !next.is_empty() {
        out.push_str(&format!("Next: {next}\n"));
    }
    for attempt in answer["attempts"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "\nAttempt {} at {}, {} ms\n",
            text_at(attempt, "fence"),
            text_at(attempt, "at"),
            text_at(attempt, "took_ms")
        ));
        let mut candidates = attempt["candidates"].clone();
        for candidate in candidates.as_array_mut().into_iter().flatten() {
            candidate["price"] = json!(price(candidate));
        }
        if !items(&candidates).is_empty() {
            out.push_str(&output.list_text(&candidates, CANDIDATES, "region")?);
        }
        if !items(&attempt["refusals"]).is_empty() {
            out.push_str("Could not take it\n");
            out.push_str(&output.list_text(&attempt["refusals"], REFUSALS, "region")?);
        }
    }
    Ok(out)
}
