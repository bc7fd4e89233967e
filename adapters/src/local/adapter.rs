//! The adapter itself: run folders in, states out. All that it knows in memory it can read again from the folders.

use super::clock;
use super::config::LocalConfig;
use super::folder::{self, Control, Notice, NoticeState, RunFolder, RunRecord};
use super::group::Controllers;
use super::launcher::Launcher;
use super::pids::{Descent, RunPids};
use super::supervisor::LaunchHello;
use super::uids::{self, UidPool};
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEnd, RunEvent, RunKey,
    RunRequest, RunState, RunStatus, Usage,
};
use async_trait::async_trait;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{Firmness, PoolSpec};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// Changes that a slow subscriber may lag behind before it has to ask for the list.
const EVENTS_KEPT: usize = 4096;
/// How often the locks of living runs are looked at, for supervisors that could not say how they ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The largest piece of a log at once.
const LOG_CHUNK_BYTES_MAX: usize = 4 << 20;

/// Why the backend cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLocalError {
    /// The runs folder cannot be used.
    #[error("the runs folder {path} cannot be used")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No user ids for runs.
    #[error("no range of user ids could be claimed for runs")]
    Uids(#[source] io::Error),
}

/// A run as it is known in memory.
#[derive(Debug, Clone)]
struct Known {
    key: RunKey,
    state: RunState,
    uid: Option<u32>,
}

struct Inner {
    config: LocalConfig,
    /// The runs folder, held open so that sockets in it have short names.
    runs_dir: File,
    runs: Mutex<BTreeMap<String, Known>>,
    uids: Mutex<Option<UidPool>>,
    controllers: Controllers,
    launcher: Launcher,
    hello: Mutex<Result<LaunchHello, String>>,
    events: broadcast::Sender<RunEvent>,
    socket: UnixDatagram,
}

/// The `local` backend. Must be made inside a tokio runtime; its background tasks end when it is dropped.
pub struct LocalAdapter {
    inner: Arc<Inner>,
    /// Ends the background task; runs and their supervisors go on.
    _tasks: tokio_util::sync::DropGuard,
}

impl std::fmt::Debug for LocalAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalAdapter").field("runs_dir", &self.inner.config.runs_dir).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl LocalAdapter {
    /// Opens the backend: finds the runs that are there, and starts the launcher.
    ///
    /// # Errors
    /// [`OpenLocalError`]. A launcher that does not start is no error here: [`Adapter::health`] says so.
    pub async fn new(mut config: LocalConfig) -> Result<Self, OpenLocalError> {
        let folder_error = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenLocalError::Folder { path, source }
        };
        let given = config.runs_dir.clone();
        std::fs::create_dir_all(&given).map_err(folder_error(&given))?;
        std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o700)).map_err(folder_error(&given))?;
        config.runs_dir = std::fs::canonicalize(&given).map_err(folder_error(&given))?;
        let uids = if nix::unistd::geteuid().is_root() {
            let range = match config.uids {
                Some(range) => range,
                None => uids::claim(&config.runs_dir).map_err(OpenLocalError::Uids)?,
            };
            Some(UidPool::new(range))
        } else {
            None
        };
        let runs_dir = File::open(&config.runs_dir).map_err(folder_error(&given))?;
        let socket = listen(&runs_dir).map_err(folder_error(&given))?;
        let (notices, heard) = mpsc::unbounded_channel();
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let inner = Arc::new(Inner {
            controllers: Controllers::detect(&config.cgroup_parent),
            launcher: Launcher::new(config.clone(), notices),
            config,
            runs_dir,
            runs: Mutex::default(),
            uids: Mutex::new(uids),
            hello: Mutex::new(Err("not started yet".to_owned())),
            events,
            socket,
        });
        let unstarted = inner.scan().map_err(folder_error(&given))?;
        let hello = inner.launcher.probe().await.map_err(|error| error.to_string());
        *lock(&inner.hello) = hello;
        let cancelled = tokio_util::sync::CancellationToken::new();
        tokio::spawn(cancelled.clone().run_until_cancelled_owned(watch(Arc::clone(&inner), heard)));
        for name in unstarted {
            if let Err(error) = inner.launcher.launch(&name).await {
                tracing::warn!(run = name, %error, "a submitted run could not be started yet");
            }
        }
        Ok(Self { inner, _tasks: cancelled.drop_guard() })
    }

    /// How runs are held on this machine, for `causeway doctor` and the log.
    pub fn notes(&self) -> Vec<String> {
        match &*lock(&self.inner.hello) {
            Ok(hello) => hello.notes.clone(),
            Err(error) => vec![error.clone()],
        }
    }

    /// Where a run's folder lies.
    pub fn folder(&self, key: RunKey) -> PathBuf {
        self.inner.folder(&folder::name_of(&key)).0
    }
}

