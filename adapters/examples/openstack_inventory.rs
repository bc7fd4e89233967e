//! The inventory of 5,000 hosts through the `openstack` plugin: how long until all are told, how much memory the plugin's
//! process held at most, and how soon a change at the platform is heard. Placement's answers are played; their parsing,
//! conversion and the stream are the plugin's own.
//!
//! `cargo run --release --workspace --example openstack_inventory -- PLUGIN [HOSTS]`, where PLUGIN is
//! `target/release/causeway-adapter-openstack`.

#![allow(clippy::unwrap_used, reason = "a measurement that ends where something is wrong")]

#[path = "../tests/common/cloud.rs"]
#[allow(dead_code, reason = "its faults are for tests")]
mod cloud;

use adapters::contract::Adapter as _;
use adapters::host::{HostConfig, Limits, PluginHost, PluginSpec, ProgramSpec, Timing};
use adapters::resources::InventoryEvent;
use adapters::vault::{Secret, Vault};
use cloud::{PlayedCloud, PlayedHost};
use cpi::ids::ContentDigest;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHANGES: usize = 10;

/// The most memory that a process held at once, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let process = procfs::process::Process::new(i32::try_from(pid).unwrap()).unwrap();
    process.status().unwrap().vmhwm.unwrap() / 1024
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let plugin = arguments.next().unwrap_or_else(|| "target/release/causeway-adapter-openstack".to_owned());
    let hosts: usize = arguments.next().map_or(Ok(5000), |text| text.parse())?;
    let cloud = PlayedCloud::start(None).await;
    for number in 0..hosts {
        let gpus = if number % 4 == 0 { (8, number as u64 % 8) } else { (0, 0) };
        let host = PlayedHost { vcpus: (256, number as u64 % 200), memory_mb: (1_000_000, 1000), gpus };
        cloud.state.lock().unwrap().hosts.insert(format!("host-{number}"), host);
    }
    let dir = tempfile::tempdir()?;
    let vault = Vault::open(&dir.path().join("vault"), &dir.path().join("vault.key"))?;
    let secret = br#"{"application_credential_id": "id", "application_credential_secret": "secret"}"#;
    vault.put("cloud", Secret::new(secret.to_vec()))?;
    let host = PluginHost::new(HostConfig {
        plugins_dir: None,
        data_dir: dir.path().join("host"),
        timing: Timing { call_ms: 60_000, start_ms: 60_000, ..Timing::default() },
        node_version: "bench".to_owned(),
        vault: Some(Arc::new(vault)),
        knows_chip: Arc::new(|_| true),
    })?;
    let path = PathBuf::from(plugin);
    let sha256 = ContentDigest::of(&std::fs::read(&path)?);
    // the default of poll_ms: what an operator gets
    let config = serde_json::json!({ "url": format!("{}/v3", cloud.url), "credential": "cloud", "insecure": true });
    let adapter = host.add(
        PluginSpec {
            name: "cloud".to_owned(),
            program: ProgramSpec { path, args: Vec::new(), sha256 },
            config,
            credentials: vec!["cloud".to_owned()],
            replicas: 1,
            limits: Limits::default(),
        },
        Vec::new(),
    )?;
    host.start("cloud").await.map_err(anyhow::Error::msg)?;
    let pid = host.show("cloud")?.instances[0].pid;

    let begun = Instant::now();
    let mut events = adapter.servers(true).await?;
    let mut told = 0;
    loop {
        match events.recv().await {
            Some(InventoryEvent::Server(_)) => told += 1,
            Some(InventoryEvent::Synced) => break,
            other => anyhow::bail!("{other:?}"),
        }
    }
    anyhow::ensure!(told == hosts, "{told} of {hosts} hosts are told");
    let all = begun.elapsed();

    let mut heard = Vec::new();
    for change in 0..CHANGES {
        // changes fall anywhere between two polls
        tokio::time::sleep(Duration::from_millis(317 * (change as u64 % 7))).await;
        let name = format!("host-{}", change * 7 + 1);
        cloud.state.lock().unwrap().hosts.get_mut(&name).unwrap().vcpus.1 += 1;
        let at = Instant::now();
        match tokio::time::timeout(Duration::from_secs(60), events.recv()).await? {
            Some(InventoryEvent::Server(server)) if server.id == name => heard.push(at.elapsed()),
            other => anyhow::bail!("{other:?}"),
        }
    }
    heard.sort();
    println!("{hosts} hosts told in {:.2} s", all.as_secs_f64());
    println!("plugin: at most {} MiB", peak_mib(pid));
    println!(
        "a change is heard after {:.2} s (median), {:.2} s (longest of {CHANGES})",
        heard[CHANGES / 2].as_secs_f64(),
        heard[CHANGES - 1].as_secs_f64()
    );
    Ok(())
}
