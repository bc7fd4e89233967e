//! Routes about the node itself: alive, ready, metrics, version, and the OpenAPI document.

use super::extract::Json;
use super::front::OwnBody;
use super::state::AppState;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The running program.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// SemVer.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// The region whose node this is.
    pub region: String,
    /// The process, as in `X-Source-Node`.
    pub node: String,
}

/// One thing that must hold for the node to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What was looked at.
    #[schema(example = "registry")]
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// The facts.
    pub detail: String,
}

/// Whether the node can do its work.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether all checks hold.
    pub ready: bool,
    /// Each check.
    pub checks: Vec<Check>,
}

/// Alive: the process answers.
#[utoipa::path(get, path = "/livez", tag = "node", security(()),
    responses((status = 200, description = "The process answers", body = String, content_type = "text/plain")))]
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Ready: all parts that new work needs are there.
#[utoipa::path(get, path = "/readyz", tag = "node", security(()),
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready; the checks say why", body = Readiness)))]
pub async fn readyz(State(state): State<AppState>) -> Response {
    let checks = state.readiness().await;
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, Json(Readiness { ready, checks })).into_response();
    response.extensions_mut().insert(OwnBody);
    response
}

/// Metrics in the text format of OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "node", security(()),
    responses((status = 200, description = "OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(State(state): State<AppState>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], state.metrics().text()).into_response()
}

/// The running program's version.
#[utoipa::path(get, path = "/version", tag = "node", security(()),
    responses((status = 200, description = "The version", body = Version)))]
pub async fn version(State(state): State<AppState>) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        region: state.region().to_string(),
        node: state.source_node().to_str().unwrap_or_default().to_owned(),
    })
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "node", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json")))]
pub async fn openapi(State(state): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], state.openapi()).into_response()
}