/// The socket of changes, reached by the folder's descriptor because socket names hold 107 bytes only.
fn listen(runs_dir: &File) -> io::Result<UnixDatagram> {
    let path = PathBuf::from(format!("/proc/self/fd/{}/{}", runs_dir.as_raw_fd(), folder::EVENTS));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Hears of changes, and looks after runs whose supervisor cannot speak any more.
async fn watch(inner: Arc<Inner>, mut heard: mpsc::UnboundedReceiver<Notice>) {
    let socket = match inner.socket.try_clone().and_then(tokio::net::UnixDatagram::from_std) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "no changes of runs can be heard; they are looked for every second");
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                inner.look();
            }
        }
    };
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut buffer = [0; 1024];
    loop {
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let notice = received.ok().and_then(|count| serde_json::from_slice::<Notice>(&buffer[..count]).ok());
                if let Some(notice) = notice {
                    inner.note(&notice);
                }
            }
            Some(notice) = heard.recv() => inner.note(&notice),
            _ = looks.tick() => inner.look(),
        }
    }
}

impl Inner {
    fn folder(&self, name: &str) -> RunFolder {
        RunFolder(self.config.runs_dir.join(name))
    }

    /// Reads all run folders; the names of those that were submitted and never started, and may start now.
    fn scan(&self) -> io::Result<Vec<String>> {
        let mut unstarted = Vec::new();
        for entry in std::fs::read_dir(&self.config.runs_dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if name.starts_with('.') {
                // half made or half removed when the node died
                if let Err(error) = remove_tree(&entry.path()) {
                    tracing::warn!(folder = name, %error, "a leftover folder cannot be removed");
                }
                continue;
            }
            let folder = RunFolder(entry.path());
            let record = match folder.read_record() {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(run = name, %error, "a run folder without a readable request is left alone");
                    continue;
                }
            };
            if let (Some(uid), Some(pool)) = (record.uid, lock(&self.uids).as_mut()) {
                pool.note(uid);
            }
            let state = match folder.read_end() {
                Ok(Some(end)) => RunState::Ended(end),
                Ok(None) if folder.is_supervised() => RunState::Running,
                Ok(None) if folder.supervisor().is_none() && is_fresh(&record) => {
                    unstarted.push(name.clone());
                    RunState::Starting
                }
                Ok(None) => RunState::Ended(self.bury(&name, &record, "its supervisor is gone")),
                Err(error) => {
                    tracing::warn!(run = name, %error, "a run's end cannot be read");
                    RunState::Ended(self.bury(&name, &record, "its end cannot be read"))
                }
            };
            lock(&self.runs).insert(name, Known { key: record.request.key, state, uid: record.uid });
        }
        Ok(unstarted)
    }

    /// Ends what is left of a run without a supervisor, and writes its end down.
    fn bury(&self, name: &str, record: &RunRecord, why: &str) -> RunEnd {
        let mut group = self.controllers.group_of(name);
        if let Some(group) = group.as_mut() {
            group.adopt_freezer();
        }
        // after a reboot the user id may belong to a run of today, and nothing of this one is left
        if record.boot_id == clock::boot_id() {
            let descent = Descent::Marked(&record.request.key);
            RunPids { group: group.as_ref(), uid: record.uid, descent }.kill_all();
            if let Some(group) = &group {
                group.delete();
            }
        }
        let end = RunEnd {
            exit_code: None,
            signal: None,
            reason: Some(Reason::new(ReasonCode::RunLost, why)),
            usage: Usage::default(),
            outputs: Vec::new(),
        };
        if let Err(error) = self.folder(name).write_end(&end) {
            tracing::warn!(run = name, %error, "the end of a lost run cannot be written");
        }
        end
    }

    /// Takes in what a supervisor or the launcher said. The folder is the truth; late and repeated notices are harmless.
    fn note(&self, notice: &Notice) {
        let state = match notice.state {
            NoticeState::Running => RunState::Running,
            NoticeState::Frozen => RunState::Frozen,
            NoticeState::Ended => match self.folder(&notice.run).read_end() {
                Ok(Some(end)) => RunState::Ended(end),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(run = notice.run, %error, "a run's end cannot be read");
                    return;
                }
            },
            NoticeState::Gone => return self.look_at(&notice.run),
        };
        self.change(&notice.run, state);
    }

    fn change(&self, name: &str, state: RunState) {
        let mut runs = lock(&self.runs);
        let Some(known) = runs.get_mut(name) else { return };
        if matches!(known.state, RunState::Ended(_)) || known.state == state {
            return;
        }
        known.state = state.clone();
        let key = known.key;
        drop(runs);
        // nobody listening is fine
        let _ = self.events.send(RunEvent { key, state });
    }

    /// Looks at the locks of all living runs.
    fn look(&self) {
        let living: Vec<String> = lock(&self.runs)
            .iter()
            .filter(|(_, known)| matches!(known.state, RunState::Running | RunState::Frozen))
            .map(|(name, _)| name.clone())
            .collect();
        for name in living {
            if !self.folder(&name).is_supervised() {
                self.look_at(&name);
            }
        }
    }

    /// A run whose supervisor is said to be gone.
    fn look_at(&self, name: &str) {
        let folder = self.folder(name);
        match folder.read_end() {
            Ok(Some(end)) => self.change(name, RunState::Ended(end)),
            Ok(None) if !folder.is_supervised() => {
                // it may have written its end between the two looks
                let end = match folder.read_end() {
                    Ok(Some(end)) => end,
                    _ => match folder.read_record() {
                        Ok(record) => self.bury(name, &record, "its supervisor died"),
                        Err(_) => return,
                    },
                };
                self.change(name, RunState::Ended(end));
            }
            _ => {}
        }
    }

    fn send(&self, name: &str, control: Control) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let path = format!("/proc/self/fd/{}/{name}/{}", self.runs_dir.as_raw_fd(), folder::CONTROL);
        socket.send_to(&serde_json::to_vec(&control).map_err(io::Error::other)?, path).map(drop)
    }

    fn state_of(&self, name: &str) -> Option<RunState> {
        lock(&self.runs).get(name).map(|known| known.state.clone())
    }

    /// Makes the run's folder, whole or not at all.
    fn prepare(&self, name: &str, request: RunRequest, uid: Option<u32>) -> Result<(), AdapterError> {
        let draft = self.config.runs_dir.join(format!(".{name}.draft"));
        let made = fill(&draft, request, uid).and_then(|()| {
            std::fs::rename(&draft, self.folder(name).0).map_err(|error| disk_error("the run's folder", &error))
        });
        if made.is_err() {
            let _ = remove_tree(&draft);
        }
        made
    }
}

