//! `/v1/identifiers`: register, read, search, revise, retire, history.

use crate::http::extract::{Json, Path, Query};
use crate::http::fresh::{Consistency, Fresh, etag, expected_revision};
use crate::http::page::{Page, PageRequest};
use crate::http::ports::{IdentifierPort, Search, Written};
use crate::http::problem::ApiError;
use crate::http::repeat::{Answer, key_of};
use crate::http::state::AppState;
use crate::services::identifier_views::{IdentifierView, RevisionView, StatisticsRow};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cpi::ids::StableKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// An identifier to register or to revise to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentifierText {
    /// The identifier's text.
    pub cpi: String,
}

/// An empty object.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// How an identifier is read.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct GetQuery {
    /// As it was at this time, RFC 3339.
    pub at: Option<String>,
    /// Where nothing is committed under the key: what is pending on it, with `state` `pending`. Not together with `at`.
    #[serde(default)]
    pub pending: bool,
    /// How fresh the answer must be.
    #[param(inline)]
    #[serde(default)]
    pub consistency: Consistency,
}

/// What is searched for.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SearchQuery {
    /// Prefix of the text.
    pub prefix: Option<String>,
    /// Filter expression over identifier fields, measures and status.
    pub filter: Option<String>,
    /// `active` (default), `retired`, `all` (both), or `pending`: what no quorum has committed yet, of all members as far as
    /// this node heard.
    pub state: Option<String>,
    /// Items in the page, 1 to 1000. Default 50.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<usize>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
    /// How fresh the answer must be.
    #[param(inline)]
    #[serde(default)]
    pub consistency: Consistency,
}

/// What is counted.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct StatisticsQuery {
    /// Dimensions separated by commas, for example `city,class`. None: the whole.
    pub group_by: Option<String>,
    /// Only identifiers that match.
    pub filter: Option<String>,
}

/// Reads a key of the path.
pub fn key(text: &str) -> Result<StableKey, ApiError> {
    text.parse().map_err(|error: cpi::ids::ParseIdError| ApiError::parameter("key", error.to_string()))
}

/// Reads an instant of a parameter.
pub fn instant(name: &str, text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let wrong =
        || ApiError::parameter(name, format!("{text:?} is no instant: expected RFC 3339, as in 2026-01-31T08:00:00Z"));
    let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(at.as_millisecond()).map(Some).map_err(|_| wrong())
}

/// Runs a read that may scan much on a thread of its own.
pub async fn scan<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |_| ApiError::new(crate::http::Code::Internal, "the read failed inside the node");
    tokio::task::spawn_blocking(read).await.map_err(failed)?
}

/// Performs a write once for its `Idempotency-Key`, and answers it with the replica's freshness.
async fn write<F: Future<Output = Result<Written, ApiError>>>(
    state: &AppState,
    headers: &HeaderMap,
    scope: &str,
    body: Value,
    committed: StatusCode,
    write: impl FnOnce(Arc<dyn IdentifierPort>) -> F,
) -> Result<Response, ApiError> {
    let service = Arc::clone(state.services().identifiers()?);
    let perform = || async move {
        let written = write(service).await?;
        let status = if written.committed { committed } else { StatusCode::ACCEPTED };
        let body = serde_json::to_value(&written.view).expect("a view has only plain fields");
        let etag = written.view.pending.is_none().then(|| format!("\"{}\"", written.view.revision));
        Ok(Answer { status: status.as_u16(), etag, body })
    };
    let answer = state.repeats().once(key_of(headers)?, scope, &body, perform).await?;
    respond(answer, state)
}

fn respond(answer: Answer, state: &AppState) -> Result<Response, ApiError> {
    let status = StatusCode::from_u16(answer.status).expect("a status of ours");
    let location = answer.body["key"].as_str().map(|key| format!("/v1/identifiers/{key}"));
    let mut response = (status, Json(answer.body)).into_response();
    let headers = response.headers_mut();
    if let Some(value) = answer.etag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        headers.insert(header::ETAG, value);
    }
    if let Some(value) = location.filter(|_| answer.status != 200).and_then(|path| HeaderValue::from_str(&path).ok()) {
        headers.insert(header::LOCATION, value);
    }
    Ok(Fresh(state.services().identifiers()?.freshness(), response).into_response())
}

/// Registers an identifier under this member.
#[utoipa::path(post, path = "/v1/identifiers", tag = "identifiers", request_body = IdentifierText,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats with the same key are the same call")),
    responses(
        (status = 201, description = "Committed", body = IdentifierView),
        (status = 202, description = "Durable here, waiting for a quorum", body = IdentifierView)))]
pub async fn register(
    State(state): State<AppState>,
    headers: HeaderMap,
    Json(body): Json<IdentifierText>,
) -> Result<Response, ApiError> {
    state.services().room()?;
    let digest = json!(body);
    write(&state, &headers, "register", digest, StatusCode::CREATED, |service| async move {
        service.register(&body.cpi).await
    })
    .await
}

/// Searches by prefix and filter, in the order of the texts.
#[utoipa::path(get, path = "/v1/identifiers", tag = "identifiers", params(SearchQuery),
    responses((status = 200, description = "A page", body = Page<IdentifierView>)))]
