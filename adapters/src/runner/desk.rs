//! The run desk: where the runners of a node's platforms report, and what the host asks about them.
//!
//! Truth is on disk (`record`); in memory is where each run stands and who is connected. A restart reads the folder again,
//! and runners dial again.

use super::attend::{Attendance, Desk, Refused};
use super::record::{DeskFolder, DeskRecord, Found};
use super::{DeskTicket, MESSAGE_BYTES_MAX, name_of, proto, token};
use crate::contract::{AdapterError, LogChunk, LogStream, RunEnd, RunEvent, RunKey, RunRequest, RunState, Usage};
use crate::host::lock;
use cpi::reason::{Reason, ReasonCode};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Changes that a slow subscriber may lag behind.
const EVENTS_KEPT: usize = 16_384;
/// Between two signs of life of a connection, and how long an answer may take.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Certificates of a desk.
#[derive(Clone)]
pub struct DeskTls {
    /// PEM of the certificate and those between it and the authority.
    pub cert_pem: String,
    /// PEM of its key.
    pub key_pem: String,
    /// PEM of the authority; runners get it with their ticket.
    pub ca_pem: String,
}

/// What a desk is given.
#[derive(Clone)]
pub struct DeskConfig {
    /// Where its records lie; the logs and outputs of all runs until they are removed.
    pub folder: PathBuf,
    /// Where it listens. Beyond loopback it needs `tls`, or `insecure`.
    pub listen: SocketAddr,
    /// How the platforms' machines reach it; absent for the address it listens on.
    pub advertise: Option<String>,
    /// Certificates; absent for plain HTTP.
    pub tls: Option<DeskTls>,
    /// Allows plain HTTP beyond loopback: tokens and data can then be read on the way.
    pub insecure: bool,
    /// Bytes of each log that a run may write.
    pub log_bytes_max: u64,
    /// Bytes of all outputs of a run.
    pub output_bytes_max: u64,
    /// Runs known at once.
    pub runs_max: usize,
    /// How long a runner tries to report after its command ended, in ms.
    pub linger_ms: u64,
    /// How long a run may be known to neither its platform nor a connected runner before it is lost, in ms.
    pub lost_ms: u64,
}

impl DeskConfig {
    /// The defaults, for a desk on loopback.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            tls: None,
            insecure: false,
            log_bytes_max: 64 << 20,
            output_bytes_max: 16 << 30,
            runs_max: 100_000,
            linger_ms: 600_000,
            lost_ms: 60_000,
        }
    }
}

/// Why a desk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// Plain HTTP beyond loopback.
    #[error("desk.listen {listen}: expected a loopback address, or tls, or insecure = true")]
    Insecure {
        /// Where it was to listen.
        listen: SocketAddr,
    },
    /// The address cannot be had.
    #[error("desk.listen {listen} cannot be had")]
    Listen {
        /// Which.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder cannot be used.
    #[error("the desk's folder {path} cannot be used")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("desk.tls: {why}")]
    Tls {
        /// Why.
        why: String,
    },
}

/// A run at the desk.
pub(super) struct Run {
    pub adapter: String,
    pub state: RunState,
    /// Its platform took it.
    pub submitted: bool,
    /// The instance that owns it.
    pub runner: Option<String>,
    /// The connection that speaks for it now.
    pub attended: Option<u64>,
    /// When somebody last attended, or when it was accepted or read.
    pub seen: Instant,
    /// A cancel that was asked for, with its grace in ms.
    pub cancel: Option<u64>,
    /// A renewal that was heard, and when: what is left of it goes into the next welcome.
    pub renewed: Option<(Instant, u64)>,
    /// Tells the connection of cancels and renewals.
    pub control: watch::Sender<u64>,
    /// Held while the end is being written.
    pub ending: Arc<Mutex<()>>,
}

impl Run {
    fn new(adapter: String) -> Self {
        Self {
            adapter,
            state: RunState::Starting,
            submitted: false,
            runner: None,
            attended: None,
            seen: Instant::now(),
            cancel: None,
            renewed: None,
            control: watch::channel(0).0,
            ending: Arc::default(),
        }
    }

    fn from_disk(found: &Found) -> Self {
        let mut run = Self::new(found.record.adapter.clone());
        run.submitted = found.submitted;
        run.runner.clone_from(&found.runner);
        run.state = match &found.end {
            Some(end) => RunState::Ended(end.clone()),
            // until its runner says more
            None if found.runner.is_some() => RunState::Running,
            None => RunState::Starting,
        };
        run
    }
}

