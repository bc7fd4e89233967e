//! Machines by operations of a real node: kept over `kill -9`, made once, told by reading, watching and signed webhooks.

use e2e::bench::plugins::{Programs, entry};
use e2e::ring::{PATIENCE, Ring, RingOptions, causeway, items, until};
use node::cli::{CliError, Client, Extra};
use node::drivers::operations::{SIGNATURE_HEADER, TIMESTAMP_HEADER, sign};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SECRET: &str = "a-secret-of-webhooks";
const POOL: &str = r#"
[[pools]]
name = "vms"
backend = "cloud"
class = "GC"
firmness = "held"
[[pools.classes]]
name = "small"
cpu_model = "INX8480P"
servers = 2
per_server = { cpu_milli = 4000, memory_bytes = 17179869184, storage_bytes = 1073741824, chip_milli = 0 }
"#;

fn amount(cores: u64) -> Value {
    json!({ "cpu_milli": cores * 1000, "memory_bytes": 1_u64 << 30, "storage_bytes": 0, "chip_milli": 0 })
}

async fn begin(client: &Client, body: Value, key: &str) -> Result<Value, CliError> {
    let headers = vec![("idempotency-key", key.to_owned())];
    client.call(reqwest::Method::POST, "/v1/operations", Extra { body: Some(body), headers, ..Extra::default() }).await
}

async fn over(client: &Client, operation: &Value) -> Value {
    let path = format!("/v1/operations/{}", operation["id"].as_str().expect("an id"));
    let ended = || async {
        let now = client.get(&path, vec![]).await.unwrap_or_default();
        matches!(now["state"].as_str(), Some("done" | "failed"))
    };
    until(PATIENCE, ended).await.expect("it is over");
    client.get(&path, vec![]).await.expect("answers")
}

/// A request as the receiver of a webhook got it: timestamp, signature, body.
type Heard = (u64, String, Vec<u8>);

/// Answers 500 to the first request and 200 to all others.
async fn receiver() -> (String, Arc<Mutex<Vec<Heard>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
    let all = Arc::clone(&heard);
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = Vec::new();
            let (head, length) = loop {
                if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                    break (0, 0);
                }
                if let Some(end) = text.windows(4).position(|part| part == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
                    let value = |name: &str| {
                        head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or("").to_owned()
                    };
                    let length = value("content-length").parse::<usize>().unwrap_or(0);
                    let timestamp = value(TIMESTAMP_HEADER).parse().unwrap_or(0);
                    all.lock().expect("kept").push((timestamp, value(SIGNATURE_HEADER), Vec::new()));
                    break (end + 4, length);
                }
            };
            while text.len() < head + length {
                if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            if let Some(last) = all.lock().expect("kept").last_mut() {
                last.2 = text[head..].to_vec();
            }
            let status = if first { "500 Internal Server Error" } else { "200 OK" };
            first = false;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, heard)
}

