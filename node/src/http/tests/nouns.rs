//! Stories of the nouns over services in memory: registration, resolution, following, artifacts.

use super::fakes::{FakeIdentifiers, FakeTasks};
use super::{KEY, call, problem, request};
use crate::config::HttpConfig;
use crate::http::glue::Artifacts;
use crate::http::{AppState, Services, auth};
use crate::metrics::Metrics;
use crate::services::artifacts::ArtifactStore;
use axum::body::{Body, BodyDataStream};
use axum::response::Response;
use cpi::ids::{ContentDigest, TaskId};
use eventsource_stream::{EventStream, Eventsource as _};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::sync::Arc;

const CPI: &str = "cpi:1:C91110108MA00CP019A-GI6450-G110100-A01.GC-VM-2870TF64-20P-400G-INX8480P_800.RS-INX8480P-112-1024G-15T-400~2VHNVZS";

struct Node {
    state: AppState,
    tasks: Arc<FakeTasks>,
    task: String,
    _folder: tempfile::TempDir,
}

fn node_with(limits: HttpConfig) -> Node {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ArtifactStore::open(folder.path(), 0).expect("a store");
    let task = TaskId([7; 16]).to_string();
    let tasks = Arc::new(FakeTasks::new(&task));
    let services = Services {
        identifiers: Some(Arc::new(FakeIdentifiers::default())),
        artifacts: Some(Arc::new(Artifacts { store, object_bytes_max: 1 << 20, total_bytes_max: 8 << 20 })),
        tasks: Some(tasks.clone()),
        ..Services::default()
    };
    let region = "beijing".parse().expect("a region");
    let state = AppState::new(region, "m1", auth::ApiKey::of(KEY), limits, Arc::new(Metrics::new()), services)
        .expect("in memory");
    Node { state, tasks, task, _folder: folder }
}

fn node() -> Node {
    node_with(HttpConfig::default())
}

async fn value(response: Response) -> Value {
    let bytes = axum::body::to_bytes(response.into_body(), 4 << 20).await.expect("a body");
    serde_json::from_slice(&bytes).expect("JSON")
}

async fn get(node: &Node, path: &str) -> Response {
    call(&node.state, request("GET", path, "")).await
}

