//! `/v1/identifiers:register`: many identifiers by one signed command.

use crate::http::extract::Json;
use crate::http::fresh::Fresh;
use crate::http::ports::IdentifierPort;
use crate::http::problem::{ApiError, FieldError};
use crate::http::repeat::{Answer, key_of};
use crate::http::state::AppState;
use crate::services::identifier_views::IdentifierView;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use consensus::registry::command::REGISTRATIONS_MAX;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Identifiers to register.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentifierTexts {
    /// Their texts, 1 to 500.
    pub cpis: Vec<String>,
}

/// What came of one of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegisterResult {
    /// The identifier, where it is registered, was before, or is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<IdentifierView>,
    /// The stable code of the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The facts of the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What came of all, in the order given.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegisterResults {
    /// One for each text.
    pub results: Vec<RegisterResult>,
}

/// Registers up to 500 identifiers under this member by one signed command. Each stands for itself: some may hold and others
/// be refused. The same call again changes nothing, and with an `Idempotency-Key` gets the first answer.
#[utoipa::path(post, path = "/v1/identifiers:register", tag = "identifiers", request_body = IdentifierTexts,
    responses(
        (status = 200, description = "Committed, as far as the results say", body = RegisterResults),
        (status = 202, description = "Durable here, waiting for a quorum", body = RegisterResults)))]
pub async fn register_many(
    State(state): State<AppState>,
    headers: HeaderMap,
    Json(body): Json<IdentifierTexts>,
) -> Result<Response, ApiError> {
    if !(1..=REGISTRATIONS_MAX).contains(&body.cpis.len()) {
        return Err(ApiError::field(FieldError::new("cpis", format!("expected 1 to {REGISTRATIONS_MAX} identifiers"))));
    }
    state.services().room()?;
    let service = Arc::clone(state.services().identifiers()?);
    let scope = "register-many";
    let whole = serde_json::to_value(&body).expect("texts have only plain fields");
    let perform = || perform(Arc::clone(&service), body.cpis);
    let answer = state.repeats().once(key_of(&headers)?, scope, &whole, perform).await?;
    let status = StatusCode::from_u16(answer.status).expect("a status of ours");
    Ok(Fresh(service.freshness(), (status, Json(answer.body)).into_response()).into_response())
}

async fn perform(service: Arc<dyn IdentifierPort>, cpis: Vec<String>) -> Result<Answer, ApiError> {
    let answers = service.register_many(&cpis).await?;
    let waits = answers.iter().any(|answer| answer.as_ref().is_ok_and(|written| !written.committed));
    let results = answers.into_iter().map(|answer| match answer {
        Ok(written) => RegisterResult { identifier: Some(written.view), code: None, detail: None },
        Err(error) => RegisterResult { identifier: None, code: Some(error.code.text()), detail: Some(error.detail) },
    });
    let status = if waits { StatusCode::ACCEPTED } else { StatusCode::OK };
    let results = RegisterResults { results: results.collect() };
    let body = serde_json::to_value(&results).expect("results have only plain fields");
    Ok(Answer { status: status.as_u16(), etag: None, body })
}
