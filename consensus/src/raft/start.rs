//! How a replica starts, and how it starts again in place when its timers no longer fit the voters' round trip.

use super::follow::follow;
use super::handle::{Inner, wall};
use super::lead::beat;
use super::log_store::{LogStore, Seat};
use super::network::Network;
use super::proposer::Proposer;
use super::state_machine::{Shared, StateMachine};
use super::timers::{TimerFloor, Timers};
use super::transport::{RaftClass, RaftTransport};
use super::types::{Peer, Proposal, Raft};
use super::wire::{self, Answer, Question};
use super::{ProposeError, RegistryHandle};
use crate::envelope::Federation;
use crate::registry::command::genesis_entry;
use crate::registry::{Genesis, MemberRecord, RegistryReader, Response};
use crate::store::{LogDb, StateDb, StoreError};
use cpi::ids::MemberId;
use ed25519_dalek::SigningKey;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{Config, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a leader that changes its timers waits for another to lead.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Between two tries to start Raft again; doubled up to the longest.
const AGAIN_PAUSE_MIN: Duration = Duration::from_millis(500);
const AGAIN_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How to start.
pub struct RegistryOptions {
    /// Folder of the registry; `log` and `state` are made in it.
    pub dir: PathBuf,
    /// The mark that a log was begun under a Raft id. It must survive the loss of `dir`.
    pub seat: PathBuf,
    /// Whose replica this is.
    pub member: MemberId,
    /// Its id in Raft, allotted at admission or after its log was lost.
    pub raft_id: u64,
    /// Which federation.
    pub federation: Federation,
    /// Signs beacons.
    pub signing_key: SigningKey,
    /// The smallest timers.
    pub floor: TimerFloor,
    /// Bytes of log after which a snapshot is made.
    pub snapshot_log_bytes: u64,
    /// Log entries that are kept after a snapshot.
    pub log_entries_kept: u64,
    /// Bytes of block cache of the state.
    pub cache_bytes: usize,
    /// Founds the federation, if this replica's log is empty. Only `causeway init` gives one.
    pub found: Option<Genesis>,
}

/// Why the replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A log of this Raft id was begun here, and it is gone. Voting without it could undo what was committed: the member
    /// asks the others for a new id ([`RegistryHandle::renew`]).
    #[error("the log of replica {raft_id} under {dir} is gone: it must not vote without it")]
    LogLost {
        /// The id that is lost.
        raft_id: u64,
        /// Where the log was.
        dir: PathBuf,
    },
    /// Raft itself.
    #[error("the registry could not be started: {0}")]
    Raft(String),
}

/// What is needed to start Raft again over the same databases.
pub(super) struct Again {
    raft_id: u64,
    log: LogStore,
    state: StateDb,
    shared: Arc<Shared>,
    transport: Arc<dyn RaftTransport>,
    federation: Federation,
    pub floor: TimerFloor,
    pub snapshot_log_bytes: u64,
    log_entries_kept: u64,
    /// Has a new start fail.
    #[cfg(test)]
    pub fails: AtomicBool,
}

/// Raft as it runs, and by which timers.
#[derive(Clone)]
pub(super) struct Running {
    pub raft: Raft,
    pub proposer: Proposer,
    pub timers: Timers,
}

impl Again {
    fn config(&self, timers: Timers) -> Result<Config, StartError> {
        Config {
            cluster_name: data_encoding::HEXLOWER.encode(&self.federation.id[..8]),
            heartbeat_interval: timers.heartbeat_ms,
            election_timeout_min: timers.election_ms_min,
            election_timeout_max: timers.election_ms_max,
            max_payload_entries: 2048,
            // bytes and time decide, see `lead`
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.log_entries_kept,
            install_snapshot_timeout: 60_000,
            // replicas get entries while they are on their way to our disk
            broadcast_submitted_on_append: Some(true),
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(2 * timers.election_ms_max),
            ..Config::default()
        }
        .validate()
        .map_err(|error| StartError::Raft(error.to_string()))
    }