async fn register(node: &Node, headers: &[(&'static str, &str)], cpi: &str) -> Response {
    let mut asked = request("POST", "/v1/identifiers", &json!({ "cpi": cpi }).to_string());
    for (name, text) in headers {
        asked.headers_mut().insert(*name, text.parse().expect("a header"));
    }
    call(&node.state, asked).await
}

#[tokio::test]
async fn a_registration_names_its_place_its_revision_and_how_fresh_the_node_is() {
    let node = node();
    let response = register(&node, &[], CPI).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["etag"], "\"1\"");
    assert_eq!(response.headers()["x-index"], "42");
    assert_eq!(response.headers()["x-as-of"], "2026-11-24T08:00:00Z");
    let place = response.headers()["location"].to_str().expect("text").to_owned();
    let registered = value(response).await;
    let found = get(&node, &place).await;
    assert_eq!(found.headers()["x-source-node"], "m1");
    assert_eq!(value(found).await, registered);
    let again = register(&node, &[], CPI).await;
    assert_eq!(again.status(), 409);
    assert_eq!(problem(again).await.code, "conflict");
}

#[tokio::test]
async fn a_repeated_registration_gets_its_first_answer() {
    let node = node();
    let key = [("idempotency-key", "k1")];
    assert_eq!(register(&node, &key, CPI).await.status(), 201);
    let again = register(&node, &key, CPI).await;
    assert_eq!(again.status(), 201);
    assert_eq!(again.headers()["etag"], "\"1\"");
    let other = register(&node, &key, "cpi:1:other").await;
    assert_eq!(problem(other).await.code, "idempotency_mismatch");
}

#[tokio::test]
async fn a_wrong_identifier_is_refused_with_field_offset_and_expectation() {
    let node = node();
    let wrong = CPI.replacen("G110100", "G999999", 1);
    for path in ["/v1/identifiers", "/v1/identifiers:decode"] {
        let response = call(&node.state, request("POST", path, &json!({ "cpi": wrong }).to_string())).await;
        assert_eq!(response.status(), 422, "{path}");
        let found = problem(response).await;
        let field = &found.field_errors[0];
        assert!(field.field.starts_with("cpi."), "{field:?}");
        assert!(field.offset.is_some() && field.expected.is_some(), "{field:?}");
        assert!(field.message.contains("offset"), "{field:?}");
    }
}

#[tokio::test]
async fn many_are_registered_at_once_and_each_has_its_own_result() {
    let node = node();
    let wrong = CPI.replacen("G110100", "G999999", 1);
    let ask = async |cpis: Value| {
        let body = json!({ "cpis": cpis }).to_string();
        call(&node.state, request("POST", "/v1/identifiers:register", &body)).await
    };
    let answer = ask(json!([CPI, wrong])).await;
    assert_eq!(answer.status(), 200);
    let results = value(answer).await["results"].clone();
    assert_eq!(results[0]["identifier"]["state"], "active", "{results}");
    assert!(results[1]["identifier"].is_null(), "{results}");
    assert_eq!(results[1]["code"], "invalid", "{results}");
    assert!(results[1]["detail"].as_str().is_some_and(|detail| detail.contains("offset")), "{results}");
    assert_eq!(problem(ask(json!([])).await).await.field_errors[0].field, "cpis");
    assert_eq!(problem(ask(json!(vec![CPI; 501])).await).await.field_errors[0].field, "cpis");
}

#[tokio::test]
async fn what_is_pending_is_shown_where_it_is_asked_for_and_has_no_etag() {
    let node = node();
    let path = format!("/v1/identifiers/{}", cpi::identifier::Cpi::parse(CPI).expect("valid").stable_key());
    assert_eq!(call(&node.state, request("GET", &path, "")).await.status(), 404);
    let pending = call(&node.state, request("GET", &format!("{path}?pending=true"), "")).await;
    assert!(pending.headers().get("etag").is_none());
    let view = value(pending).await;
    assert_eq!((&view["state"], &view["pending"]["change"]), (&json!("pending"), &json!("register")), "{view}");
    let both = call(&node.state, request("GET", &format!("{path}?pending=true&at=2026-01-31T08:00:00Z"), "")).await;
    assert_eq!(both.status(), 400);
}

#[tokio::test]
async fn what_is_decoded_encodes_to_the_same_text() {
    let node = node();
    let decoded =
        call(&node.state, request("POST", "/v1/identifiers:decode", &json!({ "cpi": CPI }).to_string())).await;
    let decoded = value(decoded).await;
    for body in [&decoded["fields"], &json!({ "fields": decoded["fields"] })] {
        let encoded = call(&node.state, request("POST", "/v1/identifiers:encode", &body.to_string())).await;
        assert_eq!(value(encoded).await, json!({ "cpi": CPI, "key": decoded["key"] }));
    }
}

#[tokio::test]
async fn a_change_needs_the_revision_that_it_changes() {
    let node = node();
    let key = value(register(&node, &[], CPI).await).await["key"].as_str().expect("a key").to_owned();
    let path = format!("/v1/identifiers/{key}");
    let change = |revision: Option<&str>| {
        let mut asked = request("PUT", &path, &json!({ "cpi": CPI }).to_string());
        if let Some(revision) = revision {
            asked.headers_mut().insert("if-match", revision.parse().expect("a header"));
        }
        call(&node.state, asked)
    };
    assert_eq!(problem(change(None).await).await.field_errors[0].field, "If-Match");
    assert_eq!(problem(change(Some("\"7\"")).await).await.code, "stale_revision");
    let pending = change(Some("\"1\"")).await;
    assert_eq!((pending.status().as_u16(), &pending.headers()["etag"]), (202, &"\"2\"".parse().expect("a header")));
}

#[tokio::test]
async fn resolution_takes_texts_keys_prefixes_and_batches() {
    let node = node();
    let key = value(register(&node, &[], CPI).await).await["key"].clone();
    let resolve = |body: Value| call(&node.state, request("POST", "/v1/identifiers:resolve", &body.to_string()));
    for body in [json!({ "cpi": CPI }), json!({ "key": key })] {
        let response = resolve(body).await;
        assert_eq!(response.headers()["x-known-leader"], "true");
        let answer = value(response).await;
        assert_eq!((&answer["identifier"]["key"], &answer["description"]["cpi"]), (&key, &json!(CPI)));
    }
    let page = value(resolve(json!({ "prefix": "cpi:1:C9111" })).await).await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
    let unknown = TaskId([1; 16]).to_string();
    let batch = value(resolve(json!({ "batch": [{ "key": key }, { "key": unknown }] })).await).await;
    assert_eq!(
        (&batch["results"][0]["resolved"]["identifier"]["key"], &batch["results"][1]["code"]),
        (&key, &json!("not_found"))
    );
    assert_eq!(problem(resolve(json!({ "key": unknown })).await).await.code, "not_found");
    assert_eq!(problem(resolve(json!({ "key": key, "cpi": CPI })).await).await.code, "invalid");
    assert_eq!(problem(resolve(json!({})).await).await.code, "invalid");
    let strict = problem(resolve(json!({ "key": key, "consistency": "linearizable" })).await).await;
    assert_eq!((strict.status, strict.reason.as_deref()), (503, Some("no_quorum")));
    let typo = problem(resolve(json!({ "kei": key })).await).await;
    assert!(typo.field_errors[0].message.contains("did you mean `key`"), "{typo:?}");
}

#[tokio::test]
async fn a_wrong_filter_names_its_offset() {
    let found = problem(get(&node(), "/v1/identifiers?filter=chipp%20%3D%20%22x%22").await).await;
    assert_eq!((found.status, found.field_errors[0].field.as_str()), (400, "filter"));
    assert!(found.hint.contains("chip"), "{found:?}");
}

#[tokio::test]
async fn parameters_are_checked() {
    let node = node();
    for path in [
        "/v1/identifiers?limit=0",
        "/v1/identifiers?limit=many",
        "/v1/identifiers?limt=3",
        "/v1/identifiers?state=lost",
        "/v1/identifiers?page_token=zz",
        "/v1/identifiers/short",
        "/v1/identifiers/0000000000000000000000000A?at=yesterday",
        "/v1/tasks/short",
        "/v1/tasks?limit=5000",
        "/v1/watch?topics=everything",
        "/v1/artifacts/sha256:12",
    ] {
        let found = problem(get(&node, path).await).await;
        assert_eq!(found.status, 400, "{path}: {found:?}");
        assert!(!found.field_errors.is_empty() || found.code == "invalid_page_token", "{path}: {found:?}");
    }
}

#[tokio::test]
async fn a_task_document_is_refused_with_its_field_and_the_nearest_name() {
    let node = node();
    let post = |kind: &'static str, body: String| {
        let mut asked = request("POST", "/v1/tasks", &body);
        asked.headers_mut().insert("content-type", kind.parse().expect("a header"));
        call(&node.state, asked)
    };
    let typo = post("application/json", json!({ "name": "t", "comand": ["true"] }).to_string()).await;
    let typo = problem(typo).await;
    assert_eq!((typo.status, typo.reason.as_deref()), (422, Some("invalid_task")));
    assert_eq!(typo.field_errors[0].field, "comand");
    assert!(typo.field_errors[0].message.contains("command"), "{typo:?}");
    let yaml = post("application/yaml", "name: t\ncommand: [\"true\"]\n".to_owned()).await;
    assert_eq!(yaml.status(), 201);
    assert_eq!(yaml.headers()["location"], format!("/v1/tasks/{}", node.task).as_str());
    let sent = json!({ "name": "t", "command": ["./x"], "inputs": [{ "path": "x", "from": "x" }] });
    let sent = problem(post("application/json", sent.to_string()).await).await;
    assert!(sent.detail.contains("upload"), "{sent:?}");
}

