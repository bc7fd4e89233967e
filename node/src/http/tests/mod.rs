//! The interface as its callers meet it: every route of the document, problems everywhere, key, limits.

mod fakes;
mod nouns;

use super::*;
use crate::config::HttpConfig;
use crate::metrics::Metrics;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use std::sync::Arc;
use tower::ServiceExt as _;

const KEY: &str = "cwk_0123456789abcdef0123456789abcdef";

fn state_with(limits: HttpConfig) -> AppState {
    let region = "beijing".parse().expect("a region");
    AppState::new(region, "m1", auth::ApiKey::of(KEY), limits, Arc::new(Metrics::new()), Services::default())
        .expect("in memory")
}

fn state() -> AppState {
    state_with(HttpConfig::default())
}

fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .expect("a request")
}

async fn call(state: &AppState, request: Request<Body>) -> Response {
    router(state.clone()).oneshot(request).await.expect("the router never fails")
}

async fn problem(response: Response) -> Problem {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    let problem: Problem = serde_json::from_slice(&bytes).expect("a problem");
    assert_eq!(problem.status, status);
    assert!(Code::ALL.iter().any(|code| code.text() == problem.code), "{problem:?}");
    assert_eq!(problem.kind, format!("{}{}", problem::TYPE_BASE, problem.code));
    assert_eq!(problem.trace_id.len(), 32, "{problem:?}");
    assert!(!problem.hint.is_empty() && !problem.title.is_empty() && !problem.detail.is_empty(), "{problem:?}");
    problem
}

/// Every operation of the document: method, path with its parameters filled in, whether it has a JSON body and is open.
fn operations() -> Vec<(String, String, bool, bool)> {
    let document = document();
    let mut out = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            let filled: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { "0000000000000000000000000A" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            let body = operation["requestBody"]["content"]["application/json"].is_object();
            let open = OPEN_PATHS.contains(&path.as_str());
            out.push((method.to_uppercase(), filled, body, open));
        }
    }
    assert!(out.len() >= 5);
    out
}

#[tokio::test]
async fn every_documented_operation_is_routed_and_undocumented_methods_are_problems() {
    let state = state();
    let all = operations();
    for (method, path, ..) in &all {
        let response = call(&state, request(method, path, "{}")).await;
        assert_ne!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        if response.status() == StatusCode::NOT_FOUND {
            assert_ne!(problem(response).await.code, "no_route", "{method} {path}");
        }
    }
    for (_, path, ..) in &all {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let known = all.iter().any(|(m, p, ..)| m == method && p == path);
            if !known {
                let response = call(&state, request(method, path, "{}")).await;
                assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                assert!(response.headers().contains_key("allow"));
                assert_eq!(problem(response).await.code, "method_not_allowed");
            }
        }
    }
}

#[tokio::test]
async fn without_a_key_every_operation_but_the_open_ones_is_refused() {
    let state = state();
    for (method, path, _, open) in operations() {
        for header in [None, Some("Bearer cwk_wrong")] {
            let mut asked = request(&method, &path, "{}");
            asked.headers_mut().remove("authorization");
            if let Some(header) = header {
                asked.headers_mut().insert("authorization", header.parse().expect("a header"));
            }
            let response = call(&state, asked).await;
            if open {
                assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            } else {
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                assert_eq!(response.headers()["www-authenticate"], "Bearer");
                if method != "HEAD" {
                    assert_eq!(problem(response).await.code, "unauthenticated");
                }
            }
        }
    }
}

#[tokio::test]
async fn malformed_bodies_get_the_same_problem_shape_everywhere() {
    let limits = HttpConfig { body_bytes_max: 1024, ..HttpConfig::default() };
    let state = state_with(limits);
    for (method, path, body, _) in operations().into_iter().filter(|(_, _, body, _)| *body) {
        assert!(body);
        let response = call(&state, request(&method, &path, "{")).await;
        assert_eq!(problem(response).await.code, "malformed_body", "{method} {path}");

        let mut text = request(&method, &path, "{}");
        text.headers_mut().insert("content-type", "text/plain".parse().expect("a header"));
        let response = call(&state, text).await;
        assert_eq!(problem(response).await.code, "unsupported_media_type", "{method} {path}");

        let response = call(&state, request(&method, &path, &format!("\"{}\"", "x".repeat(2000)))).await;
        assert_eq!(problem(response).await.code, "too_large", "{method} {path}");

        let response = call(&state, request(&method, &path, "{\"no_such_field_at_all\": 1}")).await;
        let found = problem(response).await;
        assert!(found.status < 500, "{method} {path}: {found:?}");
        assert!(!found.field_errors.is_empty(), "{method} {path}: {found:?}");
    }
}

