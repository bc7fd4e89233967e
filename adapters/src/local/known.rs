//! The runs as they are known in memory, kept true by what supervisors say and, where they cannot, by their folders.

use super::clock;
use super::config::LocalConfig;
use super::folder::{self, Control, Notice, NoticeState, RunFolder, RunRecord};
use super::group::Controllers;
use super::launcher::Launcher;
use super::pids::{Descent, RunPids};
use super::prepare::{disk_error, fill, remove_tree};
use super::supervisor::LaunchHello;
use super::uids::UidPool;
use crate::contract::{AdapterError, RunEnd, RunEvent, RunKey, RunRequest, RunState, Usage};
use cpi::reason::{Reason, ReasonCode};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// How often the locks of living runs are looked at, for supervisors that could not say how they ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the launcher may take to begin a run before it is handed over again.
const UNSTARTED_MS: u64 = 3000;

/// A run as it is known in memory.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) key: RunKey,
    pub(super) state: RunState,
    pub(super) uid: Option<u32>,
}

pub(super) struct Runs {
    pub(super) config: LocalConfig,
    /// The runs folder, held open so that sockets in it have short names.
    pub(super) runs_dir: File,
    pub(super) runs: Mutex<BTreeMap<String, Known>>,
    pub(super) uids: Mutex<Option<UidPool>>,
    pub(super) controllers: Controllers,
    pub(super) launcher: Launcher,
    pub(super) hello: Mutex<Result<LaunchHello, String>>,
    pub(super) events: broadcast::Sender<RunEvent>,
    pub(super) socket: UnixDatagram,
}

impl Runs {
    pub(super) fn folder(&self, name: &str) -> RunFolder {
        RunFolder(self.config.runs_dir.join(name))
    }

    /// Reads all run folders; the names of those that were submitted and never started, and may start now.
    pub(super) fn scan(&self) -> io::Result<Vec<String>> {
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
    pub(super) fn bury(&self, name: &str, record: &RunRecord, why: &str) -> RunEnd {
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
    pub(super) fn note(&self, notice: &Notice) {
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

    pub(super) fn change(&self, name: &str, state: RunState) {
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

    /// Looks at the locks of all runs that have not ended. Returns those that the launcher took and never began: it died in
    /// between, and they are to be handed over again.
    fn look(&self) -> Vec<String> {
        let living: Vec<(String, bool)> = lock(&self.runs)
            .iter()
            .filter(|(_, known)| !matches!(known.state, RunState::Ended(_)))
            .map(|(name, known)| (name.clone(), known.state == RunState::Starting))
            .collect();
        let mut unstarted = Vec::new();
        for (name, starting) in living {
            let folder = self.folder(&name);
            if folder.is_supervised() {
                if starting {
                    self.change(&name, RunState::Running);
                }
            } else if !starting || folder.supervisor().is_some() {
                self.look_at(&name);
            } else if let Ok(record) = folder.read_record() {
                // no record: its folder is still being filled
                let waited_ms = clock::boot_ms().saturating_sub(record.submitted_ms);
                if !is_fresh(&record) {
                    let end = self.bury(&name, &record, "it could not be started within its lease");
                    self.change(&name, RunState::Ended(end));
                } else if waited_ms > UNSTARTED_MS {
                    unstarted.push(name);
                }
            }
        }
        unstarted
    }

    async fn look_and_start(&self) {
        for name in self.look() {
            if let Err(error) = self.launcher.launch(&name).await {
                tracing::warn!(run = name, %error, "a submitted run could not be started yet");
            }
        }
    }

    /// A run whose supervisor is said to be gone.
    pub(super) fn look_at(&self, name: &str) {
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

    pub(super) fn send(&self, name: &str, control: Control) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let path = format!("/proc/self/fd/{}/{name}/{}", self.runs_dir.as_raw_fd(), folder::CONTROL);
        socket.send_to(&serde_json::to_vec(&control).map_err(io::Error::other)?, path).map(drop)
    }

    pub(super) fn state_of(&self, name: &str) -> Option<RunState> {
        lock(&self.runs).get(name).map(|known| known.state.clone())
    }

    /// Makes the run's folder, whole or not at all.
    pub(super) fn prepare(&self, name: &str, request: RunRequest, uid: Option<u32>) -> Result<(), AdapterError> {
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

/// The socket of changes, reached by the folder's descriptor because socket names hold 107 bytes only.
pub(super) fn listen(runs_dir: &File) -> io::Result<UnixDatagram> {
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
pub(super) async fn watch(inner: Arc<Runs>, mut heard: mpsc::UnboundedReceiver<Notice>) {
    let socket = match inner.socket.try_clone().and_then(tokio::net::UnixDatagram::from_std) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "no changes of runs can be heard; they are looked for every second");
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                inner.look_and_start().await;
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
            _ = looks.tick() => inner.look_and_start().await,
        }
    }
}

/// Whether a run that was submitted and not started may start now: in this boot, and within its lease.
fn is_fresh(record: &RunRecord) -> bool {
    record.boot_id == clock::boot_id()
        && clock::boot_ms().saturating_sub(record.submitted_ms) <= record.request.lease_ttl_ms
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
