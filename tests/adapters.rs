//! Nodes whose backends are plugins: real processes that are started, killed, missing, swapped.

use cpi::ids::ContentDigest;
use e2e::bench::plugins::Programs;
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

/// The same pool, dearer than the one without chips.
fn dearer(pool: &str) -> String {
    let price =
        "firmness = \"held\"\nprice = { currency = \"CNY\", cpu_core_hour_micro = 900000, chip_hour_micro = 1000000 }";
    pool.replace("firmness = \"held\"", price)
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
    let ring = start(own() + &plugin("toy", &fake, "{}") + &dearer(&chips_of("toy"))).await;
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
    // the other pool is not touched by it, though it is the dearer one
    let id = id_of(&submit(&client, &shell_task("other", "printf x > out", &[]), "other").await.expect("is accepted"));
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["state"], "succeeded");

    std::fs::copy(&program, &later).expect("is installed");
    let id = id_of(&submit(&client, &chip_task("late"), "late").await.expect("is accepted"));
    let done = ended(&client, &id, PATIENCE).await.expect("ends");
    assert_eq!((&done["state"], &done["place"]["pool"]), (&json!("succeeded"), &json!("played")), "{done}");
    ring.kill_and_restart(0).await.expect("comes back");
}

/// Everything below a folder.
fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

