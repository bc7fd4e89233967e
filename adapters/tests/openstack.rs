//! The `openstack` plugin as a process against a played cloud: refusals, lost answers, tokens, TLS, drift.

#![allow(clippy::unwrap_used, reason = "all of this file is tests and what they share")]

#[path = "common/cloud.rs"]
mod cloud;
mod common;

use adapters::contract::{Adapter as _, AdapterError, RunRequest, RunState};
use adapters::host::{HostConfig, Limits, PluginAdapter, PluginHost, PluginSpec, ProgramSpec, Timing};
use adapters::resources::{InventoryEvent, ProvisionRequest, ResourceState, ResourceTag};
use adapters::vault::{Secret, Vault};
use cloud::{Fault, PlayedCloud, PlayedHost};
use common::PATIENCE;
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use cpi::resource::Quantity;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PLUGIN: &str = env!("CARGO_BIN_EXE_causeway-adapter-openstack");
const CLASS: &str = "c8-m31-d1000";
const GPU_CLASS: &str = "c8-m31-d1000-2xNVA100S80";
const SECRET: &str = r#"{"application_credential_id": "id", "application_credential_secret": "canary-of-the-vault"}"#;

struct Setting {
    cloud: PlayedCloud,
    host: PluginHost,
    adapter: PluginAdapter,
    _dir: tempfile::TempDir,
}

fn host(dir: &Path) -> PluginHost {
    let vault = Vault::open(&dir.join("vault"), &dir.join("vault.key")).unwrap();
    vault.put("cloud", Secret::new(SECRET.as_bytes().to_vec())).unwrap();
    PluginHost::new(HostConfig {
        plugins_dir: None,
        data_dir: dir.join("host"),
        timing: Timing { wait_ms: 20_000, ..Timing::default() },
        node_version: "test".to_owned(),
        vault: Some(Arc::new(vault)),
        knows_chip: Arc::new(|_| true),
    })
    .unwrap()
}

fn add(host: &PluginHost, url: &str, more: Value) -> PluginAdapter {
    let mut config = json!({ "url": format!("{url}/v3"), "credential": "cloud", "image": "debian", "poll_ms": 200 });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut pool = common::pool("openstack");
    pool.classes.clear();
    let spec = PluginSpec {
        name: "cloud".to_owned(),
        program: ProgramSpec {
            path: PathBuf::from(PLUGIN),
            args: Vec::new(),
            sha256: ContentDigest::of(&std::fs::read(PLUGIN).unwrap()),
        },
        config,
        credentials: vec!["cloud".to_owned()],
        replicas: 1,
        limits: Limits::default(),
    };
    host.add(spec, vec![pool]).unwrap()
}

async fn setting() -> Setting {
    let cloud = PlayedCloud::start(None).await;
    {
        let mut state = cloud.state.lock().unwrap();
        let plain = PlayedHost { vcpus: (8, 0), memory_mb: (32_000, 0), gpus: (0, 0) };
        state.hosts.insert("host-0".to_owned(), plain.clone());
        state.hosts.insert("host-1".to_owned(), PlayedHost { gpus: (2, 1), ..plain });
    }
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path());
    let adapter = add(&host, &cloud.url, json!({ "insecure": true }));
    host.start("cloud").await.unwrap();
    Setting { cloud, host, adapter, _dir: dir }
}

impl Setting {
    fn fault(&self, method: &'static str, path: &'static str, fault: Fault) {
        self.cloud.state.lock().unwrap().faults.push((method, path, fault));
    }

    fn servers(&self) -> usize {
        self.cloud.state.lock().unwrap().servers.len()
    }
}

fn run() -> RunRequest {
    let mut request = common::request(&["true"]);
    request.class = CLASS.to_owned();
    request.need = Quantity { cpu_milli: 500, memory_bytes: 1 << 20, storage_bytes: 0, chip_milli: 0 };
    request
}

