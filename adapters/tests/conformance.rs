//! Every backend passes the one suite, inside this process and as a plugin.

mod common;

use adapters::conformance::{self, Behaviour, CaseResult, Options, programs};
use adapters::fake::FakeAdapter;
use adapters::host::{HostConfig, Limits, PluginHost, PluginSpec, ProgramSpec, Timing};
use cpi::ids::ContentDigest;
use cpi::resource::{ChipKind, ChipModel, PoolSpec};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One class without accelerators, and one for each kind.
fn pool(backend: &str) -> PoolSpec {
    let mut pool = common::pool(backend);
    for (kind, model) in [(ChipKind::Gpu, "NVA100S80"), (ChipKind::Npu, "HWASC910B"), (ChipKind::Fpg, "XLALVU280")] {
        let mut class = pool.classes[0].clone();
        class.name = kind.code().to_lowercase();
        class.per_server.chip_milli = 8000;
        class.chip = Some(ChipModel { model: model.to_owned(), kind });
        pool.classes.push(class);
    }
    pool
}

fn options(program: impl Fn(&Behaviour) -> conformance::Program + Send + Sync + 'static) -> Options {
    Options {
        pool: "pool".to_owned(),
        class: "node".to_owned(),
        chips: vec![ChipKind::Gpu, ChipKind::Npu, ChipKind::Fpg],
        program: Box::new(program),
        patience: common::PATIENCE,
    }
}

/// Behaviours as shell commands.
fn real() -> Options {
    options(programs::shell)
}

/// Behaviours as scripts of the fake backend.
fn played() -> Options {
    options(programs::played)
}

/// Kills the plugin's process.
fn kill(host: Arc<PluginHost>, name: &'static str) -> Box<dyn Fn() + Send + Sync> {
    Box::new(move || {
        let pid = host.show(name).expect("it is there").instances[0].pid;
        let pid = nix::unistd::Pid::from_raw(pid.try_into().expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    })
}

fn report(results: &[CaseResult]) {
    let failed: Vec<_> = results.iter().filter(|result| result.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(results.len() >= 60, "{} cases", results.len());
}

fn host(dir: &Path) -> PluginHost {
    PluginHost::new(HostConfig {
        plugins_dir: None,
        data_dir: dir.join("host"),
        timing: Timing { wait_ms: 20_000, ..Timing::default() },
        node_version: "test".to_owned(),
        vault: None,
        knows_chip: Arc::new(|_| true),
    })
    .expect("a host")
}

fn plugin(name: &str, program: &str, config: serde_json::Value) -> PluginSpec {
    PluginSpec {
        name: name.to_owned(),
        program: ProgramSpec {
            path: PathBuf::from(program),
            args: Vec::new(),
            sha256: ContentDigest::of(&std::fs::read(program).expect("the program")),
        },
        config,
        credentials: Vec::new(),
        replicas: 1,
        limits: Limits { files: 0, ..Limits::default() },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_conforms() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = common::config(&dir.path().join("runs"));
    config.pools = vec![pool("local")];
    let adapter = adapters::local::LocalAdapter::new(config).await.expect("the backend opens");
    report(&conformance::run(&adapter, &real()).await);
}

#[tokio::test]
async fn fake_conforms() {
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = FakeAdapter::with_files(vec![pool("fake")], Some(dir.path().to_owned()));
    report(&conformance::run(&adapter, &played()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_conforms_as_a_plugin() {
    let dir = tempfile::tempdir().expect("a folder");
    let host = host(dir.path());
    let config = serde_json::json!({ "runs_dir": dir.path().join("runs") });
    let spec = plugin("here", env!("CARGO_BIN_EXE_causeway-adapter-local"), config);
    let adapter = host.add(spec, vec![pool("here")]).expect("added");
    host.start("here").await.expect("it comes up");
    let host = Arc::new(host);
    let disturbances = conformance::Disturbances { kill: Some(kill(Arc::clone(&host), "here")) };
    let results = conformance::run_disturbed(&adapter, &real(), &disturbances).await;
    report(&results);
    assert!(results.iter().any(|result| result.case == "work_is_found_again_after_a_kill" && result.offered));
    // one of them was killed, and none went by itself
    assert_eq!(host.show("here").expect("it is there").starts, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fake_conforms_as_a_plugin() {
    let dir = tempfile::tempdir().expect("a folder");
    let host = host(dir.path());
    let config = serde_json::json!({ "files_dir": dir.path() });
    let spec = plugin("played", env!("CARGO_BIN_EXE_causeway-adapter-fake"), config);
    let adapter = host.add(spec, vec![pool("played")]).expect("added");
    host.start("played").await.expect("it comes up");
    report(&conformance::run(&adapter, &played()).await);
    assert_eq!(host.show("played").expect("it is there").starts, 1);
}
