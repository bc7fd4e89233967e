//! The `slurm` plugin against a real Slurm, which `make backends BACKENDS=slurm` starts. Without one each test says SKIPPED.

mod common;

use adapters::conformance::{self, Behaviour, Options, results::BackendResults};
use adapters::contract::{Adapter as _, RunEnd, RunKey, RunRequest, RunState};
use adapters::host::{HostConfig, Limits, PluginAdapter, PluginHost, PluginSpec, ProgramSpec, Timing};
use adapters::runner::{DeskConfig, RunDesk};
use adapters::vault::{Secret, Vault};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use cpi::resource::ChipKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

/// The folder of the cluster; says loudly where there is none.
fn cluster() -> Option<PathBuf> {
    let folder = std::env::var_os("CAUSEWAY_SLURM").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED: no Slurm is running here; `make backends BACKENDS=slurm` starts one");
    }
    folder
}

fn program(path: &str) -> ProgramSpec {
    let sha256 = ContentDigest::of(&std::fs::read(path).expect("the program"));
    ProgramSpec { path: PathBuf::from(path), args: Vec::new(), sha256 }
}

struct Lab {
    dir: tempfile::TempDir,

    host: Arc<PluginHost>,
    adapter: PluginAdapter,
}

/// A host with the plugin. Over the socket, or by TCP with a token of the vault.
async fn lab(cluster: &Path, owner: &str, by_token: bool) -> Lab {
    let dir = tempfile::tempdir().expect("a folder");
    let mut desk = DeskConfig::new(&dir.path().join("desk"));
    desk.lost_ms = 5_000;
    let desk = Arc::new(RunDesk::open(desk).await.expect("a desk"));
    let vault = by_token.then(|| {
        let vault = Vault::open(&dir.path().join("vault"), &dir.path().join("key")).expect("a vault");
        let token = std::fs::read(cluster.join("run/jwt")).expect("a token");
        vault.put("slurm-token", Secret::new(token)).expect("kept");
        Arc::new(vault)
    });
    let host = PluginHost::new(HostConfig {
        plugins_dir: None,
        data_dir: dir.path().join("host"),
        timing: Timing { wait_ms: 20_000, ..Timing::default() },
        node_version: "test".to_owned(),
        vault,
        knows_chip: Arc::new(|_| true),
    });
    let host = Arc::new(host.expect("a host").with_desk(Arc::clone(&desk)));
    let port: u16 = std::env::var("CAUSEWAY_SLURM_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(26_817);
    let url = if by_token {
        format!("http://127.0.0.1:{}", port + 1)
    } else {
        format!("unix:{}", cluster.join("run/rest.sock").display())
    };
    let mut config = serde_json::json!({
        "url": url, "owner": owner, "runner": env!("CARGO_BIN_EXE_causeway-runner"), "run_dir": dir.path(), "poll_ms": 300,
        "job_output": dir.path().join("job-%j"), "cpu_model": "INX8480P",
    });
    if by_token {
        config["credential"] = "slurm-token".into();
    }
    let spec = PluginSpec {
        name: "cluster".to_owned(),
        program: program(env!("CARGO_BIN_EXE_causeway-adapter-slurm")),
        config,
        credentials: if by_token { vec!["slurm-token".to_owned()] } else { Vec::new() },
        replicas: 1,
        limits: Limits { files: 0, ..Limits::default() },
    };
    let adapter = host.add(spec, Vec::new()).expect("added");
    host.start("cluster").await.expect("it comes up");
    Lab { dir, host, adapter }
}

fn options() -> Options {
    let shell = |script: String| (vec!["sh".to_owned(), "-c".to_owned(), script], BTreeMap::new());
    Options {
        pool: "main".to_owned(),
        class: "cpu-64".to_owned(),
        chips: vec![ChipKind::Gpu, ChipKind::Npu, ChipKind::Fpg],
        program: Box::new(move |behaviour| match behaviour {
            Behaviour::Exit(code) => shell(format!("exit {code}")),
            // a single argument has a limit of 128 KiB
            Behaviour::Print(text) if text.len() > 100_000 => {
                let lines = text.lines().count();
                shell(format!("i=0; while [ $i -lt {lines} ]; do echo \"line $i 数据\"; i=$((i+1)); done"))
            }
            Behaviour::Print(text) => (vec!["printf".to_owned(), "%s".to_owned(), text.clone()], BTreeMap::new()),
            Behaviour::Sleep(ms) => shell(format!("sleep {}.{:03}", ms / 1000, ms % 1000)),
            Behaviour::Write { path, content } => shell(format!("printf %s '{content}' > '{path}'")),
        }),
        patience: PATIENCE,
    }
}

fn request(command: &[&str]) -> RunRequest {
    let mut request = common::request(command);
    request.pool = "main".to_owned();
    request.class = "cpu-64".to_owned();
    request.need.chip_milli = 0;
    request.need.cpu_milli = 1000;
    request
}

async fn until<T>(lab: &Lab, key: RunKey, what: &str, wanted: impl Fn(&RunState) -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let state = lab.adapter.status(key).await.map(|status| status.map(|status| status.state));
        if let Ok(Some(state)) = &state
            && let Some(found) = wanted(state)
        {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}, still {state:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn end(lab: &Lab, key: RunKey) -> RunEnd {
    let ended = |state: &RunState| match state {
        RunState::Ended(end) => Some(end.clone()),
        _ => None,
    };
    until(lab, key, "the end", ended).await
}

fn slurm(cluster: &Path, command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).env("SLURM_CONF", cluster.join("slurm.conf")).output();
    let output = output.expect("Slurm's commands are installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Numbers and states of the jobs of a run, as Slurm's own command shows them.
fn jobs(cluster: &Path, key: &RunKey) -> Vec<(String, String)> {
    let name = adapters::runner::name_of(key);
    let shown = slurm(cluster, "squeue", &["-h", "-t", "all", "-o", "%i %T", "-n", &name]);
    shown.lines().filter_map(|line| line.trim().split_once(' ')).map(|(id, state)| (id.into(), state.into())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slurm_conforms() {
    let Some(cluster) = cluster() else { return };
    let lab = lab(&cluster, "suite", false).await;
    let host = Arc::clone(&lab.host);
    let kill = move || {
        let pid = host.show("cluster").expect("there").instances[0].pid;
        let pid = nix::unistd::Pid::from_raw(pid.try_into().expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    };
    let disturbances = conformance::Disturbances { kill: Some(Box::new(kill)) };
    let results = conformance::run_disturbed(&lab.adapter, &options(), &disturbances).await;
    let version = slurm(&cluster, "sinfo", &["-V"]);
    let platform = format!(
        "{} by slurmrestd v0.0.38, four slurmd on one machine, jobs really executed, accelerators are null devices",
        version.trim().replace("slurm-wlm", "Slurm")
    );
    let today =
        String::from_utf8_lossy(&Command::new("date").arg("+%F").output().expect("a date").stdout).trim().to_owned();
    if let Some(folder) = std::env::var_os("CAUSEWAY_RESULTS_DIR") {
        BackendResults::new("slurm", &platform, &today, &results).write(Path::new(&folder)).expect("written");
    }
    for result in &results {
        if let Some(failure) = &result.failure {
            println!("{} {:?}: {failure}", result.case, result.chip);
        }
    }
    println!("{:#?}", lab.host.logs("cluster", 20));
    let exceptions =
        conformance::results::Exceptions::parse(include_str!("../conformance-exceptions.toml")).expect("a list");
    let told = BackendResults::new("slurm", &platform, &today, &results);
    let complaints = conformance::results::complaints(&told, &exceptions);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_by_tcp_with_a_token_of_the_vault() {
    let Some(cluster) = cluster() else { return };
    let lab = lab(&cluster, "token", true).await;
    let asked = request(&["echo", "by token"]);
    lab.adapter.submit(asked.clone()).await.expect("submitted");
    assert_eq!(end(&lab, asked.key).await.exit_code, Some(0));
    let shown = slurm(&cluster, "scontrol", &["show", "job", &jobs(&cluster, &asked.key)[0].0]);
    assert!(shown.contains("Comment=causeway:token"), "{shown}");
    drop(lab.dir);
}

/// Nothing is created twice, and what ran while the plugin was dead is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_the_plugin_is_killed_while_jobs_run() {
    let Some(cluster) = cluster() else { return };
    let lab = lab(&cluster, "killed", false).await;
    let asked: Vec<RunRequest> = (0..5).map(|_| request(&["sleep", "3"])).collect();
    for request in &asked {
        lab.adapter.submit(request.clone()).await.expect("submitted");
    }
    let before = lab.host.show("cluster").expect("there").instances[0].pid;
    let killed = std::time::Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before as i32), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while lab.host.show("cluster").expect("there").instances.first().is_none_or(|instance| instance.pid == before) {
        assert!(tokio::time::Instant::now() < deadline, "no new process");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("a new process took calls {} ms after the kill", killed.elapsed().as_millis());
    for request in &asked {
        // the same submission again, as a node does that lost the answer
        lab.adapter.submit(request.clone()).await.expect("submitted");
    }
    for request in &asked {
        assert_eq!(end(&lab, request.key).await.exit_code, Some(0));
        assert_eq!(jobs(&cluster, &request.key).len(), 1);
    }
}

/// With slurmctld down slurmrestd answers an empty list and an error: that is not "no jobs".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_a_controller_that_is_away_has_not_lost_its_jobs() {
    let Some(cluster) = cluster() else { return };
    let lab = lab(&cluster, "away", false).await;
    let (running, waiting) = (request(&["sleep", "20"]), request(&["true"]));
    lab.adapter.submit(running.clone()).await.expect("submitted");
    until(&lab, running.key, "running", |state| (*state == RunState::Running).then_some(())).await;
    slurm(&cluster, "scontrol", &["update", "PartitionName=main", "State=DOWN"]);
    lab.adapter.submit(waiting.clone()).await.expect("submitted");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let why = lab.adapter.waiting(waiting.key).await.expect("asked");
        if why.as_ref().is_some_and(|why| why.code == ReasonCode::PoolCordoned) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{why:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    controller(&cluster, "stop");
    let refused = lab.adapter.status(waiting.key).await;
    assert!(
        refused.as_ref().is_err_and(|error| error.reason.code == ReasonCode::AdapterDown && error.retryable),
        "{refused:?}"
    );
    // its runner says how it is, whatever the controller does
    assert_eq!(lab.adapter.status(running.key).await.expect("told").expect("known").state, RunState::Running);
    controller(&cluster, "start");
    slurm(&cluster, "scontrol", &["update", "PartitionName=main", "State=UP"]);
    assert_eq!(end(&lab, waiting.key).await.exit_code, Some(0));
    lab.adapter.cancel(running.key, 0).await.expect("cancelled");
    assert_eq!(end(&lab, running.key).await.reason.map(|why| why.code), Some(ReasonCode::Cancelled));
}

/// A controller that loses its memory forgets running jobs and starts cancelled ones: both converge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_a_controller_that_lost_its_memory_converges() {
    let Some(cluster) = cluster() else { return };
    let lab = lab(&cluster, "amnesia", false).await;
    let mark = lab.dir.path().join("revived");
    let mark_text = mark.display().to_string();
    slurm(&cluster, "scontrol", &["update", "PartitionName=main", "State=DOWN"]);
    let revived = request(&["touch", &mark_text]);
    lab.adapter.submit(revived.clone()).await.expect("submitted");
    // its state with the waiting job in it
    let saved = lab.dir.path().join("state");
    controller(&cluster, "stop");
    copy(&cluster.join("state"), &saved);
    controller(&cluster, "start");
    lab.adapter.cancel(revived.key, 0).await.expect("cancelled");
    assert_eq!(end(&lab, revived.key).await.reason.map(|why| why.code), Some(ReasonCode::Cancelled));
    slurm(&cluster, "scontrol", &["update", "PartitionName=main", "State=UP"]);
    let running = request(&["sh", "-c", "sleep 4; echo whole"]);
    lab.adapter.submit(running.clone()).await.expect("submitted");
    until(&lab, running.key, "running", |state| (*state == RunState::Running).then_some(())).await;
    controller(&cluster, "kill");
    std::fs::remove_dir_all(cluster.join("state")).expect("removed");
    copy(&saved, &cluster.join("state"));
    controller(&cluster, "start");
    slurm(&cluster, "scontrol", &["update", "PartitionName=main", "State=UP"]);
    // the job that was cancelled is there again, and is ended again without having run anything
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shown = jobs(&cluster, &revived.key);
        if !shown.is_empty()
            && shown.iter().all(|(_, state)| state != "PENDING" && state != "RUNNING" && state != "COMPLETING")
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!mark.exists(), "the cancelled command ran");
    assert_eq!(end(&lab, revived.key).await.reason.map(|why| why.code), Some(ReasonCode::Cancelled));
    // the one that was forgotten ends as its runner says, or is lost where Slurm killed it: never both, never nothing
    let end = end(&lab, running.key).await;
    let code = end.reason.as_ref().map(|why| why.code);
    assert!(matches!(code, None | Some(ReasonCode::RunLost)), "{end:?}");
    println!("the forgotten job: {end:?}");
    // a node that still had a job with a number that was given anew is drained by the controller
    slurm(&cluster, "scontrol", &["update", "NodeName=n[1-4]", "State=RESUME"]);
}

/// Swaps the program of the plugin while jobs run and calls come.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f_a_hot_swap_under_running_jobs() {
    let Some(cluster) = cluster() else { return };
    let lab = Arc::new(lab(&cluster, "swap", false).await);
    let count: usize = std::env::var("CAUSEWAY_SWAP_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut asked = Vec::new();
    for _ in 0..count {
        let mut one = request(&["sleep", "15"]);
        // 64 cores each
        one.class = ["cpu-64", "nva100s80-8", "hwa910b1-8", "xlu280-8"][asked.len() % 4].to_owned();
        one.need = cpi::resource::Quantity { cpu_milli: 1000, memory_bytes: 64 << 20, storage_bytes: 0, chip_milli: 0 };
        asked.push(one);
    }
    for one in &asked {
        lab.adapter.submit(one.clone()).await.expect("submitted");
    }
    // 50 calls a second; how long the slowest waited is told
    let stop = tokio_util::sync::CancellationToken::new();
    let caller = tokio::spawn({
        let (lab, stop, keys) = (Arc::clone(&lab), stop.clone(), asked.iter().map(|one| one.key).collect::<Vec<_>>());
        async move {
            let (mut slowest, mut calls) = (Duration::ZERO, 0_u32);
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            for key in keys.iter().cycle() {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stop.cancelled() => break,
                }
                let began = std::time::Instant::now();
                lab.adapter.inventory().await.expect("an inventory");
                lab.adapter.status(*key).await.expect("a status").expect("known");
                slowest = slowest.max(began.elapsed());
                calls += 2;
            }
            (slowest, calls)
        }
    });
    // another file with the same program: another hash
    let other = lab.dir.path().join("other");
    let mut bytes = std::fs::read(env!("CARGO_BIN_EXE_causeway-adapter-slurm")).expect("the program");
    bytes.push(0);
    std::fs::write(&other, bytes).expect("written");
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("executable");
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.host.swap("cluster", program(other.to_str().expect("text"))).await.expect("known").expect("swapped");
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.host.rollback("cluster").await.expect("known").expect("back");
    }
    for one in &asked {
        let end = end(&lab, one.key).await;
        assert_eq!((end.exit_code, &end.reason), (Some(0), &None), "{end:?}");
        assert_eq!(jobs(&cluster, &one.key).len(), 1);
    }
    stop.cancel();
    let (slowest, calls) = caller.await.expect("the caller ends");
    println!("{count} jobs, 4 swaps, {calls} calls, the slowest pair took {} ms", slowest.as_millis());
    assert!(slowest < Duration::from_secs(1), "a call was held up for {slowest:?}");
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

/// Stops, kills or starts slurmctld.
fn controller(cluster: &Path, verb: &str) {
    let file = cluster.join("run/slurmctld.pid");
    if verb == "start" {
        let config = cluster.join("slurm.conf");
        let status = Command::new("slurmctld").arg("-f").arg(&config).env("SLURM_CONF", &config).status();
        assert!(status.expect("slurmctld").success());
        let deadline = std::time::Instant::now() + PATIENCE;
        while !slurm(cluster, "scontrol", &["ping"]).contains("UP") {
            assert!(std::time::Instant::now() < deadline, "slurmctld does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        return;
    }
    let pid = std::fs::read_to_string(&file).expect("a pid").trim().parse().expect("a number");
    let signal = if verb == "kill" { nix::sys::signal::Signal::SIGKILL } else { nix::sys::signal::Signal::SIGTERM };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signalled");
    let deadline = std::time::Instant::now() + PATIENCE;
    while Path::new("/proc").join(pid.to_string()).exists() {
        assert!(std::time::Instant::now() < deadline, "slurmctld does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Short tasks through the plugin and by `sbatch`, alternating: `CAUSEWAY_SLURM_RATE=1000` of each. A measurement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_short_tasks_beside_sbatch() {
    const ROUNDS: usize = 4;
    const AT_ONCE: usize = 8;
    let Some(cluster) = cluster() else { return };
    let Some(count) = std::env::var("CAUSEWAY_SLURM_RATE").ok().and_then(|text| text.parse::<usize>().ok()) else {
        println!("SKIPPED: a measurement; CAUSEWAY_SLURM_RATE=1000 takes it");
        return;
    };
    let lab = Arc::new(lab(&cluster, "rate", false).await);
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let began = std::time::Instant::now();
        let name = format!("direct-{}-{round}", std::process::id());
        let submit = |_| {
            let mut command = tokio::process::Command::new("sbatch");
            command.args([
                "--parsable",
                "-p",
                "main",
                "-C",
                "cpu-64",
                "-n",
                "1",
                "--mem=64",
                "-t",
                "12",
                "-o",
                "/dev/null",
            ]);
            command.args(["-J", &name, "--wrap", "true"]).env("SLURM_CONF", cluster.join("slurm.conf"));
            async move { assert!(command.output().await.expect("sbatch").status.success()) }
        };
        futures::StreamExt::for_each_concurrent(futures::stream::iter(0..count / ROUNDS), AT_ONCE, submit).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(300);
        while !slurm(&cluster, "squeue", &["-h", "-o", "%i", "-n", &name]).trim().is_empty() {
            assert!(std::time::Instant::now() < deadline, "sbatch's jobs do not end");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        theirs += began.elapsed();
        let began = std::time::Instant::now();
        let mut events = lab.adapter.watch();
        let asked: Vec<RunRequest> = (0..count / ROUNDS)
            .map(|_| {
                let mut one = request(&["true"]);
                one.need.memory_bytes = 64 << 20;
                one
            })
            .collect();
        let mut left: std::collections::BTreeSet<RunKey> = asked.iter().map(|one| one.key).collect();
        let submitting = tokio::spawn({
            let lab = Arc::clone(&lab);
            let submit = move |one: RunRequest| {
                let lab = Arc::clone(&lab);
                async move { drop(lab.adapter.submit(one).await.expect("submitted")) }
            };
            futures::StreamExt::for_each_concurrent(futures::stream::iter(asked.clone()), AT_ONCE, submit)
        });
        while !left.is_empty() {
            let event =
                tokio::time::timeout(Duration::from_secs(300), events.recv()).await.expect("in time").expect("told");
            if let RunState::Ended(end) = event.state {
                assert_eq!((end.exit_code, &end.reason), (Some(0), &None), "{end:?}");
                left.remove(&event.key);
            }
        }
        submitting.await.expect("submitted");
        ours += began.elapsed();
        for one in &asked {
            lab.adapter.remove(one.key).await.expect("removed");
        }
    }
    let rate = |taken: Duration| count as f64 / taken.as_secs_f64();
    println!(
        "{count} tasks each in {ROUNDS} rounds: sbatch {:.1}/s, through the plugin {:.1}/s, {:.2} of it",
        rate(theirs),
        rate(ours),
        theirs.as_secs_f64() / ours.as_secs_f64()
    );
}
