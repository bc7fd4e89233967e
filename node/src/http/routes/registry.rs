//! `/v1/registry`: the replicated state as this node holds it.

use super::identifiers::Nothing;
use crate::http::extract::Json;
use crate::http::problem::ApiError;
use crate::http::state::AppState;
use crate::services::identifier_views::RegistryStatusView;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A snapshot on the node's disk.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnapshotView {
    /// Its folder.
    pub path: String,
    /// The last index in it.
    pub index: u64,
}

/// Leader, term, indexes, voters, freshness.
#[utoipa::path(get, path = "/v1/registry", tag = "registry",
    responses((status = 200, description = "The status", body = RegistryStatusView)))]
pub async fn status(State(state): State<AppState>) -> Result<Json<RegistryStatusView>, ApiError> {
    Ok(Json(state.services().registry()?.status()))
}

/// Makes a snapshot now.
#[utoipa::path(post, path = "/v1/registry/snapshots", tag = "registry", request_body = Nothing,
    responses((status = 201, description = "Made", body = SnapshotView)))]
pub async fn snapshot(
    State(state): State<AppState>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<(StatusCode, Json<SnapshotView>), ApiError> {
    let (path, index) = state.services().registry()?.snapshot().await?;
    Ok((StatusCode::CREATED, Json(SnapshotView { path, index })))
}
