//! What plugins cost and what replacing them blocks: a version swapped under running tasks and requests, and idle plugins.

use super::idle::resident_mib;
use super::tails;
use crate::ring::{PATIENCE, Ring, RingOptions, binary, ended, history, items, output, shell_task, submit, until};
use anyhow::{Context as _, bail, ensure};
use cpi::ids::ContentDigest;
use futures::StreamExt as _;
use node::cli::{CliError, Client};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder of programs that a node may be told to run.
pub struct Programs {
    folder: TempDir,
}

impl Programs {
    /// An empty folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("causeway-plugins-of-test-").tempdir()?;
        // runs under user ids of their own execute their supervisor's copy, not this folder
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { folder })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A copy of one of our programs; with `version` above 1 it has another hash and does the same.
    ///
    /// # Errors
    /// It was not built.
    pub fn copy(&self, program: &str, version: u8) -> anyhow::Result<PathBuf> {
        let path = self.path().join(format!("{program}-{version}"));
        let mut bytes = std::fs::read(binary(program)?)?;
        // what follows an executable's sections is not loaded
        bytes.resize(bytes.len() + usize::from(version - 1), version);
        std::fs::write(&path, bytes)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(path)
    }

    /// The configuration that lets the node run them.
    pub fn section(&self) -> String {
        format!("[adapters.host]\nplugins_dir = \"{}\"\n", self.path().display())
    }
}

/// What a program hashes to.
///
/// # Errors
/// It cannot be read.
pub fn sha256(path: &Path) -> anyhow::Result<String> {
    Ok(ContentDigest::of(&std::fs::read(path)?).to_string())
}

/// The entry of a plugin in the configuration; `config` is an inline table.
///
/// # Errors
/// The program cannot be read.
pub fn entry(name: &str, program: &Path, config: &str) -> anyhow::Result<String> {
    let (path, sha256) = (program.display(), sha256(program)?);
    Ok(format!("[[adapters.plugin]]\nname = \"{name}\"\npath = \"{path}\"\nsha256 = \"{sha256}\"\nconfig = {config}\n"))
}

/// Waits until an adapter is ready.
///
/// # Errors
/// It does not come up.
pub async fn up(ring: &Ring, adapter: &str) -> anyhow::Result<()> {
    let client = ring.client(0)?;
    let ready = || async {
        let page = client.get("/v1/adapters", vec![]).await.unwrap_or_default();
        items(&page).iter().any(|one| one["name"] == adapter && one["ready"] == true)
    };
    until(PATIENCE, ready).await.with_context(|| format!("adapter {adapter} does not come up"))
}

async fn read(client: &Client, path: &str) -> Result<Vec<u8>, CliError> {
    let (_, pieces) = client.bytes(path, vec![]).await?;
    let mut pieces = std::pin::pin!(pieces);
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(whole)
}