/// What the host may know of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeskView {
    /// Where it stands as far as its runner told.
    pub state: RunState,
    /// Whether its runner is connected.
    pub attended: bool,
    /// Whether a runner ever was.
    pub known_runner: bool,
    /// Whether its platform took it.
    pub submitted: bool,
    /// Whether a cancel was asked for.
    pub cancelled: bool,
    /// Since when nobody attends.
    pub silent_for: Duration,
}

pub(super) struct Inner {
    pub config: DeskConfig,
    pub secret: Vec<u8>,
    pub runs: Mutex<BTreeMap<RunKey, Run>>,
    pub events: broadcast::Sender<(String, RunEvent)>,
    /// Somebody came or went, or a run ended.
    pub moved: Notify,
    pub stop: CancellationToken,
    url: String,
}

/// The desk of a node. It ends when it is dropped; runners go on and dial again.
pub struct RunDesk {
    inner: Arc<Inner>,
    address: SocketAddr,
}

impl Drop for RunDesk {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

impl RunDesk {
    /// Opens the folder and listens. Must be used inside a tokio runtime.
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn open(config: DeskConfig) -> Result<Self, DeskError> {
        let listen = config.listen;
        if config.tls.is_none() && !listen.ip().is_loopback() {
            if !config.insecure {
                return Err(DeskError::Insecure { listen });
            }
            tracing::warn!(%listen, "the run desk listens beyond loopback without TLS: tokens and data can be read on the way");
        }
        let folder = |source| DeskError::Folder { path: config.folder.clone(), source };
        let secret = prepare(&config.folder).map_err(folder)?;
        let runs = load(&config.folder).map_err(folder)?;
        let listener = TcpListener::bind(listen).await.map_err(|source| DeskError::Listen { listen, source })?;
        let address = listener.local_addr().map_err(|source| DeskError::Listen { listen, source })?;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let url = config.advertise.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        let mut server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE));
        if let Some(tls) = &config.tls {
            super::choose_crypto();
            let identity = tonic::transport::Identity::from_pem(&tls.cert_pem, &tls.key_pem);
            server = server
                .tls_config(tonic::transport::ServerTlsConfig::new().identity(identity))
                .map_err(|error| DeskError::Tls { why: error.to_string() })?;
        }
        let inner = Arc::new(Inner {
            config,
            secret,
            runs: Mutex::new(runs),
            events: broadcast::channel(EVENTS_KEPT).0,
            moved: Notify::new(),
            stop: CancellationToken::new(),
            url,
        });
        let service = proto::run_desk_server::RunDeskServer::new(Desk(Arc::clone(&inner)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let stop = inner.stop.clone();
        tokio::spawn(async move {
            let serving = server.add_service(service).serve_with_incoming(incoming);
            tokio::select! {
                served = serving => if let Err(error) = served {
                    tracing::error!(%error, "the run desk ended");
                },
                () = stop.cancelled() => {}
            }
        });
        Ok(Self { inner, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a job has to hand to its runner.
    pub fn ticket(&self, key: &RunKey) -> DeskTicket {
        let run = name_of(key);
        DeskTicket {
            url: self.inner.url.clone(),
            token: token(&self.inner.secret, &run),
            ca_pem: self.inner.config.tls.as_ref().map(|tls| tls.ca_pem.clone()).unwrap_or_default(),
            linger_ms: self.inner.config.linger_ms,
            run,
        }
    }

    pub(crate) fn lost_after(&self) -> Duration {
        Duration::from_millis(self.inner.config.lost_ms)
    }

    /// Takes a run in; one that is there stays as it is.
    ///
    /// # Errors
    /// `busy` where there are too many, `disk_full` where it cannot be written.
    pub fn accept(&self, adapter: &str, request: &RunRequest) -> Result<(), AdapterError> {
        let mut runs = lock(&self.inner.runs);
        if runs.contains_key(&request.key) {
            return Ok(());
        }
        if runs.len() >= self.inner.config.runs_max {
            let why = format!("the run desk has {} runs: remove ended ones", runs.len());
            return Err(AdapterError::passing(ReasonCode::Busy, why));
        }
        let record = DeskRecord { version: 1, adapter: adapter.to_owned(), request: request.clone() };
        self.folder(&request.key).create(&record).map_err(|error| disk(&error))?;
        runs.insert(request.key, Run::new(adapter.to_owned()));
        Ok(())
    }

    /// The run's platform has taken it.
    ///
    /// # Errors
    /// `disk_full`.
    pub fn submitted(&self, key: &RunKey) -> Result<(), AdapterError> {
        let mut runs = lock(&self.inner.runs);
        let Some(run) = runs.get_mut(key) else { return Ok(()) };
        if !run.submitted {
            self.folder(key).mark_submitted().map_err(|error| disk(&error))?;
            run.submitted = true;
        }
        Ok(())
    }

    /// A run of this adapter.
    pub fn view(&self, adapter: &str, key: &RunKey) -> Option<DeskView> {
        lock(&self.inner.runs).get(key).filter(|run| run.adapter == adapter).map(view)
    }

    /// All runs of an adapter.
    pub fn list(&self, adapter: &str) -> Vec<(RunKey, DeskView)> {
        let runs = lock(&self.inner.runs);
        runs.iter().filter(|(_, run)| run.adapter == adapter).map(|(key, run)| (*key, view(run))).collect()
    }

    /// Changes of all runs, with their adapters' names.
    pub fn watch(&self) -> broadcast::Receiver<(String, RunEvent)> {
        self.inner.events.subscribe()
    }

    /// Returns at the next change of who attends, or of an end.
    pub(crate) fn moved(&self) -> tokio::sync::futures::Notified<'_> {
        self.inner.moved.notified()
    }

    /// Extends the lease. Unknown runs are left to the caller.
    pub fn renew(&self, key: &RunKey, ttl_ms: u64) {
        if let Some(run) = lock(&self.inner.runs).get_mut(key) {
            run.renewed = Some((Instant::now(), ttl_ms));
            run.control.send_modify(|count| *count += 1);
        }
    }

    /// Asks the runner to end its command. A run that no runner ever owned ends at once: whoever comes is sent away.
    ///
    /// # Errors
    /// `disk_full`.
    pub fn cancel(&self, key: &RunKey, grace_ms: u64) -> Result<(), AdapterError> {
        {
            let mut runs = lock(&self.inner.runs);
            let Some(run) = runs.get_mut(key) else { return Ok(()) };
            if matches!(run.state, RunState::Ended(_)) {
                return Ok(());
            }
            run.cancel = Some(run.cancel.map_or(grace_ms, |before| before.min(grace_ms)));
            run.control.send_modify(|count| *count += 1);
            if run.runner.is_some() {
                return Ok(());
            }
        }
        self.settle(key, without_program(Reason::new(ReasonCode::Cancelled, "before it began")))
    }

    /// The run ended, as its platform says. An end that is there stays.
    ///
    /// # Errors
    /// `disk_full`.
    pub fn settle(&self, key: &RunKey, end: RunEnd) -> Result<(), AdapterError> {
        self.inner.end(key, end).map_err(|error| disk(&error))
    }

    /// A piece of a log, as far as it has come.
    ///
    /// # Errors
    /// An unknown run.
    pub fn logs(
        &self,
        key: &RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError> {
        // looked at first: what is written before the end is there when the end is
        let ended = match lock(&self.inner.runs).get(key) {
            Some(run) => matches!(run.state, RunState::Ended(_)),
            None => return Err(AdapterError::fatal(ReasonCode::RunLost, "no run has this key")),
        };
        let path = self.folder(key).log(usize::from(stream == LogStream::Stderr));
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(io::SeekFrom::Start(offset))?;
            file.take(bytes_max as u64).read_to_end(&mut bytes)?;
            Ok(length)
        });
        let length = match read {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(disk(&error)),
        };
        let end = ended && offset.saturating_add(bytes.len() as u64) >= length;
        Ok(LogChunk { offset, bytes, end })
    }

    /// Forgets a run: whoever still attends it is sent away.
    ///
    /// # Errors
    /// `disk_full`.
    pub fn remove(&self, key: &RunKey) -> Result<(), AdapterError> {
        let mut runs = lock(&self.inner.runs);
        self.folder(key).remove().map_err(|error| disk(&error))?;
        // dropping its control ends the connection
        runs.remove(key);
        Ok(())
    }

    fn folder(&self, key: &RunKey) -> DeskFolder {
        DeskFolder::of(&self.inner.config.folder, key)
    }
}

/// An end that no runner told of.
pub(crate) fn without_program(reason: Reason) -> RunEnd {
    RunEnd { exit_code: None, signal: None, reason: Some(reason), usage: Usage::default(), outputs: Vec::new() }
}

fn view(run: &Run) -> DeskView {
    DeskView {
        state: run.state.clone(),
        attended: run.attended.is_some(),
        known_runner: run.runner.is_some(),
        submitted: run.submitted,
        cancelled: run.cancel.is_some(),
        silent_for: run.seen.elapsed(),
    }
}

fn disk(error: &io::Error) -> AdapterError {
    AdapterError::passing(ReasonCode::DiskFull, format!("the run desk: {error}"))
}

/// Makes the folder and reads or draws its secret.
fn prepare(folder: &Path) -> io::Result<Vec<u8>> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    let path = folder.join("secret");
    match std::fs::read(&path) {
        Ok(secret) if secret.len() >= 32 => Ok(secret),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the file `secret` has fewer than 32 bytes")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            let draft = folder.join(".secret.draft");
            let mut file = std::os::unix::fs::OpenOptionsExt::mode(
                std::fs::File::options().create(true).truncate(true).write(true),
                0o600,
            )
            .open(&draft)?;
            io::Write::write_all(&mut file, &secret)?;
            file.sync_all()?;
            std::fs::rename(draft, path)?;
            Ok(secret.to_vec())
        }
        Err(error) => Err(error),
    }
}

