//! `/v1/identifiers:resolve`, `:decode`, `:encode`: the hot path, and the codec as a service.

use super::identifiers::{instant, key, scan};
use crate::http::extract::Json;
use crate::http::fresh::{Consistency, Fresh};
use crate::http::page::{Page, PageRequest};
use crate::http::ports::{IdentifierPort, Search, Selector};
use crate::http::problem::{ApiError, FieldError};
use crate::http::state::AppState;
use crate::metrics::Source;
use crate::services::identifier_views::{ResolvedView, description_schema};
use axum::extract::State;
use cpi::identifier::CpiFields;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use utoipa::ToSchema;

/// Items of a batch at most.
const BATCH_MAX: usize = 1000;

/// What to resolve: exactly one of `cpi`, `key`, `prefix`, `path` and `batch`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResolveRequest {
    /// An identifier's text; its stable key decides, so that every revision resolves.
    pub cpi: Option<String>,
    /// A stable key.
    pub key: Option<String>,
    /// A prefix of the text: answers a page of all that begin so.
    pub prefix: Option<String>,
    /// A computing path after the `/`: answers a page of all with that path.
    pub path: Option<String>,
    /// Several identifiers or keys at once, at most 1000; each is answered on its own.
    pub batch: Option<Vec<ResolveItem>>,
    /// As it was at this time, RFC 3339.
    pub at: Option<String>,
    /// How fresh the answer must be.
    #[schema(inline)]
    pub consistency: Consistency,
    /// For prefix and path: items in the page, 1 to 1000.
    pub limit: Option<usize>,
    /// For prefix and path: `next_page_token` of the page before.
    pub page_token: Option<String>,
}

/// One of a batch: exactly one of both.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResolveItem {
    /// An identifier's text.
    pub cpi: Option<String>,
    /// A stable key.
    pub key: Option<String>,
}

/// One identifier, or a page of them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResolveAnswer {
    /// For `cpi` and `key`.
    One(Box<ResolvedView>),
    /// For `prefix` and `path`.
    Page(Page<ResolvedView>),
    /// For `batch`, in its order.
    Batch(Batch),
}

/// Answers of a batch in its order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Batch {
    /// One for each item.
    pub results: Vec<BatchResult>,
}

/// An answer, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchResult {
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<ResolvedView>,
    /// The stable code of the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The facts of the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

fn selector(cpi: Option<String>, text: Option<&str>) -> Result<Selector, ApiError> {
    match (cpi, text) {
        (Some(cpi), None) => Ok(Selector::Text(cpi)),
        (None, Some(text)) => key(text).map(Selector::Key),
        _ => Err(ApiError::field(FieldError::new("cpi", "expected exactly one of `cpi` and `key`"))),
    }
}

/// What is behind an identifier: attributes, capabilities, status, where to send a task.
#[utoipa::path(post, path = "/v1/identifiers:resolve", tag = "identifiers", request_body = ResolveRequest,
    responses((status = 200, description = "One identifier, or a page of them", body = ResolveAnswer)))]
pub async fn resolve(
    State(state): State<AppState>,
    Json(request): Json<ResolveRequest>,
) -> Result<Fresh<Json<ResolveAnswer>>, ApiError> {
    let started = Instant::now();
    let given = [
        request.cpi.is_some(),
        request.key.is_some(),
        request.prefix.is_some(),
        request.path.is_some(),
        request.batch.is_some(),
    ];
    if given.iter().filter(|is| **is).count() != 1 {
        let message = "expected exactly one of `cpi`, `key`, `prefix`, `path` and `batch`";
        return Err(ApiError::field(FieldError::new("cpi", message)));
    }
    let at = instant("at", request.at.as_deref())?;
    request.consistency.reach(&state).await?;
    let service = state.services().identifiers()?;
    let freshness = service.freshness();
    let answer = if let Some(batch) = request.batch {
        resolve_batch(service.clone(), batch, at).await?
    } else if request.prefix.is_some() || request.path.is_some() {
        let filter = request.path.as_deref().map(path_filter).transpose()?;
        let list = format!("resolve\n{:?}\n{filter:?}\n{at:?}", request.prefix);
        let page = PageRequest::new(request.limit, request.page_token.as_deref(), &list)?;
        let search = Search { prefix: request.prefix, filter, state: None };
        resolve_page(service.clone(), search, page, at).await?
    } else {
        let selector = selector(request.cpi, request.key.as_deref())?;
        ResolveAnswer::One(Box::new(service.resolve(&selector, at)?))
    };
    let source = Source { source: "local" };
    state.metrics().resolve_duration.get_or_create(&source).observe(started.elapsed().as_secs_f64());
    Ok(Fresh(freshness, Json(answer)))
}

