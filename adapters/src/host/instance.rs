//! One process of a plugin: started, spoken to, watched over, ended.

use super::config::{Limits, PluginSpec, ProgramSpec, Timing};
use super::output::Output;
use super::{lock, program};
use crate::contract::{AdapterDescription, AdapterHealth};
use crate::resources::Capabilities;
use crate::wire::proto::adapter_client::AdapterClient;
use crate::wire::{
    MESSAGE_BYTES_MAX, PROTOCOL_MACHINES, PROTOCOL_MAX, PROTOCOL_MIN, SOCKET_VARIABLE, agree, fault_of, proto,
    status_of,
};
use cpi::resource::PoolSpec;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Between a polite end and a kill.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Between two looks for the socket of a process that is starting.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Answers in a row that the protocol does not allow, after which the process is replaced.
const STRIKES_MAX: u32 = 3;
/// Heartbeats over which processor time is averaged.
const CPU_WINDOW: usize = 10;
/// How often a program is tried again that is still open for writing somewhere.
const BUSY_TRIES_MAX: u32 = 50;
/// Notes of health kept, and their length.
const NOTES_MAX: usize = 16;

pub(super) type Client = AdapterClient<Channel>;

/// What a process needs to be started.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) spec: Arc<PluginSpec>,
    pub(super) pools: Vec<PoolSpec>,
    pub(super) timing: Timing,
    pub(super) programs_dir: PathBuf,
    pub(super) sockets_dir: PathBuf,
    pub(super) output: Arc<Output>,
    pub(super) node_version: String,
    pub(super) credentials: super::remote::Credentials,
    /// Where the runners of its jobs report.
    pub(super) desk: Option<super::by_runner::DeskLink>,
}

/// Why a process did not come up. `for_good` means that starting it again will not help.
#[derive(Debug, Clone)]
pub(super) struct StartFailed {
    pub(super) why: String,
    pub(super) for_good: bool,
}

impl StartFailed {
    fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), for_good: false }
    }

    fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), for_good: true }
    }
}

/// What the plugin said of itself in its handshake.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) backend: String,
    pub(super) version: String,
    pub(super) exclusive: bool,
    pub(super) config_schema: serde_json::Value,
}

pub(super) struct Instance {
    pub(super) number: u64,
    pub(super) pid: u32,
    pub(super) hello: Hello,
    pub(super) started: Instant,
    /// Counts the calls that are under way.
    pub(super) calls: TaskTracker,
    client: Client,
    setting: Setting,
    about: OnceLock<(AdapterDescription, Capabilities)>,
    health: Mutex<AdapterHealth>,
    missed: AtomicU32,
    unready: AtomicU32,
    strikes: AtomicU32,
    shared: Arc<Shared>,
}

