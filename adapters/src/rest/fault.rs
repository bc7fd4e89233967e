//! What an answer that is no success means: by the file's rules first, then by what HTTP says.

use super::api::{Api, Verb};
use super::file::Means;
use crate::contract::AdapterError;
use cpi::reason::ReasonCode;
use reqwest::StatusCode;
use serde_json::Value;

/// What an answer means.
#[derive(Debug)]
pub(super) enum Verdict {
    Success,
    Absent,
    Done,
    Fault(AdapterError),
}

/// Text of a platform for people: one line, bounded.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether an answer with this status has to be read before one knows what it means.
pub(super) fn needs_body(api: &Api, status: StatusCode) -> bool {
    !status.is_success() || api.errors.iter().any(|rule| rule.status.contains(&status.as_u16()))
}

/// Judges an answer.
pub(super) fn judge(api: &Api, verb: &Verb, status: StatusCode, body: &[u8]) -> Verdict {
    let number = status.as_u16();
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let status_value = Value::from(number);
    let names = || [("status", &status_value), ("body", &json)];
    for rule in &api.errors {
        let listed = if rule.status.is_empty() { number >= 400 } else { rule.status.contains(&number) };
        let verb_fits = rule.verbs.is_empty() || rule.verbs.iter().any(|name| name == verb.name);
        let fits = rule.when.as_ref().is_none_or(|when| when.run(names()) == Ok(Value::Bool(true)));
        if !(listed && verb_fits && fits) {
            continue;
        }
        let Some(code) = rule.code else {
            return if rule.means == Means::Absent { Verdict::Absent } else { Verdict::Done };
        };
        let said = rule.detail.as_ref().and_then(|detail| detail.run(names()).ok());
        let said = said.map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
        let detail = format!("{}: HTTP {number}: {}", verb.name, shown(&said.unwrap_or_default()));
        let retryable = rule.retryable.unwrap_or(code.is_retryable());
        return Verdict::Fault(AdapterError { retryable, reason: cpi::reason::Reason::new(code, detail) });
    }
    if status.is_success() {
        return Verdict::Success;
    }
    let said = String::from_utf8_lossy(&body[..body.len().min(1200)]);
    let detail = format!("{}: HTTP {number}: {}", verb.name, shown(&said));
    Verdict::Fault(match number {
        404 | 410 if verb.name != "submit" && verb.name != "provision" => return Verdict::Absent,
        400 | 413 | 422 => AdapterError::fatal(ReasonCode::InvalidTask, detail),
        401 | 403 => AdapterError::fatal(ReasonCode::NotPermitted, detail),
        408 | 409 | 423 | 425 => AdapterError::passing(ReasonCode::AdapterDown, detail),
        429 => AdapterError::passing(ReasonCode::Busy, detail),
        300..=399 => AdapterError::fatal(ReasonCode::AdapterDown, format!("{detail} (redirects are not followed)")),
        500.. => AdapterError::passing(ReasonCode::AdapterDown, detail),
        _ => AdapterError::fatal(ReasonCode::BackendUnsupported, detail),
    })
}
