//! The `rest` backend against a made-up provider's real HTTP server, integrated by `configs/rules/examples/orchard.toml` alone.

#![allow(clippy::unwrap_used, reason = "all of this file is tests and what they share")]

mod common;
#[allow(dead_code, reason = "a provider has more than each test needs")]
mod orchard;

use adapters::conformance::{self, Behaviour, Options};
use adapters::contract::{Adapter as _, AdapterError, LogStream, RunInput, RunOutput, RunRequest, RunState};
use adapters::host::{HostConfig, Limits, PluginAdapter, PluginHost, PluginSpec, ProgramSpec, Timing};
use adapters::vault::{Secret, Vault};
use common::{PATIENCE, request};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use cpi::resource::{ChipKind, ChipModel, PoolSpec};
use orchard::{CLIENT_ID, CLIENT_SECRET, Moods, Orchard};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const REST: &str = env!("CARGO_BIN_EXE_causeway-adapter-rest");

fn rules() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rules/examples/orchard.toml");
    std::fs::read_to_string(path).unwrap()
}

/// One class without accelerators, and one for each kind.
fn pool() -> PoolSpec {
    let mut pool = common::pool("orchard");
    for (kind, model) in [(ChipKind::Gpu, "NVA100S80"), (ChipKind::Npu, "HWASC910B"), (ChipKind::Fpg, "XLALVU280")] {
        let mut class = pool.classes[0].clone();
        class.name = kind.code().to_lowercase();
        class.per_server.chip_milli = 8000;
        class.chip = Some(ChipModel { model: model.to_owned(), kind });
        if kind == ChipKind::Fpg {
            class.name = "fpga".to_owned();
        }
        pool.classes.push(class);
    }
    pool
}