#[tokio::test]
async fn unknown_paths_are_problems_and_keep_the_callers_trace() {
    let state = state();
    let mut asked = request("GET", "/v1/nothing", "");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    asked.headers_mut().insert("traceparent", trace.parse().expect("a header"));
    let response = call(&state, asked).await;
    assert_eq!(response.headers()["x-source-node"], "m1");
    let parent = response.headers()["traceparent"].to_str().expect("text").to_owned();
    assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{parent}");
    let found = problem(response).await;
    assert_eq!((found.code.as_str(), found.instance.as_str()), ("no_route", "/v1/nothing"));
    assert_eq!(found.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(found.region.as_deref(), Some("beijing"));
}

#[tokio::test]
async fn too_many_writes_are_answered_with_a_time_to_wait() {
    let limits = HttpConfig { writes_per_second: 1, ..HttpConfig::default() };
    let state = state_with(limits);
    let first = call(&state, request("POST", "/v1/anything", "{}")).await;
    assert_eq!(first.status(), StatusCode::NOT_FOUND);
    let second = call(&state, request("POST", "/v1/anything", "{}")).await;
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.headers()["retry-after"], "1");
    assert!(problem(second).await.retryable);
    let read = call(&state, request("GET", "/v1/anything", "")).await;
    assert_eq!(read.status(), StatusCode::NOT_FOUND, "reads are not limited");
}

#[tokio::test]
async fn beyond_its_concurrency_the_node_sheds_and_stays_observable() {
    let state = state();
    state.in_flight().store(state.limits().concurrency_max, std::sync::atomic::Ordering::Relaxed);
    let response = call(&state, request("GET", "/v1/anything", "")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(problem(response).await.code, "overloaded");
    let response = call(&state, request("GET", "/livez", "")).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_document_is_complete() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    assert!(schemas.contains_key("Problem") && schemas.contains_key("TaskSpec"));
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path} has no summary");
            assert!(operation["operationId"].is_string() && operation["tags"].is_array(), "{method} {path}");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path} has no good answer");
            assert!(responses.contains_key("500"), "{method} {path} has no error list");
            if !OPEN_PATHS.contains(&path.as_str()) {
                assert!(responses.contains_key("401") && responses.contains_key("503"), "{method} {path}");
            }
        }
    }
    let served = call(&state(), Request::get("/v1/openapi.json").body(Body::empty()).expect("a request")).await;
    let bytes = axum::body::to_bytes(served.into_body(), 16 << 20).await.expect("a body");
    let served: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(served, document, "what is generated is what is served");
}

fn collect_references(value: &serde_json::Value, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                match value {
                    serde_json::Value::String(text) if key == "$ref" => out.push(text.clone()),
                    _ => collect_references(value, out),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_references(item, out)),
        _ => {}
    }
}

#[tokio::test]
async fn a_server_refuses_to_listen_beyond_loopback_without_tls() {
    let limits = HttpConfig { listen: "0.0.0.0:0".to_owned(), ..HttpConfig::default() };
    assert!(matches!(serve(state_with(limits)).await, Err(ServeError::NoTls { .. })));
}

#[tokio::test]
async fn a_server_listens_answers_and_stops() {
    let limits = HttpConfig { listen: "127.0.0.1:0".to_owned(), ..HttpConfig::default() };
    let server = serve(state_with(limits)).await.expect("listens");
    let url = format!("{}/livez", server.url());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    assert_eq!(client.get(&url).send().await.expect("an answer").text().await.expect("text"), "ok\n");
    server.stop(std::time::Duration::from_millis(200)).await;
    assert!(client.get(&url).send().await.is_err());
}
