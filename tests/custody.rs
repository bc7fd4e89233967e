//! Custody with real processes: a task outlives the node that took it in, and has one result.

use e2e::ring::{PATIENCE, Ring, RingOptions, ended, history, output, shell_task, submit, until};
use serde_json::{Value, json};
use std::time::Duration;

fn options() -> RingOptions {
    let keys = [
        "durability = \"quorum\"",
        "custody_orphan_after_ms = 2000",
        "custody_return_after_ms = 1000",
        "custody_replace_after_ms = 10000",
    ];
    let extra = format!("[negotiation]\n{}\n", keys.join("\n"));
    RingOptions { nodes: 4, extra, ..RingOptions::default() }
}

/// A task that runs at node 1 until `go` lies in its folder, and where it is kept.
async fn kept_task(ring: &Ring) -> (String, Vec<usize>) {
    let client = ring.client(0).expect("runs");
    let mut document = shell_task("kept", "while [ ! -e go ]; do sleep 0.1; done; printf 'one result' > out", &["r1"]);
    document["max_runtime"] = json!("300s");
    let task = submit(&client, &document, "kept").await.expect("is accepted");
    assert_eq!(task["durability"], "quorum", "two disks have it before it is acknowledged: {task}");
    let custodians = task["custodians"].as_array().expect("a list");
    let number = |region: &Value| region.as_str().and_then(|name| name[1..].parse::<usize>().ok()).expect("as in r1");
    let custodians: Vec<usize> = custodians.iter().map(number).collect();
    assert_eq!((custodians.len(), custodians[0]), (3, 0), "{task}");
    let id = task["id"].as_str().expect("it has an id").to_owned();
    let path = format!("/v1/tasks/{id}");
    until(PATIENCE, || async { client.get(&path, vec![]).await.is_ok_and(|task| task["state"] == "running") })
        .await
        .expect("it runs");
    (id, custodians)
}

/// Lets a node's process stand still, as if it were cut off, or go on.
fn freeze(ring: &Ring, at: usize, on: bool) {
    use nix::sys::signal::{Signal, kill};
    let pid = nix::unistd::Pid::from_raw(ring.nodes[at].pid().expect("it runs") as i32);
    kill(pid, if on { Signal::SIGSTOP } else { Signal::SIGCONT }).expect("it is ours");
}

