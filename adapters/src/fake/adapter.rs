//! The player of scripts.

use super::machines::Machines;
use super::script::{FakeScript, Lie, SCRIPT_VARIABLE};
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, OutputFound, RunEnd, RunEvent,
    RunKey, RunRequest, RunState, RunStatus, Usage,
};
use crate::resources::{
    Capabilities, InventoryEvent, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceTag,
};
use async_trait::async_trait;
use cpi::ids::{ContentDigest, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{Firmness, PoolSpec, Quantity};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::time::Instant;

const EVENTS_KEPT: usize = 65_536;

struct FakeRun {
    state: RunState,
    script: FakeScript,
    lease_until: Instant,
    cancelled: bool,
    changed: Arc<Notify>,
}

struct Inner {
    machines: Arc<Machines>,
    pools: Vec<PoolSpec>,
    runs: Mutex<BTreeMap<RunKey, FakeRun>>,
    scripts: Mutex<(FakeScript, BTreeMap<TaskId, FakeScript>)>,
    down: Mutex<bool>,
    submitted: std::sync::atomic::AtomicU64,
    events: broadcast::Sender<RunEvent>,
    /// Where files of scripts are written; without it only scripts without files find their outputs.
    files_dir: Option<PathBuf>,
}

/// The fake backend. Clones share their runs.
#[derive(Clone)]
pub struct FakeAdapter {
    inner: Arc<Inner>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl FakeAdapter {
    /// A backend for `pools` whose runs end at once.
    pub fn new(pools: Vec<PoolSpec>) -> Self {
        Self::with_files(pools, None)
    }

    /// Likewise, with a folder for the files that scripts leave.
    pub fn with_files(pools: Vec<PoolSpec>, files_dir: Option<PathBuf>) -> Self {
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        Self {
            inner: Arc::new(Inner {
                machines: Arc::new(Machines::new(pools.clone())),
                pools,
                runs: Mutex::default(),
                scripts: Mutex::default(),
                down: Mutex::new(false),
                submitted: std::sync::atomic::AtomicU64::new(0),
                events,
                files_dir,
            }),
        }
    }

    /// What every run does that has no script of its own.
    pub fn script_all(&self, script: FakeScript) {
        lock(&self.inner.scripts).0 = script;
    }

    /// What the runs of one task do.
    pub fn script(&self, task: TaskId, script: FakeScript) {
        lock(&self.inner.scripts).1.insert(task, script);
    }

    /// While down, every verb fails with `adapter_down`; runs go on.
    pub fn set_down(&self, down: bool) {
        *lock(&self.inner.down) = down;
    }

    /// How many runs were started in all.
    pub fn submitted(&self) -> u64 {
        self.inner.submitted.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn machines(&self) -> &Machines {
        &self.inner.machines
    }

    fn up(&self) -> Result<(), AdapterError> {
        if *lock(&self.inner.down) {
            Err(AdapterError::passing(ReasonCode::AdapterDown, "the fake backend was told to be down"))
        } else {
            Ok(())
        }
    }

    fn script_of(&self, request: &RunRequest) -> Result<FakeScript, AdapterError> {
        if let Some(text) = request.env.get(SCRIPT_VARIABLE) {
            return serde_json::from_str(text)
                .map_err(|error| AdapterError::fatal(ReasonCode::InvalidTask, format!("{SCRIPT_VARIABLE}: {error}")));
        }
        let scripts = lock(&self.inner.scripts);
        Ok(scripts.1.get(&request.key.task).unwrap_or(&scripts.0).clone())
    }
}

impl Inner {
    fn tell(&self, key: RunKey, state: RunState, lie: Option<Lie>) {
        let times = match lie {
            Some(Lie::Silent) => 0,
            Some(Lie::Repeats) => 3,
            _ => 1,
        };
        let ended = matches!(state, RunState::Ended(_));
        for _ in 0..times {
            let _ = self.events.send(RunEvent { key, state: state.clone() });
        }
        if ended && lie == Some(Lie::LateRunning) {
            let _ = self.events.send(RunEvent { key, state: RunState::Running });
        }
    }

    /// Changes a run that has not ended.
    fn set(&self, key: RunKey, state: RunState) {
        let lie = {
            let mut runs = lock(&self.runs);
            let Some(run) = runs.get_mut(&key) else { return };
            if matches!(run.state, RunState::Ended(_)) {
                return;
            }
            run.state = state.clone();
            run.script.lie
        };
        self.tell(key, state, lie);
    }

    fn end_of(&self, request: &RunRequest, script: &FakeScript, reason: Option<Reason>, wall_ms: u64) -> RunEnd {
        let (mut outputs, mut missing) = (Vec::new(), Vec::new());
        for output in &request.outputs {
            match script.files.get(&output.path).map(|content| self.keep(&request.key, &output.path, content)) {
                Some(Ok(found)) => outputs.push(found),
                Some(Err(error)) => missing.push(format!("{}: {error}", output.path)),
                None if output.optional => {}
                None => missing.push(output.path.clone()),
            }
        }
        let reason = reason.or_else(|| script.reason.map(Reason::from)).or_else(|| {
            if script.exit_code != 0 {
                Some(Reason::new(ReasonCode::ExitNonzero, format!("exit code {}", script.exit_code)))
            } else if missing.is_empty() {
                None
            } else {
                Some(Reason::new(ReasonCode::OutputMissing, missing.join("; ")))
            }
        });
        let exit_code = reason.as_ref().map_or(Some(0), |reason| {
            matches!(reason.code, ReasonCode::ExitNonzero | ReasonCode::OutputMissing).then_some(script.exit_code)
        });
        RunEnd { exit_code, signal: None, reason, usage: Usage { wall_ms, cpu_ms: 0, memory_peak_bytes: 0 }, outputs }
    }

    fn keep(&self, key: &RunKey, path: &str, content: &str) -> std::io::Result<OutputFound> {
        let dir = self.files_dir.as_deref().unwrap_or(Path::new("/nonexistent"));
        let digest = ContentDigest::of(content.as_bytes());
        let source = dir.join(format!("{}-{}-{}", key.task, key.fence, digest.hex()));
        std::fs::write(&source, content)?;
        Ok(OutputFound { path: path.to_owned(), source, digest, size_bytes: content.len() as u64 })
    }
}

/// Plays one run that takes time.
async fn play(inner: Arc<Inner>, request: RunRequest, script: FakeScript, changed: Arc<Notify>) {
    let key = request.key;
    let begun = Instant::now();
    let limit = begun + Duration::from_millis(request.max_runtime_ms);
    tokio::time::sleep(Duration::from_millis(script.start_ms)).await;
    inner.set(key, RunState::Running);
    let mut left = Duration::from_millis(script.run_ms);
    let mut frozen = false;
    let reason = loop {
        let Some((lease_until, cancelled)) = lock(&inner.runs)
            .get(&key)
            .map(|run| (run.lease_until, run.cancelled && run.script.lie != Some(Lie::IgnoresCancel)))
        else {
            return;
        };
        if cancelled {
            break Some(Reason::new(ReasonCode::Cancelled, "by its owner"));
        }
        let now = Instant::now();
        if now >= limit {
            break Some(Reason::new(ReasonCode::TimeLimit, format!("{} ms", request.max_runtime_ms)));
        }
        let lapsed = request.freeze_on_lapse && now >= lease_until;
        if lapsed != frozen {
            frozen = lapsed;
            inner.set(key, if frozen { RunState::Frozen } else { RunState::Running });
        }
        if !frozen && left.is_zero() {
            break None;
        }
        let lease = if request.freeze_on_lapse && !frozen { lease_until } else { limit };
        let end = if frozen { limit } else { now + left };
        tokio::select! {
            () = tokio::time::sleep_until(end.min(limit).min(lease)) => {}
            () = changed.notified() => {}
        }
        if !frozen {
            left = left.saturating_sub(now.elapsed());
        }
    };
    if script.lie == Some(Lie::Vanishes) {
        lock(&inner.runs).remove(&key);
        return;
    }
    let wall_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let end = inner.end_of(&request, &script, reason, wall_ms);
    inner.set(key, RunState::Ended(end));
}

#[async_trait]
impl Adapter for FakeAdapter {
    fn describe(&self) -> AdapterDescription {
        AdapterDescription {
            backend: "fake".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs_commands: true,
            runs_images: true,
            stops_on_lapse: true,
            firmness: Firmness::Held,
        }
    }

    async fn health(&self) -> AdapterHealth {
        let ready = !*lock(&self.inner.down);
        AdapterHealth { ready, notes: vec!["runs are played by script; nothing is computed".to_owned()] }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        self.up()?;
        Ok(self.inner.pools.clone())
    }

    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        self.up()?;
        if request.command.first().is_none_or(String::is_empty) && request.image.is_none() {
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, "command: expected a program"));
        }
        crate::contract::fits_class(&self.inner.pools, &request)?;
        let script = self.script_of(&request)?;
        let key = request.key;
        if let Some(code) = script.refuse {
            return Err(AdapterError { retryable: code.is_retryable(), reason: Reason::new(code, "by script") });
        }
        let at_once = script.start_ms == 0 && script.run_ms == 0 && script.lie != Some(Lie::Vanishes);
        let changed = Arc::new(Notify::new());
        let state =
            if at_once { RunState::Ended(self.inner.end_of(&request, &script, None, 0)) } else { RunState::Starting };
        {
            let mut runs = lock(&self.inner.runs);
            if let Some(run) = runs.get(&key) {
                return Ok(RunStatus { key, state: run.state.clone() });
            }
            let run = FakeRun {
                state: state.clone(),
                script: script.clone(),
                lease_until: Instant::now() + Duration::from_millis(request.lease_ttl_ms),
                cancelled: false,
                changed: Arc::clone(&changed),
            };
            runs.insert(key, run);
        }
        self.inner.submitted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let lie = script.lie;
        if at_once {
            self.inner.tell(key, state.clone(), lie);
        } else {
            tokio::spawn(play(Arc::clone(&self.inner), request, script, changed));
        }
        if lie == Some(Lie::SubmitLostAnswer) {
            return Err(AdapterError::passing(ReasonCode::AdapterDown, "the answer was lost, by script"));
        }
        Ok(RunStatus { key, state })
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        self.up()?;
        Ok(lock(&self.inner.runs).get(&key).map(|run| RunStatus { key, state: run.state.clone() }))
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        self.up()?;
        let runs = lock(&self.inner.runs);
        Ok(runs.iter().map(|(key, run)| RunStatus { key: *key, state: run.state.clone() }).collect())
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
        self.up()?;
        let runs = lock(&self.inner.runs);
        let run = runs.get(&key).ok_or_else(|| {
            AdapterError::fatal(ReasonCode::RunLost, format!("no run {} {} is here", key.task, key.fence))
        })?;
        let text = match stream {
            _ if run.state == RunState::Starting => "",
            LogStream::Stdout => &run.script.stdout,
            LogStream::Stderr => &run.script.stderr,
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let to = from.saturating_add(bytes_max).min(text.len());
        let end = matches!(run.state, RunState::Ended(_)) && to == text.len();
        Ok(LogChunk { offset, bytes: text.as_bytes()[from..to].to_vec(), end })
    }

    async fn renew(&self, key: RunKey, ttl_ms: u64) -> Result<(), AdapterError> {
        self.up()?;
        let mut runs = lock(&self.inner.runs);
        let run = runs.get_mut(&key).ok_or_else(|| {
            AdapterError::fatal(ReasonCode::RunLost, format!("no run {} {} is here", key.task, key.fence))
        })?;
        run.lease_until = Instant::now() + Duration::from_millis(ttl_ms);
        run.changed.notify_one();
        Ok(())
    }

    async fn cancel(&self, key: RunKey, _grace_ms: u64) -> Result<(), AdapterError> {
        self.up()?;
        if let Some(run) = lock(&self.inner.runs).get_mut(&key) {
            run.cancelled = true;
            run.changed.notify_one();
        }
        Ok(())
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        self.up()?;
        let mut runs = lock(&self.inner.runs);
        match runs.get(&key) {
            Some(run) if !matches!(run.state, RunState::Ended(_)) => {
                Err(AdapterError::fatal(ReasonCode::Internal, "only a run that ended can be removed"))
            }
            _ => {
                runs.remove(&key);
                Ok(())
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { reserves: true, provisions: true, streams_inventory: true, ..Capabilities::default() }
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        self.up()?;
        Ok(Arc::clone(&self.inner.machines).tell(follow))
    }

    async fn reserve(&self, request: ReserveRequest) -> Result<Reservation, AdapterError> {
        self.up()?;
        self.machines().reserve(request)
    }

    async fn unreserve(&self, key: RunKey) -> Result<(), AdapterError> {
        self.up()?;
        self.machines().unreserve(key);
        Ok(())
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        self.up()?;
        self.machines().provision(request)
    }

    async fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        self.up()?;
        self.machines().modify(tag, need)
    }

    async fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        self.up()?;
        self.machines().power(tag, action)
    }

    async fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        self.up()?;
        self.machines().release(tag)
    }

    async fn resource(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        self.up()?;
        Ok(self.machines().resource(tag))
    }
}
