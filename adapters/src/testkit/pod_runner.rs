//! In the place of kubelets: nodes are registered with the capacity that a file says, and pods bound to them run as plain
//! processes. The image `causeway.test/host` is this machine's own files; no other can be had.

use super::container::{Container, ContainerSpec, Ended, expand, program_exists};
use super::log_server::{Certificates, Logs, serve};
use crate::local::group::Controllers;
use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The image that is there.
pub const HOST_IMAGE: &str = "causeway.test/host";

/// What it is told, as a JSON file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRunnerConfig {
    /// How it reaches the API server, with a token that may do everything.
    pub kubeconfig: PathBuf,
    /// Where pods have their folders.
    pub dir: PathBuf,
    /// The loopback port of the door for logs.
    pub port: u16,
    /// Its certificate and key, PEM.
    pub certificate: PathBuf,
    /// See `certificate`.
    pub key: PathBuf,
    /// Who signs the client certificates of those that may read logs.
    pub clients: PathBuf,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// A node as it claims to be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Labels beside its hostname.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Resources, as Kubernetes writes them.
    pub capacity: BTreeMap<String, String>,
}

struct Runner {
    client: Client,
    dir: PathBuf,
    controllers: Controllers,
    logs: Logs,
    nodes: BTreeSet<String>,
    /// Pods that run, by uid: how many seconds they may still take once they were told to end.
    running: Mutex<BTreeMap<String, watch::Sender<Option<u64>>>>,
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Registers the nodes and runs their pods until it is dropped or the API server is gone for good.
///
/// # Errors
/// What could not be begun.
pub async fn run(config: PodRunnerConfig) -> anyhow::Result<()> {
    let read = kube::config::Kubeconfig::read_from(&config.kubeconfig).context("kubeconfig")?;
    let kube_config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await?;
    let client = Client::try_from(kube_config).context("client")?;
    std::fs::create_dir_all(&config.dir).context("dir")?;
    let listener = TcpListener::bind(("127.0.0.1", config.port)).await.context("port")?;
    let files = Certificates {
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        clients: config.clients.clone(),
    };
    let logs = Logs::default();
    for node in &config.nodes {
        register(&client, node, config.port).await.with_context(|| format!("node {}", node.name))?;
    }
    let runner = Arc::new(Runner {
        client: client.clone(),
        dir: config.dir.clone(),
        controllers: Controllers::detect("causeway-pods"),
        logs: Arc::clone(&logs),
        nodes: config.nodes.iter().map(|node| node.name.clone()).collect(),
        running: Mutex::default(),
    });
    tracing::info!(nodes = config.nodes.len(), limits = runner.controllers.describe(), "the pod runner is up");
    let pods = watcher::watcher(Api::<Pod>::all(client), watcher::Config::default().fields("spec.nodeName!="));
    let sync = async {
        let mut events = std::pin::pin!(pods.default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => runner.see(pod).await,
                Ok(Event::Delete(pod)) => runner.gone(&pod),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the pods cannot be watched"),
            }
        }
    };
    tokio::select! {
        served = serve(listener, files, logs) => served.context("logs"),
        () = sync => Ok(()),
    }
}

async fn register(client: &Client, spec: &NodeSpec, port: u16) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut labels = spec.labels.clone();
    labels.insert("kubernetes.io/hostname".to_owned(), spec.name.clone());
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": spec.name, "labels": labels } }))?;
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(refusal)) if refusal.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    let ready = json!([{ "type": "Ready", "status": "True", "reason": "StandIn",
        "message": "a stand-in of the test kit runs the pods", "lastHeartbeatTime": now(), "lastTransitionTime": now() }]);
    let status = json!({ "status": {
        "capacity": spec.capacity, "allocatable": spec.capacity, "conditions": ready,
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        "nodeInfo": { "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "causeway-pod-runner://1", "kubeletVersion": "stand-in", "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": "amd64" },
    } });
    nodes.patch_status(&spec.name, &PatchParams::default(), &Patch::Merge(status)).await?;
    // the server taints new nodes until the node controller, which does not run here, finds them ready
    let untaint = json!({ "spec": { "taints": null } });
    nodes.patch(&spec.name, &PatchParams::default(), &Patch::Merge(untaint)).await?;
    Ok(())
}