/// Who decides for a task, as a node sees it.
async fn holder(ring: &Ring, at: usize, id: &str) -> String {
    let task = ring.client(at).expect("runs").get(&format!("/v1/tasks/{id}"), vec![]).await.unwrap_or_default();
    task["holder"].as_str().map(str::to_owned).unwrap_or_default()
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
async fn a_task_outlives_its_origin_and_its_disk() {
    let mut ring = Ring::start(options()).await.expect("starts");
    let (id, custodians) = kept_task(&ring).await;
    ring.nodes[0].kill().expect("dies");
    let folder = ring.nodes[0].data_dir.clone();
    std::fs::rename(&folder, folder.with_extension("gone")).expect("its disk is gone");

    let path = format!("/v1/tasks/{id}");
    let clients = [ring.client(custodians[1]).expect("runs"), ring.client(custodians[2]).expect("runs")];
    until(PATIENCE, || async {
        let task = clients[0].get(&path, vec![]).await.unwrap_or_default();
        task["holder"].as_str().is_some_and(|holder| holder != "r0")
    })
    .await
    .expect("another custodian adopts it");
    release(&ring, 1);
    let mut digests = Vec::new();
    for client in &clients {
        let done = ended(client, &id, PATIENCE).await.expect("ends");
        assert_eq!(done["state"], "succeeded", "{done}\n{:?}", history(client, &id).await);
        assert_eq!((&done["origin"], &done["runs"]), (&json!("r0"), &json!(1)), "the run was kept: {done}");
        digests.push(done["artifacts"][0]["digest"].clone());
        let events = history(client, &id).await.expect("a history");
        assert_eq!(events.iter().filter(|event| event.starts_with("ended ")).count(), 1, "{events:?}");
        until(PATIENCE, || async { output(client, &done, "out").await.is_ok() }).await.expect("its result comes here");
        assert_eq!(output(client, &done, "out").await.expect("is here"), b"one result");
    }
    assert_eq!(digests[0], digests[1], "one result");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_comes_back_has_its_task_again_with_one_result() {
    let mut ring = Ring::start(options()).await.expect("starts");
    let (id, custodians) = kept_task(&ring).await;
    let path = format!("/v1/tasks/{id}");
    ring.nodes[0].kill().expect("dies");
    let other = ring.client(custodians[1]).expect("runs");
    let holder = |task: Value| task["holder"].as_str().map(str::to_owned).unwrap_or_default();
    until(PATIENCE, || async { holder(other.get(&path, vec![]).await.unwrap_or_default()) != "r0" })
        .await
        .expect("another custodian adopts it");
    ring.nodes[0].start().expect("starts again");
    ring.ready(0).await.expect("comes back");
    let client = ring.client(0).expect("runs");
    until(PATIENCE, || async { holder(client.get(&path, vec![]).await.unwrap_or_default()) == "r0" })
        .await
        .expect("its task is handed back");
    release(&ring, 1);
    let done = ended(&client, &id, Duration::from_secs(90)).await.expect("ends");
    assert_eq!((&done["state"], &done["runs"]), (&json!("succeeded"), &json!(1)), "{done}");
    until(PATIENCE, || async { output(&client, &done, "out").await.is_ok() }).await.expect("its result comes here");
    assert_eq!(output(&client, &done, "out").await.expect("is here"), b"one result");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_was_cut_off_does_not_make_a_second_result() {
    let ring = Ring::start(options()).await.expect("starts");
    let (id, custodians) = kept_task(&ring).await;
    freeze(&ring, 0, true);
    until(PATIENCE, || async { !["r0", ""].contains(&holder(&ring, custodians[1], &id).await.as_str()) })
        .await
        .expect("another custodian adopts it");
    release(&ring, 1);
    let other = ring.client(custodians[1]).expect("runs");
    let there = ended(&other, &id, PATIENCE).await.expect("ends without its origin");
    assert_eq!((&there["state"], &there["runs"]), (&json!("succeeded"), &json!(1)), "{there}");
    freeze(&ring, 0, false);
    let client = ring.client(0).expect("runs");
    let here = ended(&client, &id, PATIENCE).await.expect("its origin learns of the end");
    assert_eq!((&here["state"], &here["runs"]), (&json!("succeeded"), &json!(1)), "{here}");
    assert_eq!(here["artifacts"][0]["digest"], there["artifacts"][0]["digest"], "one result");
    let events = history(&client, &id).await.expect("a history");
    assert_eq!(events.iter().filter(|event| event.starts_with("ended ")).count(), 1, "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custodian_that_is_lost_is_replaced_and_the_new_one_adopts() {
    let mut options = options();
    options.nodes = 5;
    let mut ring = Ring::start(options).await.expect("starts");
    let (id, custodians) = kept_task(&ring).await;
    let path = format!("/v1/tasks/{id}");
    // Where the task runs stays: a custodian that is another goes, for good.
    let gone = *custodians[1..].iter().find(|at| **at != 1).expect("two others, and one provider");
    let name = format!("r{gone}");
    ring.nodes[gone].kill().expect("dies");
    let client = ring.client(0).expect("runs");
    let set = |task: &Value| -> Vec<String> {
        let all = task["custodians"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|region| region.as_str().map(str::to_owned)).collect()
    };
    until(PATIENCE, || async { client.get(&path, vec![]).await.is_ok_and(|task| !set(&task).contains(&name)) })
        .await
        .expect("another member takes its place");
    until(PATIENCE, || async { client.get(&path, vec![]).await.is_ok_and(|task| set(&task).len() == 3) })
        .await
        .expect("three again");
    let kept = set(&client.get(&path, vec![]).await.expect("is there"));
    let number = |region: &String| region[1..].parse::<usize>().expect("as in r1");
    let new = kept.iter().map(number).find(|at| !custodians.contains(at)).expect("one is new");
    until(PATIENCE, || async { holder(&ring, new, &id).await == "r0" }).await.expect("the new one keeps it");
    ring.nodes[0].kill().expect("dies");
    until(PATIENCE, || async { !["r0", ""].contains(&holder(&ring, new, &id).await.as_str()) })
        .await
        .expect("it is adopted among the new set");
    release(&ring, 1);
    let done = ended(&ring.client(new).expect("runs"), &id, PATIENCE).await.expect("ends");
    assert_eq!((&done["state"], &done["runs"]), (&json!("succeeded"), &json!(1)), "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custodian_that_was_cut_off_catches_up_and_a_local_task_has_none() {
    let ring = Ring::start(options()).await.expect("starts");
    let (id, custodians) = kept_task(&ring).await;
    let away = *custodians[1..].iter().find(|at| **at != 1).expect("two others, and one provider");
    freeze(&ring, away, true);
    release(&ring, 1);
    let client = ring.client(0).expect("runs");
    let done = ended(&client, &id, PATIENCE).await.expect("two disks are enough");
    assert_eq!(done["state"], "succeeded", "{done}");
    freeze(&ring, away, false);
    let late = ended(&ring.client(away).expect("runs"), &id, PATIENCE).await.expect("it catches up");
    assert_eq!(late["artifacts"][0]["digest"], done["artifacts"][0]["digest"]);
    assert_eq!(holder(&ring, away, &id).await, "r0", "nobody adopted what has ended");

    let mut document = shell_task("alone", "printf x > out", &["r1"]);
    document["durability"] = json!("local");
    let alone = submit(&client, &document, "alone").await.expect("is accepted");
    assert_eq!((&alone["durability"], &alone["custodians"]), (&json!("local"), &json!(["r0"])), "{alone}");
    let id = alone["id"].as_str().expect("it has an id");
    assert_eq!(ended(&client, id, PATIENCE).await.expect("ends")["state"], "succeeded");
}
