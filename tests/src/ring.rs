//! A ring of real nodes for a test: each with its own folder, keys and ports, founded and joined as operators do it.
//!
//! Tests wait on conditions with a limit and never for a time. The folder of a ring whose test failed stays, and its path is
//! printed: the nodes' logs lie in it.

use anyhow::{Context as _, anyhow, bail};
use node::cli::{CliError, Client, Extra};
use node::lab::process::NodeProcess;
use serde_json::{Value, json};
use std::future::Future;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Long enough for anything that happens at all on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// GB/T 2260 codes, so that neighbours stand in different cities.
const CITIES: [&str; 7] = ["G110100", "G210200", "G330700", "G440100", "G310100", "G510100", "G420100"];

/// How the nodes of a ring differ from the plainest ones.
#[derive(Debug, Clone)]
pub struct RingOptions {
    /// How many nodes.
    pub nodes: usize,
    /// The backend of the pools: `local`, `fake`, or a plugin that `extra` names.
    pub backend: &'static str,
    /// Servers in each node's pool, each with 8 cores.
    pub servers: u32,
    /// Gives each node a disk of its own of so many MiB (a tmpfs at its data folder), which takes the right to mount.
    pub disk_mib: Option<u32>,
    /// Whether the first node's servers have no chips: what needs one must run elsewhere.
    pub first_without_chips: bool,
    /// More configuration: whole sections or keys of sections that are not set here. `{dir}` stands for the data folder.
    pub extra: String,
    /// The same for each node alone, by its place.
    pub each: Vec<String>,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            backend: "local",
            servers: 4,
            disk_mib: None,
            first_without_chips: false,
            extra: String::new(),
            each: Vec::new(),
        }
    }
}

/// A ring; its nodes are killed when it is dropped.
#[derive(Debug)]
pub struct Ring {
    /// The nodes, by their place in the ring's founding.
    pub nodes: Vec<NodeProcess>,
    disks: Vec<Disk>,
    folder: Option<TempDir>,
    _turn: Option<tokio::sync::SemaphorePermit<'static>>,
}

/// Rings that run at one time in this process: more would only make every limit a matter of luck.
static TURNS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

impl Ring {
    /// Founds a ring and waits until it is ready.
    ///
    /// # Errors
    /// A node did not start or join; the end of its log is in the error.
    pub async fn start(options: RingOptions) -> anyhow::Result<Self> {
        // two providers are in the tree; it is no error if another test chose already
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("causeway-ring-").tempdir()?;
        let turn = TURNS.acquire().await?;
        // runs under user ids of their own must be able to walk into the folder
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        let binary = binary("causeway")?;
        let mut ring = Self { nodes: Vec::new(), disks: Vec::new(), folder: None, _turn: Some(turn) };
        for at in 0..options.nodes {
            let name = format!("r{at}");
            let dir = folder.path().join(&name);
            let config = dir.with_extension("toml");
            std::fs::write(&config, config_text(at, &dir, &options)?)?;
            if let Some(mib) = options.disk_mib {
                ring.disks.push(Disk::mount(&dir, mib)?);
            }
            ring.nodes.push(NodeProcess::new(&binary, &name, &dir, &config));
        }
        ring.folder = Some(folder);
        node::lab::found(&ring.nodes[0], &enterprise(0))?;
        ring.nodes[0].start()?;
        ring.ready(0).await?;
        for at in 1..ring.nodes.len() {
            ring.join(at).await?;
        }
        ring.all_see_all().await?;
        Ok(ring)
    }

    async fn join(&mut self, at: usize) -> anyhow::Result<()> {
        let shell = node::lab::process::Shell::new(&binary("causeway")?, &self.nodes[0].data_dir);
        let spec = node::lab::ring::RegionSpec {
            name: format!("r{at}").parse()?,
            title: String::new(),
            config: self.nodes[at].config.clone(),
            enterprise: enterprise(at),
            latitude: 0.0,
            longitude: 0.0,
        };
        node::lab::join(&shell, &self.nodes[at], &spec).await?;
        self.nodes[at].start()?;
        self.ready(at).await
    }

    /// Waits until a node says that it is ready.
    ///
    /// # Errors
    /// It does not within [`PATIENCE`], or it ended.
    pub async fn ready(&mut self, at: usize) -> anyhow::Result<()> {
        let client = self.nodes[at].wait_up(PATIENCE).await?;
        let ready = until(PATIENCE, || async { client.readiness().await.is_ok_and(|state| state["ready"] == true) });
        match ready.await {
            Ok(()) => Ok(()),
            Err(_) => {
                let state = client.readiness().await.unwrap_or_default();
                bail!("{} is not ready: {state}\n{}", self.nodes[at].region, self.nodes[at].last_words())
            }
        }
    }

