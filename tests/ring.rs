//! Rings of real processes: tasks find their region, survive restarts and losses, and what is impossible is refused in words.

use e2e::ring::{
    PATIENCE, Ring, RingOptions, causeway, ended, history, identifier, items, output, shell_task, submit, until,
};
use node::cli::Extra;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn id_of(task: &Value) -> String {
    task["id"].as_str().expect("a task has an id").to_owned()
}

/// Registers at a node; true once it is committed or durable there.
async fn register(ring: &Ring, at: usize, text: &str) -> bool {
    let Ok(client) = ring.nodes[at].client(Duration::from_secs(3)) else { return false };
    client.post("/v1/identifiers", json!({ "cpi": text })).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_runs_where_it_must_and_its_result_comes_back() {
    let ring = Ring::start(RingOptions::default()).await.expect("starts");
    let client = ring.client(0).expect("runs");
    let document = shell_task("hello", "echo to the log; printf 'from %s' \"$CAUSEWAY_TASK\" > out", &["r2"]);
    let task = submit(&client, &document, "once").await.expect("is accepted");
    let id = id_of(&task);
    let done = ended(&client, &id, PATIENCE).await.expect("ends");
    assert_eq!((&done["state"], &done["place"]["region"]), (&json!("succeeded"), &json!("r2")), "{done}");
    assert_eq!(output(&client, &done, "out").await.expect("is here"), format!("from {id}").as_bytes());

    let again = submit(&client, &document, "once").await.expect("the same task");
    assert_eq!(id_of(&again), id);
    let logs = causeway(&ring.nodes[0].data_dir, &["task", "logs", &id]).expect("starts");
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "to the log\n");
    let refused = causeway(&ring.nodes[0].data_dir, &["task", "status", "00000000000000000000000000"]).expect("starts");
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_id_of_a_submission_stands_in_the_log_where_it_runs() {
    let ring = Ring::start(RingOptions { nodes: 2, ..RingOptions::default() }).await.expect("starts");
    let client = ring.client(0).expect("runs");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = vec![("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))];
    let document = shell_task("traced", "printf done > out", &["r1"]);
    let extra = Extra { body: Some(document), headers, ..Extra::default() };
    let task = client.call(Method::POST, "/v1/tasks", extra).await.expect("is accepted");
    ended(&client, &id_of(&task), PATIENCE).await.expect("ends");
    let log = std::fs::read_to_string(&ring.nodes[1].log).expect("the node's log");
    let line = log.lines().find(|line| line.contains("a run starts")).expect("it ran here");
    assert!(line.contains(trace) && line.contains(&id_of(&task)), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impossible_task_gets_a_reason_from_each_region() {
    let ring = Ring::start(RingOptions::default()).await.expect("starts");
    let client = ring.client(1).expect("runs");
    let mut document = shell_task("impossible", "true", &[]);
    document["resources"]["chips"] = json!({ "model": "NVB200", "count": 1 });
    let plan = client.post("/v1/plans", document).await.expect("a plan is an answer");
    assert_eq!(plan["feasible"], false, "{plan}");
    let refusals = plan["refusals"].as_array().expect("a list");
    assert_eq!(refusals.len(), 3, "{plan}");
    assert!(refusals.iter().all(|refusal| refusal["reason"]["code"] == "chip_unavailable"), "{plan}");

    let mut document = shell_task("wrong", "true", &[]);
    document["resorces"] = json!({});
    let refused = client.post("/v1/plans", document).await.expect_err("is refused");
    assert!(refused.to_string().contains("resources"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_and_writes_resume_within_five_seconds() {
    let mut ring = Ring::start(RingOptions::default()).await.expect("starts");
    for round in 0..2u64 {
        let leader = ring.leader().await.expect("somebody leads");
        let other = (leader + 1) % 3;
        // a ring grows its voters one step after the other; with fewer than three nobody could take over
        let client = ring.client(leader).expect("runs");
        until(PATIENCE, || async {
            let status = client.get("/v1/registry", vec![]).await.unwrap_or_default();
            status["voters"].as_array().is_some_and(|voters| voters.len() == 3)
        })
        .await
        .expect("three members vote");
        assert!(register(&ring, other, &identifier(other, 100 + round)).await);
        let client = ring.client(other).expect("runs");
        ring.nodes[leader].kill().expect("dies");
        let begin = Instant::now();
        let mut number = 200 + 50 * round;
        loop {
            number += 1;
            let answer = client.post("/v1/identifiers", json!({ "cpi": identifier(other, number) })).await;
            // 202 says durable here; only a commit counts
            if answer.is_ok_and(|answer| answer["state"] == "active") {
                break;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "writes do not resume:\n{}",
                ring.nodes[other].last_words()
            );
        }
        let took = begin.elapsed();
        println!("writes resumed {took:?} after the leader was killed");
        assert!(took < Duration::from_secs(5), "writes resumed after {took:?} only");
        ring.nodes[leader].start().expect("starts again");
        ring.ready(leader).await.expect("comes back");
        let back = ring.client(leader).expect("runs");
        let key = cpi::identifier::Cpi::parse(&identifier(other, number)).expect("valid").stable_key();
        until(PATIENCE, || async { back.get(&format!("/v1/identifiers/{key}"), vec![]).await.is_ok() })
            .await
            .expect("what was committed meanwhile arrives");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_outlives_its_node_and_its_origin() {
    let mut ring = Ring::start(RingOptions::default()).await.expect("starts");
    let client = ring.client(0).expect("runs");
    let document = shell_task("long", "echo begun; while [ ! -e go ]; do sleep 0.1; done; printf done > out", &["r1"]);
    let id = id_of(&submit(&client, &document, "long").await.expect("accepted"));
    let running = format!("/v1/tasks/{id}");
    until(PATIENCE, || async { client.get(&running, vec![]).await.is_ok_and(|task| task["state"] == "running") })
        .await
        .expect("it runs");

    ring.kill_and_restart(1).await.expect("the executing node comes back");
    ring.kill_and_restart(0).await.expect("the origin comes back");
    let client = ring.client(0).expect("runs");
    release(&ring, 1);
    let done = ended(&client, &id, PATIENCE).await.expect("ends");
    assert_eq!(done["state"], "succeeded", "{done}\n{:?}", history(&client, &id).await);
    assert_eq!(done["runs"], 1, "the run was found again, not repeated: {done}");
    assert_eq!(output(&client, &done, "out").await.expect("here"), b"done");
}

/// Lets the runs of a node go on that wait for a file `go` in their folders.
fn release(ring: &Ring, at: usize) {
    fn walk(folder: &std::path::Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = std::fs::write(entry.path().join("go"), "");
                walk(&entry.path());
            }
        }
    }
    walk(&ring.nodes[at].data_dir.join("runs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_region_is_replaced_and_counts_no_more() {
    let options = RingOptions {
        extra: "[negotiation]\nlease_ttl_ms = 5000\nlease_renew_ms = 1500\n".to_owned(),
        ..RingOptions::default()
    };
    let mut ring = Ring::start(options).await.expect("starts");
    let client = ring.client(0).expect("runs");
    let document =
        shell_task("lost", "echo \"$CAUSEWAY_FENCE\"; [ -e slow ] || sleep 3; printf done > out", &["r1", "r2"]);
    let id = id_of(&submit(&client, &document, "lost").await.expect("accepted"));
    let path = format!("/v1/tasks/{id}");
    until(PATIENCE, || async { client.get(&path, vec![]).await.is_ok_and(|task| task["state"] == "running") })
        .await
        .expect("it runs");
    let task = client.get(&path, vec![]).await.expect("answers");
    let first = if task["place"]["region"] == "r1" { 1 } else { 2 };
    ring.nodes[first].kill().expect("dies");
    let done = ended(&client, &id, Duration::from_secs(90)).await.expect("ends");
    assert_eq!(done["state"], "succeeded", "{done}");
    let other = if first == 1 { "r2" } else { "r1" };
    assert_eq!(done["place"]["region"], other, "{done}\n{:?}", history(&client, &id).await);
    let ends = history(&client, &id).await.expect("a history");
    assert_eq!(ends.iter().filter(|event| event.starts_with("ended ")).count(), 1, "{ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_really_stops_the_run() {
    let ring = Ring::start(RingOptions::default()).await.expect("starts");
    let client = ring.client(0).expect("runs");
    let document = shell_task("endless", "trap '' TERM; while true; do sleep 0.1; done", &["r1"]);
    let id = id_of(&submit(&client, &document, "endless").await.expect("accepted"));
    let path = format!("/v1/tasks/{id}");
    until(PATIENCE, || async { client.get(&path, vec![]).await.is_ok_and(|task| task["state"] == "running") })
        .await
        .expect("it runs");
    client.post(&format!("{path}/cancel"), json!({})).await.expect("is taken");
    let done = ended(&client, &id, PATIENCE).await.expect("ends");
    assert_eq!((&done["state"], &done["reason"]["code"]), (&json!("cancelled"), &json!("cancelled")), "{done}");
    let runs = ring.nodes[1].data_dir.join("runs");
    let left = std::fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&runs)));
    let left: Vec<String> = left
        .map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default())
        .filter(|line| line.contains("sleep") || line.contains("trap"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_hands_get_nothing_in() {
    let ring = Ring::start(RingOptions { nodes: 2, ..RingOptions::default() }).await.expect("starts");
    let client = ring.client(0).expect("runs");
    // somebody else's enterprise
    let refused = client.post("/v1/identifiers", json!({ "cpi": identifier(1, 7) })).await.expect_err("is refused");
    assert_eq!(refused.exit() as u8, 4, "{refused}");
    // a damaged identifier: field, offset, expectation, release
    let mut text = identifier(0, 7);
    text.replace_range(6..7, "Q");
    let refused = client.post("/v1/identifiers", json!({ "cpi": text })).await.expect_err("is refused");
    assert_eq!(refused.exit() as u8, 1, "{refused}");
    let told = refused.to_string();
    assert!(told.contains("offset 6") && told.contains("release 1"), "{told}");
    // no key
    let open = reqwest::Client::new();
    let answer = open.get(format!("{}/v1/members", client.base())).send().await.expect("answers");
    assert_eq!(answer.status().as_u16(), 401);
    // an expelled member: nothing that it sends is taken
    let other = ring.client(1).expect("runs");
    client.post("/v1/members/r1/expel", json!({})).await.expect("is expelled");
    until(Duration::from_secs(10), || async {
        let members = client.get("/v1/members", vec![]).await.unwrap_or_default();
        items(&members).iter().any(|member| member["region"] == "r1" && member["connection"] == "away")
            || !items(&members).iter().any(|member| member["region"] == "r1" && member["state"] == "active")
    })
    .await
    .expect("it is shut out");
    let written = other.post("/v1/identifiers", json!({ "cpi": identifier(1, 8) })).await;
    assert!(!written.is_ok_and(|answer| answer["state"] == "active"), "an expelled member wrote to the registry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_is_said_at_start() {
    let mut ring = Ring::start(RingOptions { nodes: 1, ..RingOptions::default() }).await.expect("starts");
    ring.nodes[0].stop().await.expect("stops");
    let records = ring.nodes[0].data_dir.join("records");
    let aside = ring.nodes[0].data_dir.join("aside");
    std::fs::rename(&records, &aside).expect("moves");
    std::fs::write(&records, "not a folder").expect("writes");
    ring.nodes[0].start().expect("starts");
    let refused = ring.nodes[0].wait_up(PATIENCE).await.expect_err("it must not come up").to_string();
    assert!(refused.contains("records"), "{refused}");
    std::fs::remove_file(&records).expect("removes");
    std::fs::rename(&aside, &records).expect("moves back");
    ring.nodes[0].start().expect("starts");
    ring.ready(0).await.expect("and nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_key_stops_the_start_and_names_the_nearest() {
    let mut ring = Ring::start(RingOptions { nodes: 1, ..RingOptions::default() }).await.expect("starts");
    ring.nodes[0].stop().await.expect("stops");
    let text = std::fs::read_to_string(&ring.nodes[0].config).expect("reads");
    std::fs::write(&ring.nodes[0].config, text.replace("listen = \"127", "lisen = \"127")).expect("writes");
    ring.nodes[0].start().expect("starts");
    let refused = ring.nodes[0].wait_up(PATIENCE).await.expect_err("it must not come up").to_string();
    assert!(refused.contains("http.lisen") && refused.contains("http.listen"), "{refused}");
}
