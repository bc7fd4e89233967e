//! Nodes whose backends are plugins: real processes that are started, killed, missing, swapped.

use cpi::ids::ContentDigest;
use e2e::ring::{PATIENCE, Ring, RingOptions, binary, ended, history, items, output, shell_task, submit, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

fn id_of(task: &Value) -> String {
    task["id"].as_str().expect("a task has an id").to_owned()
}

fn sha256(path: &Path) -> ContentDigest {
    ContentDigest::of(&std::fs::read(path).expect("a program"))
}

/// The entry of a plugin in the configuration.
fn plugin(name: &str, program: &Path, config: &str) -> String {
    let (path, sha256) = (program.display(), sha256(program));
    format!("[[adapters.plugin]]\nname = \"{name}\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\nconfig = {config}\n")
}

/// `local` out of process, under the name `own`.
fn own() -> String {
    let program = binary("causeway-adapter-local").expect("is built");
    plugin("own", &program, "{ runs_dir = \"{dir}/runs\" }")
}

/// A pool of one plugin, with chips, so that a task can ask for it.
fn chips_of(backend: &str) -> String {
    format!(
        r#"[[pools]]
name = "played"
backend = "{backend}"
class = "IC"
firmness = "held"
[[pools.classes]]
name = "gpu"
cpu_model = "INX8480P"
chip = {{ model = "NVH800S80", kind = "GPU" }}
servers = 1
per_server = {{ cpu_milli = 8000, memory_bytes = 34359738368, storage_bytes = 214748364800, chip_milli = 8000 }}
"#
    )
}

fn chip_task(name: &str) -> Value {
    let mut document = shell_task(name, "exit 0", &[]);
    document["outputs"] = json!([]);
    document["resources"]["chips"] = json!({ "model": "NVH800S80", "count": 1 });
    document
}

async fn start(extra: String) -> Ring {
    let options = RingOptions { nodes: 1, backend: "own", first_without_chips: true, extra, ..RingOptions::default() };
    Ring::start(options).await.expect("starts")
}

/// The processes of a plugin: children of the node that were started as `program`.
fn plugin_pids(ring: &Ring, program: &str) -> Vec<i32> {
    let Some(node) = ring.nodes[0].pid() else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = pids.filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let child = status.lines().any(|line| line == format!("PPid:\t{node}"));
        child && String::from_utf8_lossy(&line).split('\0').next().is_some_and(|arg| arg.ends_with(program))
    });
    ours.collect()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("dies");
}

