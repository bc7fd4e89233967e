//! `/v1/identifiers:register`: many identifiers by one signed command.

use crate::http::extract::Json;
use crate::http::fresh::Fresh;
use crate::http::problem::{ApiError, FieldError};
use crate::http::state::AppState;
use crate::services::identifier_views::IdentifierView;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use consensus::registry::command::REGISTRATIONS_MAX;
use serde::{Deserialize, Serialize};
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
/// be refused. The same call again changes nothing.
#[utoipa::path(post, path = "/v1/identifiers:register", tag = "identifiers", request_body = IdentifierTexts,
    responses(
        (status = 200, description = "Committed, as far as the results say", body = RegisterResults),
        (status = 202, description = "Durable here, waiting for a quorum", body = RegisterResults)))]
pub async fn register_many(
    State(state): State<AppState>,
    Json(body): Json<IdentifierTexts>,
) -> Result<Response, ApiError> {
    if !(1..=REGISTRATIONS_MAX).contains(&body.cpis.len()) {
        return Err(ApiError::field(FieldError::new("cpis", format!("expected 1 to {REGISTRATIONS_MAX} identifiers"))));
    }
    state.services().room()?;
    let service = state.services().identifiers()?;
    let answers = service.register_many(&body.cpis).await?;
    let waits = answers.iter().any(|answer| answer.as_ref().is_ok_and(|written| !written.committed));
    let results = answers.into_iter().map(|answer| match answer {
        Ok(written) => RegisterResult { identifier: Some(written.view), code: None, detail: None },
        Err(error) => RegisterResult { identifier: None, code: Some(error.code.text()), detail: Some(error.detail) },
    });
    let status = if waits { StatusCode::ACCEPTED } else { StatusCode::OK };
    let results = RegisterResults { results: results.collect() };
    Ok(Fresh(service.freshness(), (status, Json(results)).into_response()).into_response())
}
