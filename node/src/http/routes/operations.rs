//! `/v1/operations`: machines made, changed, switched and released through a backend, as records that survive restarts.

use super::identifiers::Nothing;
use super::tasks::OPERATOR;
use crate::http::extract::{Json, Path, Query};
use crate::http::page::{Page, PageQuery, PageRequest};
use crate::http::problem::ApiError;
use crate::http::repeat::key_of;
use crate::http::state::AppState;
use crate::services::operation_views::{BeginOperation, OperationView};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use cpi::ids::TaskId;

fn operation_id(text: &str) -> Result<TaskId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(format!("operation {text:?}")))
}

/// Begins an operation. It is on disk when this answers, before the platform hears of it; its end comes by
/// `/v1/operations/{id}`, by `/v1/watch?topics=operations`, or by the webhook. Operations on one machine follow each other.
#[utoipa::path(post, path = "/v1/operations", tag = "operations", request_body = BeginOperation,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats with the same key are the same operation")),
    responses((status = 202, description = "Accepted", body = OperationView)))]
pub async fn begin(
    State(state): State<AppState>,
    headers: HeaderMap,
    Json(request): Json<BeginOperation>,
) -> Result<(StatusCode, Json<OperationView>), ApiError> {
    state.services().room()?;
    let key = key_of(&headers)?;
    Ok((StatusCode::ACCEPTED, Json(state.services().operations()?.begin(OPERATOR, key, request).await?)))
}

/// Operations, newest first.
#[utoipa::path(get, path = "/v1/operations", tag = "operations", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<OperationView>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<OperationView>>, ApiError> {
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), "operations")?;
    Ok(Json(state.services().operations()?.list(&page).await?))
}

/// An operation.
#[utoipa::path(get, path = "/v1/operations/{id}", tag = "operations",
    params(("id" = String, Path, description = "The operation's id")),
    responses((status = 200, description = "The operation", body = OperationView)))]
pub async fn get(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<OperationView>, ApiError> {
    Ok(Json(state.services().operations()?.get(operation_id(&id)?).await?))
}

/// Has the platform asked now: what a platform's own callback may call. What the caller says of the machine is not believed.
#[utoipa::path(post, path = "/v1/operations/{id}/look", tag = "operations", request_body = Nothing,
    params(("id" = String, Path, description = "The operation's id")),
    responses((status = 200, description = "The operation as it stands", body = OperationView)))]
pub async fn look(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<OperationView>, ApiError> {
    Ok(Json(state.services().operations()?.look(operation_id(&id)?).await?))
}
