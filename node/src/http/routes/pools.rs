//! `/v1/pools`, `/v1/region`: what regions share, in and out of service.

use super::identifiers::Nothing;
use crate::http::extract::{Json, Path, Query};
use crate::http::page::{Page, PageRequest};
use crate::http::problem::ApiError;
use crate::http::state::AppState;
use crate::services::pool_views::{InventoryView, PoolView};
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

/// Which pools.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PoolQuery {
    /// Only this region's.
    #[serde(default)]
    pub own: bool,
    /// Items in the page, 1 to 1000. Default 50.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<usize>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
}

/// Pools of this region and, as last told, of the others.
#[utoipa::path(get, path = "/v1/pools", tag = "pools", params(PoolQuery),
    responses((status = 200, description = "A page", body = Page<PoolView>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PoolQuery>,
) -> Result<Json<Page<PoolView>>, ApiError> {
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), &format!("pools\n{}", query.own))?;
    let mut all = state.services().pools()?.list(query.own).await?;
    let order = |pool: &PoolView| format!("{}\n{}", pool.region, pool.name);
    all.sort_by_key(order);
    Ok(Json(page.cut(all, order)))
}

/// One pool of this region with the runs in it.
#[utoipa::path(get, path = "/v1/pools/{pool}/inventory", tag = "pools",
    params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, description = "The pool and its runs", body = InventoryView)))]
pub async fn inventory(
    State(state): State<AppState>,
    Path(pool): Path<String>,
) -> Result<Json<InventoryView>, ApiError> {
    Ok(Json(state.services().pools()?.inventory(&pool).await?))
}

/// Takes a pool out of service for new work.
#[utoipa::path(post, path = "/v1/pools/{pool}/cordon", tag = "pools", request_body = Nothing,
    params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, description = "The pool", body = PoolView)))]
pub async fn cordon(
    State(state): State<AppState>,
    Path(pool): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<PoolView>, ApiError> {
    Ok(Json(state.services().pools()?.cordon(&pool).await?))
}

/// Puts a pool back into service.
#[utoipa::path(post, path = "/v1/pools/{pool}/uncordon", tag = "pools", request_body = Nothing,
    params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, description = "The pool", body = PoolView)))]
pub async fn uncordon(
    State(state): State<AppState>,
    Path(pool): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<PoolView>, ApiError> {
    Ok(Json(state.services().pools()?.uncordon(&pool).await?))
}

/// Takes a pool out of service; what runs is let end.
#[utoipa::path(post, path = "/v1/pools/{pool}/drain", tag = "pools", request_body = Nothing,
    params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, description = "The pool", body = PoolView)))]
pub async fn drain(
    State(state): State<AppState>,
    Path(pool): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<PoolView>, ApiError> {
    Ok(Json(state.services().pools()?.drain(&pool).await?))
}

/// Takes all pools of this region out of service for new work; each pool's own switch stays as it is.
#[utoipa::path(post, path = "/v1/region/cordon", tag = "pools", request_body = Nothing,
    responses((status = 200, description = "The region's pools", body = Page<PoolView>)))]
pub async fn cordon_region(
    State(state): State<AppState>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<Page<PoolView>>, ApiError> {
    switch_region(&state, true).await
}

/// Puts the region back into service.
#[utoipa::path(post, path = "/v1/region/uncordon", tag = "pools", request_body = Nothing,
    responses((status = 200, description = "The region's pools", body = Page<PoolView>)))]
pub async fn uncordon_region(
    State(state): State<AppState>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<Page<PoolView>>, ApiError> {
    switch_region(&state, false).await
}

/// Takes the region out of service; what runs is let end.
#[utoipa::path(post, path = "/v1/region/drain", tag = "pools", request_body = Nothing,
    responses((status = 200, description = "The region's pools", body = Page<PoolView>)))]
pub async fn drain_region(
    State(state): State<AppState>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<Page<PoolView>>, ApiError> {
    switch_region(&state, true).await
}

async fn switch_region(state: &AppState, cordoned: bool) -> Result<Json<Page<PoolView>>, ApiError> {
    let items = state.services().pools()?.cordon_region(cordoned).await?;
    let total = Some(items.len() as u64);
    Ok(Json(Page { items, next_page_token: None, total }))
}