async fn start(programs: &Programs, program: &std::path::Path) -> Ring {
    let extra =
        programs.section() + "quarantine_ms = 1000\n" + &entry("cloud", program, "{}").expect("an entry") + POOL;
    Ring::start(RingOptions { nodes: 1, backend: "fake", extra, ..RingOptions::default() }).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_made_changed_switched_and_released_and_its_caller_told() {
    let programs = Programs::new().expect("a folder");
    let program = programs.copy("causeway-adapter-fake", 1).expect("copies");
    let ring = start(&programs, &program).await;
    let client = ring.client(0).expect("runs");
    e2e::bench::plugins::up(&ring, "cloud").await.expect("comes up");
    let (url, heard) = receiver().await;
    let secret = ring.folder().join("secret");
    std::fs::write(&secret, SECRET).expect("writes");
    let put = ["vault", "put", "hooks/test", "--file", &secret.display().to_string()];
    assert!(causeway(&ring.nodes[0].data_dir, &put).expect("runs").status.success());

    let wanted = json!({ "adapter": "cloud", "verb": "provision", "pool": "vms", "class": "small", "need": amount(1),
        "webhook": { "url": url, "secret": "hooks/test" } });
    let made = begin(&client, wanted.clone(), "web-1").await.expect("is accepted");
    let again = begin(&client, wanted.clone(), "web-1").await.expect("the same");
    assert_eq!((&made["id"], &made["resource"]), (&again["id"], &again["resource"]));
    let mut other = wanted.clone();
    other["need"] = amount(2);
    assert_eq!(begin(&client, other, "web-1").await.expect_err("another request").exit() as u8, 5);
    let done = over(&client, &made).await;
    assert_eq!((&done["state"], &done["machine"]["state"]), (&json!("done"), &json!("ready")), "{done}");

    let on = |verb: &str| json!({ "adapter": "cloud", "verb": verb, "resource": made["resource"] });
    let mut modify = on("modify");
    modify["need"] = amount(2);
    let mut all = Vec::new();
    for (key, body) in [("m", modify), ("s", on("stop")), ("b", on("start")), ("r", on("release"))] {
        all.push(begin(&client, body, key).await.expect("is accepted"));
    }
    for (operation, state) in all.iter().zip(["ready", "stopped", "ready", "released"]) {
        let done = over(&client, operation).await;
        assert_eq!((&done["state"], &done["machine"]["state"]), (&json!("done"), &json!(state)), "{done}");
    }
    let lost = begin(&client, on("start"), "late").await.expect("is accepted");
    assert_eq!(over(&client, &lost).await["reason"]["code"], "run_lost");
    let page = client.get("/v1/operations", vec![("limit", Some("4".to_owned()))]).await.expect("a page");
    assert_eq!((items(&page).len(), &page["total"], &items(&page)[0]["id"]), (4, &json!(6), &lost["id"]));

    for (field, body) in [
        ("verb", json!({ "adapter": "cloud", "verb": "melt", "resource": made["resource"] })),
        ("adapter", json!({ "adapter": "nowhere", "verb": "release", "resource": made["resource"] })),
        ("resource", json!({ "adapter": "cloud", "verb": "release" })),
        ("pool", json!({ "adapter": "cloud", "verb": "provision", "pool": "main", "class": "x", "need": amount(1) })),
        (
            "webhook",
            json!({ "adapter": "cloud", "verb": "release", "resource": made["resource"],
            "webhook": { "url": "http://example.org/", "secret": "hooks/test" } }),
        ),
    ] {
        let refused = begin(&client, body, field).await.expect_err("is refused").to_string();
        assert!(refused.contains(field), "{field}: {refused}");
    }

    // the first request was answered with 500, so it came again; each is signed
    let told = || async {
        heard.lock().expect("kept").iter().any(|(_, _, body)| {
            serde_json::from_slice::<Value>(body).is_ok_and(|view| view["id"] == made["id"] && view["state"] == "done")
        })
    };
    until(PATIENCE, told).await.expect("the webhook is told of the end");
    let heard = heard.lock().expect("kept");
    assert!(heard.len() >= 2);
    for (timestamp, signature, body) in heard.iter() {
        assert_eq!(*signature, sign(SECRET.as_bytes(), *timestamp, body));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_outlives_kills_of_the_node_and_waits_for_its_platform() {
    let programs = Programs::new().expect("a folder");
    let program = programs.copy("causeway-adapter-fake", 1).expect("copies");
    let hidden = program.with_extension("hidden");
    let mut ring = {
        let text = entry("cloud", &program, "{}").expect("an entry");
        std::fs::rename(&program, &hidden).expect("hides");
        let extra = programs.section() + "quarantine_ms = 1000\n" + &text + POOL;
        let options = RingOptions { nodes: 1, backend: "fake", extra, ..RingOptions::default() };
        Ring::start(options).await.expect("starts")
    };
    let client = ring.client(0).expect("runs");
    let body = json!({ "adapter": "cloud", "verb": "provision", "pool": "vms", "class": "small", "need": amount(1) });
    let made = begin(&client, body.clone(), "one").await.expect("is on disk, whatever its platform does");
    ring.kill_and_restart(0).await.expect("comes back");
    let client = ring.client(0).expect("runs");
    let again = begin(&client, body, "one").await.expect("the same operation after the kill");
    assert_eq!((&again["id"], &again["state"]), (&made["id"], &json!("working")));
    std::fs::rename(&hidden, &program).expect("is installed");
    let done = over(&client, &made).await;
    assert_eq!((&done["state"], &done["machine"]["state"]), (&json!("done"), &json!("ready")), "{done}");
    let page = client.get("/v1/operations", vec![]).await.expect("a page");
    assert_eq!(page["total"], 1);
    ring.kill_and_restart(0).await.expect("comes back");
    let client = ring.client(0).expect("runs");
    let path = format!("/v1/operations/{}", made["id"].as_str().expect("an id"));
    assert_eq!(client.get(&path, vec![]).await.expect("answers")["state"], "done");
}