impl Runner {
    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, watch::Sender<Option<u64>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }

    fn folder(&self, pod: &Pod) -> PathBuf {
        self.dir.join(pod.uid().unwrap_or_default())
    }

    async fn see(self: &Arc<Self>, pod: Pod) {
        let mine =
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|node| self.nodes.contains(node));
        let Some(uid) = pod.uid().filter(|_| mine) else { return };
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let grace =
            pod.metadata.deletion_grace_period_seconds.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(30);
        if let Some(told) = self.running().get(&uid) {
            if deleting {
                let sooner = |left: &mut Option<u64>| {
                    let changes = left.is_none_or(|left| grace < left);
                    if changes {
                        *left = Some(grace);
                    }
                    changes
                };
                told.send_if_modified(sooner);
            }
            return;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        match phase.as_str() {
            _ if deleting => self.delete(&pod).await,
            "Pending" | "" => {
                let (told, hears) = watch::channel(None);
                self.running().insert(uid.clone(), told);
                let runner = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = runner.run(&pod, hears).await {
                        tracing::warn!(pod = pod.name_any(), %error, "a pod could not be run");
                    }
                    runner.running().remove(&uid);
                    // what was asked for meanwhile
                    if let Ok(Some(now)) = runner.api(&pod).get_opt(&pod.name_any()).await
                        && now.uid() == pod.uid()
                        && now.metadata.deletion_timestamp.is_some()
                    {
                        runner.delete(&now).await;
                    }
                });
            }
            "Running" => {
                // a stand-in before this one ran it
                let ended = Ended { exit_code: 137, oom: false };
                let status =
                    over(&pod, &now(), ended, Some(("ContainerStatusUnknown", "the pod runner was started again")));
                let _ = self.patch(&pod, status).await;
            }
            _ => {}
        }
    }

    fn gone(&self, pod: &Pod) {
        if let Some(told) = pod.uid().and_then(|uid| self.running().get(&uid).cloned()) {
            told.send_replace(Some(0));
        }
        let name = (pod.namespace().unwrap_or_default(), pod.name_any());
        let folder = self.folder(pod);
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if logs.get(&name).is_some_and(|log| log.starts_with(&folder)) {
            logs.remove(&name);
        }
        drop(logs);
        let _ = std::fs::remove_dir_all(folder);
    }

    async fn delete(&self, pod: &Pod) {
        let mut how = DeleteParams::default().grace_period(0);
        how.preconditions = Some(Preconditions { resource_version: None, uid: pod.uid() });
        if let Err(error) = self.api(pod).delete(&pod.name_any(), &how).await {
            tracing::debug!(pod = pod.name_any(), %error, "a pod could not be deleted");
        }
    }

    /// Changes the status of this very pod.
    async fn patch(&self, pod: &Pod, status: Value) -> anyhow::Result<()> {
        let patch = json!({ "metadata": { "uid": pod.uid() }, "status": status });
        let mut wait = Duration::from_millis(50);
        loop {
            let patched =
                self.api(pod).patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
            match patched {
                Ok(_) => return Ok(()),
                // deleted by force
                Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => return Ok(()),
                Err(error) if wait > Duration::from_secs(5) => return Err(error.into()),
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
        }
    }

    async fn run(&self, pod: &Pod, mut told: watch::Receiver<Option<u64>>) -> anyhow::Result<()> {
        let spec = pod.spec.as_ref().context("spec")?;
        let container = spec.containers.first().context("containers")?;
        let image = container.image.clone().unwrap_or_default();
        if image.split([':', '@']).next() != Some(HOST_IMAGE) {
            for (reason, message) in [
                ("ErrImagePull", format!("there is no registry here: only {HOST_IMAGE} can be had, not {image}")),
                ("ImagePullBackOff", format!("Back-off pulling image \"{image}\"")),
            ] {
                let waiting = json!({ "waiting": { "reason": reason, "message": message } });
                self.patch(
                    pod,
                    json!({ "phase": "Pending", "startTime": now(), "containerStatuses": [one(pod, &waiting)] }),
                )
                .await?;
            }
            let _ = told.wait_for(Option::is_some).await;
            return Ok(());
        }
        let folder = self.folder(pod);
        std::fs::create_dir_all(&folder)?;
        let mut env = BTreeMap::new();
        for variable in container.env.iter().flatten() {
            let value = expand(variable.value.as_deref().unwrap_or_default(), &env);
            env.insert(variable.name.clone(), value);
        }
        let words = container.command.iter().chain(&container.args).flatten();
        let command: Vec<String> = words.map(|word| expand(word, &env)).collect();
        let limit = |name: &str| {
            let limits = container.resources.as_ref().and_then(|all| all.limits.as_ref());
            limits.and_then(|limits| limits.get(name)).and_then(|text| crate::kubernetes::milli(&text.0))
        };
        let process = ContainerSpec {
            command,
            env,
            folder: folder.clone(),
            memory_bytes: limit("memory").map(|milli| milli / 1000),
            cpu_milli: limit("cpu"),
        };
        let name = (pod.namespace().unwrap_or_default(), pod.name_any());
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).insert(name, folder.join("log"));
        let began = now();
        let program = process.command.first().cloned().unwrap_or_default();
        if !program_exists(&program, Path::new("/")) {
            let why = format!("exec: \"{program}\": executable file not found in $PATH");
            let ended = Ended { exit_code: 128, oom: false };
            return self.patch(pod, over(pod, &began, ended, Some(("StartError", &why)))).await;
        }
        let mut running = Container::start(&process, &self.controllers, &pod.uid().unwrap_or_default())?;
        let deadline = spec.active_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(deadline.unwrap_or(u64::from(u32::MAX)));
        let state = json!({ "running": { "startedAt": began } });
        let status = json!({
            "phase": "Running", "startTime": began, "hostIP": "127.0.0.1", "podIP": "127.0.0.1",
            "conditions": conditions("True"), "containerStatuses": [one(pod, &state)],
        });
        // the process runs meanwhile; its end is told after its beginning
        let begun = self.patch(pod, status);
        let mut late = false;
        let life = async {
            let asked = tokio::select! {
                status = running.wait() => return status,
                asked = told.wait_for(Option::is_some) => asked.ok().and_then(|asked| *asked).unwrap_or(0),
                () = tokio::time::sleep_until(deadline) => {
                    late = true;
                    u64::try_from(spec.termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0)
                }
            };
            let mut grace = asked;
            let since = tokio::time::Instant::now();
            if grace > 0 {
                running.terminate();
            }
            loop {
                tokio::select! {
                    status = running.wait() => return status,
                    () = tokio::time::sleep_until(since + Duration::from_secs(grace)) => return running.kill().await,
                    sooner = told.changed() => match sooner {
                        Ok(()) => grace = told.borrow_and_update().unwrap_or(grace).min(grace),
                        Err(_) => grace = 0,
                    },
                }
            }
        };
        let (begun, status) = tokio::join!(begun, life);
        begun?;
        let ended = running.end(status?).await;
        let mut end = over(pod, &began, ended, None);
        if late {
            end["phase"] = json!("Failed");
            end["reason"] = json!("DeadlineExceeded");
            end["message"] = json!("Pod was active on the node longer than the specified deadline");
        }
        self.patch(pod, end).await
    }
}