struct Site {
    orchard: Arc<Orchard>,
    host: Arc<PluginHost>,
    adapter: PluginAdapter,
    rules: PathBuf,
    vault: Arc<Vault>,
    dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        Self::with(|rules| rules, |_| {}).await.unwrap()
    }

    async fn with(
        rules_of: impl Fn(String) -> String,
        change: impl Fn(&mut serde_json::Value),
    ) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let (orchard, url, pem) = Orchard::start(dir.path().join("orchard"), true).await;
        let rules_path = dir.path().join("orchard.toml");
        std::fs::write(&rules_path, rules_of(rules())).unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, pem).unwrap();
        let vault = Arc::new(Vault::open(&dir.path().join("vault"), &dir.path().join("vault.key")).unwrap());
        vault.put("orchard-id", Secret::new(CLIENT_ID.into())).unwrap();
        vault.put("orchard-secret", Secret::new(CLIENT_SECRET.into())).unwrap();
        let host = PluginHost::new(HostConfig {
            plugins_dir: None,
            data_dir: dir.path().join("host"),
            timing: Timing { wait_ms: 20_000, start_ms: 20_000, ..Timing::default() },
            node_version: "test".to_owned(),
            vault: Some(Arc::clone(&vault)),
            knows_chip: Arc::new(|_| true),
        })
        .unwrap();
        let mut config = serde_json::json!({
            "rules": rules_path, "files_dir": dir.path().join("files"), "url": url, "ca_file": ca,
        });
        change(&mut config);
        let spec = PluginSpec {
            name: "orchard".to_owned(),
            program: ProgramSpec {
                path: PathBuf::from(REST),
                args: Vec::new(),
                sha256: ContentDigest::of(&std::fs::read(REST).unwrap()),
            },
            config,
            credentials: vec!["orchard-id".to_owned(), "orchard-secret".to_owned()],
            replicas: 1,
            limits: Limits::default(),
        };
        let adapter = host.add(spec, vec![pool()]).unwrap();
        let started = host.start("orchard").await;
        started.map_err(|error| format!("{error}: {:?}", host.show("orchard").unwrap().history))?;
        Ok(Self { orchard, host: Arc::new(host), adapter, rules: rules_path, vault, dir })
    }

    async fn end(&self, run: &RunRequest) -> adapters::contract::RunEnd {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.adapter.status(run.key).await.unwrap().unwrap();
            if let RunState::Ended(end) = status.state {
                return end;
            }
            assert!(Instant::now() < deadline, "still {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn notes(&self) -> String {
        self.adapter.health().await.notes.join("\n")
    }

    /// Waits until the plugin's heartbeat tells something.
    async fn noted(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.notes().await.contains(what) {
            assert!(Instant::now() < deadline, "waited for {what:?}: {}", self.notes().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn shell(script: &str) -> RunRequest {
    let mut run = request(&["sh", "-c", script]);
    run.need.chip_milli = 0;
    run
}

fn options() -> Options {
    let shell = |script: String| (vec!["sh".to_owned(), "-c".to_owned(), script], BTreeMap::new());
    Options {
        pool: "pool".to_owned(),
        class: "node".to_owned(),
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

async fn conforms(site: &Site) {
    let results = conformance::run(&site.adapter, &options()).await;
    let failed: Vec<_> = results.iter().filter(|result| result.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(results.len() >= 57, "{} cases", results.len());
    assert_eq!(site.host.show("orchard").unwrap().starts, 1);
    // tokens live for 3 s here: it signed in again and again, and never for each request
    let (signed, requests) = (site.orchard.signed_in.load(Ordering::Relaxed), site.orchard.state().requests);
    assert!(signed >= 2 && signed * 5 < requests, "{signed} of {requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_by_rules_alone() {
    conforms(&Site::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_a_platform_that_fails_drops_and_pushes_back() {
    let site = Site::new().await;
    site.orchard.set(Moods { fails_every: 19, drops_every: 23, busy_every: 211, ..Moods::default() });
    conforms(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_travel_there_and_outputs_back() {
    let site = Site::new().await;
    let source = site.dir.path().join("input");
    std::fs::write(&source, "twenty-one\n").unwrap();
    let digest = ContentDigest::of(b"twenty-one\n");
    let mut run = shell("cat in in > out; echo $CAUSEWAY_TASK");
    run.inputs = vec![RunInput { path: "in".to_owned(), source, digest, executable: false }];
    run.outputs = vec![RunOutput { path: "out".to_owned(), optional: false }];
    site.adapter.submit(run.clone()).await.unwrap();
    let end = site.end(&run).await;
    assert_eq!(end.reason, None);
    assert_eq!(std::fs::read_to_string(&end.outputs[0].source).unwrap(), "twenty-one\ntwenty-one\n");
    let log = site.adapter.logs(run.key, LogStream::Stdout, 0, 100).await.unwrap();
    assert_eq!(log.bytes, format!("{}\n", run.key.task).into_bytes());
    assert!(end.usage.cpu_ms == 250 && end.usage.memory_peak_bytes == 3 << 20, "{:?}", end.usage);
    site.adapter.remove(run.key).await.unwrap();
    assert!(!end.outputs[0].source.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_whose_answer_was_lost_is_made_once() {
    let site =
        Site::with(|rules| rules.replacen("repeatable = true                #", "repeatable = false #", 1), |_| {});
    let site = site.await.unwrap();
    site.orchard.set(Moods { lost_submits: 1, forgets_keys: true, ..Moods::default() });
    let run = shell("exit 4");
    site.adapter.submit(run.clone()).await.unwrap();
    assert_eq!(site.end(&run).await.exit_code, Some(4));
    let state = site.orchard.state();
    assert_eq!(state.seen.iter().filter(|line| *line == "POST v2/jobs").count(), 1, "{:?}", state.seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_twice_is_one_run_and_the_surplus_is_cancelled() {
    let site = Site::new().await;
    // the platform promises to know idempotency keys, and does not
    site.orchard.set(Moods { lost_submits: 1, forgets_keys: true, ..Moods::default() });
    let run = shell("sleep 60");
    site.adapter.submit(run.clone()).await.unwrap();
    assert_eq!(site.orchard.state().jobs.len(), 2);
    let listed = site.adapter.list().await.unwrap();
    assert_eq!(listed.iter().filter(|status| status.key == run.key).count(), 1);
    // a plugin that starts anew looks the run up by its tag
    let pid = i32::try_from(site.host.show("orchard").unwrap().instances[0].pid).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(site.adapter.status(run.key).await.unwrap().unwrap().key, run.key);
    site.noted("the surplus is cancelled").await;
    let deadline = Instant::now() + PATIENCE;
    while site.orchard.state().jobs.values().filter(|job| job.phase == "CANCELLED").count() != 1 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    site.adapter.cancel(run.key, 0).await.unwrap();
    site.end(&run).await;
    site.adapter.remove(run.key).await.unwrap();
    assert_eq!(site.orchard.state().jobs.len(), 0);
}

fn said(result: Result<impl std::fmt::Debug, AdapterError>) -> AdapterError {
    result.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_100_mib_is_not_read() {
    let site = Site::new().await;
    let run = shell("exit 0");
    site.adapter.submit(run.clone()).await.unwrap();
    site.end(&run).await;
    site.orchard.set(Moods { huge: Some("jobs".to_owned()), ..Moods::default() });
    let error = said(site.adapter.list().await);
    assert!(error.retryable && error.to_string().contains("more than 4194304 bytes"), "{error}");
    // a log is cut where it was asked to end
    let run_log = said(site.adapter.logs(run.key, LogStream::Stdout, 0, 100).await);
    assert!(run_log.to_string().contains("more than"), "{run_log}");
    site.orchard.set(Moods { huge: Some("logs".to_owned()), ..Moods::default() });
    let log = site.adapter.logs(run.key, LogStream::Stdout, 0, 100).await.unwrap();
    assert_eq!(log.bytes, vec![b'x'; 100]);
    site.orchard.set(Moods::default());
    assert_eq!(site.adapter.list().await.unwrap().len(), 1);
    assert_eq!(site.host.show("orchard").unwrap().starts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_are_errors_that_say_what_to_do() {
    let site = Site::new().await;
    let (one, two) = (shell("sleep 60"), shell("sleep 60"));
    site.adapter.submit(one.clone()).await.unwrap();
    site.adapter.submit(two.clone()).await.unwrap();
    let lie = |path: &str, body: &[u8]| Moods { lies: Some((path.to_owned(), 200, body.to_vec())), ..Moods::default() };
    // another run's job under the id: the tag counts
    let other = site.orchard.state().jobs.iter().next_back().map(|(id, job)| job.view(*id)).unwrap();
    site.orchard.set(lie("v2/jobs/job-000001", other.to_string().as_bytes()));
    assert_eq!(site.adapter.status(one.key).await.unwrap().unwrap().key, one.key);
    site.noted("is asked for and").await;
    let mut strange = other.clone();
    strange["status"]["phase"] = "HIBERNATING".into();
    let list = |job: serde_json::Value| serde_json::json!({ "jobs": [job], "next_cursor": null }).to_string();
    for (body, expected) in [
        (list(strange), "do not know HIBERNATING: add it to [tables.phases]"),
        (
            list(
                serde_json::json!({ "labels": { "causeway-tag": "x" }, "id": "job-9", "status": { "phase": "QUEUED" }, "mood": 1 }),
            ),
            "do not map mood: add a [[north.run.field]] with from = \"mood\"",
        ),
        ("<html>login</html>".to_owned(), "the answer is no JSON"),
        (r#"{"jobs":{}}"#.to_owned(), "finds no list"),
        (r#"{"jobs":[],"next_cursor":"again"}"#.to_owned(), "goes in circles"),
    ] {
        site.orchard.set(lie("v2/jobs", body.as_bytes()));
        let error = said(site.adapter.list().await);
        assert!(error.reason.code == ReasonCode::AdapterDown && error.to_string().contains(expected), "{error}");
    }
    site.orchard.set(Moods::default());
    for run in [one, two] {
        site.adapter.cancel(run.key, 0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_heard_and_slowness_is_bounded() {
    let quick = |rules: String| rules.replace("poll_ms = 500", "poll_ms = 60000\nrequest_ms = 300\nverb_ms = 2500");
    let site =
        Site::with(|rules| quick(rules).replace("[http.verb.health]\nmethod = \"GET\"\n", ""), |_| {}).await.unwrap();
    // let the first look at all runs pass
    site.adapter.list().await.unwrap();
    site.orchard.set(Moods { busy_every: 1, ..Moods::default() });
    let (began, before) = (Instant::now(), site.orchard.state().requests);
    let error = said(site.adapter.list().await);
    assert_eq!(error.reason.code, ReasonCode::Busy);
    let requests = site.orchard.state().requests - before;
    assert!(began.elapsed() >= Duration::from_secs(1) && requests <= 3, "{requests} in {:?}", began.elapsed());
    site.orchard.set(Moods { slow_ms: 1_000, ..Moods::default() });
    let began = Instant::now();
    let error = said(site.adapter.list().await);
    assert!(error.retryable && began.elapsed() < Duration::from_secs(6), "{error} after {:?}", began.elapsed());
    site.orchard.set(Moods { lies: Some(("v2/jobs".to_owned(), 503, b"down".to_vec())), ..Moods::default() });
    let error = said(site.adapter.list().await);
    assert!(error.retryable && error.to_string().contains("503"), "{error}");
    site.orchard.set(Moods::default());
    site.adapter.list().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_typed() {
    let site = Site::new().await;
    let lie = |status, body: &str| {
        site.orchard
            .set(Moods { lies: Some(("v2/jobs".to_owned(), status, body.as_bytes().to_vec())), ..Moods::default() });
    };
    for (status, body, code, retryable) in [
        (422, r#"{"error":{"code":"QUOTA","message":"no more"}}"#, ReasonCode::QuotaExceeded, true),
        (422, "what?", ReasonCode::InvalidTask, false),
        (403, "", ReasonCode::NotPermitted, false),
        (500, "", ReasonCode::AdapterDown, true),
        (302, "", ReasonCode::AdapterDown, false),
        (418, "", ReasonCode::BackendUnsupported, false),
    ] {
        lie(status, body);
        let error = said(site.adapter.list().await);
        assert_eq!((error.reason.code, error.retryable), (code, retryable), "{status}: {error}");
    }
    site.orchard.set(Moods::default());
    let mut image = shell("exit 0");
    image.image = Some("busybox".to_owned());
    let error = said(site.adapter.submit(image).await);
    assert!(
        error.reason.code == ReasonCode::BackendUnsupported && error.to_string().contains("do not map image"),
        "{error}"
    );
    let mut nowhere = shell("exit 0");
    nowhere.pool = "nowhere".to_owned();
    assert_eq!(said(site.adapter.submit(nowhere).await).reason.code, ReasonCode::InvalidTask);
    let mut large = shell("exit 0");
    large.need.cpu_milli = u64::MAX;
    assert_eq!(said(site.adapter.submit(large).await).reason.code, ReasonCode::ShapeTooLarge);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_is_made_anew_and_a_rotated_secret_is_used() {
    let site = Site::new().await;
    site.orchard.token_life_s.store(3600, Ordering::Relaxed);
    let run = shell("sleep 60");
    site.adapter.submit(run.clone()).await.unwrap();
    let before = site.orchard.signed_in.load(Ordering::Relaxed);
    site.orchard.state().tokens.clear();
    site.adapter.list().await.unwrap();
    assert_eq!(site.orchard.signed_in.load(Ordering::Relaxed), before + 1);
    // a wrong secret is refused at the next call, and neither it nor the right one is shown
    site.vault.put("orchard-secret", Secret::new(b"wrong-canary".to_vec())).unwrap();
    let error = said(site.adapter.list().await);
    assert_eq!((error.reason.code, error.retryable), (ReasonCode::NotPermitted, false));
    let shown = format!("{error} {} {:?}", site.notes().await, site.host.show("orchard"));
    assert!(!shown.contains("canary"), "{shown}");
    site.vault.put("orchard-secret", Secret::new(CLIENT_SECRET.into())).unwrap();
    site.adapter.cancel(run.key, 0).await.unwrap();
    site.end(&run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_verified_and_plain_http_is_asked_for() {
    // a platform that cannot be reached keeps a plugin from coming up, where its rules have a health check
    let unchecked = |rules: String| rules.replace("[http.verb.health]\nmethod = \"GET\"\n", "");
    let other = Site::with(unchecked, |config| {
        let ca = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
        let path = config["ca_file"].as_str().unwrap().to_owned();
        std::fs::write(path, ca).unwrap();
    });
    let site = other.await.unwrap();
    let error = said(site.adapter.list().await);
    assert!(error.retryable && error.to_string().to_lowercase().contains("certificate"), "{error}");
    let plain = |insecure: bool| {
        Site::with(unchecked, move |config| {
            config["url"] = "http://127.0.0.1:9".into();
            config["insecure"] = insecure.into();
            config.as_object_mut().unwrap().remove("ca_file");
        })
    };
    let refused = plain(false).await.err().unwrap();
    assert!(refused.contains("insecure = true"), "{refused}");
    plain(true).await.unwrap().noted("plain HTTP").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_read_again_and_bad_ones_are_not_used() {
    let site = Site::new().await;
    site.noted("rules orchard 1").await;
    std::fs::write(&site.rules, rules().replace("version = 1", "version = 2")).unwrap();
    site.noted("rules orchard 2").await;
    std::fs::write(&site.rules, rules().replacen("cores = 2,", "cores = 33,", 1)).unwrap();
    site.noted("stay in force: example 1 of south.submit").await;
    site.noted("rules orchard 2").await;
    let run = shell("exit 0");
    site.adapter.submit(run.clone()).await.unwrap();
    site.end(&run).await;
}