fn load(folder: &Path) -> io::Result<BTreeMap<RunKey, Run>> {
    let mut runs = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        match DeskFolder(path.clone()).read() {
            Ok(Some(found)) => drop(runs.insert(found.key, Run::from_disk(&found))),
            // half of one that was being made
            Ok(None) => drop(std::fs::remove_dir_all(&path)),
            Err(error) => {
                tracing::error!(folder = %path.display(), %error, "a run of the desk cannot be read: it is left out")
            }
        }
    }
    Ok(runs)
}

impl Inner {
    pub fn folder(&self, key: &RunKey) -> DeskFolder {
        DeskFolder::of(&self.config.folder, key)
    }

    /// Sets the state of a run that has not ended, and tells.
    pub fn set(&self, key: &RunKey, state: RunState) {
        let mut runs = lock(&self.runs);
        let Some(run) = runs.get_mut(key) else { return };
        if matches!(run.state, RunState::Ended(_)) || run.state == state {
            return;
        }
        run.state = state.clone();
        self.tell(run, *key, state);
    }

    /// Writes the end of a run that has none; on return it has one. Syncs, and holds up nothing but this run.
    pub fn end(&self, key: &RunKey, end: RunEnd) -> io::Result<()> {
        let Some(ending) = lock(&self.runs).get(key).map(|run| Arc::clone(&run.ending)) else { return Ok(()) };
        let _one = lock(&ending);
        match lock(&self.runs).get(key) {
            Some(run) if !matches!(run.state, RunState::Ended(_)) => {}
            _ => return Ok(()),
        }
        self.folder(key).write_end(&end)?;
        let mut runs = lock(&self.runs);
        let Some(run) = runs.get_mut(key) else { return Ok(()) };
        run.state = RunState::Ended(end);
        run.control.send_modify(|count| *count += 1);
        let state = run.state.clone();
        self.tell(run, *key, state);
        self.moved.notify_waiters();
        Ok(())
    }

