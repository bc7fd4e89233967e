//! `/v1/adapters`: the backends behind the own pools, and the plugins among them.

use super::identifiers::Nothing;
use crate::http::extract::{Json, Path, Query};
use crate::http::page::{Page, PageQuery, PageRequest};
use crate::http::problem::ApiError;
use crate::http::state::AppState;
use crate::services::adapter_views::{
    AdapterDetail, AdapterLog, AdapterTestView, AdapterView, RegisterPlugin, SwapPlugin, TestPlugin,
};
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

/// Lines that are shown unless told otherwise, and at most.
const LINES_DEFAULT: usize = 100;
const LINES_MAX: usize = 500;

/// All adapters with their health.
#[utoipa::path(get, path = "/v1/adapters", tag = "adapters", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<AdapterView>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<AdapterView>>, ApiError> {
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), "adapters")?;
    let mut all = state.services().adapters()?.list().await;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(page.cut(all, |adapter| adapter.name.clone())))
}

/// One adapter, with its plugin's processes, versions, failures and history.
#[utoipa::path(get, path = "/v1/adapters/{adapter}", tag = "adapters",
    params(("adapter" = String, Path, description = "The adapter's name")),
    responses((status = 200, description = "The adapter", body = AdapterDetail)))]
pub async fn show(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<AdapterDetail>, ApiError> {
    Ok(Json(state.services().adapters()?.show(&name).await?))
}

/// Registers a plugin with its pools while the node runs; kept over restarts. Its program must lie below
/// `adapters.host.plugins_dir`.
#[utoipa::path(post, path = "/v1/adapters", tag = "adapters", request_body = RegisterPlugin,
    responses((status = 201, description = "The adapter; its processes are being started", body = AdapterDetail)))]
pub async fn register(
    State(state): State<AppState>,
    Json(request): Json<RegisterPlugin>,
) -> Result<(StatusCode, Json<AdapterDetail>), ApiError> {
    Ok((StatusCode::CREATED, Json(state.services().adapters()?.register(request).await?)))
}

/// Takes away a plugin that was registered at run time, with its pools; refused while they have runs.
#[utoipa::path(delete, path = "/v1/adapters/{adapter}", tag = "adapters",
    params(("adapter" = String, Path, description = "The adapter's name")),
    responses((status = 204, description = "It is gone")))]
pub async fn remove(State(state): State<AppState>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    state.services().adapters()?.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces a plugin's program while its runs go on: the new version is brought up, then calls move to it. The old one goes
/// on where the new one is not healthy, and comes back if it fails soon. Holds until the node is started again.
#[utoipa::path(post, path = "/v1/adapters/{adapter}/swap", tag = "adapters", request_body = SwapPlugin,
    params(("adapter" = String, Path, description = "The adapter's name")),
    responses((status = 200, description = "The adapter, with the new version", body = AdapterDetail)))]
pub async fn swap(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Json(request): Json<SwapPlugin>,
) -> Result<Json<AdapterDetail>, ApiError> {
    Ok(Json(state.services().adapters()?.swap(&name, request).await?))
}

/// Goes back to the program before the last swap.
#[utoipa::path(post, path = "/v1/adapters/{adapter}/rollback", tag = "adapters", request_body = Nothing,
    params(("adapter" = String, Path, description = "The adapter's name")),
    responses((status = 200, description = "The adapter, with the version before", body = AdapterDetail)))]
pub async fn rollback(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<AdapterDetail>, ApiError> {
    Ok(Json(state.services().adapters()?.rollback(&name).await?))
}

/// Ends a plugin's quarantine, and the wait before its next start.
#[utoipa::path(post, path = "/v1/adapters/{adapter}/reset", tag = "adapters", request_body = Nothing,
    params(("adapter" = String, Path, description = "The adapter's name")),
    responses((status = 200, description = "The adapter", body = AdapterDetail)))]
pub async fn reset(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<AdapterDetail>, ApiError> {
    Ok(Json(state.services().adapters()?.reset(&name).await?))
}

/// How much of a log.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LinesQuery {
    /// The newest so many, 1 to 500. Default 100.
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub lines: Option<usize>,
}

/// The newest lines that a plugin's processes wrote.
#[utoipa::path(get, path = "/v1/adapters/{adapter}/logs", tag = "adapters",
    params(("adapter" = String, Path, description = "The adapter's name"), LinesQuery),
    responses((status = 200, description = "The lines, oldest first", body = AdapterLog)))]
pub async fn logs(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<LinesQuery>,
) -> Result<Json<AdapterLog>, ApiError> {
    let lines = query.lines.unwrap_or(LINES_DEFAULT);
    if !(1..=LINES_MAX).contains(&lines) {
        return Err(ApiError::parameter("lines", format!("expected 1 to {LINES_MAX}")));
    }
    Ok(Json(state.services().adapters()?.logs(&name, lines).await?))
}

/// Begins the conformance suite in one pool of an adapter. It starts and ends real runs, so the pool must take no new work
/// and have no runs.
#[utoipa::path(post, path = "/v1/adapters/{adapter}/test", tag = "adapters", request_body = TestPlugin,
    params(("adapter" = String, Path, description = "The adapter's name")),
    responses((status = 202, description = "It runs; ask for it again", body = AdapterTestView)))]
pub async fn begin_test(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Json(request): Json<TestPlugin>,
) -> Result<(StatusCode, Json<AdapterTestView>), ApiError> {
    Ok((StatusCode::ACCEPTED, Json(state.services().adapters()?.begin_test(&name, request).await?)))
}

/// The last conformance suite of an adapter since the node's start.
#[utoipa::path(get, path = "/v1/adapters/{adapter}/test", tag = "adapters",
    params(("adapter" = String, Path, description = "The adapter's name")),
    responses((status = 200, description = "The suite", body = AdapterTestView)))]
pub async fn test(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<AdapterTestView>, ApiError> {
    Ok(Json(state.services().adapters()?.test(&name).await?))
}
