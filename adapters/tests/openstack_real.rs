//! The suite against a real OpenStack, through the plugin as a process. Run by `make backends BACKENDS=openstack`.

#![allow(clippy::unwrap_used, reason = "all of this file is tests and what they share")]

mod common;

use adapters::conformance::results::BackendResults;
use adapters::conformance::{self, Behaviour, Options};
use adapters::host::{HostConfig, Limits, PluginAdapter, PluginHost, PluginSpec, ProgramSpec, Timing};
use adapters::runner::{DeskConfig, RunDesk};
use adapters::vault::{Secret, Vault};
use cpi::ids::ContentDigest;
use cpi::resource::{ChipKind, PoolSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const PLUGIN: &str = env!("CARGO_BIN_EXE_causeway-adapter-openstack");
/// The class of the host whose FPGAs Cyborg drives, as discovered.
const CLASS: &str = "c256-m63-d4096-16xXLU280";

fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/backends/openstack.sh test"))
}

fn pool() -> PoolSpec {
    let mut pool = common::pool("openstack");
    pool.classes.clear();
    pool
}

async fn plugin(dir: &Path, credential_file: &str) -> (PluginHost, PluginAdapter) {
    let vault = Vault::open(&dir.join("vault"), &dir.join("vault.key")).unwrap();
    vault.put("cloud", Secret::new(std::fs::read(given(credential_file)).unwrap())).unwrap();
    let timing = Timing { call_ms: 60_000, start_ms: 60_000, wait_ms: 60_000, ..Timing::default() };
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
    let spec = PluginSpec {
        name: "cloud".to_owned(),
        program: ProgramSpec {
            path: PathBuf::from(PLUGIN),
            args: Vec::new(),
            sha256: ContentDigest::of(&std::fs::read(PLUGIN).unwrap()),
        },
        config: serde_json::json!({
            "url": given("CAUSEWAY_OPENSTACK_URL"), "credential": "cloud", "insecure": true, "image": "causeway",
            "network": "none", "poll_ms": 1000,
            "runner": env!("CARGO_BIN_EXE_causeway-runner"), "site": format!("test-{}", std::process::id()),
        }),
        credentials: vec!["cloud".to_owned()],
        replicas: 1,
        limits: Limits::default(),
    };
    let adapter = host.add(spec, vec![pool()]).unwrap();
    host.start("cloud").await.unwrap();
    (host, adapter)
}

fn options() -> Options {
    let shell = |script: String| (vec!["sh".to_owned(), "-c".to_owned(), script], BTreeMap::new());
    Options {
        pool: "pool".to_owned(),
        class: CLASS.to_owned(),
        chips: vec![ChipKind::Gpu, ChipKind::Npu, ChipKind::Fpg],
        program: Box::new(move |behaviour| match behaviour {
            Behaviour::Exit(code) => shell(format!("exit {code}")),
            // user data have a limit of 48 KiB
            Behaviour::Print(text) if text.len() > 10_000 => {
                let lines = text.lines().count();
                shell(format!("i=0; while [ $i -lt {lines} ]; do echo \"line $i 数据\"; i=$((i+1)); done"))
            }
            Behaviour::Print(text) => (vec!["printf".to_owned(), "%s".to_owned(), text.clone()], BTreeMap::new()),
            Behaviour::Sleep(ms) => shell(format!("sleep {}.{:03}", ms / 1000, ms % 1000)),
            Behaviour::Write { path, content } => {
                shell(format!("mkdir -p \"$(dirname '{path}')\"; printf %s '{content}' > '{path}'"))
            }
        }),
        patience: Duration::from_secs(180),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an OpenStack: make backends BACKENDS=openstack"]
async fn openstack_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let (host, adapter) = plugin(dir.path(), "CAUSEWAY_OPENSTACK_CREDENTIAL").await;
    let results = conformance::run(&adapter, &options()).await;
    assert_eq!(host.show("cloud").unwrap().starts, 1, "the plugin was restarted");
    for result in results.iter().filter(|result| result.failure.is_some()) {
        eprintln!("{result:?}");
    }
    let platform = "OpenStack 2026.2 (Nova 34, Placement 16, Cyborg 17) on one machine; Nova's fake driver, whose servers \
                    run their user data as processes by an addition of the test kit; Cyborg's fake FPGA";
    let taken = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let folder = PathBuf::from(given("CAUSEWAY_RESULTS_DIR"));
    BackendResults::new("openstack", platform, &taken, &results).write(&folder).unwrap();
}