async fn is_up(ring: &Ring, adapter: &str) -> bool {
    let Ok(client) = ring.client(0) else { return false };
    let page = client.get("/v1/adapters", vec![]).await.unwrap_or_default();
    items(&page).iter().any(|one| one["name"] == adapter && one["ready"] == true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_of_plugins_run_tasks_out_of_process_and_stop_with_the_node() {
    let fake = binary("causeway-adapter-fake").expect("is built");
    let ring = start(own() + &plugin("toy", &fake, "{}") + &chips_of("toy")).await;
    let client = ring.client(0).expect("runs");
    until(PATIENCE, || async { is_up(&ring, "own").await && is_up(&ring, "toy").await }).await.expect("both come up");

    let document = shell_task("hello", "echo to the log; printf 'from %s' \"$CAUSEWAY_TASK\" > out", &[]);
    let id = id_of(&submit(&client, &document, "hello").await.expect("is accepted"));
    let done = ended(&client, &id, PATIENCE).await.expect("ends");
    assert_eq!((&done["state"], &done["place"]["pool"]), (&json!("succeeded"), &json!("main")), "{done}");
    assert_eq!(output(&client, &done, "out").await.expect("is here"), format!("from {id}").as_bytes());
    let logs = e2e::ring::causeway(&ring.nodes[0].data_dir, &["task", "logs", &id]).expect("starts");
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "to the log\n");

    let id = id_of(&submit(&client, &chip_task("played"), "played").await.expect("is accepted"));
    let done = ended(&client, &id, PATIENCE).await.expect("ends");
    assert_eq!((&done["state"], &done["place"]["pool"]), (&json!("succeeded"), &json!("played")), "{done}");

    let pids = [plugin_pids(&ring, "causeway-adapter-local"), plugin_pids(&ring, "causeway-adapter-fake")].concat();
    assert_eq!(pids.len(), 2, "{pids:?}");
    let mut ring = ring;
    ring.nodes[0].stop().await.expect("stops");
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "plugins end with their node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_plugin_is_seen_its_runs_are_found_again_and_nothing_starts_twice() {
    let mut ring = start(own()).await;
    until(PATIENCE, || is_up(&ring, "own")).await.expect("comes up");
    let runs = ring.nodes[0].data_dir.join("runs");
    // each start of a run adds a line
    let script = "echo started >> out; while [ ! -e go ]; do sleep 0.05; done";
    for (round, with_node) in [false, true].into_iter().enumerate() {
        let client = ring.client(0).expect("runs");
        let mut tasks = Vec::new();
        for number in 0..6 {
            let key = format!("{round}-{number}");
            tasks.push(id_of(&submit(&client, &shell_task(&key, script, &[]), &key).await.expect("is accepted")));
        }
        let running = || async {
            let mut all = true;
            for id in &tasks {
                let task = client.get(&format!("/v1/tasks/{id}"), vec![]).await.unwrap_or_default();
                all &= task["state"] == "running";
            }
            all
        };
        until(PATIENCE, running).await.expect("all run");

        let before: BTreeSet<i32> = plugin_pids(&ring, "causeway-adapter-local").into_iter().collect();
        assert_eq!(before.len(), 1);
        let killed = Instant::now();
        kill(*before.first().expect("one"));
        if with_node {
            ring.kill_and_restart(0).await.expect("comes back");
        }
        let again = || async {
            let now = plugin_pids(&ring, "causeway-adapter-local");
            now.iter().any(|pid| !before.contains(pid)) && is_up(&ring, "own").await
        };
        until(PATIENCE, again).await.expect("it is started again");
        println!("up again {:?} after the kill (node too: {with_node})", killed.elapsed());
        assert!(with_node || killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());

        for entry in std::fs::read_dir(&runs).expect("a folder").flatten() {
            let work = entry.path().join("work");
            if work.is_dir() {
                std::fs::write(work.join("go"), "").expect("writes");
            }
        }
        let client = ring.client(0).expect("runs");
        for id in &tasks {
            let done = ended(&client, id, PATIENCE).await.expect("ends");
            assert_eq!(done["state"], "succeeded", "{done}");
            assert_eq!(output(&client, &done, "out").await.expect("is here"), b"started\n");
            let history = history(&client, id).await.expect("a history");
            let started = history.iter().filter(|event| event.starts_with("started ")).count();
            assert_eq!(started, 1, "{history:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_is_missing_stops_no_node_and_its_pool_says_so_until_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = binary("causeway-adapter-fake").expect("is built");
    let later = folder.path().join("later");
    let entry = plugin("late", &program, "{}").replace(&program.display().to_string(), &later.display().to_string());
    let patience = "[adapters.host]\nquarantine_ms = 1000\ninventory_ms = 500\n";
    let mut ring = start(own() + &entry + &chips_of("late") + patience).await;
    let client = ring.client(0).expect("runs");
    let refusal = || async {
        let plan = client.post("/v1/plans", chip_task("refused")).await.unwrap_or_default();
        let all = plan["refusals"].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one["reason"].clone()).find(|reason| reason["code"] == "adapter_down")
    };
    until(PATIENCE, || async { refusal().await.is_some_and(|reason| reason.to_string().contains("cannot be read")) })
        .await
        .expect("the pool says what is wrong");
    // the other pool is not touched by it
    let id = id_of(&submit(&client, &shell_task("other", "printf x > out", &[]), "other").await.expect("is accepted"));
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["state"], "succeeded");

    std::fs::copy(&program, &later).expect("is installed");
    let id = id_of(&submit(&client, &chip_task("late"), "late").await.expect("is accepted"));
    let done = ended(&client, &id, PATIENCE).await.expect("ends");
    assert_eq!((&done["state"], &done["place"]["pool"]), (&json!("succeeded"), &json!("played")), "{done}");
    ring.kill_and_restart(0).await.expect("comes back");
}