/// What the reaper and the instance share.
struct Shared {
    /// Asks for the end.
    stop: CancellationToken,
    /// Asks for it at once.
    kill: CancellationToken,
    /// Set once the process is gone.
    gone: CancellationToken,
    why: OnceLock<String>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Instance {
    /// Starts the process and agrees on a protocol. The backend is not open yet.
    pub(super) async fn start(setting: &Setting, program: &ProgramSpec, number: u64) -> Result<Arc<Self>, StartFailed> {
        let deadline = tokio::time::Instant::now() + setting.timing.start();
        let (from, folder) = (program.clone(), setting.programs_dir.clone());
        let copy = tokio::task::spawn_blocking(move || program::secure(&from, &folder))
            .await
            .map_err(|error| StartFailed::passing(error.to_string()))?
            .map_err(StartFailed::for_good)?;
        let socket = setting.sockets_dir.join(format!("{}-{number}", setting.spec.name));
        let (child, shared) = spawn(setting, program, &copy, &socket, number).await?;
        let pid = child.id().unwrap_or_default();
        limit_files(pid, setting.spec.limits);
        tokio::spawn(reap(child, Arc::clone(&shared), socket.clone()));
        // ends the process if the start is given up in any way
        let guard = shared.stop.clone().drop_guard();
        let started = async {
            let client = connect(&socket, &shared, &setting.output).await?;
            let hello = handshake(client.clone(), setting, number).await?;
            Ok((client, hello))
        };
        let (client, hello) = tokio::select! {
            started = tokio::time::timeout_at(deadline, started) => started.map_err(|_| {
                StartFailed::passing(format!("it did not answer the handshake within {} ms", setting.timing.start_ms))
            })??,
            () = shared.gone.cancelled() => return Err(StartFailed::passing(last_words(&shared, &setting.output))),
        };
        let _ = guard.disarm();
        Ok(Arc::new(Self {
            number,
            pid,
            hello,
            started: Instant::now(),
            calls: TaskTracker::new(),
            client,
            setting: setting.clone(),
            about: OnceLock::new(),
            health: Mutex::new(AdapterHealth { ready: false, notes: vec!["not open yet".to_owned()] }),
            missed: AtomicU32::new(0),
            unready: AtomicU32::new(0),
            strikes: AtomicU32::new(0),
            shared,
        }))
    }

    /// Opens the backend and waits until it is healthy.
    pub(super) async fn open(&self) -> Result<(), StartFailed> {
        let opened = tokio::time::timeout(self.setting.timing.start(), self.configure());
        tokio::select! {
            opened = opened => opened.unwrap_or_else(|_| {
                let within = self.setting.timing.start_ms;
                Err(StartFailed::passing(format!("it was not healthy within {within} ms")))
            }),
            () = self.gone() => Err(StartFailed::passing(last_words(&self.shared, &self.setting.output))),
        }
    }

    async fn configure(&self) -> Result<(), StartFailed> {
        let said = |verb: &'static str| {
            move |status: Status| match fault_of(&status) {
                Some(error) if error.retryable => StartFailed::passing(format!("{verb}: {error}")),
                Some(error) => StartFailed::for_good(format!("{verb}: {error}")),
                None => StartFailed::passing(format!("{verb}: {}", status_text(&status))),
            }
        };
        let mut client = self.client();
        let request = proto::ConfigureRequest {
            config_json: self.setting.spec.config.to_string(),
            pools: self.setting.pools.iter().cloned().map(Into::into).collect(),
        };
        let request =
            self.setting.credentials.attach(request).map_err(|why| StartFailed::passing(why.reason.detail))?;
        client.configure(request).await.map_err(said("configure"))?;
        let about = client.describe(proto::DescribeRequest {}).await.map_err(said("describe"))?.into_inner();
        let wrong = |error: crate::wire::WireError| StartFailed::for_good(format!("describe: {error}"));
        let machines = self.hello.protocol >= PROTOCOL_MACHINES;
        let can = Capabilities {
            reserves: machines && about.reserves,
            provisions: machines && about.provisions,
            streams_inventory: machines && about.streams_inventory,
            exclusive: self.hello.exclusive,
            by_runner: machines && about.by_runner,
        };
        let mut about = AdapterDescription::try_from(&about).map_err(wrong)?;
        // pools name the plugin, not the kind of its backend
        about.backend.clone_from(&self.setting.spec.name);
        let _ = self.about.set((about, can));
        loop {
            let health = self.ask_health().await.map_err(said("health"))?;
            if health.ready {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY * 5).await;
        }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn about(&self) -> Option<&(AdapterDescription, Capabilities)> {
        self.about.get()
    }

    pub(super) fn health(&self) -> AdapterHealth {
        lock(&self.health).clone()
    }

    /// Whether its last heartbeat was in time.
    pub(super) fn is_steady(&self) -> bool {
        self.missed.load(Ordering::Relaxed) == 0
    }

    /// Heartbeats in a row at which it said that it was not ready.
    pub(super) fn unready(&self) -> u32 {
        self.unready.load(Ordering::Relaxed)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.shared.gone.is_cancelled()
    }

    /// Returns once the process is gone.
    pub(super) async fn gone(&self) {
        self.shared.gone.cancelled().await;
    }

    /// Why it is gone.
    pub(super) fn why(&self) -> String {
        last_words(&self.shared, &self.setting.output)
    }

    /// Ends it politely.
    pub(super) fn stop(&self, why: &str) {
        let _ = self.shared.why.set(why.to_owned());
        self.shared.stop.cancel();
    }

    /// Ends it at once, because of what it did.
    pub(super) fn fail(&self, why: String) {
        let _ = self.shared.why.set(why);
        self.shared.kill.cancel();
    }

    /// It answered as the protocol allows.
    pub(super) fn answered(&self) {
        self.strikes.store(0, Ordering::Relaxed);
    }

    /// It answered what the protocol does not allow.
    pub(super) fn strike(&self, what: &str) {
        if self.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES_MAX {
            self.fail(format!("it broke the protocol {STRIKES_MAX} times in a row: {what}"));
        }
    }

    async fn ask_health(&self) -> Result<AdapterHealth, Status> {
        let request = self.setting.credentials.attach(proto::HealthRequest {}).map_err(|error| status_of(&error))?;
        let reply = self.client().health(request).await?.into_inner();
        let mut health =
            AdapterHealth::try_from(reply).map_err(|error| Status::internal(format!("health: {error}")))?;
        health.notes.truncate(NOTES_MAX);
        lock(&self.health).clone_from(&health);
        let unready = if health.ready { 0 } else { self.unready() + 1 };
        self.unready.store(unready, Ordering::Relaxed);
        Ok(health)
    }

    /// Heartbeats and limits, until the process is gone.
    pub(super) async fn care(&self) {
        let timing = &self.setting.timing;
        let mut beats = tokio::time::interval(timing.heartbeat());
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut used: std::collections::VecDeque<(Instant, u64)> = std::collections::VecDeque::new();
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = self.gone() => return,
            }
            match tokio::time::timeout(timing.heartbeat(), self.ask_health()).await {
                Ok(Ok(_)) => self.missed.store(0, Ordering::Relaxed),
                Ok(Err(status)) if breaks_protocol(&status) => {
                    self.strike(&format!("health: {}", status_text(&status)));
                }
                _ => {
                    let missed = self.missed.fetch_add(1, Ordering::Relaxed) + 1;
                    if missed >= timing.heartbeats_missed_max.max(1) {
                        self.fail(format!("{missed} heartbeats in a row were missed: it hangs"));
                    }
                }
            }
            if let Some(why) = over_limits(self.pid, self.setting.spec.limits, &mut used) {
                self.fail(why);
            }
        }
    }
}

