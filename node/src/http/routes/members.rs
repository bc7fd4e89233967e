//! `/v1/members`, `/v1/ring`: who is in the federation, and how somebody gets in or out.

use super::identifiers::Nothing;
use crate::http::extract::{Json, Path, Query};
use crate::http::page::{Page, PageRequest};
use crate::http::problem::{ApiError, FieldError};
use crate::http::state::AppState;
use crate::services::member_views::{
    ApproveRequest, InvitationView, InviteRequest, MemberView, PolicyRequest, PolicyView,
};
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

/// Why, for the audit.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Because {
    /// At most 400 characters.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The id of a member that is named by id or region.
fn member_id(state: &AppState, named: &str) -> Result<String, ApiError> {
    let all = state.services().members()?.list();
    let found = all.into_iter().find(|member| member.id == named || member.region == named);
    found.map(|member| member.id).ok_or_else(|| ApiError::not_found(format!("member {named:?}")))
}

/// Which members.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct MembersQuery {
    /// Only those whose `state` is this: `waiting`, `active`, `suspended` or `expelled`.
    pub state: Option<String>,
    /// Items in the page, 1 to 1000. Default 50.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<usize>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
}

/// All members, and those who wait for approval, with the round trips measured from this node.
#[utoipa::path(get, path = "/v1/members", tag = "members", params(MembersQuery),
    responses((status = 200, description = "A page", body = Page<MemberView>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<MembersQuery>,
) -> Result<Json<Page<MemberView>>, ApiError> {
    let wanted = query.state.as_deref();
    if wanted.is_some_and(|state| !matches!(state, "waiting" | "active" | "suspended" | "expelled")) {
        return Err(ApiError::parameter("state", "expected waiting, active, suspended or expelled"));
    }
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), &format!("members\n{wanted:?}"))?;
    let mut all = state.services().members()?.list();
    all.retain(|member| wanted.is_none_or(|state| member.state == state));
    // those who wait have no id yet
    let order = |member: &MemberView| format!("{:>20}\n{}", member.id.trim_start_matches('m'), member.region);
    all.sort_by_key(order);
    Ok(Json(page.cut(all, order)))
}

/// One member, by id or region.
#[utoipa::path(get, path = "/v1/members/{member}", tag = "members",
    params(("member" = String, Path, description = "Member id or region")),
    responses((status = 200, description = "The member", body = MemberView)))]
pub async fn get(State(state): State<AppState>, Path(named): Path<String>) -> Result<Json<MemberView>, ApiError> {
    let all = state.services().members()?.list();
    let found = all.into_iter().find(|member| member.id == named || member.region == named);
    found.map(Json).ok_or_else(|| ApiError::not_found(format!("member {named:?}")))
}

/// The ring: active members in the order of the hash of their ids.
#[utoipa::path(get, path = "/v1/ring", tag = "members",
    responses((status = 200, description = "The ring", body = Page<MemberView>)))]
pub async fn ring(State(state): State<AppState>) -> Result<Json<Page<MemberView>>, ApiError> {
    let mut items = state.services().members()?.list();
    items.retain(|member| member.ring_position.is_some());
    items.sort_by_key(|member| member.ring_position);
    let total = Some(items.len() as u64);
    Ok(Json(Page { items, next_page_token: None, total }))
}

/// Makes an invitation for a region that wants to join.
#[utoipa::path(post, path = "/v1/members/invitations", tag = "members", request_body = InviteRequest,
    responses((status = 201, description = "The token, shown once", body = InvitationView)))]
pub async fn invite(
    State(state): State<AppState>,
    Json(request): Json<InviteRequest>,
) -> Result<(StatusCode, Json<InvitationView>), ApiError> {
    if let Some(region) = &request.region {
        let wrong = |error: cpi::ids::ParseIdError| ApiError::field(FieldError::new("region", error.to_string()));
        region.parse::<cpi::ids::RegionName>().map_err(wrong)?;
    }
    if request.ttl_s.is_some_and(|ttl| !(60..=2_592_000).contains(&ttl)) {
        return Err(ApiError::field(FieldError::new("ttl_s", "expected 60 to 2592000")));
    }
    if request.enterprises.len() > 64 {
        return Err(ApiError::field(FieldError::new("enterprises", "expected at most 64 codes")));
    }
    Ok((StatusCode::CREATED, Json(state.services().members()?.invite(&request).await?)))
}

/// The federation's policy.
#[utoipa::path(get, path = "/v1/policy", tag = "members",
    responses((status = 200, description = "The policy", body = PolicyView)))]
pub async fn policy(State(state): State<AppState>) -> Result<Json<PolicyView>, ApiError> {
    Ok(Json(state.services().members()?.policy()))
}

/// Votes for another policy of the federation, which takes effect with the last vote needed; what is absent stays.
#[utoipa::path(patch, path = "/v1/policy", tag = "members", request_body = PolicyRequest,
    responses((status = 200, description = "The policy, and under `proposed` what waits for more votes", body = PolicyView)))]
pub async fn set_policy(
    State(state): State<AppState>,
    Json(request): Json<PolicyRequest>,
) -> Result<Json<PolicyView>, ApiError> {
    Ok(Json(state.services().members()?.set_policy(&request).await?))
}

/// Approves one request of a region that asked to join, at this member's desk or another's; it is admitted with the last
/// approval needed.
#[utoipa::path(post, path = "/v1/members/{member}/approve", tag = "members", request_body = ApproveRequest,
    params(("member" = String, Path, description = "Region")),
    responses((status = 200, description = "The member", body = MemberView)))]
pub async fn approve(
    State(state): State<AppState>,
    Path(named): Path<String>,
    Json(ApproveRequest { request }): Json<ApproveRequest>,
) -> Result<Json<MemberView>, ApiError> {
    // a region that waits has no member id yet: the service knows it by name
    Ok(Json(state.services().members()?.approve(&named, &request).await?))
}

/// Votes to suspend a member; with the last vote needed it is.
#[utoipa::path(post, path = "/v1/members/{member}/suspend", tag = "members", request_body = Because,
    params(("member" = String, Path, description = "Member id or region")),
    responses((status = 200, description = "The member", body = MemberView)))]
pub async fn suspend(
    State(state): State<AppState>,
    Path(named): Path<String>,
    Json(because): Json<Because>,
) -> Result<Json<MemberView>, ApiError> {
    let id = member_id(&state, &named)?;
    Ok(Json(state.services().members()?.suspend(&id, because.reason.as_deref()).await?))
}

/// Votes to end a suspension; with the last vote needed it ends.
#[utoipa::path(post, path = "/v1/members/{member}/resume", tag = "members", request_body = Nothing,
    params(("member" = String, Path, description = "Member id or region")),
    responses((status = 200, description = "The member", body = MemberView)))]
pub async fn resume(
    State(state): State<AppState>,
    Path(named): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<MemberView>, ApiError> {
    let id = member_id(&state, &named)?;
    Ok(Json(state.services().members()?.resume(&id).await?))
}

/// Votes to expel a member for good; with the last vote needed it is.
#[utoipa::path(post, path = "/v1/members/{member}/expel", tag = "members", request_body = Because,
    params(("member" = String, Path, description = "Member id or region")),
    responses((status = 200, description = "The member", body = MemberView)))]
pub async fn expel(
    State(state): State<AppState>,
    Path(named): Path<String>,
    Json(because): Json<Because>,
) -> Result<Json<MemberView>, ApiError> {
    let id = member_id(&state, &named)?;
    Ok(Json(state.services().members()?.expel(&id, because.reason.as_deref()).await?))
}
