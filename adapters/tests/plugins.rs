//! Plugins as real processes: what the host does when they come, go and misbehave.

#![allow(clippy::unwrap_used, reason = "all of this file is tests and what they share")]

mod common;

use adapters::contract::{Adapter as _, AdapterError, LogStream, RunRequest, RunState};
use adapters::host::{HostConfig, Limits, PluginAdapter, PluginHost, PluginSpec, PluginState, ProgramSpec, Timing};
use adapters::vault::{Secret, Vault};
use common::{PATIENCE, eventually, pool, request};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use cpi::resource::{ChipKind, ChipModel};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FAKE: &str = env!("CARGO_BIN_EXE_causeway-adapter-fake");
const LOCAL: &str = env!("CARGO_BIN_EXE_causeway-adapter-local");
const ROGUE: &str = env!("CARGO_BIN_EXE_causeway-adapter-rogue");

struct Bench {
    dir: tempfile::TempDir,
    host: Arc<PluginHost>,
}

fn timing() -> Timing {
    Timing {
        heartbeat_ms: 300,
        backoff_ms_min: 20,
        backoff_ms_max: 200,
        flaps_max: 3,
        call_ms: 5_000,
        start_ms: 20_000,
        wait_ms: 20_000,
        probation_ms: 10_000,
        drain_ms: 5_000,
        ..Timing::default()
    }
}

fn bench(timing: Timing) -> Bench {
    bench_in(tempfile::tempdir().unwrap(), timing)
}

fn bench_in(dir: tempfile::TempDir, timing: Timing) -> Bench {
    let vault = Vault::open(&dir.path().join("vault"), &dir.path().join("vault.key")).unwrap();
    let config = HostConfig {
        plugins_dir: None,
        data_dir: dir.path().join("host"),
        timing,
        node_version: "test".to_owned(),
        vault: Some(Arc::new(vault)),
        knows_chip: Arc::new(|chip| chip.model == "NVA100S80"),
    };
    Bench { host: Arc::new(PluginHost::new(config).unwrap()), dir }
}

fn program(path: &str, args: &[&str]) -> ProgramSpec {
    ProgramSpec {
        path: PathBuf::from(path),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        sha256: ContentDigest::of(&std::fs::read(path).unwrap()),
    }
}

fn spec(name: &str, program: ProgramSpec) -> PluginSpec {
    PluginSpec {
        name: name.to_owned(),
        program,
        config: serde_json::json!({}),
        credentials: Vec::new(),
        replicas: 1,
        limits: Limits::default(),
    }
}

/// Another version of a program: trailing bytes change its hash and nothing else.
fn newer(path: &str, dir: &Path, name: &str) -> ProgramSpec {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.extend_from_slice(name.as_bytes());
    let to = dir.join(name);
    std::fs::write(&to, &bytes).unwrap();
    ProgramSpec { path: to, args: Vec::new(), sha256: ContentDigest::of(&bytes) }
}

impl Bench {
    fn rogue(&self, kind: &str) -> PluginAdapter {
        let mut rogue = spec("rogue", program(ROGUE, &[kind]));
        if kind == "huge" {
            // what it makes is larger than what a plugin may hold by default
            rogue.limits.memory_bytes = 2 << 30;
        }
        self.host.add(rogue, vec![pool("rogue")]).unwrap()
    }

    fn fake(&self) -> PluginAdapter {
        self.host.add(spec("fake", program(FAKE, &[])), vec![pool("fake")]).unwrap()
    }

    fn local(&self) -> PluginAdapter {
        let mut local = spec("local", program(LOCAL, &[]));
        local.config = serde_json::json!({ "runs_dir": self.dir.path().join("runs") });
        // runs inherit the limit on files from the processes that start them
        local.limits.files = 0;
        self.host.add(local, vec![pool("local")]).unwrap()
    }

    fn history(&self, name: &str) -> String {
        self.host.show(name).unwrap().history.join("\n")
    }

    async fn wait(&self, name: &str, what: &str, holds: impl Fn(&adapters::host::PluginView) -> bool) {
        eventually(what, || holds(&self.host.show(name).unwrap())).await;
    }
}

fn sleeper(seconds: &str) -> RunRequest {
    request(&["sleep", seconds])
}