    /// Waits until every node is connected to every other and knows its pools.
    ///
    /// # Errors
    /// They do not within [`PATIENCE`].
    pub async fn all_see_all(&self) -> anyhow::Result<()> {
        let wanted = self.nodes.len();
        for at in 0..wanted {
            let client = self.client(at)?;
            let sees = until(PATIENCE, || async {
                let members = client.get("/v1/members", vec![]).await.unwrap_or_default();
                let pools = client.get("/v1/pools", vec![]).await.unwrap_or_default();
                let near =
                    items(&members).iter().filter(|m| m["connection"] != "away" && m["state"] == "active").count();
                near >= wanted && items(&pools).iter().filter(|pool| pool["stale"] != true).count() >= wanted
            });
            sees.await.with_context(|| {
                format!("{} does not see all others:\n{}", self.nodes[at].region, self.nodes[at].last_words())
            })?;
        }
        Ok(())
    }

    /// A client of one node.
    ///
    /// # Errors
    /// The node does not run.
    pub fn client(&self, at: usize) -> anyhow::Result<Client> {
        self.nodes[at].client(Duration::from_secs(20))
    }

    /// `kill -9`, then a new start, and waits until it is ready.
    ///
    /// # Errors
    /// It does not come back.
    pub async fn kill_and_restart(&mut self, at: usize) -> anyhow::Result<()> {
        self.nodes[at].kill()?;
        self.nodes[at].start()?;
        self.ready(at).await
    }

    /// Which node leads the registry, as the others see it.
    ///
    /// # Errors
    /// There is none within [`PATIENCE`].
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let begin = Instant::now();
        loop {
            for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
                let Ok(client) = node.client(Duration::from_secs(2)) else { continue };
                let status = client.get("/v1/registry", vec![]).await.unwrap_or_default();
                let leader = status["leader_region"].as_str().unwrap_or_default();
                let found = self.nodes.iter().position(|node| node.region == leader && node.pid().is_some());
                if let Some(at) = found {
                    return Ok(at);
                }
            }
            if begin.elapsed() > PATIENCE {
                bail!("nobody leads the registry");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The folder with everything.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until dropped").path()
    }

    /// Leaves the folder on the disk and says where.
    pub fn keep(&mut self) -> PathBuf {
        let path = self.folder().to_owned();
        if let Some(folder) = self.folder.take() {
            let kept = folder.keep();
            self.folder = tempfile::tempdir().ok();
            return kept;
        }
        path
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
        }
        if let Some(folder) = &self.folder {
            kill_runs_below(folder.path());
        }
        self.disks.clear();
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the nodes' logs and disks are kept in {}", folder.keep().display());
        }
    }
}

