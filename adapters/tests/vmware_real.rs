//! The suite against the vCenter simulator, through the plugin as a process. Run by `make backends BACKENDS=vmware`.

#![allow(clippy::unwrap_used, reason = "all of this file is tests and what they share")]

mod common;

use adapters::conformance::results::BackendResults;
use adapters::conformance::{self, Behaviour, Options};
use adapters::contract::Adapter as _;
use adapters::host::{HostConfig, Limits, PluginAdapter, PluginHost, PluginSpec, ProgramSpec, Timing};
use adapters::runner::{DeskConfig, RunDesk};
use adapters::vault::{Secret, Vault};
use cpi::ids::ContentDigest;
use cpi::resource::{ChipKind, ChipModel, PoolSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const PLUGIN: &str = env!("CARGO_BIN_EXE_causeway-adapter-vmware");

fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/backends/vmware.sh test"))
}

/// One class per cluster of the simulator: one without accelerators, and one for each kind.
fn pool() -> PoolSpec {
    let mut pool = common::pool("vmware");
    for (kind, model) in [(ChipKind::Gpu, "NVA100S80"), (ChipKind::Npu, "HWASC910B"), (ChipKind::Fpg, "XLALVU280")] {
        let mut class = pool.classes[0].clone();
        class.name = kind.code().to_lowercase();
        class.per_server.chip_milli = 8000;
        class.chip = Some(ChipModel { model: model.to_owned(), kind });
        pool.classes.push(class);
    }
    pool
}

async fn plugin(dir: &Path, password: &[u8]) -> (PluginHost, PluginAdapter, Result<(), String>) {
    let vault = Vault::open(&dir.join("vault"), &dir.join("vault.key")).unwrap();
    vault.put("vcenter", Secret::new(password.to_vec())).unwrap();
    let timing = Timing { call_ms: 30_000, start_ms: 5_000, wait_ms: 20_000, ..Timing::default() };
    let config = HostConfig {
        plugins_dir: None,
        data_dir: dir.join("host"),
        timing,
        node_version: "test".to_owned(),
        vault: Some(Arc::new(vault)),
        knows_chip: Arc::new(|_| true),
    };
    let desk = RunDesk::open(DeskConfig::new(&dir.join("desk"))).await.unwrap();
    let host = PluginHost::new(config).unwrap().with_desk(Arc::new(desk));
    let class = |number: usize, name: &str| {
        serde_json::json!({ "pool": "pool", "class": name, "cluster": format!("DC0_C{number}"),
            "template": format!("DC0_C{number}_RP0_VM0"), "vgpu": "grid_a100-8c" })
    };
    let classes: Vec<_> = ["node", "gpu", "npu", "fpg"].iter().enumerate().map(|(at, name)| class(at, name)).collect();
    let state = PathBuf::from(given("CAUSEWAY_VMWARE_STATE"));
    let spec = PluginSpec {
        name: "vcenter".to_owned(),
        program: ProgramSpec {
            path: PathBuf::from(PLUGIN),
            args: Vec::new(),
            sha256: ContentDigest::of(&std::fs::read(PLUGIN).unwrap()),
        },
        config: serde_json::json!({
            "url": given("CAUSEWAY_VMWARE_URL"), "ca_file": state.join("ca.pem"), "user": "causeway",
            "credential": "vcenter", "runner": env!("CARGO_BIN_EXE_causeway-runner"), "classes": classes,
            "poll_ms": 500, "verb_ms": 25_000, "request_ms": 20_000,
        }),
        credentials: vec!["vcenter".to_owned()],
        replicas: 1,
        limits: Limits::default(),
    };
    let adapter = host.add(spec, vec![pool()]).unwrap();
    let started = host.start("vcenter").await;
    (host, adapter, started)
}

fn password() -> Vec<u8> {
    std::fs::read(PathBuf::from(given("CAUSEWAY_VMWARE_STATE")).join("password")).unwrap()
}

fn options() -> Options {
    let shell = |script: String| (vec!["sh".to_owned(), "-c".to_owned(), script], BTreeMap::new());
    Options {
        pool: "pool".to_owned(),
        class: "node".to_owned(),
        chips: vec![ChipKind::Gpu, ChipKind::Npu, ChipKind::Fpg],
        program: Box::new(move |behaviour| match behaviour {
            Behaviour::Exit(code) => shell(format!("exit {code}")),
            Behaviour::Print(text) if text.len() > 100_000 => {
                let lines = text.lines().count();
                shell(format!("i=0; while [ $i -lt {lines} ]; do echo \"line $i 数据\"; i=$((i+1)); done"))
            }
            Behaviour::Print(text) => (vec!["printf".to_owned(), "%s".to_owned(), text.clone()], BTreeMap::new()),
            Behaviour::Sleep(ms) => shell(format!("sleep {}.{:03}", ms / 1000, ms % 1000)),
            Behaviour::Write { path, content } => {
                shell(format!("mkdir -p \"$(dirname '{path}')\"; printf %s '{content}' > '{path}'"))
            }
        }),
        patience: Duration::from_secs(60),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the vCenter simulator: make backends BACKENDS=vmware"]
async fn vmware_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let (host, adapter, started) = plugin(dir.path(), &password()).await;
    started.unwrap();
    let results = conformance::run(&adapter, &options()).await;
    for result in results.iter().filter(|result| result.failure.is_some()) {
        eprintln!("{result:?}");
    }
    let platform = "the vCenter simulator of govmomi 0.24 (SOAP, 6.5): nothing is virtualised; guests are played by the \
                    test kit, which runs user data as processes";
    let taken = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let folder = PathBuf::from(given("CAUSEWAY_RESULTS_DIR"));
    BackendResults::new("vmware", platform, &taken, &results).write(&folder).unwrap();
    assert_eq!(host.show("vcenter").unwrap().starts, 1, "the plugin was restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the vCenter simulator: make backends BACKENDS=vmware"]
async fn a_wrong_password_is_told_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (host, adapter, started) = plugin(dir.path(), b"wrong-canary").await;
    assert!(started.is_err(), "it came up");
    let shown = format!("{:?} {:?} {:?}", host.show("vcenter"), adapter.health().await, started);
    assert!(!shown.contains("canary"), "{shown}");
}