/// Swaps the plugin behind `tasks` running tasks to another version and back, with `per_second` requests to it meanwhile.
///
/// # Errors
/// A task failed, a transition is missing, or a request failed.
pub async fn swap(tasks: u64, per_second: u64) -> anyhow::Result<Value> {
    let programs = Programs::new()?;
    let (first, second) = (programs.copy("causeway-adapter-local", 1)?, programs.copy("causeway-adapter-local", 2)?);
    let extra = programs.section() + &entry("own", &first, "{ runs_dir = \"{dir}/runs\" }")?;
    let servers = u32::try_from(tasks / 80 + 1)?;
    let ring = Ring::start(RingOptions { nodes: 1, backend: "own", servers, extra, ..RingOptions::default() }).await?;
    up(&ring, "own").await?;
    let client = ring.client(0)?;
    let mut ids = Vec::new();
    // long enough to be there all the time, and without work of their own: hundreds of busy shells would be what is measured
    let script = format!("echo started; echo x >> out; sleep {}", 12 + tasks / 4);
    for number in 0..tasks {
        let mut document = shell_task("swapped", &script, &[]);
        document["max_runtime"] = json!("600s");
        let task = submit(&client, &document, &format!("task-{number}")).await?;
        ids.push(task["id"].as_str().context("a task has an id")?.to_owned());
    }
    let page =
        || client.get("/v1/tasks", vec![("state", Some("running".to_owned())), ("limit", Some("1000".to_owned()))]);
    let all_run = until(PATIENCE * 5, || async { items(&page().await.unwrap_or_default()).len() as u64 == tasks });
    all_run.await.context("not all tasks run")?;

    let stop = Arc::new(AtomicBool::new(false));
    let (took, failed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let example = Arc::new(Mutex::new(None));
    let client = Arc::new(client);
    let load = tokio::spawn({
        let (client, ids, stop) = (Arc::clone(&client), ids.clone(), Arc::clone(&stop));
        let (took, failed, example) = (Arc::clone(&took), Arc::clone(&failed), Arc::clone(&example));
        async move {
            let mut turn = tokio::time::interval(Duration::from_micros(1_000_000 / per_second.max(1)));
            let mut requests = tokio::task::JoinSet::new();
            for number in 0_usize.. {
                turn.tick().await;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // each reads from the plugin: the log of a run
                let path = format!("/v1/tasks/{}/logs", ids[number % ids.len()]);
                let (client, took, failed) = (Arc::clone(&client), Arc::clone(&took), Arc::clone(&failed));
                let example = Arc::clone(&example);
                requests.spawn(async move {
                    let begun = Instant::now();
                    match read(&client, &path).await {
                        Ok(log) if log == b"started\n" => {
                            let us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
                            took.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(us);
                        }
                        other => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            let said = match other {
                                Ok(log) => String::from_utf8_lossy(&log).into_owned(),
                                Err(error) => error.to_string(),
                            };
                            example.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(said);
                        }
                    }
                });
            }
            while requests.join_next().await.is_some() {}
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut swaps = Vec::new();
    for round in 0..2 {
        let begun = Instant::now();
        if round == 0 {
            let body = json!({ "path": second, "sha256": sha256(&second)? });
            client.post("/v1/adapters/own/swap", body).await?;
        } else {
            client.post("/v1/adapters/own/rollback", json!({})).await?;
        }
        swaps.push(begun.elapsed().as_millis() as u64);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    stop.store(true, Ordering::Relaxed);
    load.await?;

    for id in &ids {
        let done = ended(&client, id, PATIENCE * 5).await?;
        ensure!(done["state"] == "succeeded", "a task failed: {done}");
        ensure!(output(&client, &done, "out").await? == b"x\n", "task {id} was begun twice");
        let history = history(&client, id).await?;
        for kind in ["started ", "ended "] {
            let times = history.iter().filter(|event| event.starts_with(kind)).count();
            ensure!(times == 1, "task {id}: {kind}{times} times: {history:?}");
        }
    }
    let shown = client.get("/v1/adapters/own", vec![]).await?;
    let requests = std::mem::take(&mut *took.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    if failed.load(Ordering::Relaxed) > 0 {
        bail!("{} requests failed, for example {example:?}", failed.load(Ordering::Relaxed));
    }
    Ok(json!({
        "tasks": tasks, "all_succeeded_once": true, "requests": tails(requests), "failed_requests": 0,
        "swap_ms": swaps[0], "rollback_ms": swaps[1], "plugin_failures": shown["plugin"]["failures"],
    }))
}

/// Resident memory of a node and of `plugins` idle plugins: one `local`, the others `fake`.
///
/// # Errors
/// One does not come up.
pub async fn idle(plugins: u64) -> anyhow::Result<Value> {
    let mut extra = entry("own", &binary("causeway-adapter-local")?, "{ runs_dir = \"{dir}/runs\" }")?;
    let fake = binary("causeway-adapter-fake")?;
    for number in 1..plugins {
        extra += &entry(&format!("idle-{number}"), &fake, "{}")?;
        extra += &format!(
            "[[pools]]\nname = \"p{number}\"\nbackend = \"idle-{number}\"\nclass = \"GC\"\nfirmness = \"held\"\n\
             [[pools.classes]]\nname = \"c\"\ncpu_model = \"INX8480P\"\nservers = 1\n\
             per_server = {{ cpu_milli = 1000, memory_bytes = 1073741824, storage_bytes = 0, chip_milli = 0 }}\n"
        );
    }
    let ring = Ring::start(RingOptions { nodes: 1, backend: "own", extra, ..RingOptions::default() }).await?;
    let client = ring.client(0)?;
    let page = || client.get("/v1/adapters", vec![]);
    let ready = || async {
        let page = page().await.unwrap_or_default();
        let up = items(&page).iter().filter(|one| one["origin"] == "configured" && one["ready"] == true).count();
        up as u64 == plugins
    };
    until(PATIENCE, ready).await.context("not all plugins come up")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let node = resident_mib(ring.nodes[0].pid().context("the node runs")?)?;
    let (mut each, mut names) = (Vec::new(), vec!["own".to_owned()]);
    names.extend((1..plugins).map(|number| format!("idle-{number}")));
    for name in names {
        let shown = client.get(&format!("/v1/adapters/{name}"), vec![]).await?;
        let pid = shown["plugin"]["processes"][0]["pid"].as_u64().context("a process")?;
        each.push(resident_mib(u32::try_from(pid)?)?);
    }
    let all = node + each.iter().sum::<f64>();
    Ok(json!({ "plugins": plugins, "node_mib": node, "plugins_mib": each, "all_mib": all }))
}