    async fn start(&self, timers: Timers) -> Result<Running, StartError> {
        let text = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
        let machine = StateMachine::open(self.state.clone(), Arc::clone(&self.shared)).map_err(|error| text(&error))?;
        let config = Arc::new(self.config(timers)?);
        let network = Network { transport: Arc::clone(&self.transport) };
        let raft = Raft::new(self.raft_id, config, network, self.log.clone(), machine).await;
        let raft = raft.map_err(|error| text(&error))?;
        Ok(Running { proposer: Proposer::start(raft.clone()), raft, timers })
    }

    /// The log.
    pub fn log(&self) -> &LogStore {
        &self.log
    }

    /// Whether so much was appended that a snapshot is due.
    pub fn log_is_long(&self) -> bool {
        self.log.appended() >= self.snapshot_log_bytes
    }

    /// A snapshot was begun.
    pub fn count_anew(&self) {
        self.log.begin_count(0);
    }
}

impl RegistryHandle {
    /// Opens the databases and joins Raft with what they hold.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: RegistryOptions, transport: Arc<dyn RaftTransport>) -> Result<Self, StartError> {
        let text = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
        let (log_dir, state_dir) = (options.dir.join("log"), options.dir.join("state"));
        let seat = Seat::new(options.seat, options.raft_id);
        let seated = seat.read().map_err(|error| text(&error))?;
        if seated.is_some_and(|id| id != options.raft_id) {
            // what lies here belongs to an id that is lost
            for dir in [&log_dir, &state_dir] {
                remove(dir)?;
            }
        }
        let log = LogStore::new(LogDb::open(&log_dir)?, seat);
        let pristine = log.is_pristine().map_err(|error| text(&error))?;
        if pristine && seated == Some(options.raft_id) {
            return Err(StartError::LogLost { raft_id: options.raft_id, dir: options.dir });
        }
        let state = StateDb::open(&state_dir, options.cache_bytes)?;
        let shared = Arc::new(Shared {
            federation: options.federation,
            applied: watch::Sender::new(0),
            hashes: Mutex::default(),
            verified: Mutex::default(),
            refusals: std::sync::OnceLock::new(),
        });
        let again = Again {
            raft_id: options.raft_id,
            log,
            state: state.clone(),
            shared: Arc::clone(&shared),
            transport: Arc::clone(&transport),
            federation: options.federation,
            floor: options.floor,
            snapshot_log_bytes: options.snapshot_log_bytes,
            log_entries_kept: options.log_entries_kept,
            #[cfg(test)]
            fails: AtomicBool::new(false),
        };
        let running = again.start(Timers::of(0, options.floor)).await?;
        let snapshot = running.raft.metrics().borrow_watched().snapshot.map_or(0, |id| id.index());
        again.log.begin_count(again.log.bytes_after(snapshot).map_err(|error| text(&error))?);
        let handle = Self {
            inner: Arc::new(Inner {
                member: options.member,
                raft_id: options.raft_id,
                running: RwLock::new(running),
                again,
                stopping: AtomicBool::new(false),
                stopped: Mutex::default(),
                state,
                shared,
                transport,
                signing_key: options.signing_key,
                proof: Mutex::default(),
                heard: Mutex::new(Instant::now()),
                incoming: tokio::sync::Mutex::new(None),
                beacon: Mutex::default(),
                followers: Mutex::default(),
                tasks: Mutex::default(),
            }),
        };
        if let Some(genesis) = options.found
            && pristine
        {
            handle.found(&genesis).await?;
        }
        let tasks =
            [tokio::spawn(beat(Arc::downgrade(&handle.inner))), tokio::spawn(follow(Arc::downgrade(&handle.inner)))];
        handle.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        Ok(handle)
    }

    async fn found(&self, genesis: &Genesis) -> Result<(), StartError> {
        let failed = |error: String| StartError::Raft(error);
        let peer = Peer { member: self.inner.member.0 };
        let nodes = BTreeMap::from([(self.inner.raft_id, peer)]);
        let raft = self.inner.raft();
        raft.initialize(nodes).await.map_err(|error| failed(error.to_string()))?;
        let entry = Proposal(genesis_entry(wall(), genesis).into());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match raft.client_write(entry.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(failed(error.to_string())),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Starts Raft again with other timers, which openraft reads at its start only. A leader hands over first.
    pub(super) async fn retime(&self, timers: Timers, heir: Option<u64>) {
        let old = self.inner.raft();
        tracing::info!(?timers, "the voters' round trip changed: Raft starts again with timers that fit");
        if let Some(heir) = heir {
            let led = |state: ServerState| state == ServerState::Leader;
            if old.trigger().transfer_leader(heir).await.is_ok() {
                let _ = old.wait(Some(HAND_OVER)).metrics(|metrics| !led(metrics.state), "another leads").await;
            }
        }
        if let Err(error) = old.shutdown().await {
            tracing::warn!(%error, "the registry's task ended badly");
        }
        // the registry must not stay stopped for a fault that passes
        let mut pause = AGAIN_PAUSE_MIN;
        while let Err(error) = self.start_again(timers).await {
            let again_in_ms = pause.as_millis() as u64;
            tracing::error!(%error, again_in_ms, "Raft did not start again: the registry is stopped until it does");
            *self.stopped() = Some(error.to_string());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_PAUSE_MAX);
        }
        if self.stopped().take().is_some() {
            tracing::info!("Raft runs again");
        }
    }

    /// Why Raft is stopped, while it is and should not be.
    pub(super) fn stopped(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.inner.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start_again(&self, timers: Timers) -> Result<(), StartError> {
        let log = self.inner.again.log.clone();
        // Raft takes what it finds in the log as being on disk
        let synced = tokio::task::spawn_blocking(move || log.synced()).await;
        let failed = |error: String| StartError::Raft(format!("the log cannot be synced: {error}"));
        synced.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        #[cfg(test)]
        if self.inner.again.fails.load(std::sync::atomic::Ordering::Acquire) {
            return Err(StartError::Raft("the test says so".to_owned()));
        }
        let running = self.inner.again.start(timers).await?;
        *self.inner.running.write().unwrap_or_else(PoisonError::into_inner) = running;
        Ok(())
    }

    /// Asks `members` in turn to have `envelope` (a signed [`crate::registry::Command::RenewRaftId`]) committed, and gives
    /// the Raft id under which this member's replica may start.
    ///
    /// # Errors
    /// [`ProposeError`]: `NoQuorum` if none of them could have it committed; sending the same bytes again is safe.
    pub async fn renew(
        transport: &dyn RaftTransport,
        members: &[MemberId],
        envelope: &[u8],
        deadline: Duration,
    ) -> Result<u64, ProposeError> {
        for member in members {
            let question = Question::Propose { envelope: envelope.to_vec().into(), hops: 1 };
            let frame = wire::encode_frame(&question).into();
            let Ok(bytes) = transport.call(*member, RaftClass::Forward, frame, deadline).await else { continue };
            match wire::decode_frame(&bytes) {
                Ok(Answer::Committed { response: Response::MemberChanged { raft_id, .. }, .. }) => return Ok(raft_id),
                Ok(Answer::Committed { response, .. }) => {
                    let refused = response.refusal().map_or_else(|| format!("{response:?}"), ToString::to_string);
                    return Err(ProposeError::Rejected(refused));
                }
                _ => {}
            }
        }
        Err(ProposeError::NoQuorum)
    }

    /// The members that the state in `dir` knows, whether or not the replica can start; none where there is no state.
    pub fn last_roster(dir: &Path) -> Vec<MemberRecord> {
        let state = dir.join("state");
        if !state.exists() {
            return Vec::new();
        }
        match StateDb::open(&state, 1 << 20) {
            Ok(state) => RegistryReader::new(Arc::new(state.reader())).roster(),
            Err(error) => {
                tracing::warn!(%error, "the state that was left cannot be read");
                Vec::new()
            }
        }
    }
}

fn remove(dir: &Path) -> Result<(), StartError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StartError::Raft(format!("{} cannot be removed: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}