fn conditions(ready: &str) -> Value {
    let at = now();
    let one = |kind: &str, status: &str| json!({ "type": kind, "status": status, "lastTransitionTime": at });
    json!([one("Initialized", "True"), one("Ready", ready), one("ContainersReady", ready), one("PodScheduled", "True")])
}

/// The status of the pod's container.
fn one(pod: &Pod, state: &Value) -> Value {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let (name, image) =
        container.map_or_else(Default::default, |one| (one.name.clone(), one.image.clone().unwrap_or_default()));
    let running = state.get("running").is_some();
    json!({ "name": name, "image": image, "imageID": "", "restartCount": 0, "ready": running, "started": running, "state": state })
}

/// The last status of a pod.
fn over(pod: &Pod, began: &str, ended: Ended, why: Option<(&str, &str)>) -> Value {
    let well = ended.exit_code == 0;
    let plain = if ended.oom {
        "OOMKilled"
    } else if well {
        "Completed"
    } else {
        "Error"
    };
    let (reason, message) = why.unwrap_or((plain, ""));
    let state = json!({ "terminated": {
        "exitCode": ended.exit_code, "reason": reason, "message": message, "startedAt": began, "finishedAt": now(),
    } });
    json!({
        "phase": if well { "Succeeded" } else { "Failed" }, "startTime": began, "conditions": conditions("False"),
        "containerStatuses": [one(pod, &state)],
    })
}
