//! One plugin: its versions, its processes, who gets the next call, and when it is too bad to be tried.

use super::config::{PluginSpec, ProgramSpec, Timing};
use super::instance::{Instance, Setting, StartFailed};
use super::view::{InstanceView, PluginState, PluginView};
use super::{keeper, lock};
use crate::contract::{AdapterDescription, AdapterError, RunEvent};
use crate::resources::Capabilities;
use cpi::reason::ReasonCode;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, RwLock, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Changes that a slow subscriber may lag behind before it has to ask for the list.
const EVENTS_KEPT: usize = 16_384;
/// Lines of history kept.
const HISTORY_MAX: usize = 64;

/// Why a swap was not made. The version that was there goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwapError {
    /// The new version did not come up, or was not healthy.
    #[error("the new version is not healthy, and the old one goes on: {why}")]
    Unhealthy {
        /// What it did.
        why: String,
    },
    /// Calls of the old version did not end in time; only for backends that allow one process at a time.
    #[error("calls of the old version did not end within {waited_ms} ms, and it goes on")]
    Busy {
        /// How long was waited.
        waited_ms: u64,
    },
    /// Nothing to go back to.
    #[error("there is no earlier version to go back to")]
    NoPrevious,
    /// One at a time.
    #[error("another swap of this plugin is under way")]
    UnderWay,
}

#[derive(Default)]
struct State {
    current: Option<ProgramSpec>,
    previous: Option<ProgramSpec>,
    probation_until: Option<Instant>,
    failures: VecDeque<Instant>,
    failed: u64,
    quarantine: Option<String>,
    reason: Option<String>,
    history: VecDeque<String>,
    about: Option<(AdapterDescription, Capabilities)>,
    schema: Option<serde_json::Value>,
}

pub(super) struct Unit {
    pub(super) setting: Setting,
    pub(super) timing: Timing,
    pub(super) stop: CancellationToken,
    pub(super) reset: Notify,
    pub(super) events: broadcast::Sender<RunEvent>,
    /// The process of each replica, where one takes calls.
    live: watch::Sender<Vec<Option<Arc<Instance>>>>,
    /// Calls take it to read, a swap of an exclusive backend to write.
    gate: RwLock<()>,
    swapping: tokio::sync::Mutex<()>,
    handovers: Mutex<Vec<mpsc::Sender<Arc<Instance>>>>,
    wanted: AtomicBool,
    turn: AtomicUsize,
    numbers: AtomicU64,
    state: Mutex<State>,
    /// The keepers.
    tasks: TaskTracker,
}

impl Unit {
    pub(super) fn new(setting: Setting, stop: CancellationToken) -> Arc<Self> {
        let replicas = usize::from(setting.spec.replicas.clamp(1, 8));
        let state = State { current: Some(setting.spec.program.clone()), ..State::default() };
        Arc::new(Self {
            timing: setting.timing,
            setting,
            stop,
            reset: Notify::new(),
            events: broadcast::channel(EVENTS_KEPT).0,
            live: watch::channel(vec![None; replicas]).0,
            gate: RwLock::new(()),
            swapping: tokio::sync::Mutex::new(()),
            handovers: Mutex::default(),
            wanted: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            numbers: AtomicU64::new(0),
            state: Mutex::new(state),
            tasks: TaskTracker::new(),
        })
    }

    /// Starts the replicas, if nobody has yet.
    pub(super) fn want(self: &Arc<Self>) {
        if self.wanted.swap(true, Ordering::AcqRel) {
            return;
        }
        let replicas = self.live.borrow().len();
        let mut handovers = lock(&self.handovers);
        for slot in 0..replicas {
            let (sender, receiver) = mpsc::channel(1);
            handovers.push(sender);
            self.tasks.spawn(keeper::keep(Arc::clone(self), slot, receiver));
        }
    }