/// Whether a run that was submitted and not started may start now: in this boot, and within its lease.
fn is_fresh(record: &RunRecord) -> bool {
    record.boot_id == clock::boot_id()
        && clock::boot_ms().saturating_sub(record.submitted_ms) <= record.request.lease_ttl_ms
}

fn disk_error(what: &str, error: &io::Error) -> AdapterError {
    AdapterError::passing(ReasonCode::DiskFull, format!("{what}: {error}"))
}

fn fill(draft: &Path, request: RunRequest, uid: Option<u32>) -> Result<(), AdapterError> {
    let disk = |what: &'static str| move |error: io::Error| disk_error(what, &error);
    let _ = remove_tree(draft);
    make_dir(draft, None).map_err(disk("the run's folder"))?;
    for own in [folder::WORK, folder::TMP] {
        make_dir(&draft.join(own), uid).map_err(disk("the run's folder"))?;
    }
    let work = draft.join(folder::WORK);
    for input in &request.inputs {
        super::inputs::place(&work, input, uid)?;
    }
    for output in &request.outputs {
        if let Some(parent) = Path::new(&output.path).parent() {
            super::inputs::make_parents(&work, parent, uid).map_err(disk("the run's folder"))?;
        }
    }
    let record =
        RunRecord { version: 1, request, uid, boot_id: clock::boot_id().to_owned(), submitted_ms: clock::boot_ms() };
    folder::write_json(draft, folder::REQUEST, &record).map_err(disk("the run's request"))
}