#[tokio::test]
async fn a_busy_node_says_when_to_come_back() {
    let body = json!({ "name": "t", "command": ["true"] }).to_string();
    let response = call(&node().state, request("POST", "/v1/plans", &body)).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"1".parse().expect("a header"))
    );
    assert_eq!(problem(response).await.reason.as_deref(), Some("busy"));
}

async fn follow(node: &Node, path: &str, last: Option<&str>) -> EventStream<BodyDataStream> {
    let mut asked = request("GET", path, "");
    asked.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
    if let Some(last) = last {
        asked.headers_mut().insert("last-event-id", last.parse().expect("a header"));
    }
    let response = call(&node.state, asked).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body().into_data_stream().eventsource()
}

#[tokio::test]
async fn events_are_followed_to_the_end_and_resumed() {
    let node = node();
    let path = format!("/v1/tasks/{}/events", node.task);
    node.tasks.happen("submitted", "pending");
    let mut events = follow(&node, &path, None).await;
    assert_eq!(events.next().await.expect("one").expect("whole").id, "1");
    node.tasks.happen("bound", "running");
    let second = events.next().await.expect("one").expect("whole");
    assert_eq!((second.id.as_str(), second.event.as_str()), ("2", "event"));
    node.tasks.happen("ended", "succeeded");
    assert_eq!(events.next().await.expect("one").expect("whole").id, "3");
    assert!(events.next().await.is_none(), "the stream ends with the task");
    let resumed: Vec<String> =
        follow(&node, &path, Some("1")).await.map(|event| event.expect("whole").id).collect().await;
    assert_eq!(resumed, ["2", "3"]);
    let page = value(get(&node, &format!("{path}?limit=2")).await).await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    let token = page["next_page_token"].as_str().expect("a token");
    let rest = value(get(&node, &format!("{path}?limit=2&page_token={token}")).await).await;
    assert_eq!((rest["items"][0]["seq"].as_u64(), &rest["next_page_token"]), (Some(3), &Value::Null));
}

