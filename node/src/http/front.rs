//! The one middleware before every route: trace, load shedding, key, write limit, time limit, problems, counting.
//!
//! One function instead of a tower of layers, because resolving identifiers passes it twenty thousand times a second.

use super::problem::{ApiError, Code};
use super::state::AppState;
use crate::metrics::RouteCode;
use crate::trace::TraceId;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Paths that anybody on the listening address may read.
pub const OPEN_PATHS: &[&str] = &["/livez", "/readyz", "/metrics", "/version", "/v1/openapi.json"];

/// Serves one request.
pub async fn front(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let trace = TraceId::from_header(request.headers().get("traceparent").map(HeaderValue::as_bytes));
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let template = route.as_ref().map_or("", MatchedPath::as_str);

    let answer = match admit(&state, &request, &path, template) {
        Err(refusal) => Err(refusal),
        Ok(_permit) => {
            let limit = time_limit(&state, request.method(), template);
            let served = AssertUnwindSafe(trace.scope(next.run(request))).catch_unwind();
            match tokio::time::timeout(limit, served).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(_panic)) => {
                    tracing::error!(%trace, route = template, "a request panicked");
                    Err(ApiError::new(Code::Internal, "the request failed inside the node"))
                }
                Err(_) => Err(ApiError::new(Code::Timeout, format!("no answer within {} ms", limit.as_millis()))),
            }
        }
    };
    let mut response = match answer {
        Err(error) => problem_response(error, &path, trace, &state),
        Ok(mut response) => match response.extensions_mut().remove::<Arc<ApiError>>() {
            Some(error) => problem_response(Arc::unwrap_or_clone(error), &path, trace, &state),
            None if is_bare_error(&response) => {
                let mut problem = problem_response(bare_error(&response), &path, trace, &state);
                if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
                    problem.headers_mut().insert(header::ALLOW, allow);
                }
                problem
            }
            None => response,
        },
    };
    let headers = response.headers_mut();
    headers.insert("x-source-node", state.source_node());
    if let Ok(value) = HeaderValue::from_str(&trace.traceparent(started_span(&trace))) {
        headers.insert("traceparent", value);
    }
    let code = response.status().as_u16();
    let elapsed = started.elapsed();
    let metrics = state.metrics();
    metrics.http_requests.get_or_create(&RouteCode { route: state.route_label(template), code }).inc();
    metrics.http_request_duration.observe(elapsed.as_secs_f64());
    tracing::debug!(%trace, route = template, code, elapsed_us = elapsed.as_micros() as u64, "request answered");
    response
}

/// The span id that callers may name as their parent: the half of the trace id that is unlikely to repeat.
fn started_span(trace: &TraceId) -> u64 {
    u64::from_be_bytes(trace.0[8..].try_into().expect("eight bytes")) | 1
}

/// Counts a request in service until dropped.
struct Permit(AppState);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight().fetch_sub(1, Ordering::Relaxed);
    }
}

fn admit(state: &AppState, request: &Request, path: &str, template: &str) -> Result<Permit, ApiError> {
    let in_flight = state.in_flight().fetch_add(1, Ordering::Relaxed);
    let permit = Permit(state.clone());
    if OPEN_PATHS.contains(&path) {
        return Ok(permit);
    }
    if in_flight >= state.limits().concurrency_max {
        return Err(ApiError::new(Code::Overloaded, "more requests than `http.concurrency_max` are being served"));
    }
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    if !state.key().accepts(authorization) {
        state.metrics().authz_denied.inc();
        let detail = if authorization.is_some() { "the API key is not valid here" } else { "no API key was sent" };
        return Err(ApiError::new(Code::Unauthenticated, detail));
    }
    let writes = !matches!(*request.method(), Method::GET | Method::HEAD) && !template.contains(':');
    if writes && !state.may_write() {
        return Err(ApiError::new(Code::RateLimited, "more writes a second than `http.writes_per_second`"));
    }
    Ok(permit)
}

fn time_limit(state: &AppState, method: &Method, template: &str) -> Duration {
    let transfer = template.starts_with("/v1/artifacts") && matches!(*method, Method::PUT | Method::POST);
    if transfer { Duration::from_secs(24 * 3600) } else { Duration::from_millis(state.limits().request_timeout_ms) }
}

/// An error that the framework made (405, a body that broke off): it has no problem body yet.
fn is_bare_error(response: &Response) -> bool {
    let status = response.status();
    (status.is_client_error() || status.is_server_error())
        && response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/problem+json")
        && response.extensions().get::<OwnBody>().is_none()
}

/// Marks an answer with an error status whose body is meant as it is (`/readyz`).
#[derive(Debug, Clone, Copy)]
pub struct OwnBody;

fn bare_error(response: &Response) -> ApiError {
    match response.status().as_u16() {
        404 => ApiError::new(Code::NoRoute, "there is no such path"),
        405 => ApiError::new(Code::MethodNotAllowed, "the path does not have this method"),
        413 => ApiError::new(Code::TooLarge, "the body is longer than `http.body_bytes_max`"),
        415 => ApiError::new(Code::UnsupportedMediaType, "expected `Content-Type: application/json`"),
        400..=499 => ApiError::new(Code::InvalidParameter, "the request is not valid"),
        _ => ApiError::new(Code::Internal, "the request failed inside the node"),
    }
}

fn problem_response(error: ApiError, path: &str, trace: TraceId, state: &AppState) -> Response {
    if error.code == Code::Internal {
        tracing::error!(%trace, path, detail = %error.detail, "internal error answered");
    }
    let status = error.code.status();
    let retry_after = error.retry_after_s;
    let problem = error.into_problem(path, trace.to_string(), state.region().as_str());
    let body = serde_json::to_vec(&problem).expect("a problem has only plain fields");
    let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/problem+json");
    if let Some(seconds) = retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    if status == 401 {
        response = response.header(header::WWW_AUTHENTICATE, "Bearer");
    }
    response.body(Body::from(body)).expect("all parts are valid")
}