fn make_dir(path: &Path, uid: Option<u32>) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(path)?;
    if uid.is_some() {
        std::os::unix::fs::chown(path, uid, uid)?;
    }
    Ok(())
}

/// Removes a folder, also where the run closed parts of it to its owner.
fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            std::fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_up(path: &Path) {
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn check(request: &RunRequest) -> Result<(), AdapterError> {
    let invalid = |detail: String| Err(AdapterError::fatal(ReasonCode::InvalidTask, detail));
    if request.image.is_some() {
        return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, "the local backend runs commands, not images"));
    }
    if request.command.first().is_none_or(String::is_empty) {
        return invalid("command: expected a program".to_owned());
    }
    let texts = request.command.iter().chain(request.env.keys()).chain(request.env.values());
    if texts.into_iter().any(|text| text.contains('\0')) {
        return invalid("command, env: expected no NUL character".to_owned());
    }
    if let Some(name) = request.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return invalid(format!("env {name:?}: expected a name without `=`"));
    }
    let inputs = request.inputs.iter().map(|input| ("inputs", &input.path));
    let outputs = request.outputs.iter().map(|output| ("outputs", &output.path));
    for (field, path) in inputs.chain(outputs) {
        if !folder::is_inside(path) {
            return invalid(format!("{field}: {path:?} leaves the run's folder"));
        }
    }
    Ok(())
}

fn unknown(key: RunKey) -> AdapterError {
    AdapterError::fatal(ReasonCode::RunLost, format!("no run {} {} is here", key.task, key.fence))
}