pub async fn search(
    State(state): State<AppState>,
    Query(query): Query<SearchQuery>,
) -> Result<Fresh<Json<Page<IdentifierView>>>, ApiError> {
    query.consistency.reach(&state).await?;
    let list = format!("identifiers\n{:?}\n{:?}\n{:?}", query.prefix, query.filter, query.state);
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), &list)?;
    if let Some(state) = query.state.as_deref()
        && !matches!(state, "active" | "retired" | "pending" | "all")
    {
        return Err(ApiError::parameter("state", "expected active, retired, pending or all"));
    }
    let search = Search { prefix: query.prefix, filter: query.filter, state: query.state };
    let service = state.services().identifiers()?.clone();
    let freshness = service.freshness();
    let found = scan(move || service.search(&search, &page)).await?;
    Ok(Fresh(freshness, Json(found)))
}

/// One identifier.
#[utoipa::path(get, path = "/v1/identifiers/{key}", tag = "identifiers", params(("key" = String, Path, description = "The stable key"), GetQuery),
    responses((status = 200, description = "The identifier", body = IdentifierView)))]
pub async fn get(
    State(state): State<AppState>,
    Path(path): Path<String>,
    Query(query): Query<GetQuery>,
) -> Result<Response, ApiError> {
    let (key, at) = (key(&path)?, instant("at", query.at.as_deref())?);
    query.consistency.reach(&state).await?;
    let service = state.services().identifiers()?;
    let view = match (query.pending, at) {
        (true, Some(_)) => return Err(ApiError::parameter("pending", "expected no `at` beside it")),
        (true, None) => service.get_or_pending(key)?,
        (false, at) => service.get(key, at)?,
    };
    // what is pending is no revision that could be changed
    let is_revision = view.pending.is_none() && view.state != "refused";
    let tag = is_revision.then(|| etag(view.revision));
    let mut response = Fresh(service.freshness(), Json(view)).into_response();
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Writes a new revision: the same key, other attributes.
#[utoipa::path(put, path = "/v1/identifiers/{key}", tag = "identifiers", request_body = IdentifierText,
    params(("key" = String, Path, description = "The stable key"),
        ("If-Match" = String, Header, description = "ETag of the revision that is replaced"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats with the same key are the same call")),
    responses(
        (status = 200, description = "Committed", body = IdentifierView),
        (status = 202, description = "Durable here, waiting for a quorum", body = IdentifierView)))]
pub async fn revise(
    State(state): State<AppState>,
    Path(path): Path<String>,
    headers: HeaderMap,
    Json(body): Json<IdentifierText>,
) -> Result<Response, ApiError> {
    let (stable, revision) = (key(&path)?, expected_revision(&headers)?);
    state.services().room()?;
    let digest = json!([path, revision, body]);
    write(&state, &headers, "revise", digest, StatusCode::OK, |service| async move {
        service.revise(stable, &body.cpi, revision).await
    })
    .await
}

/// Retires an identifier; it keeps resolving, marked as retired.
#[utoipa::path(post, path = "/v1/identifiers/{key}/retire", tag = "identifiers", request_body = Nothing,
    params(("key" = String, Path, description = "The stable key"),
        ("If-Match" = String, Header, description = "ETag of the revision that is retired")),
    responses(
        (status = 200, description = "Committed", body = IdentifierView),
        (status = 202, description = "Durable here, waiting for a quorum", body = IdentifierView)))]
pub async fn retire(
    State(state): State<AppState>,
    Path(path): Path<String>,
    headers: HeaderMap,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Response, ApiError> {
    let (stable, revision) = (key(&path)?, expected_revision(&headers)?);
    let digest = json!([path, revision]);
    write(&state, &headers, "retire", digest, StatusCode::OK, |service| async move {
        service.retire(stable, revision).await
    })
    .await
}

/// All revisions of an identifier, oldest first.
#[utoipa::path(get, path = "/v1/identifiers/{key}/history", tag = "identifiers",
    params(("key" = String, Path, description = "The stable key"), crate::http::page::PageQuery),
    responses((status = 200, description = "A page", body = Page<RevisionView>)))]
pub async fn history(
    State(state): State<AppState>,
    Path(path): Path<String>,
    Query(query): Query<crate::http::page::PageQuery>,
) -> Result<Fresh<Json<Page<RevisionView>>>, ApiError> {
    let key = key(&path)?;
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), &format!("history\n{path}"))?;
    let service = state.services().identifiers()?.clone();
    let freshness = service.freshness();
    let found = scan(move || service.history(key, &page)).await?;
    Ok(Fresh(freshness, Json(found)))
}

/// Counts and exact capacities by dimension.
#[utoipa::path(get, path = "/v1/identifiers:statistics", tag = "identifiers", params(StatisticsQuery),
    responses((status = 200, description = "One row for each group", body = Page<StatisticsRow>)))]
pub async fn statistics(
    State(state): State<AppState>,
    Query(query): Query<StatisticsQuery>,
) -> Result<Fresh<Json<Page<StatisticsRow>>>, ApiError> {
    let group_by: Vec<String> = query
        .group_by
        .as_deref()
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if group_by.len() > 4 {
        return Err(ApiError::parameter("group_by", "expected at most 4 dimensions"));
    }
    let service = state.services().identifiers()?.clone();
    let freshness = service.freshness();
    let items = scan(move || service.statistics(&group_by, query.filter.as_deref())).await?;
    let total = Some(items.len() as u64);
    Ok(Fresh(freshness, Json(Page { items, next_page_token: None, total })))
}