/// Runs the command line beside the ring's first node, with `input`.
fn vault(ring: &Ring, arguments: &[&str], input: &[u8]) -> std::process::Output {
    use std::io::Write as _;
    let mut command = std::process::Command::new(binary("causeway").expect("is built"));
    command.args(["--data-dir", &ring.nodes[0].data_dir.display().to_string()]).args(arguments);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(input).expect("takes the input");
    child.wait_with_output().expect("ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_in_the_vault_is_nowhere_else() {
    const CANARY: &str = "canary-5e0b77a1c94d";
    let fake = binary("causeway-adapter-fake").expect("is built");
    let entry = plugin("toy", &fake, "{ credential = \"platform/token\" }") + "credentials = [\"platform/token\"]\n";
    let fast = "[adapters.host]\nbackoff_ms_max = 500\nflaps_max = 1000\n[log]\nlevel = \"debug\"\n";
    let mut ring = start(own() + &entry + &chips_of("toy") + fast).await;
    let client = ring.client(0).expect("runs");
    let down = || async {
        let plan = client.post("/v1/plans", chip_task("refused")).await.unwrap_or_default();
        plan.to_string().contains("platform/token")
    };
    until(PATIENCE, down).await.expect("without its credential the plugin is down, and says which one is missing");
    // a secret over the bound is refused as a whole
    let refused = vault(&ring, &["vault", "put", "platform/token"], &[b'x'; 8193]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("8192"), "{refused:?}");
    let put = vault(&ring, &["vault", "put", "platform/token", "--trim"], format!("{CANARY}\n").as_bytes());
    assert!(put.status.success(), "{put:?}");
    until(PATIENCE, || is_up(&ring, "toy")).await.expect("comes up without a restart of the node");
    let id = id_of(&submit(&client, &chip_task("with"), "with").await.expect("is accepted"));
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["state"], "succeeded");

    let mut looked_at = vec![("vault list", vault(&ring, &["vault", "list"], b"").stdout)];
    assert!(holds(&looked_at[0].1, "platform/token"));
    for path in ["/v1/adapters", "/v1/adapters/toy", "/v1/adapters/toy/logs", "/v1/pools", "/v1/openapi.json"] {
        looked_at.push((path, client.get(path, vec![]).await.expect("answers").to_string().into_bytes()));
    }
    looked_at
        .push(("a task", client.get(&format!("/v1/tasks/{id}"), vec![]).await.expect("answers").to_string().into()));
    let mut pids = plugin_pids(&ring, "causeway-adapter-fake");
    pids.push(i32::try_from(ring.nodes[0].pid().expect("runs")).expect("a pid"));
    assert_eq!(pids.len(), 2);
    for pid in pids {
        for file in ["environ", "cmdline"] {
            looked_at.push((file, std::fs::read(format!("/proc/{pid}/{file}")).expect("reads")));
        }
    }
    for (what, bytes) in &looked_at {
        assert!(!holds(bytes, CANARY), "{what}");
    }
    // a snapshot, and everything on disk once the node has written what it had
    client.post("/v1/registry/snapshots", json!({})).await.expect("a snapshot");
    ring.nodes[0].stop().await.expect("stops");
    let files = files_below(ring.folder());
    assert!(files.iter().any(|file| file.ends_with("vault")) && files.len() > 20, "{files:?}");
    for file in files {
        assert!(!holds(&std::fs::read(&file).unwrap_or_default(), CANARY), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_running_tasks_and_requests_fails_nothing_and_blocks_for_less_than_a_second() {
    let told = e2e::bench::plugins::swap(16, 25).await.expect("nothing is lost");
    println!("{told}");
    assert!(told["requests"]["max_ms"].as_f64().is_some_and(|ms| ms < 1000.0), "{told}");
    assert_eq!(told["plugin_failures"], 0, "{told}");
}

/// Runs the command line and expects this exit code.
fn run(ring: &Ring, arguments: &[&str], code: i32) -> String {
    let output = e2e::ring::causeway(&ring.nodes[0].data_dir, arguments).expect("the program runs");
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {words}");
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_registered_tested_swapped_and_taken_away_while_the_node_runs() {
    let programs = Programs::new().expect("a folder");
    let (first, second) = (
        programs.copy("causeway-adapter-fake", 1).expect("copies"),
        programs.copy("causeway-adapter-fake", 2).expect("copies"),
    );
    let mut ring = start(own() + &programs.section()).await;
    let files = ring.folder().join("files");
    std::fs::create_dir(&files).expect("a folder");
    let pool = json!({
        "name": "played", "backend": "toy", "class": "IC", "firmness": "held",
        "classes": [
            { "name": "plain", "cpu_model": "INX8480P", "servers": 2, "chip": null, "per_server":
                { "cpu_milli": 8000, "memory_bytes": 34_359_738_368_u64, "storage_bytes": 214_748_364_800_u64, "chip_milli": 0 } },
            { "name": "gpu", "cpu_model": "INX8480P", "servers": 2, "chip": { "model": "NVH800S80", "kind": "GPU" }, "per_server":
                { "cpu_milli": 8000, "memory_bytes": 34_359_738_368_u64, "storage_bytes": 214_748_364_800_u64, "chip_milli": 8000 } },
        ],
    });
    let mut request = json!({
        "name": "toy", "path": first, "sha256": sha256(&first).to_string(), "config": { "files_dir": files }, "pools": [pool],
    });
    let document = ring.folder().join("toy.yaml");
    std::fs::write(&document, request.to_string()).expect("writes");
    let file = document.display().to_string();
    run(&ring, &["adapter", "register", &file], 0);
    run(&ring, &["adapter", "register", &file], 1);
    request["name"] = json!("other");
    request["path"] = json!("/bin/true");
    std::fs::write(&document, request.to_string()).expect("writes");
    assert!(run(&ring, &["adapter", "register", &file], 1).contains("expected a file below"));
    until(PATIENCE, || is_up(&ring, "toy")).await.expect("comes up");

    let client = ring.client(0).expect("runs");
    let offered = || async {
        let plan = client.post("/v1/plans", chip_task("offered")).await.unwrap_or_default();
        plan["offers"].as_array().is_some_and(|offers| !offers.is_empty())
    };
    until(PATIENCE, offered).await.expect("its pool is offered");
    let id = id_of(&submit(&client, &chip_task("one"), "one").await.expect("is accepted"));
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["place"]["pool"], "played");
    assert!(run(&ring, &["adapter", "test", "toy", "--starts-runs"], 5).contains("pool drain"));
    run(&ring, &["pool", "drain", "played", "--timeout", "30s"], 0);
    let suite = run(&ring, &["adapter", "test", "toy", "--starts-runs", "--timeout", "100s"], 0);
    assert!(suite.contains("0 failed"), "{suite}");
    run(&ring, &["pool", "uncordon", "played"], 0);

    let swapped = run(&ring, &["adapter", "swap", "toy", &second.display().to_string()], 0);
    assert!(swapped.contains(&sha256(&second).to_string()), "{swapped}");
    assert!(run(&ring, &["adapter", "rollback", "toy"], 0).contains(&sha256(&first).to_string()));
    run(&ring, &["adapter", "reset", "toy"], 0);
    run(&ring, &["adapter", "logs", "toy"], 0);
    run(&ring, &["adapter", "remove", "own", "--yes"], 5);

    ring.kill_and_restart(0).await.expect("comes back");
    until(PATIENCE, || is_up(&ring, "toy")).await.expect("it is still registered");
    let client = ring.client(0).expect("runs");
    let id = id_of(&submit(&client, &chip_task("two"), "two").await.expect("is accepted"));
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["place"]["pool"], "played");
    let gone = || async {
        let removed = e2e::ring::causeway(&ring.nodes[0].data_dir, &["adapter", "remove", "toy", "--yes"]);
        removed.is_ok_and(|output| output.status.success())
    };
    // the lease of a run that ended may wait for its origin's word for a moment
    until(PATIENCE, gone).await.expect("it is taken away");
    let pools = client.get("/v1/pools", vec![]).await.expect("answers");
    assert!(items(&pools).iter().all(|pool| pool["name"] != "played"), "{pools}");
    run(&ring, &["adapter", "show", "toy"], 3);
}