fn machine(request: &RunRequest) -> ProvisionRequest {
    ProvisionRequest {
        tag: ResourceTag(request.key.task),
        pool: request.pool.clone(),
        class: request.class.clone(),
        need: request.need,
        image: None,
        user_data: String::new(),
        volumes: Vec::new(),
    }
}

fn is(refused: &AdapterError, code: ReasonCode, retryable: bool) {
    assert_eq!((refused.reason.code, refused.retryable), (code, retryable), "{refused}");
    assert!(!refused.to_string().contains("canary-of-the-vault"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_platform_become_reasons() {
    let setting = setting().await;
    let servers = "/compute/v2.1/servers";
    for (fault, code, retryable) in [
        (
            Fault::Says(403, "Quota exceeded for cores: Requested 1, but already used 20 of 20 cores"),
            ReasonCode::QuotaExceeded,
            true,
        ),
        (
            Fault::Says(403, "Policy doesn't allow os_compute_api:servers:create to be performed."),
            ReasonCode::NotPermitted,
            false,
        ),
        (Fault::Says(400, "Flavor's disk is too small for requested image."), ReasonCode::ShapeTooLarge, false),
        (Fault::Says(503, "The server is currently unavailable."), ReasonCode::AdapterDown, true),
        (
            Fault::Breaks("No valid host was found. There are not enough hosts available."),
            ReasonCode::NoCapacityNow,
            true,
        ),
        (Fault::Breaks("Image 5 is unacceptable: the format is not known"), ReasonCode::StartFailed, false),
    ] {
        setting.fault("POST", servers, fault);
        is(&setting.adapter.submit(run()).await.unwrap_err(), code, retryable);
        assert_eq!(setting.servers(), 0, "nothing stays of a run that was refused");
    }
    let mut elsewhere = run();
    elsewhere.class = "there-is-none".to_owned();
    is(&setting.adapter.submit(elsewhere).await.unwrap_err(), ReasonCode::InvalidTask, false);
    let mut large = run();
    large.need.memory_bytes = 1 << 50;
    is(&setting.adapter.submit(large).await.unwrap_err(), ReasonCode::ShapeTooLarge, false);
    let mut part = run();
    (part.class, part.need.chip_milli) = (GPU_CLASS.to_owned(), 143);
    is(&setting.adapter.submit(part).await.unwrap_err(), ReasonCode::BackendUnsupported, false);
    let mut imageless = machine(&run());
    imageless.image = Some("gone".to_owned());
    is(&setting.adapter.provision(imageless).await.unwrap_err(), ReasonCode::StartFailed, false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_answer_was_lost_is_found_and_not_made_again() {
    let setting = setting().await;
    setting.fault("POST", "/compute/v2.1/servers", Fault::Loses);
    let asked = machine(&run());
    let made = setting.adapter.provision(asked.clone()).await.unwrap();
    let again = setting.adapter.provision(asked).await.unwrap();
    assert_eq!((made.handle.as_str(), again.handle.as_str(), setting.servers()), ("s1", "s1", 1));
    assert_eq!(made.state, ResourceState::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_with_one_tag_the_older_stays() {
    let setting = setting().await;
    let asked = machine(&run());
    // another process makes one between our look and our request: played by a server that the look does not tell
    setting.adapter.provision(asked.clone()).await.unwrap();
    let hidden = {
        let mut state = setting.cloud.state.lock().unwrap();
        let server = state.servers.get_mut("s1").unwrap();
        std::mem::replace(&mut server["tags"], json!([]))
    };
    setting.fault("POST", "/compute/v2.1/servers", Fault::Loses);
    let second = setting.adapter.provision(asked.clone()).await.unwrap();
    assert_eq!(second.handle, "s2");
    setting.cloud.state.lock().unwrap().servers.get_mut("s1").unwrap()["tags"] = hidden;
    assert_eq!(setting.adapter.provision(asked.clone()).await.unwrap().handle, "s1");
    let there = setting.adapter.resource(asked.tag).await.unwrap().unwrap();
    assert_eq!(there.handle, "s1", "both calls name the same server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_is_renewed_and_a_credential_that_is_refused_is_told() {
    let setting = setting().await;
    // every earlier token is worth nothing now
    setting.cloud.state.lock().unwrap().logins += 1;
    assert!(setting.adapter.list().await.unwrap().is_empty());
    assert!(setting.adapter.health().await.ready);
    {
        let mut state = setting.cloud.state.lock().unwrap();
        (state.logins, state.refuses_login) = (state.logins + 1, true);
    }
    is(&setting.adapter.list().await.unwrap_err(), ReasonCode::NotPermitted, false);
    // the next look at the runs fails as well, and then its health says so
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while setting.adapter.health().await.ready {
        assert!(tokio::time::Instant::now() < deadline, "its health does not tell");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_off_without_a_word_ended_in_an_unknown_way() {
    let setting = setting().await;
    let request = run();
    setting.adapter.submit(request.clone()).await.unwrap();
    setting.cloud.state.lock().unwrap().servers.get_mut("s1").unwrap()["status"] = "SHUTOFF".into();
    let RunState::Ended(end) = setting.adapter.status(request.key).await.unwrap().unwrap().state else {
        panic!("it has ended")
    };
    let reason = end.reason.clone().unwrap();
    assert_eq!(reason.code, ReasonCode::RunLost);
    assert!(reason.detail.contains("unknown ending"), "{reason}");
    // it is decided once, whatever comes later
    assert_eq!(setting.adapter.list().await.unwrap()[0].state, RunState::Ended(end));
    assert_eq!(setting.host.show("cloud").unwrap().starts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_hosts_are_told_and_full_hosts_stay() {
    let setting = setting().await;
    let pools = setting.adapter.inventory().await.unwrap();
    let classes: Vec<(&str, u32)> = pools[0].classes.iter().map(|one| (one.name.as_str(), one.servers)).collect();
    assert_eq!(classes, [(CLASS, 1), (GPU_CLASS, 1)]);
    let mut events = setting.adapter.servers(true).await.unwrap();
    let mut next = async || tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event");
    for _ in 0..2 {
        let InventoryEvent::Server(server) = next().await else { panic!("a server") };
        assert!(server.schedulable && (server.free.chip_milli == 0 || server.free.chip_milli == 1000), "{server:?}");
    }
    assert_eq!(next().await, InventoryEvent::Synced);
    // no processor is free any more: Placement names no candidate there
    setting.cloud.state.lock().unwrap().hosts.get_mut("host-0").unwrap().vcpus.1 = 8;
    let InventoryEvent::Server(full) = next().await else { panic!("a server") };
    assert_eq!((full.id.as_str(), full.free.cpu_milli, full.total.cpu_milli), ("host-0", 0, 8000));
    setting.cloud.state.lock().unwrap().hosts.remove("host-1");
    assert_eq!(next().await, InventoryEvent::Gone("host-1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_and_strange_certificates_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plain = PlayedCloud::start(None).await;
    let other = host(dir.path());
    add(&other, &plain.url, json!({}));
    let why = format!("{:?}", other.start("cloud").await.unwrap_err());
    assert!(why.contains("insecure"), "{why}");
    assert_eq!(plain.state.lock().unwrap().logins, 0, "no credential was sent");

    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let cloud = PlayedCloud::start(Some(tokio_rustls::TlsAcceptor::from(Arc::new(server)))).await;
    let dir = tempfile::tempdir().unwrap();
    let strange = host(dir.path());
    add(&strange, &cloud.url, json!({}));
    let why = format!("{:?}", strange.start("cloud").await.unwrap_err());
    assert!(why.to_lowercase().contains("certificate"), "{why}");
    assert_eq!(cloud.state.lock().unwrap().logins, 0, "no credential was sent");

    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, cert.pem()).unwrap();
    let known = host(dir.path());
    let adapter = add(&known, &cloud.url, json!({ "ca_file": ca_file }));
    known.start("cloud").await.unwrap();
    assert!(adapter.list().await.unwrap().is_empty());
    assert_eq!(cloud.state.lock().unwrap().logins, 1);
}