async fn spawn(
    setting: &Setting,
    program: &ProgramSpec,
    copy: &Path,
    socket: &Path,
    number: u64,
) -> Result<(Child, Arc<Shared>), StartFailed> {
    let mut command = Command::new(copy);
    command
        .arg0(&program.path)
        .args(&program.args)
        .env_clear()
        .env(SOCKET_VARIABLE, socket)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // a ^C at the node's terminal is for the node
        .process_group(0)
        .kill_on_drop(true);
    let mut tries = 0;
    let mut child = loop {
        match command.spawn() {
            // a process that another thread is starting may hold the fresh copy open for a moment
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            spawned => {
                break spawned.map_err(|error| {
                    StartFailed::passing(format!("{} cannot be run: {error}", program.path.display()))
                })?;
            }
        }
    };
    if let Some(stream) = child.stdout.take() {
        tokio::spawn(Arc::clone(&setting.output).follow(format!("#{number} stdout"), stream));
    }
    if let Some(stream) = child.stderr.take() {
        tokio::spawn(Arc::clone(&setting.output).follow(format!("#{number} stderr"), stream));
    }
    let shared = Shared {
        stop: CancellationToken::new(),
        kill: CancellationToken::new(),
        gone: CancellationToken::new(),
        why: OnceLock::new(),
    };
    Ok((child, Arc::new(shared)))
}

fn limit_files(pid: u32, limits: Limits) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let set = |resource, limit| {
        let limit = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
        if let Err(error) = rustix::process::prlimit(pid, resource, limit) {
            tracing::warn!(%error, ?resource, "a limit of a plugin cannot be set");
        }
    };
    if pid.is_some() {
        // a core file would hold credentials
        set(rustix::process::Resource::Core, 0);
        if limits.files > 0 {
            set(rustix::process::Resource::Nofile, limits.files);
        }
    }
}

/// Waits for the process's end, or brings it about.
async fn reap(mut child: Child, shared: Arc<Shared>, socket: PathBuf) {
    // waiting for a child closes its input, which would tell it that the node is gone
    let lifeline = child.stdin.take();
    let status = tokio::select! {
        biased;
        status = child.wait() => status,
        () = shared.kill.cancelled() => {
            let _ = child.start_kill();
            child.wait().await
        }
        () = shared.stop.cancelled() => {
            drop(lifeline);
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            }
            tokio::select! {
                status = child.wait() => status,
                () = async { tokio::time::sleep(STOP_GRACE).await; } => {
                    let _ = child.start_kill();
                    child.wait().await
                }
            }
        }
    };
    let ended = match status {
        Ok(status) => format!("its process ended: {status}"),
        Err(error) => format!("its process cannot be waited for: {error}"),
    };
    let _ = shared.why.set(ended);
    shared.gone.cancel();
    let _ = std::fs::remove_file(socket);
}