/// The filter that finds identifiers by their computing path: address, then chip type, model and id, `ANY` for any.
fn path_filter(path: &str) -> Result<String, ApiError> {
    let wrong = || {
        let message = "expected `ADDRESS/TYPE/MODEL/ID` as it stands in identifiers, with `ANY` or nothing for any";
        ApiError::field(FieldError::new("path", message))
    };
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let plain = |part: &&str| part.bytes().all(|b| b.is_ascii_alphanumeric());
    if parts.len() > 4 || parts[0].is_empty() || path.len() > 160 || !parts.iter().all(plain) {
        return Err(wrong());
    }
    let fields = ["address", "chip_type", "chip_model", "chip_uid"];
    let clauses = fields.iter().zip(&parts).filter(|(_, part)| !part.is_empty() && **part != "ANY");
    Ok(clauses.map(|(field, part)| format!("{field} = \"{part}\"")).collect::<Vec<_>>().join(" and "))
}

async fn resolve_batch(
    service: std::sync::Arc<dyn IdentifierPort>,
    batch: Vec<ResolveItem>,
    at: Option<u64>,
) -> Result<ResolveAnswer, ApiError> {
    if batch.is_empty() || batch.len() > BATCH_MAX {
        let message = format!("{} items: expected 1 to {BATCH_MAX}", batch.len());
        return Err(ApiError::field(FieldError::new("batch", message)));
    }
    scan(move || {
        let one =
            |item: ResolveItem| match selector(item.cpi, item.key.as_deref()).and_then(|s| service.resolve(&s, at)) {
                Ok(resolved) => BatchResult { resolved: Some(resolved), code: None, detail: None },
                Err(error) => BatchResult { resolved: None, code: Some(error.code.text()), detail: Some(error.detail) },
            };
        Ok(ResolveAnswer::Batch(Batch { results: batch.into_iter().map(one).collect() }))
    })
    .await
}

async fn resolve_page(
    service: std::sync::Arc<dyn IdentifierPort>,
    search: Search,
    page: PageRequest,
    at: Option<u64>,
) -> Result<ResolveAnswer, ApiError> {
    scan(move || {
        let found = service.search(&search, &page)?;
        let mut items = Vec::with_capacity(found.items.len());
        for view in found.items {
            items.push(service.resolve(&Selector::Key(key(&view.key)?), at)?);
        }
        Ok(ResolveAnswer::Page(Page { items, next_page_token: found.next_page_token, total: found.total }))
    })
    .await
}

/// A text to take apart.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeRequest {
    /// The identifier's text.
    pub cpi: String,
}

/// An identifier taken apart.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decoded {
    /// The canonical text.
    pub cpi: String,
    /// The stable key.
    pub key: String,
    /// The fields by name, as `:encode` takes them.
    #[schema(schema_with = fields_schema)]
    pub fields: CpiFields,
    /// What they mean.
    #[schema(schema_with = description_schema)]
    pub description: cpi::resolve::Description,
}

fn fields_schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    utoipa::openapi::Ref::from_schema_name("CpiFields").into()
}

/// Takes an identifier apart against the dictionary; it need not be registered.
#[utoipa::path(post, path = "/v1/identifiers:decode", tag = "identifiers", request_body = DecodeRequest,
    responses((status = 200, description = "The fields and what they mean", body = Decoded)))]
pub async fn decode(
    State(state): State<AppState>,
    Json(request): Json<DecodeRequest>,
) -> Result<Json<Decoded>, ApiError> {
    let dictionary = state.services().current_dictionary();
    let cpi = dictionary.decode(&request.cpi, None)?;
    let description = cpi::resolve::describe(&cpi, &dictionary)?;
    let fields = CpiFields::from(&cpi);
    Ok(Json(Decoded { cpi: cpi.as_str().to_owned(), key: cpi.stable_key().to_string(), fields, description }))
}

/// An identifier written.
#[derive(Debug, Serialize, ToSchema)]
pub struct Encoded {
    /// The canonical text.
    pub cpi: String,
    /// The stable key.
    pub key: String,
}

/// Writes the canonical identifier of named fields; takes what `:decode` gives as `fields`, or its whole answer.
#[utoipa::path(post, path = "/v1/identifiers:encode", tag = "identifiers",
    request_body(content = ref("#/components/schemas/CpiFields")),
    responses((status = 200, description = "The text", body = Encoded)))]
pub async fn encode(
    State(state): State<AppState>,
    Json(mut request): Json<serde_json::Value>,
) -> Result<Json<Encoded>, ApiError> {
    if request["fields"].is_object() {
        request = request["fields"].take();
    }
    let fields: CpiFields =
        serde_json::from_value(request).map_err(|error| crate::http::extract::body_shape_error(&error.to_string()))?;
    let cpi = fields.build()?;
    state.services().current_dictionary().check(&cpi, None)?;
    Ok(Json(Encoded { cpi: cpi.as_str().to_owned(), key: cpi.stable_key().to_string() }))
}