    fn tell(&self, run: &Run, key: RunKey, state: RunState) {
        // nobody listening is fine
        let _ = self.events.send((run.adapter.clone(), RunEvent { key, state }));
    }

    /// A connection speaks for the run from now on; `Err` says why it may not.
    pub fn attach(&self, key: &RunKey, instance: &str, connection: u64) -> Result<Attendance, Refused> {
        let mut runs = lock(&self.runs);
        let run = runs.get_mut(key).ok_or(Refused::NotWanted("the desk does not know the run"))?;
        if matches!(run.state, RunState::Ended(_)) {
            return Err(Refused::NotWanted("the run has ended"));
        }
        match &run.runner {
            Some(owner) if owner != instance => return Err(Refused::NotWanted("another runner has the run")),
            Some(_) => {}
            None => {
                self.folder(key).bind(instance).map_err(Refused::Disk)?;
                run.runner = Some(instance.to_owned());
            }
        }
        run.attended = Some(connection);
        run.seen = Instant::now();
        let lease_left = run.renewed.map(|(at, ttl_ms)| {
            ttl_ms.saturating_sub(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)).max(1)
        });
        self.moved.notify_waiters();
        Ok(Attendance { control: run.control.subscribe(), lease_ttl_ms: lease_left.unwrap_or(0) })
    }

    pub fn detach(&self, key: &RunKey, connection: u64) {
        if let Some(run) = lock(&self.runs).get_mut(key)
            && run.attended == Some(connection)
        {
            run.attended = None;
            run.seen = Instant::now();
        }
        self.moved.notify_waiters();
    }
}
