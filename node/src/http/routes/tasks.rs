//! `/v1/tasks`, `/v1/plans`: submit, plan, read, explain, cancel, results.

use super::identifiers::Nothing;
use crate::http::extract::{Json, Path, Query};
use crate::http::page::Page;
use crate::http::problem::{ApiError, Code};
use crate::http::repeat::key_of;
use crate::http::state::AppState;
use crate::services::task_views::{ArtifactView, ExplainView, PlanView, Submitted, TaskQuery, TaskView};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cpi::ids::{PlanId, TaskId};
use cpi::task::{Format, TaskSpec, parse_document, validate};
use serde::Deserialize;
use utoipa::IntoParams;

/// Who the holder of the node's API key is.
pub const OPERATOR: &str = "operator";

/// A task document in the body: JSON, or YAML where the media type says so.
pub struct TaskDocument(pub TaskSpec);

impl FromRequest<AppState> for TaskDocument {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let format = match kind.split(';').next().unwrap_or_default().trim() {
            "application/json" => Format::Json,
            "application/yaml" | "application/x-yaml" | "text/yaml" => Format::Yaml,
            _ => {
                let detail = "expected `Content-Type: application/json` or `application/yaml`";
                return Err(ApiError::new(Code::UnsupportedMediaType, detail));
            }
        };
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status().as_u16() {
                413 => ApiError::new(Code::TooLarge, "the body is longer than `http.body_bytes_max`"),
                _ => ApiError::new(Code::MalformedBody, rejection.body_text()),
            })?;
        if format == Format::Json
            && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
        {
            return Err(ApiError::new(Code::MalformedBody, format!("not JSON: {error}")));
        }
        let spec = parse_document(&bytes, format)?;
        validate(&spec, &state.services().current_dictionary())?;
        if let Some(input) = spec.inputs.iter().find(|input| input.digest.is_none()) {
            let message =
                "has no digest: upload the content first (`PUT /v1/artifacts/{digest}`), the command line does it";
            return Err(ApiError::field(crate::http::FieldError::new(format!("inputs.{}", input.path), message)));
        }
        Ok(Self(spec))
    }
}

/// Reads a task id of the path.
pub fn task_id(text: &str) -> Result<TaskId, ApiError> {
    text.parse().map_err(|error: cpi::ids::ParseIdError| ApiError::parameter("id", error.to_string()))
}

/// How a task is submitted.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SubmitQuery {
    /// Place exactly as this plan says.
    pub plan: Option<String>,
    /// Validate only; nothing is submitted.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which tasks.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only tasks in this state; also `open` and `ended`. Other names are refused.
    pub state: Option<String>,
    /// Only tasks of this principal.
    pub principal: Option<String>,
    /// Only tasks whose name begins so.
    pub name: Option<String>,
    /// Only tasks placed in this region.
    pub region: Option<String>,
    /// Items in the page, 1 to 1000. Default 50.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<u32>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
}

/// Submits a task; acknowledged means on disk.
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", request_body(content = ref("#/components/schemas/TaskSpec")),
    params(SubmitQuery, ("Idempotency-Key" = Option<String>, Header, description = "Repeats with the same key are the same task")),
    responses(
        (status = 201, description = "Accepted", body = TaskView),
        (status = 200, description = "The key was used before: the earlier task; or a dry run", body = TaskView)))]
pub async fn submit(
    State(state): State<AppState>,
    headers: HeaderMap,
    Query(query): Query<SubmitQuery>,
    TaskDocument(spec): TaskDocument,
) -> Result<Response, ApiError> {
    let key = key_of(&headers)?;
    let plan: Option<PlanId> = query
        .plan
        .map(|text| {
            text.parse().map_err(|error: cpi::ids::ParseIdError| ApiError::parameter("plan", error.to_string()))
        })
        .transpose()?;
    if query.dry_run {
        return Ok((StatusCode::OK, Json(serde_json::json!({ "valid": true }))).into_response());
    }
    let Submitted { task, created } = state.services().tasks()?.submit(OPERATOR, key, spec, plan).await?;
    let location = HeaderValue::from_str(&format!("/v1/tasks/{}", task.id));
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Json(task)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Collects offers and refusals for a task that is not submitted; the first choice is held for a while.
#[utoipa::path(post, path = "/v1/plans", tag = "tasks", request_body(content = ref("#/components/schemas/TaskSpec")),
    responses((status = 200, description = "Every offer and every refusal", body = PlanView)))]
pub async fn plan(State(state): State<AppState>, TaskDocument(spec): TaskDocument) -> Result<Json<PlanView>, ApiError> {
    Ok(Json(state.services().tasks()?.plan(OPERATOR, spec).await?))
}

/// Tasks that were submitted at this node, newest first.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<TaskView>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<TaskView>>, ApiError> {
    if query.limit.is_some_and(|limit| !(1..=1000).contains(&limit)) {
        return Err(ApiError::parameter("limit", "expected 1 to 1000"));
    }
    let query = TaskQuery {
        state: query.state,
        principal: query.principal,
        name: query.name,
        region: query.region,
        limit: query.limit,
        page_token: query.page_token,
    };
    let page = state.services().tasks()?.list(query).await?;
    Ok(Json(Page { items: page.tasks, next_page_token: page.next_page_token, total: page.total }))
}

/// A task.
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The task", body = TaskView)))]
pub async fn get(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<TaskView>, ApiError> {
    let id = task_id(&id)?;
    Ok(Json(state.services().tasks()?.get(id).await?))
}

/// Why a task is where it is: every region asked, every answer.
#[utoipa::path(get, path = "/v1/tasks/{id}/explain", tag = "tasks", params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The explanation", body = ExplainView)))]
pub async fn explain(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<ExplainView>, ApiError> {
    let id = task_id(&id)?;
    Ok(Json(state.services().tasks()?.explain(id).await?))
}

/// Cancels a task; what runs is stopped.
#[utoipa::path(post, path = "/v1/tasks/{id}/cancel", tag = "tasks", request_body = Nothing,
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The task", body = TaskView)))]
pub async fn cancel(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Json<TaskView>, ApiError> {
    let id = task_id(&id)?;
    Ok(Json(state.services().tasks()?.cancel(OPERATOR, id).await?))
}

/// Outputs of a task that came back; their content is at `/v1/artifacts/{digest}`.
#[utoipa::path(get, path = "/v1/tasks/{id}/artifacts", tag = "tasks", params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The outputs", body = Page<ArtifactView>)))]
pub async fn artifacts(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Page<ArtifactView>>, ApiError> {
    let id = task_id(&id)?;
    let task = state.services().tasks()?.get(id).await?;
    let total = Some(task.artifacts.len() as u64);
    Ok(Json(Page { items: task.artifacts, next_page_token: None, total }))
}