#[async_trait]
impl Adapter for LocalAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            backend: "local".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs_commands: true,
            runs_images: false,
            stops_on_lapse: true,
            firmness: Firmness::Held,
        }
    }

    async fn health(&self) -> AdapterHealth {
        let hello = lock(&self.inner.hello).clone();
        match hello {
            Ok(hello) => AdapterHealth { ready: hello.isolates, notes: hello.notes },
            Err(_) => match self.inner.launcher.probe().await {
                Ok(hello) => {
                    *lock(&self.inner.hello) = Ok(hello.clone());
                    AdapterHealth { ready: hello.isolates, notes: hello.notes }
                }
                Err(error) => {
                    AdapterHealth { ready: false, notes: vec![format!("the run launcher does not start: {error}")] }
                }
            },
        }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        Ok(self.inner.config.pools.clone())
    }

    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        check(&request)?;
        let key = request.key;
        let name = folder::name_of(&key);
        let uid = {
            let mut runs = lock(&self.inner.runs);
            if let Some(known) = runs.get(&name) {
                return Ok(RunStatus { key, state: known.state.clone() });
            }
            let uid = match lock(&self.inner.uids).as_mut() {
                Some(pool) => Some(pool.take().ok_or_else(|| {
                    AdapterError::passing(ReasonCode::NoCapacityNow, "all user ids for runs are taken")
                })?),
                None => None,
            };
            runs.insert(name.clone(), Known { key, state: RunState::Starting, uid });
            uid
        };
        let (inner, name_there) = (Arc::clone(&self.inner), name.clone());
        let prepared = tokio::task::spawn_blocking(move || inner.prepare(&name_there, request, uid)).await;
        let prepared = prepared.unwrap_or_else(|error| {
            Err(AdapterError::fatal(ReasonCode::Internal, format!("preparing the run's folder: {error}")))
        });
        let launched = match prepared {
            Ok(()) => self.inner.launcher.launch(&name).await.map_err(|error| {
                AdapterError::passing(ReasonCode::AdapterDown, format!("the run launcher does not start: {error}"))
            }),
            Err(error) => Err(error),
        };
        if let Err(error) = launched {
            let _ = remove_tree(&self.inner.folder(&name).0);
            lock(&self.inner.runs).remove(&name);
            if let (Some(uid), Some(pool)) = (uid, lock(&self.inner.uids).as_mut()) {
                pool.free(uid);
            }
            return Err(error);
        }
        Ok(RunStatus { key, state: self.inner.state_of(&name).unwrap_or(RunState::Starting) })
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        Ok(self.inner.state_of(&folder::name_of(&key)).map(|state| RunStatus { key, state }))
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        let runs = lock(&self.inner.runs);
        Ok(runs.values().map(|known| RunStatus { key: known.key, state: known.state.clone() }).collect())
    }

    fn watch(&self) -> broadcast::Receiver<RunEvent> {
        self.inner.events.subscribe()
    }

    async fn logs(
        &self,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError> {
        let name = folder::name_of(&key);
        // the state first: what is read after the end was all there
        let ended = matches!(self.inner.state_of(&name).ok_or_else(|| unknown(key))?, RunState::Ended(_));
        let file = match stream {
            LogStream::Stdout => folder::STDOUT,
            LogStream::Stderr => folder::STDERR,
        };
        let path = self.inner.folder(&name).path(file);
        let read = tokio::task::spawn_blocking(move || -> io::Result<(Vec<u8>, u64)> {
            let mut file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
                other => other?,
            };
            let size = file.metadata()?.len();
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(bytes_max.min(LOG_CHUNK_BYTES_MAX) as u64).read_to_end(&mut bytes)?;
            Ok((bytes, size))
        });
        let (bytes, size) =
            read.await
                .map_err(|error| AdapterError::fatal(ReasonCode::Internal, error.to_string()))?
                .map_err(|error| AdapterError::passing(ReasonCode::Internal, format!("reading the log: {error}")))?;
        let end = ended && offset + bytes.len() as u64 >= size;
        Ok(LogChunk { offset, bytes, end })
    }

    async fn renew(&self, key: RunKey, ttl_ms: u64) -> Result<(), AdapterError> {
        let name = folder::name_of(&key);
        match self.inner.state_of(&name).ok_or_else(|| unknown(key))? {
            RunState::Ended(_) => Ok(()),
            _ => match self.inner.send(&name, Control::Renew { ttl_ms }) {
                // not listening yet: its lease begins when it does. Not listening any more: it ended.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    Ok(())
                }
                other => other.map_err(|error| {
                    AdapterError::passing(ReasonCode::AdapterDown, format!("the run's supervisor: {error}"))
                }),
            },
        }
    }

    async fn cancel(&self, key: RunKey, grace_ms: u64) -> Result<(), AdapterError> {
        let name = folder::name_of(&key);
        let control = Control::Cancel { grace_ms };
        match self.inner.state_of(&name) {
            None | Some(RunState::Ended(_)) => return Ok(()),
            Some(_) => {}
        }
        let folder = self.inner.folder(&name);
        // for a supervisor that does not listen yet
        let written = folder::write_json(&folder.0, folder::CANCEL, &control);
        match (self.inner.send(&name, control), written) {
            (Ok(()), _) | (_, Ok(())) => Ok(()),
            (Err(error), Err(_)) => {
                Err(AdapterError::passing(ReasonCode::AdapterDown, format!("the run's supervisor: {error}")))
            }
        }
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        let name = folder::name_of(&key);
        let uid = {
            let mut runs = lock(&self.inner.runs);
            match runs.get(&name) {
                None => return Ok(()),
                Some(known) if !matches!(known.state, RunState::Ended(_)) => {
                    return Err(AdapterError::fatal(ReasonCode::Internal, "only a run that ended can be removed"));
                }
                Some(_) => runs.remove(&name).and_then(|known| known.uid),
            }
        };
        let from = self.inner.folder(&name).0;
        let to = self.inner.config.runs_dir.join(format!(".{name}.gone"));
        let removed = tokio::task::spawn_blocking(move || {
            // forgotten at once, removed at leisure
            std::fs::rename(&from, &to)?;
            remove_tree(&to)
        });
        let removed = removed.await.map_err(|error| AdapterError::fatal(ReasonCode::Internal, error.to_string()))?;
        if let (Some(uid), Some(pool)) = (uid, lock(&self.inner.uids).as_mut()) {
            pool.free(uid);
        }
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(disk_error("removing the run's folder", &error))
            }
            _ => Ok(()),
        }
    }
}