fn last_words(shared: &Shared, output: &Output) -> String {
    let why = shared.why.get().cloned().unwrap_or_else(|| "its process ended".to_owned());
    match output.tail(1).pop() {
        Some(line) if why.starts_with("its process ended") => format!("{why}; its last line: {line}"),
        _ => why,
    }
}

async fn connect(socket: &Path, shared: &Shared, output: &Output) -> Result<Client, StartFailed> {
    let endpoint = Endpoint::from_static("http://plugin.invalid");
    loop {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        if socket.exists()
            && let Ok(channel) = endpoint.connect_with_connector(connector).await
        {
            return Ok(AdapterClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX));
        }
        if shared.gone.is_cancelled() {
            return Err(StartFailed::passing(last_words(shared, output)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn handshake(mut client: Client, setting: &Setting, number: u64) -> Result<Hello, StartFailed> {
    let request = proto::HandshakeRequest {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        node_version: setting.node_version.clone(),
        instance: format!("{}#{number}", setting.spec.name),
    };
    let reply = client
        .handshake(request)
        .await
        .map_err(|status| StartFailed::passing(format!("handshake: {}", status_text(&status))))?
        .into_inner();
    let ours = (PROTOCOL_MIN, PROTOCOL_MAX);
    let common = agree(ours, (reply.protocol_min, reply.protocol_max));
    let Some(protocol) = common.filter(|protocol| *protocol == reply.protocol) else {
        return Err(StartFailed::for_good(format!(
            "it speaks plugin protocol {} to {} (and chose {}), this node {PROTOCOL_MIN} to {PROTOCOL_MAX}: install a \
             plugin of this release",
            reply.protocol_min, reply.protocol_max, reply.protocol
        )));
    };
    let config_schema = serde_json::from_str(&reply.config_schema_json)
        .map_err(|error| StartFailed::for_good(format!("handshake: config_schema_json is not JSON: {error}")))?;
    let short = |text: String| text.chars().filter(|c| !c.is_control()).take(64).collect();
    Ok(Hello {
        protocol,
        backend: short(reply.backend),
        version: short(reply.version),
        exclusive: reply.exclusive,
        config_schema,
    })
}

/// Whether the answer itself was wrong, in contrast to none.
pub(super) fn breaks_protocol(status: &Status) -> bool {
    !matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::DataLoss)
        && !is_lost(status)
}

/// Whether the connection was lost under the call.
pub(super) fn is_lost(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::transport::Error>() || error.is::<std::io::Error>() {
            return true;
        }
        source = error.source();
    }
    status.code() == Code::Unavailable
}

/// A status for people, without control characters, cut.
pub(super) fn status_text(status: &Status) -> String {
    let said: String = status.message().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    format!("{:?}: {said}", status.code())
}

fn over_limits(pid: u32, limits: Limits, used: &mut std::collections::VecDeque<(Instant, u64)>) -> Option<String> {
    let process = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?;
    let stat = process.stat().ok()?;
    let resident = stat.rss.saturating_mul(procfs::page_size());
    if limits.memory_bytes > 0 && resident > limits.memory_bytes {
        return Some(format!(
            "it holds {} MiB of memory, and limits.memory_bytes allows {} MiB",
            resident >> 20,
            limits.memory_bytes >> 20
        ));
    }
    let cpu_ms = (stat.utime + stat.stime).saturating_mul(1000) / procfs::ticks_per_second().max(1);
    used.push_back((Instant::now(), cpu_ms));
    if used.len() <= CPU_WINDOW {
        return None;
    }
    let (since, before) = used.pop_front()?;
    let elapsed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let milli = cpu_ms.saturating_sub(before).saturating_mul(1000) / elapsed;
    (limits.cpu_milli > 0 && milli > limits.cpu_milli)
        .then(|| format!("it used {milli} thousandths of a core, and limits.cpu_milli allows {}", limits.cpu_milli))
}