fn down(answer: Result<impl std::fmt::Debug, AdapterError>) -> String {
    let error = answer.expect_err("a plugin in this state cannot answer");
    assert_eq!(error.reason.code, ReasonCode::AdapterDown, "{error}");
    assert!(error.retryable);
    error.reason.detail
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_protocol_is_served() {
    let bench = bench(timing());
    let old = bench.host.add(spec("fake", program(FAKE, &["--protocol", "1"])), vec![pool("fake")]).unwrap();
    let wanted = request(&["played"]);
    let status = old.submit(wanted.clone()).await.unwrap();
    assert!(matches!(status.state, RunState::Ended(_)), "{status:?}");
    assert_eq!(bench.host.show("fake").unwrap().instances[0].protocol, 1);
    assert_eq!(old.capabilities(), adapters::resources::Capabilities::default());
    let refused = old.unreserve(wanted.key).await.unwrap_err();
    assert_eq!(refused.reason.code, ReasonCode::BackendUnsupported);
    assert_eq!(old.servers(false).await.unwrap_err().reason.code, ReasonCode::BackendUnsupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_and_another_hash_are_quarantined_with_what_to_do() {
    let bench = bench(timing());
    let detail = down(bench.rogue("protocol").inventory().await);
    assert!(detail.contains("speaks plugin protocol 7 to 9") && detail.contains("install a plugin"), "{detail}");
    assert_eq!(bench.host.show("rogue").unwrap().state, PluginState::Quarantined);

    let mut other = program(FAKE, &[]);
    other.sha256 = ContentDigest::of(b"what the operator looked at");
    let fake = bench.host.add(spec("fake", other), vec![pool("fake")]).unwrap();
    let detail = down(fake.inventory().await);
    assert!(detail.contains("hashes to sha256:") && detail.contains("change sha256"), "{detail}");
    assert_eq!(bench.host.show("fake").unwrap().starts, 1);

    let mut typo = spec("typo", program(FAKE, &[]));
    typo.config = serde_json::json!({ "dwon": true });
    let detail = down(bench.host.add(typo, Vec::new()).unwrap().inventory().await);
    assert!(detail.contains("dwon"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_flaps_is_quarantined_and_a_reset_lets_it_try_again() {
    let bench = bench(timing());
    let rogue = bench.rogue("crash");
    let detail = down(rogue.inventory().await);
    assert!(detail.contains("quarantined") && detail.contains("no licence was found"), "{detail}");
    let view = bench.host.show("rogue").unwrap();
    assert_eq!((view.state, view.failures), (PluginState::Quarantined, 4));
    // while it is, a call is refused at once
    let begun = Instant::now();
    down(rogue.inventory().await);
    assert!(begun.elapsed() < Duration::from_secs(1));
    bench.host.reset("rogue").unwrap();
    bench.wait("rogue", "it is tried again", |view| view.failures > 4).await;
    assert!(bench.history("rogue").contains("the quarantine ended: by its operator"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_replaced() {
    let bench = bench(timing());
    let rogue = bench.rogue("hang");
    assert_eq!(rogue.inventory().await.unwrap().len(), 1);
    bench.wait("rogue", "it is replaced", |view| view.starts >= 2 && view.failures >= 1).await;
    assert!(bench.history("rogue").contains("heartbeats in a row were missed: it hangs"), "{}", bench.history("rogue"));
    // calls in between find the next process
    assert_eq!(rogue.inventory().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hogs_memory_is_replaced() {
    let bench = bench(timing());
    let rogue = bench.rogue("hog");
    rogue.inventory().await.unwrap();
    bench.wait("rogue", "it is replaced", |view| view.failures >= 1).await;
    let history = bench.history("rogue");
    assert!(history.contains("limits.memory_bytes allows 256 MiB"), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_no_protocol_allows_are_contained() {
    for (kind, said) in [("utf8", "UTF-8"), ("huge", "message")] {
        let bench = bench(timing());
        let (rogue, fake) = (bench.rogue(kind), bench.fake());
        rogue.inventory().await.unwrap();
        let key = request(&["x"]).key;
        for _ in 0..3 {
            let detail = down(rogue.status(key).await);
            assert!(detail.contains("get_run") && detail.contains(said), "{kind}: {detail}");
        }
        bench.wait("rogue", "it is replaced after three", |view| view.failures >= 1).await;
        assert!(bench.history("rogue").contains("broke the protocol 3 times in a row"));
        fake.submit(request(&["played"])).await.unwrap();
        let resident = procfs::process::Process::myself().unwrap().stat().unwrap().rss * procfs::page_size();
        assert!(resident < 300 << 20, "{kind}: {} MiB", resident >> 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_output_costs_one_log_file() {
    let bench = bench(timing());
    let rogue = bench.rogue("flood-log");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(rogue.inventory().await.unwrap().len(), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let written: u64 = std::fs::read_dir(bench.dir.path().join("host/logs"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(written > 10_000 && written < 8 << 20, "{written} bytes in three seconds");
    assert!(bench.host.logs("rogue", 5).unwrap()[0].contains("all work and no play"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_changes_replaces_the_process() {
    let bench = bench(Timing { events_per_second_max: 20, ..timing() });
    let fake = bench.fake();
    for _ in 0..60 {
        fake.submit(request(&["played"])).await.unwrap();
    }
    bench.wait("fake", "it is replaced", |view| view.failures >= 1).await;
    assert!(bench.history("fake").contains("it floods"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chips_that_the_dictionary_does_not_know_are_left_out_and_named() {
    let bench = bench(timing());
    let mut both = pool("fake");
    let mut other = both.classes[0].clone();
    both.classes[0].chip = Some(ChipModel { model: "NVA100S80".to_owned(), kind: ChipKind::Gpu });
    other.name = "odd".to_owned();
    other.chip = Some(ChipModel { model: "NVZ999".to_owned(), kind: ChipKind::Gpu });
    both.classes.push(other);
    let fake = bench.host.add(spec("fake", program(FAKE, &[])), vec![both]).unwrap();
    let pools = fake.inventory().await.unwrap();
    assert_eq!(pools[0].classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>(), ["node"]);
    let notes = fake.health().await.notes.join("\n");
    assert!(notes.contains("NVZ999") && notes.contains("not in the dictionary"), "{notes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_plugin_finds_its_runs_again_and_starts_nothing_twice() {
    let bench = bench(timing());
    let local = bench.local();
    let wanted: Vec<RunRequest> =
        (0..4).map(|_| request(&["sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; echo done; exit 3"])).collect();
    for run in &wanted {
        local.submit(run.clone()).await.unwrap();
    }
    let mut events = local.watch();
    let pid = i32::try_from(bench.host.show("local").unwrap().instances[0].pid).unwrap();
    let killed = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    // a call that comes right then waits for the next process
    for run in &wanted {
        let again = local.submit(run.clone()).await.unwrap();
        assert!(!matches!(again.state, RunState::Ended(_)), "{again:?}");
    }
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    assert_eq!(local.list().await.unwrap().len(), 4);
    let view = bench.host.show("local").unwrap();
    assert_eq!((view.starts, view.failures), (2, 1), "{:?}", view.history);
    for entry in std::fs::read_dir(bench.dir.path().join("runs")).unwrap().flatten() {
        if entry.path().join("work").is_dir() {
            std::fs::write(entry.path().join("work/go"), "").unwrap();
        }
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for run in &wanted {
        loop {
            let state = local.status(run.key).await.unwrap().unwrap().state;
            if let RunState::Ended(end) = state {
                assert_eq!(end.exit_code, Some(3), "{end:?}");
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "still {state:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(local.logs(run.key, LogStream::Stdout, 0, 100).await.unwrap().bytes, b"done\n");
    }
    // the end of every run was told, by whichever process
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < 4 {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        if matches!(event.state, RunState::Ended(_)) {
            ended.insert(event.key);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_load_loses_nothing_and_blocks_calls_for_less_than_a_second() {
    let bench = bench(timing());
    let local = bench.local();
    let runs: Vec<RunRequest> = (0..24).map(|_| request(&["sh", "-c", "sleep 6; exit 4"])).collect();
    for run in &runs {
        local.submit(run.clone()).await.unwrap();
    }
    let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = tokio::spawn({
        let (local, stop, longest, keys) = (local.clone(), Arc::clone(&stop), Arc::clone(&longest), runs.clone());
        async move {
            let (mut calls, mut turn) = (0_u32, tokio::time::interval(Duration::from_millis(20)));
            while !stop.load(Ordering::Relaxed) {
                turn.tick().await;
                let run = &keys[calls as usize % keys.len()];
                let begun = Instant::now();
                match calls % 3 {
                    0 => drop(local.status(run.key).await.unwrap().expect("the run is known")),
                    1 => local.renew(run.key, 60_000).await.unwrap(),
                    _ => drop(local.submit(run.clone()).await.unwrap()),
                }
                calls += 1;
                longest.fetch_max(u64::try_from(begun.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
            }
            calls
        }
    });
    let next = newer(LOCAL, bench.dir.path(), "local-2");
    bench.host.swap("local", next.clone()).await.unwrap().unwrap();
    let view = bench.host.show("local").unwrap();
    assert_eq!((view.sha256, view.failures), (next.sha256, 0), "{:?}", view.history);
    bench.host.rollback("local").await.unwrap().unwrap();
    assert_eq!(bench.host.show("local").unwrap().sha256, program(LOCAL, &[]).sha256);
    for run in &runs {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let state = local.status(run.key).await.unwrap().unwrap().state;
            if let RunState::Ended(end) = state {
                assert_eq!(end.exit_code, Some(4), "{end:?}");
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "still {state:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let calls = load.await.unwrap();
    let longest = longest.load(Ordering::Relaxed);
    println!("{calls} calls, the longest took {longest} ms");
    assert!(calls > 50 && longest < 1000, "{calls} calls, the longest took {longest} ms");
    assert_eq!(local.list().await.unwrap().len(), runs.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_to_what_is_not_healthy_leaves_the_old_version() {
    let bench = bench(timing());
    let fake = bench.fake();
    let first = request(&["played"]);
    fake.submit(first.clone()).await.unwrap();
    for kind in ["crash", "protocol"] {
        let refused = bench.host.swap("fake", program(ROGUE, &[kind])).await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("the old one goes on"), "{refused}");
    }
    // its run is only in the memory of the process that was there
    assert!(fake.status(first.key).await.unwrap().is_some());
    assert_eq!(bench.host.show("fake").unwrap().previous_sha256, None);
    assert!(bench.host.rollback("fake").await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_fails_soon_after_the_swap_is_rolled_back() {
    for kind in ["sick", "crash-later"] {
        let bench = bench(timing());
        let fake = bench.fake();
        fake.inventory().await.unwrap();
        bench.host.swap("fake", program(ROGUE, &[kind])).await.unwrap().unwrap();
        bench.wait("fake", "it is rolled back", |view| view.sha256 == program(FAKE, &[]).sha256).await;
        assert_eq!(fake.inventory().await.unwrap().len(), 1);
        bench.wait("fake", "the old one runs", |view| view.instances.iter().any(|one| one.backend == "fake")).await;
        assert!(bench.history("fake").contains("rolled back to"), "{kind}: {}", bench.history("fake"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_to_the_other_replica_when_one_is_killed() {
    let bench = bench(timing());
    let mut two = spec("fake", program(FAKE, &[]));
    two.replicas = 2;
    let fake = bench.host.add(two, vec![pool("fake")]).unwrap();
    fake.inventory().await.unwrap();
    bench.wait("fake", "both are up", |view| view.instances.len() == 2).await;
    let pid = i32::try_from(bench.host.show("fake").unwrap().instances[0].pid).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let begun = Instant::now();
        fake.inventory().await.unwrap();
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    bench.wait("fake", "both are up again", |view| view.instances.len() == 2 && view.starts == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_reaches_the_plugin_by_the_call_and_nothing_else() {
    const CANARY: &str = "canary-3f9a77d0c2";
    let bench = bench(timing());
    let vault = Arc::new(Vault::open(&bench.dir.path().join("vault"), &bench.dir.path().join("vault.key")).unwrap());
    let host = PluginHost::new(HostConfig {
        plugins_dir: None,
        data_dir: bench.dir.path().join("host2"),
        timing: timing(),
        node_version: "test".to_owned(),
        vault: Some(Arc::clone(&vault)),
        knows_chip: Arc::new(|_| true),
    })
    .unwrap();
    let mut wanted = spec("fake", program(FAKE, &[]));
    wanted.config = serde_json::json!({ "credential": "platform/token" });
    wanted.credentials = vec!["platform/token".to_owned()];
    let fake = host.add(wanted, vec![pool("fake")]).unwrap();
    let detail = down(fake.inventory().await);
    assert!(detail.contains("platform/token") && detail.contains("vault"), "{detail}");
    vault.put("platform/token", Secret::new(CANARY.into())).unwrap();
    host.reset("fake").unwrap();
    fake.submit(request(&["played"])).await.unwrap();
    // rotated without a restart
    vault.put("platform/token", Secret::new(format!("{CANARY}-2").into())).unwrap();
    fake.inventory().await.unwrap();
    let view = host.show("fake").unwrap();
    let pid = view.instances[0].pid;
    let mut looked_at = vec![format!("{view:?} {:?}", host.logs("fake", 1000).unwrap()).into_bytes()];
    for file in ["environ", "cmdline"] {
        looked_at.push(std::fs::read(format!("/proc/{pid}/{file}")).unwrap());
    }
    let mut folders = vec![bench.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.path().is_file() {
                looked_at.push(std::fs::read(entry.path()).unwrap());
            }
        }
    }
    assert!(looked_at.len() > 5);
    for bytes in looked_at {
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().any(|word| word == "0"), "{core}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_host_leaves_runs_and_no_processes() {
    let bench = bench(timing());
    let local = bench.local();
    let wanted = sleeper("30");
    local.submit(wanted.clone()).await.unwrap();
    let pid = bench.host.show("local").unwrap().instances[0].pid;
    drop(bench.host);
    let there = move || Path::new(&format!("/proc/{pid}")).exists();
    eventually("the plugin's process ends", || !there()).await;
    // the run is still there for the next one
    let again = bench_in(bench.dir, timing());
    let local = again.local();
    assert_eq!(local.status(wanted.key).await.unwrap().unwrap().state, RunState::Running);
    local.cancel(wanted.key, 0).await.unwrap();
    eventually("it ends", || {
        let runs = std::fs::read_dir(again.dir.path().join("runs")).unwrap().flatten();
        runs.filter(|entry| entry.path().join("work").is_dir()).all(|entry| entry.path().join("exit.json").exists())
    })
    .await;
}