    /// Ends its processes and waits until they are gone.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn current(&self) -> ProgramSpec {
        lock(&self.state).current.clone().unwrap_or_else(|| self.setting.spec.program.clone())
    }

    /// What the plugin said of itself when it was last up.
    pub(super) fn about(&self) -> Option<(AdapterDescription, Capabilities)> {
        lock(&self.state).about.clone()
    }

    /// Replica `slot` now takes calls by `instance`.
    pub(super) fn publish(&self, slot: usize, instance: Option<&Arc<Instance>>) {
        if let Some(instance) = instance {
            let mut state = lock(&self.state);
            state.about = instance.about().cloned();
            state.schema = Some(instance.hello.config_schema.clone());
            state.quarantine = None;
            let up = format!("#{} is up: {} {}", instance.number, instance.hello.backend, instance.hello.version);
            note(&mut state, up);
        }
        self.live.send_modify(|live| live[slot] = instance.cloned());
    }

    /// Counts a failure; whether the plugin is quarantined now.
    pub(super) fn note_failure(&self, failure: &StartFailed) -> bool {
        let name = &self.setting.spec.name;
        let mut state = lock(&self.state);
        let now = Instant::now();
        let window = Duration::from_millis(self.timing.flap_window_ms);
        state.failed += 1;
        state.failures.push_back(now);
        while state.failures.front().is_some_and(|first| now.duration_since(*first) > window) {
            state.failures.pop_front();
        }
        state.reason = Some(failure.why.clone());
        note(&mut state, format!("failed: {}", failure.why));
        tracing::warn!(adapter = %name, why = %failure.why, "a plugin's process failed");
        let on_probation = state.probation_until.take().is_some_and(|until| now < until);
        if on_probation && let Some(previous) = state.previous.take() {
            note(&mut state, format!("rolled back to {}", previous.sha256));
            tracing::warn!(adapter = %name, sha256 = %previous.sha256, "the plugin is rolled back");
            state.current = Some(previous);
            state.failures.clear();
            return false;
        }
        let flaps = state.failures.len() > usize::try_from(self.timing.flaps_max).unwrap_or(usize::MAX);
        if !failure.for_good && !flaps {
            return false;
        }
        let why = if failure.for_good {
            failure.why.clone()
        } else {
            let (count, seconds) = (state.failures.len(), window.as_secs());
            format!("it failed {count} times within {seconds} s, at last because {}", failure.why)
        };
        tracing::error!(adapter = %name, %why, "the plugin is quarantined");
        note(&mut state, format!("quarantined: {why}"));
        state.quarantine = Some(why);
        drop(state);
        // callers that wait hear of it
        self.live.send_modify(|_| ());
        true
    }

    pub(super) fn end_quarantine(&self, why: &str) {
        let mut state = lock(&self.state);
        if state.quarantine.take().is_some() {
            state.failures.clear();
            note(&mut state, format!("the quarantine ended: {why}"));
        }
    }

    /// Ends the quarantine and the wait before a restart.
    pub(super) fn reset(&self) {
        self.end_quarantine("by its operator");
        self.reset.notify_waiters();
        // a keeper that is only just going to wait
        self.reset.notify_one();
    }

    pub(super) fn on_probation(&self) -> bool {
        lock(&self.state).probation_until.is_some_and(|until| Instant::now() < until)
    }

    /// The process for the next call, and a token that the call holds. `not` names one that just failed.
    ///
    /// # Errors
    /// `adapter_down` with what keeps the plugin from running.
    pub(super) async fn take(
        self: &Arc<Self>,
        not: Option<u64>,
    ) -> Result<(Arc<Instance>, TaskTrackerToken), AdapterError> {
        if self.stop.is_cancelled() {
            return Err(self.down("it was stopped"));
        }
        self.want();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.timing.wait_ms);
        let mut live = self.live.subscribe();
        loop {
            {
                let _open = tokio::time::timeout_at(deadline, self.gate.read())
                    .await
                    .map_err(|_| self.down("it is being replaced"))?;
                let picked = self.pick(&live.borrow_and_update(), not);
                if let Some(instance) = picked {
                    let token = instance.calls.token();
                    return Ok((instance, token));
                }
            }
            if let Some(why) = lock(&self.state).quarantine.clone() {
                return Err(self.down(&format!("it is quarantined: {why}")));
            }
            if !matches!(tokio::time::timeout_at(deadline, live.changed()).await, Ok(Ok(()))) {
                let why = lock(&self.state).reason.clone().unwrap_or_else(|| "it is being started".to_owned());
                return Err(self.down(&why));
            }
        }
    }

    fn pick(&self, live: &[Option<Arc<Instance>>], not: Option<u64>) -> Option<Arc<Instance>> {
        let up: Vec<&Arc<Instance>> = live.iter().flatten().filter(|instance| !instance.is_gone()).collect();
        let better: Vec<&Arc<Instance>> =
            up.iter().copied().filter(|instance| instance.is_steady() && Some(instance.number) != not).collect();
        let from = if better.is_empty() { up } else { better };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        from.get(turn % from.len().max(1)).map(|instance| Arc::clone(instance))
    }

    /// The error for a plugin that does not answer.
    pub(super) fn down(&self, why: &str) -> AdapterError {
        AdapterError::passing(ReasonCode::AdapterDown, format!("plugin {}: {why}", self.setting.spec.name))
    }

    /// Brings another version up, moves the calls to it, and lets the old one finish.
    pub(super) async fn swap(self: &Arc<Self>, program: ProgramSpec) -> Result<(), SwapError> {
        let _one = self.swapping.try_lock().map_err(|_| SwapError::UnderWay)?;
        self.want();
        let replicas = self.live.borrow().len();
        let unhealthy = |failure: StartFailed| SwapError::Unhealthy { why: failure.why };
        let mut new = Vec::with_capacity(replicas);
        for _ in 0..replicas {
            new.push(Instance::start(&self.setting, &program, self.next_number()).await.map_err(unhealthy)?);
        }
        let exclusive = new.iter().any(|instance| instance.hello.exclusive);
        if exclusive && replicas > 1 {
            return Err(SwapError::Unhealthy { why: "its backend allows one process at a time".to_owned() });
        }
        // dropping what was started ends it
        let closed = if exclusive { Some(self.quiet().await?) } else { None };
        for instance in &new {
            if let Err(failure) = instance.open().await {
                if closed.is_some() {
                    // the old process may have lost to the new one what only one can have: a fresh one opens it again
                    for old in self.live.borrow().iter().flatten() {
                        old.stop("its backend was opened by a version that failed");
                    }
                }
                let why = failure.why.clone();
                note(&mut lock(&self.state), format!("the swap to {} failed: {why}", program.sha256));
                return Err(unhealthy(failure));
            }
        }
        {
            let mut state = lock(&self.state);
            note(&mut state, format!("swapped to {}", program.sha256));
            state.previous = state.current.replace(program);
            state.probation_until = Some(Instant::now() + Duration::from_millis(self.timing.probation_ms));
            state.failures.clear();
            state.quarantine = None;
        }
        let handovers = lock(&self.handovers).clone();
        for (slot, (instance, handover)) in new.into_iter().zip(handovers).enumerate() {
            // at once, and not when the keeper gets to it
            self.publish(slot, Some(&instance));
            // a keeper that is gone means that the node stops
            let _ = handover.send(instance).await;
        }
        drop(closed);
        Ok(())
    }

    /// Closes the gate and waits for the calls under way.
    async fn quiet(&self) -> Result<tokio::sync::RwLockWriteGuard<'_, ()>, SwapError> {
        let waited_ms = self.timing.wait_ms / 2;
        let quiet = async {
            let closed = self.gate.write().await;
            let old: Vec<Arc<Instance>> = self.live.borrow().iter().flatten().cloned().collect();
            for instance in &old {
                instance.calls.close();
                instance.calls.wait().await;
            }
            closed
        };
        let closed = tokio::time::timeout(Duration::from_millis(waited_ms), quiet).await;
        closed.map_err(|_| {
            for instance in self.live.borrow().iter().flatten() {
                instance.calls.reopen();
            }
            SwapError::Busy { waited_ms }
        })
    }

    /// Goes back to the version before the last swap.
    pub(super) async fn rollback(self: &Arc<Self>) -> Result<(), SwapError> {
        let previous = lock(&self.state).previous.clone().ok_or(SwapError::NoPrevious)?;
        self.swap(previous).await
    }

    pub(super) fn live(&self) -> Vec<Arc<Instance>> {
        self.live.borrow().iter().flatten().cloned().collect()
    }

    /// The desk, for a plugin whose jobs execute the runner.
    pub(super) fn runners(&self) -> Option<&super::by_runner::DeskLink> {
        self.setting.desk.as_ref().filter(|_| self.about().is_some_and(|(_, can)| can.by_runner))
    }

    pub(super) fn spec(&self) -> &PluginSpec {
        &self.setting.spec
    }

    /// Whether a process of it takes calls and said at its last heartbeat that it is ready.
    pub(super) fn standing(&self) -> Result<(), String> {
        let live = self.live();
        let mut up = live.iter().filter(|instance| !instance.is_gone()).peekable();
        if up.peek().is_none() {
            return Err(self.trouble().unwrap_or_else(|| "it is being started".to_owned()));
        }
        let mut notes = Vec::new();
        for instance in up {
            let health = instance.health();
            if health.ready && instance.is_steady() {
                return Ok(());
            }
            notes.extend(health.notes);
        }
        Err(if notes.is_empty() { "it does not answer".to_owned() } else { notes.join("; ") })
    }

    /// Why it does not work, where it does not.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = lock(&self.state);
        state.quarantine.as_ref().map(|why| format!("quarantined: {why}")).or_else(|| state.reason.clone())
    }

    pub(super) fn view(&self) -> PluginView {
        let live = self.live();
        let instances: Vec<InstanceView> = live
            .iter()
            .map(|instance| {
                let health = instance.health();
                InstanceView {
                    number: instance.number,
                    pid: instance.pid,
                    backend: instance.hello.backend.clone(),
                    version: instance.hello.version.clone(),
                    protocol: instance.hello.protocol,
                    up_ms: u64::try_from(instance.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    calls: instance.calls.len(),
                    ready: health.ready,
                    notes: health.notes,
                }
            })
            .collect();
        let state = lock(&self.state);
        PluginView {
            name: self.setting.spec.name.clone(),
            state: match () {
                () if !instances.is_empty() => PluginState::Running,
                () if state.quarantine.is_some() => PluginState::Quarantined,
                () if self.wanted.load(Ordering::Acquire) => PluginState::Starting,
                () => PluginState::Idle,
            },
            sha256: state.current.as_ref().map_or(self.setting.spec.program.sha256, |program| program.sha256),
            previous_sha256: state.previous.as_ref().map(|program| program.sha256),
            instances,
            starts: self.numbers.load(Ordering::Relaxed),
            failures: state.failed,
            reason: state.quarantine.clone().or_else(|| state.reason.clone()),
            history: state.history.iter().cloned().collect(),
            config_schema: state.schema.clone(),
        }
    }
}

fn note(state: &mut State, line: String) {
    if state.history.len() == HISTORY_MAX {
        state.history.pop_front();
    }
    state.history.push_back(line);
}
