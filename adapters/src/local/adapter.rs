//! The adapter itself: run folders in, states out. All that it knows in memory it can read again from the folders.

use super::config::LocalConfig;
use super::folder::{self, Control};
use super::group::Controllers;
use super::known::{Known, Runs, listen, lock, watch};
use super::launcher::Launcher;
use super::prepare::{check, disk_error, remove_tree};
use super::uids::{self, UidPool};
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEvent, RunKey, RunRequest,
    RunState, RunStatus,
};
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::{Firmness, PoolSpec};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{broadcast, mpsc};

/// Changes that a slow subscriber may lag behind before it has to ask for the list.
const EVENTS_KEPT: usize = 4096;
/// The largest piece of a log at once.
const LOG_CHUNK_BYTES_MAX: usize = 4 << 20;

/// How long a cancel waits for a run's folder that its submit is filling.
const FILLING_MAX: std::time::Duration = std::time::Duration::from_secs(5);

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

/// The `local` backend. Must be made inside a tokio runtime; its background tasks end when it is dropped.
pub struct LocalAdapter {
    inner: Arc<Runs>,
    /// Ends the background task; runs and their supervisors go on.
    _tasks: tokio_util::sync::DropGuard,
}

impl std::fmt::Debug for LocalAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalAdapter").field("runs_dir", &self.inner.config.runs_dir).finish_non_exhaustive()
    }
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
        let inner = Arc::new(Runs {
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
        crate::contract::fits_class(&self.inner.config.pools, &request)?;
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
        let deadline = tokio::time::Instant::now() + FILLING_MAX;
        loop {
            let starting = match self.inner.state_of(&name) {
                None | Some(RunState::Ended(_)) => return Ok(()),
                Some(state) => state == RunState::Starting,
            };
            let folder = self.inner.folder(&name);
            // for a supervisor that does not listen yet
            let written = folder::write_json(&folder.0, folder::CANCEL, &control);
            match (self.inner.send(&name, control), written) {
                (Ok(()), _) | (_, Ok(())) => return Ok(()),
                // its submit is still filling the folder
                (Err(error), Err(_))
                    if starting
                        && error.kind() == io::ErrorKind::NotFound
                        && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                (Err(error), Err(_)) => {
                    let why = format!("the run's supervisor: {error}");
                    return Err(AdapterError::passing(ReasonCode::AdapterDown, why));
                }
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