#[tokio::test]
async fn logs_are_read_whole_and_followed_by_octets() {
    let node = node();
    let path = format!("/v1/tasks/{}/logs", node.task);
    *node.tasks.log.lock().expect("not poisoned") = (b"hello ".to_vec(), false);
    let mut log = follow(&node, &format!("{path}?follow=true"), None).await;
    let first = log.next().await.expect("one").expect("whole");
    assert_eq!((first.id.as_str(), first.event.as_str()), ("6", "log"));
    *node.tasks.log.lock().expect("not poisoned") = (b"hello world".to_vec(), true);
    let second: Value = serde_json::from_str(&log.next().await.expect("one").expect("whole").data).expect("JSON");
    assert_eq!(
        data_encoding::BASE64.decode(second["base64"].as_str().expect("text").as_bytes()).expect("Base64"),
        b"world"
    );
    assert_eq!(log.next().await.expect("one").expect("whole").event, "end");
    assert!(log.next().await.is_none());
    let whole = get(&node, &format!("{path}?offset=2")).await;
    assert_eq!(axum::body::to_bytes(whole.into_body(), 100).await.expect("a body"), "llo world");
}

#[tokio::test]
async fn a_watch_resumes_and_says_when_it_cannot() {
    let node = node();
    node.tasks.happen("submitted", "pending");
    node.tasks.happen("bound", "running");
    let mut events = follow(&node, "/v1/watch?topics=tasks&from=10", None).await;
    let event = events.next().await.expect("one").expect("whole");
    assert_eq!((event.id.as_str(), event.event.as_str()), ("20", "task"));
    node.tasks.happen("ended", "succeeded");
    assert_eq!(events.next().await.expect("one").expect("whole").id, "30");
    assert_eq!(problem(get(&node, "/v1/watch?topics=tasks&from=1").await).await.code, "gone");
}

#[tokio::test]
async fn open_streams_are_bounded() {
    let node = node_with(HttpConfig { streams_max: 1, ..HttpConfig::default() });
    let first = follow(&node, "/v1/watch?topics=tasks", None).await;
    let refused = get(&node, "/v1/watch?topics=tasks").await;
    assert_eq!(refused.status(), 429);
    drop(first);
    // the producer ends once its reader is gone
    while get(&node, "/v1/watch?topics=tasks").await.status() == 429 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn artifacts_go_in_and_out_by_their_digest() {
    let node = node();
    let content = vec![7_u8; 300_000];
    let digest = ContentDigest::of(&content);
    let path = format!("/v1/artifacts/{digest}");
    let send = |method: &str, path: &str, content: &[u8]| {
        let mut asked = request(method, path, "");
        *asked.body_mut() = Body::from(content.to_vec());
        asked.headers_mut().insert("content-type", "application/octet-stream".parse().expect("a header"));
        call(&node.state, asked)
    };
    assert_eq!(problem(get(&node, &path).await).await.code, "not_found");
    assert_eq!(call(&node.state, request("HEAD", &path, "")).await.status(), 404);
    let other = problem(send("PUT", &path, b"something else").await).await;
    assert_eq!((other.status, other.reason.as_deref()), (422, Some("input_corrupt")));
    assert_eq!(send("PUT", &path, &content).await.status(), 201);
    assert_eq!(send("PUT", &path, &content).await.status(), 200);
    assert_eq!(value(send("POST", "/v1/artifacts", &content).await).await["digest"], digest.to_string());
    let head = call(&node.state, request("HEAD", &path, "")).await;
    assert_eq!(head.headers()["content-length"], "300000");
    let whole = axum::body::to_bytes(get(&node, &path).await.into_body(), 1 << 20).await.expect("a body");
    assert_eq!(whole, content);
    let mut rest = request("GET", &path, "");
    rest.headers_mut().insert("range", "bytes=299998-".parse().expect("a header"));
    let rest = call(&node.state, rest).await;
    assert_eq!(
        (rest.status().as_u16(), &rest.headers()["content-range"]),
        (206, &"bytes 299998-299999/300000".parse().expect("a header"))
    );
    let large = problem(send("POST", "/v1/artifacts", &vec![0; (1 << 20) + 1]).await).await;
    assert_eq!(large.code, "too_large");
}
