//! The kubernetes backend as a plugin against a real API server. Run by `scripts/backends/kubernetes.sh test`, which sets
//! `CAUSEWAY_KUBERNETES` to the folder of a control plane; pods are executed by `causeway-pod-runner`, a stand-in for kubelets.

use adapters::conformance::results::BackendResults;
use adapters::conformance::{self, Behaviour, Options};
use adapters::contract::{Adapter, LogStream, RunEnd, RunKey, RunRequest, RunState};
use adapters::host::{HostConfig, Limits, PluginAdapter, PluginHost, PluginSpec, ProgramSpec, Timing};
use adapters::resources::InventoryEvent;
use adapters::runner::{DeskConfig, RunDesk};
use adapters::vault::{Secret, Vault};
use cpi::ids::{ContentDigest, Epoch, Fence, MemberId, TaskId};
use cpi::reason::ReasonCode;
use cpi::resource::{ChipKind, ComputeClass, Firmness, PoolSpec, PriceList, Quantity};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    folder: PathBuf,
    _dir: tempfile::TempDir,
    host: PluginHost,
    adapter: PluginAdapter,
}

fn pool() -> PoolSpec {
    PoolSpec {
        name: "pool".to_owned(),
        backend: "cluster".to_owned(),
        class: ComputeClass::Intelligent,
        identifiers: Vec::new(),
        classes: Vec::new(),
        firmness: Firmness::Estimate,
        price: PriceList::default(),
        carbon_g_per_kwh: None,
        cordoned: false,
    }
}

/// With `by_runner` the pods execute `causeway-runner`; otherwise their commands, and the log is the pod's.
async fn open(by_runner: bool) -> Cluster {
    let runner = by_runner.then_some(env!("CARGO_BIN_EXE_causeway-runner"));
    let folder = std::env::var_os("CAUSEWAY_KUBERNETES").map(PathBuf::from).expect("CAUSEWAY_KUBERNETES is not set");
    let dir = tempfile::tempdir().expect("a folder");
    let vault = Vault::open(&dir.path().join("vault"), &dir.path().join("key")).expect("a vault");
    let token = std::fs::read(folder.join("plugin.token")).expect("the token");
    vault.put("cluster-token", Secret::new(token)).expect("put");
    let host = PluginHost::new(HostConfig {
        plugins_dir: None,
        data_dir: dir.path().join("host"),
        timing: Timing { wait_ms: 20_000, ..Timing::default() },
        node_version: "test".to_owned(),
        vault: Some(Arc::new(vault)),
        knows_chip: Arc::new(|_| true),
    })
    .expect("a host");
    let desk = RunDesk::open(DeskConfig::new(&dir.path().join("desk"))).await.expect("a desk");
    let host = host.with_desk(Arc::new(desk));
    let program = PathBuf::from(env!("CARGO_BIN_EXE_causeway-adapter-kubernetes"));
    let kubeconfig = std::fs::read_to_string(folder.join("admin.kubeconfig")).expect("the kubeconfig");
    let server = kubeconfig.split('"').find(|part| part.starts_with("https://")).expect("its server").to_owned();
    let spec = PluginSpec {
        name: "cluster".to_owned(),
        program: ProgramSpec {
            sha256: ContentDigest::of(&std::fs::read(&program).expect("the program")),
            path: program,
            args: Vec::new(),
        },
        config: serde_json::json!({
            "server": server, "ca_file": folder.join("certs/ca.crt"), "credential": "cluster-token",
            "namespace": "tasks", "image": "causeway.test/host", "start_patience_ms": 3000,
            "runner": runner,
        }),
        credentials: vec!["cluster-token".to_owned()],
        replicas: 1,
        limits: Limits { files: 0, ..Limits::default() },
    };
    let adapter = host.add(spec, vec![pool()]).expect("added");
    host.start("cluster").await.expect("it comes up");
    Cluster { folder, _dir: dir, host, adapter }
}