/// A small disk: a tmpfs that is there until this is dropped.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts an empty disk of `mib` MiB at `at`.
    ///
    /// # Errors
    /// The system does not let this process mount.
    pub fn mount(at: &Path, mib: u32) -> anyhow::Result<Self> {
        use nix::mount::{MsFlags, mount};
        std::fs::create_dir_all(at)?;
        let size = format!("size={mib}m,mode=0700");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .context("mounting a small disk")?;
        Ok(Self { at: at.to_owned() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Ends supervisors and runs that a killed node left, so that a test leaves no process behind.
fn kill_runs_below(folder: &Path) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let inside = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let named = String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy());
        if (inside || named) && pid != std::process::id() as i32 {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// A program of this workspace, from the folder that cargo builds into.
///
/// # Errors
/// It was not built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let found = me.ancestors().skip(1).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run `make build` first"))
}

/// The code under which node `at` may register.
pub fn enterprise(at: usize) -> String {
    format!("PTESTR{at:03}")
}

/// The `number`th identifier of node `at`: a GPU with its own serial number.
pub fn identifier(at: usize, number: u64) -> String {
    identifier_of(at, number, 1010)
}

/// As [`identifier`], of a machine with so many PFLOPS of FP16.
pub fn identifier_of(at: usize, number: u64, petaflops: u32) -> String {
    let text = format!(
        "cpi:1:{}-GI6450-{}-B01.IC-CT-{petaflops}PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A{at}/GPU/NVH800S80/S{number:012}",
        enterprise(at),
        CITIES[at % CITIES.len()]
    );
    cpi::identifier::Cpi::seal(&text).expect("it follows the grammar").as_str().to_owned()
}

fn config_text(at: usize, dir: &Path, options: &RingOptions) -> anyhow::Result<String> {
    let port = free_port()?;
    let RingOptions { backend, servers, extra, each, .. } = options;
    let chips = !(options.first_without_chips && at == 0);
    let chip = if chips { "chip = { model = \"NVH800S80\", kind = \"GPU\" }" } else { "" };
    let chip_milli = if chips { 8000 } else { 0 };
    let own = each.get(at).map_or("", String::as_str).replace("{dir}", &dir.display().to_string());
    let extra = extra.replace("{dir}", &dir.display().to_string());
    Ok(format!(
        r#"{extra}
{own}
[region]
name = "r{at}"
city = "{city}"
country = "CN"
[node]
worker_threads = 2
[data]
dir = "{dir}"
free_bytes_min = 1048576
ballast_bytes = {ballast}
[http]
listen = "127.0.0.1:0"
[mesh]
listen = ["/ip4/127.0.0.1/udp/{port}/quic-v1", "/ip4/127.0.0.1/tcp/{port}"]
[adapters.fake]
enabled = true
[[pools]]
name = "main"
backend = "{backend}"
class = "GC"
identifiers = ["{identifier}"]
firmness = "held"
price = {{ currency = "CNY", cpu_core_hour_micro = {price}, memory_gib_hour_micro = 1000, chip_hour_micro = 1000000 }}
[[pools.classes]]
name = "std-8"
cpu_model = "INX8480P"
{chip}
servers = {servers}
per_server = {{ cpu_milli = 8000, memory_bytes = 34359738368, storage_bytes = 214748364800, chip_milli = {chip_milli} }}
"#,
        city = CITIES[at % CITIES.len()],
        dir = dir.display(),
        identifier = identifier(at, 0),
        price = 100_000,
        ballast = if options.disk_mib.is_some() { 32 << 20 } else { 0 },
    ))
}

/// A port that is free for UDP and TCP now.
fn free_port() -> anyhow::Result<u16> {
    for _ in 0..64 {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let port = udp.local_addr()?.port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free for both UDP and TCP")
}

/// Waits until `condition` holds.
///
/// # Errors
/// It does not within `limit`.
pub async fn until<F: Future<Output = bool>>(limit: Duration, mut condition: impl FnMut() -> F) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !condition().await {
        if begin.elapsed() > limit {
            bail!("not within {limit:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The list in a page.
pub fn items(page: &Value) -> Vec<Value> {
    page["items"].as_array().cloned().unwrap_or_default()
}

/// A document that runs `script` in a shell and brings `out` back, in one of `regions` (in any, if empty).
pub fn shell_task(name: &str, script: &str, regions: &[&str]) -> Value {
    json!({
        "name": name,
        "command": ["/bin/sh", "-c", script],
        "resources": { "cpu": "100m", "memory": "64 MiB", "storage": "1 MiB" },
        "placement": { "regions": regions },
        "outputs": [{ "path": "out" }],
        "max_runtime": "60s",
        "retry": { "max_attempts": 10 },
    })
}

/// Submits a document; a connection that breaks is an error, as it is for a person.
///
/// # Errors
/// The node's problem, or that it cannot be reached.
pub async fn submit(client: &Client, document: &Value, key: &str) -> Result<Value, CliError> {
    let extra =
        Extra { body: Some(document.clone()), headers: vec![("idempotency-key", key.to_owned())], ..Extra::default() };
    client.call(reqwest::Method::POST, "/v1/tasks", extra).await
}

/// Waits for the end of a task and returns it.
///
/// # Errors
/// It does not end within `limit`; where it stands and its history are in the error.
pub async fn ended(client: &Client, id: &str, limit: Duration) -> anyhow::Result<Value> {
    let path = format!("/v1/tasks/{id}");
    let begin = Instant::now();
    loop {
        let task = client.get(&path, vec![]).await.map_err(|error| anyhow!("{error}"));
        if let Ok(task) = &task
            && ["succeeded", "failed", "cancelled"].contains(&task["state"].as_str().unwrap_or_default())
        {
            return Ok(task.clone());
        }
        if begin.elapsed() > limit {
            let events = history(client, id).await.unwrap_or_default();
            bail!("task {id} has not ended within {limit:?}: {task:?}\n{}", events.join("\n"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The kinds of a task's events, each with its region and reason.
///
/// # Errors
/// The node does not answer.
pub async fn history(client: &Client, id: &str) -> anyhow::Result<Vec<String>> {
    let query = vec![("limit", Some("1000".to_owned()))];
    let page = client.get(&format!("/v1/tasks/{id}/events"), query).await.map_err(|error| anyhow!("{error}"))?;
    Ok(items(&page)
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            let reason = event["reason"]["code"].as_str().unwrap_or_default();
            format!("{} {} {} {reason} {}", text("kind"), text("region"), text("fence"), text("detail"))
        })
        .collect())
}

/// The content of a task's output, from the node that `client` talks to.
///
/// # Errors
/// There is none, or it cannot be had.
pub async fn output(client: &Client, task: &Value, path: &str) -> anyhow::Result<Vec<u8>> {
    use futures::TryStreamExt as _;
    let artifacts = task["artifacts"].as_array().cloned().unwrap_or_default();
    let artifact = artifacts.iter().find(|artifact| artifact["path"] == path);
    let digest = artifact.and_then(|artifact| artifact["digest"].as_str());
    let digest = digest.with_context(|| format!("no output {path} in {task}"))?;
    let (_, pieces) =
        client.bytes(&format!("/v1/artifacts/{digest}"), vec![]).await.map_err(|error| anyhow!("{error}"))?;
    let pieces: Vec<bytes::Bytes> = pieces.try_collect().await.map_err(|error| anyhow!("{error}"))?;
    Ok(pieces.concat())
}

/// Runs the command line against a data folder and returns its output.
///
/// # Errors
/// It cannot be started.
pub fn causeway(data_dir: &Path, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
    let mut command = Command::new(binary("causeway")?);
    command.arg("--data-dir").arg(data_dir).args(arguments);
    for name in ["CAUSEWAY_ADDR", "CAUSEWAY_TOKEN", "CAUSEWAY_CONTEXT"] {
        command.env_remove(name);
    }
    Ok(command.output()?)
}