fn request(command: &[&str]) -> RunRequest {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(rand::random::<u64>() >> 1).to_be_bytes());
    id[12..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    RunRequest {
        key: RunKey { task: TaskId(id), fence: Fence { epoch: Epoch { counter: 1, member: MemberId(1) }, attempt: 1 } },
        pool: "pool".to_owned(),
        class: "cpu-64c-256g".to_owned(),
        need: Quantity { cpu_milli: 1000, memory_bytes: 64 << 20, storage_bytes: 1 << 20, chip_milli: 0 },
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        image: None,
        env: BTreeMap::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        max_runtime_ms: 60_000,
        lease_ttl_ms: 60_000,
        freeze_on_lapse: true,
    }
}

async fn until<T>(adapter: &dyn Adapter, key: RunKey, what: &str, wanted: impl Fn(&RunState) -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let state = adapter.status(key).await.expect("a status").expect("the run is known").state;
        if let Some(found) = wanted(&state) {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}, still {state:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn end(adapter: &dyn Adapter, key: RunKey) -> RunEnd {
    let ended = |state: &RunState| match state {
        RunState::Ended(end) => Some(end.clone()),
        _ => None,
    };
    until(adapter, key, "the end", ended).await
}

/// Runs to the end and is removed.
async fn run(adapter: &dyn Adapter, request: RunRequest) -> RunEnd {
    let key = request.key;
    adapter.submit(request).await.expect("submitted");
    let end = end(adapter, key).await;
    adapter.remove(key).await.expect("removed");
    end
}

fn code(end: &RunEnd) -> Option<ReasonCode> {
    end.reason.as_ref().map(|reason| reason.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: scripts/backends/kubernetes.sh"]
async fn the_suite() {
    let cluster = open(true).await;
    let shell = |script: String| (vec!["sh".to_owned(), "-c".to_owned(), script], BTreeMap::new());
    let options = Options {
        pool: "pool".to_owned(),
        class: "cpu-64c-256g".to_owned(),
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
            Behaviour::Write { path, content } => {
                shell(format!("mkdir -p \"$(dirname '{path}')\"; printf %s '{content}' > '{path}'"))
            }
        }),
        patience: PATIENCE,
    };
    let results = conformance::run(&cluster.adapter, &options).await;
    for result in results.iter().filter(|result| result.failure.is_some()) {
        println!("{} {:?}: {}", result.case, result.chip, result.failure.as_deref().unwrap_or_default());
    }
    println!("{} cases, {} held", results.len(), results.iter().filter(|result| result.failure.is_none()).count());
    let health = cluster.adapter.health().await;
    let version = health.notes.first().cloned().unwrap_or_default();
    let platform = format!("{version}; its pods executed by causeway-pod-runner, the test kit's stand-in for kubelets");
    let taken = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    if let Some(folder) = std::env::var_os("CAUSEWAY_RESULTS_DIR") {
        let results = BackendResults::new("kubernetes", &platform, &taken, &results);
        results.write(&PathBuf::from(folder)).expect("the results are written");
    }
    assert_eq!(cluster.host.show("cluster").expect("it is there").starts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: scripts/backends/kubernetes.sh"]
async fn ends_say_why() {
    // by the platform alone, without a runner
    let cluster = open(false).await;
    let adapter = &cluster.adapter;
    // more memory than was asked for
    let mut greedy = request(&["sh", "-c", "head -c 200000000 /dev/zero | tail -c 199999999 > /dev/null"]);
    greedy.need.memory_bytes = 32 << 20;
    let ended = run(adapter, greedy).await;
    assert_eq!(code(&ended), Some(ReasonCode::Oom), "{ended:?}");
    // no such program
    let ended = run(adapter, request(&["there-is-no-such-program"])).await;
    assert_eq!(code(&ended), Some(ReasonCode::StartFailed), "{ended:?}");
    // a signal
    let ended = run(adapter, request(&["sh", "-c", "kill -TERM $$"])).await;
    assert_eq!(
        (ended.exit_code, ended.signal, code(&ended)),
        (None, Some(15), Some(ReasonCode::KilledBySignal)),
        "{ended:?}"
    );
    // an image that cannot be had: not for ever
    let mut nowhere = request(&["true"]);
    nowhere.image = Some("registry.invalid/none:1".to_owned());
    let ended = run(adapter, nowhere).await;
    assert_eq!(code(&ended), Some(ReasonCode::StartFailed), "{ended:?}");
    assert!(ended.reason.as_ref().is_some_and(|reason| reason.detail.contains("ImagePullBackOff")), "{ended:?}");
    // variables of Kubernetes are none of ours
    let odd = request(&["printf", "%s|%s", "$(HOME) $$ $", "$(CAUSEWAY_TASK)"]);
    let key = odd.key;
    adapter.submit(odd).await.expect("submitted");
    end(adapter, key).await;
    let log = adapter.logs(key, LogStream::Stdout, 0, 1000).await.expect("its log");
    assert_eq!(String::from_utf8_lossy(&log.bytes), "$(HOME) $$ $|$(CAUSEWAY_TASK)");
    adapter.remove(key).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: scripts/backends/kubernetes.sh"]
async fn parts_of_chips_are_counted() {
    let cluster = open(true).await;
    let adapter = &cluster.adapter;
    let mut part = request(&["sleep", "1"]);
    part.class = "mig".to_owned();
    part.need.chip_milli = 143;
    let key = part.key;
    adapter.submit(part).await.expect("submitted");
    until(adapter, key, "its start", |state| (*state != RunState::Starting).then_some(())).await;
    let mut events = adapter.servers(false).await.expect("servers");
    let mut free = None;
    while let Some(event) = events.recv().await {
        if let InventoryEvent::Server(server) = event
            && server.id == "mig-0"
        {
            free = server.partitions.iter().find(|part| part.profile == "1g.10gb").map(|part| (part.free, part.total));
        }
    }
    assert_eq!(free, Some((13, 14)));
    assert_eq!(end(adapter, key).await.exit_code, Some(0));
    adapter.remove(key).await.expect("removed");
    let mut odd = request(&["true"]);
    odd.class = "mig".to_owned();
    odd.need.chip_milli = 100;
    let refused = adapter.submit(odd).await.expect_err("no part is so small");
    assert_eq!(refused.reason.code, ReasonCode::BackendUnsupported, "{refused}");
}

/// A plugin that is killed finds its runs again, and makes none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: scripts/backends/kubernetes.sh"]
async fn a_killed_plugin_finds_its_runs() {
    let cluster = open(true).await;
    let adapter = &cluster.adapter;
    let asked = request(&["sh", "-c", "sleep 3; exit 4"]);
    adapter.submit(asked.clone()).await.expect("submitted");
    until(adapter, asked.key, "its start", |state| (*state == RunState::Running).then_some(())).await;
    let pid = cluster
        .host
        .show("cluster")
        .ok()
        .and_then(|shown| shown.instances.first().map(|one| one.pid))
        .expect("its process");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("killed");
    let again = adapter.submit(asked.clone()).await.expect("the next process finds it");
    assert_eq!(again.state, RunState::Running);
    let ended = end(adapter, asked.key).await;
    assert_eq!(ended.exit_code, Some(4), "{ended:?}");
    let count = adapter.list().await.expect("a list").iter().filter(|run| run.key == asked.key).count();
    assert_eq!(count, 1);
    assert_eq!(cluster.host.show("cluster").expect("it is there").starts, 2);
    adapter.remove(asked.key).await.expect("removed");
    assert!(cluster.folder.is_dir());
}

/// How many short Jobs a second, through the plugin and made directly, in turn. `CAUSEWAY_JOBS` says how many in a round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; needs a control plane: scripts/backends/kubernetes.sh"]
async fn measure_short_jobs() {
    let cluster = open(false).await;
    let count: usize = std::env::var("CAUSEWAY_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let read = kube::config::Kubeconfig::read_from(cluster.folder.join("admin.kubeconfig")).expect("the kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await;
    let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
    for round in 1..=2 {
        let direct = made_directly(&client, count, round).await;
        let through = through_the_plugin(&cluster.adapter, count).await;
        println!(
            "round {round}: {count} Jobs: directly {direct:.1}/s, through the plugin {through:.1}/s, {:.2}",
            through / direct
        );
    }
}

/// Calls under way at once, for both.
const AT_ONCE: usize = 16;

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(count: usize, since: std::time::Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

async fn through_the_plugin(adapter: &PluginAdapter, count: usize) -> f64 {
    use futures::StreamExt as _;
    let requests: Vec<RunRequest> = (0..count).map(|_| request(&["true"])).collect();
    let mut waiting: std::collections::BTreeSet<RunKey> = requests.iter().map(|request| request.key).collect();
    let keys = waiting.clone();
    let mut events = adapter.watch();
    let begun = std::time::Instant::now();
    let submits = futures::stream::iter(requests).map(|request| adapter.submit(request)).buffer_unordered(AT_ONCE);
    let submitted = submits.for_each(|said| async move { drop(said.expect("submitted")) });
    let ended = async {
        while !waiting.is_empty() {
            let event = events.recv().await.expect("no change is missed");
            if let RunState::Ended(end) = &event.state
                && waiting.remove(&event.key)
            {
                assert_eq!(end.exit_code, Some(0), "{end:?}");
            }
        }
    };
    tokio::join!(submitted, ended);
    let rate = rate(count, begun);
    let removes = futures::stream::iter(keys).map(|key| adapter.remove(key)).buffer_unordered(AT_ONCE);
    removes.for_each(|said| async move { said.expect("removed") }).await;
    rate
}

async fn made_directly(client: &kube::Client, count: usize, round: usize) -> f64 {
    use futures::StreamExt as _;
    use k8s_openapi::api::batch::v1::Job;
    use kube::runtime::watcher::{self, Event};
    let jobs: kube::Api<Job> = kube::Api::namespaced(client.clone(), "tasks");
    let job = |number: usize| -> Job {
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": format!("direct-{round}-{number}"), "labels": { "direct": round.to_string() } },
            "spec": { "backoffLimit": 0, "template": { "metadata": { "labels": { "direct": round.to_string() } }, "spec": {
                "restartPolicy": "Never", "activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 5,
                "automountServiceAccountToken": false, "enableServiceLinks": false,
                "containers": [{ "name": "run", "image": "causeway.test/host", "command": ["true"], "resources": {
                    "requests": { "cpu": "1", "memory": "64Mi", "ephemeral-storage": "1Mi" },
                    "limits": { "cpu": "1", "memory": "64Mi" } } }] } } }
        }))
        .expect("a Job")
    };
    let label = format!("direct={round}");
    let mut events = std::pin::pin!(watcher::watcher(jobs.clone(), watcher::Config::default().labels(&label)));
    let begun = std::time::Instant::now();
    let creates = futures::stream::iter((0..count).map(job))
        .map(|job| async { jobs.create(&kube::api::PostParams::default(), &{ job }).await.map(drop) })
        .buffer_unordered(AT_ONCE);
    let created = creates.for_each(|said| async move { said.expect("created") });
    let complete = async {
        let mut complete = std::collections::BTreeSet::new();
        while complete.len() < count {
            if let Event::Apply(job) | Event::InitApply(job) = events.next().await.expect("a watch").expect("an event")
                && job.status.as_ref().is_some_and(|status| status.succeeded == Some(1))
            {
                complete.extend(job.metadata.name);
            }
        }
    };
    tokio::join!(created, complete);
    let rate = rate(count, begun);
    let all = kube::api::ListParams::default().labels(&label);
    jobs.delete_collection(&kube::api::DeleteParams::background(), &all).await.expect("deleted");
    rate
}
