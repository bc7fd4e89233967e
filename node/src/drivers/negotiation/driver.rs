//! The task that owns the machine: gathers inputs, performs actions, writes once and speaks once a tick.

use super::board::TaskBoard;
use super::handle::{NegotiationGauges, NegotiationHandle, PoolState, ProviderRun};
use super::inbox::{Answering, Incoming, Queues};
use super::orders::{Held, Orders};
use super::outgoing::{Outgoing, PeerSender, Seal};
use super::traces::Traces;
use crate::drivers::custody::{TaskRecords, TaskRecordsError};
use crate::drivers::custody_copies::Copies;
use crate::drivers::custody_frames::CustodyFrames;
use crate::drivers::members::KnownMembers;
use crate::drivers::run_channel::{RunCommand, RunReport, RunReportState};
use crate::trace::TraceId;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use consensus::custody::{self, Durability};
use consensus::envelope::Federation;
use consensus::negotiation::{
    Attempt, Digest, FileRef, Input, Message, NegotiationConfig, Negotiator, OriginStats, OwnPool, PersistId,
    PlanRequest, PlanResult, ProviderStats, Record, RunNotice, Submission,
};
use consensus::store::StoreError;
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{MemberId, PlanId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Inputs handled before the tick is closed: enough to share one sync and signature, few enough to stay quick.
const INPUTS_PER_TICK: usize = 256;
/// Submissions and plans that may wait for the driver.
const WORK_MAX: usize = 4_096;
/// Other wishes that may wait.
const CONTROL_MAX: usize = 1_024;
/// Persists that may be on their way to the disk; beyond, new work waits.
const UNSYNCED_MAX: usize = 64;
/// How often own capacity is looked at for a new digest.
const DIGEST_EVERY: Duration = Duration::from_millis(200);

/// What brings the results of a run to this origin.
#[async_trait]
pub trait ResultFetcher: Send + Sync {
    /// Brings `files` of a run of `task` from `from`, verified and kept.
    ///
    /// # Errors
    /// Why it could not; a retryable code is tried again.
    async fn fetch_results(&self, task: TaskId, from: MemberId, files: Vec<FileRef>) -> Result<(), Reason>;
}

/// What the driver is made of.
pub struct NegotiationParts {
    /// This member.
    pub me: MemberId,
    /// Its federation.
    pub federation: Federation,
    /// Signs statements.
    pub signing_key: Arc<SigningKey>,
    /// Knobs.
    pub config: NegotiationConfig,
    /// The dictionary in force.
    pub dictionary: Arc<Dictionary>,
    /// The node's rows.
    pub records: TaskRecords,
    /// The members, kept up to date by the registry's follower.
    pub members: KnownMembers,
    /// What sends frames.
    pub peers: Arc<dyn PeerSender>,
    /// The ends of the way in.
    pub queues: Queues,
    /// To the executor.
    pub runs: mpsc::Sender<RunCommand>,
    /// From the executor.
    pub reports: mpsc::Receiver<RunReport>,
    /// Brings results here.
    pub results: Arc<dyn ResultFetcher>,
    /// This region's pools.
    pub pools: Vec<OwnPool>,
    /// How long digests may be believed, in ms.
    pub digest_ttl_ms: u64,
    /// Seeds the machine's choices.
    pub seed: u64,
    /// Stops the driver.
    pub stop: CancellationToken,
}

/// A wish of a service.
pub(super) enum Control {
    Submit(Box<Submission>, TraceId, oneshot::Sender<Result<Durability, Reason>>),
    Plan(Box<PlanRequest>, oneshot::Sender<PlanResult>),
    Cancel(TaskId, String, oneshot::Sender<()>),
    Feed(Box<Input>),
    Switch(Switch, oneshot::Sender<()>),
    ReadPools(oneshot::Sender<Vec<PoolState>>),
    ReadRuns(oneshot::Sender<Vec<ProviderRun>>),
    ReadStats(oneshot::Sender<(OriginStats, ProviderStats, usize)>),
}

/// Results that were brought here, or could not be.
pub(super) struct Fetched {
    pub attempt: Attempt,
    pub result: Result<(), Reason>,
    /// From whom how many bytes came in how many ms.
    pub moved: Option<(MemberId, u64, u64)>,
}

/// What an operator switches, kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Switch {
    Cordon { pool: String, on: bool },
    Draining { on: bool },
}

impl Switch {
    fn input(self) -> Input {
        match self {
            Self::Cordon { pool, on } => Input::Cordon { pool, cordoned: on },
            Self::Draining { on } => Input::Draining(on),
        }
    }
}

/// What a started driver gives: its handle, the stream of own digests, and its task.
pub type Started = (NegotiationHandle, watch::Receiver<Option<Digest>>, tokio::task::JoinHandle<()>);

/// Reads the node's rows, starts the driver, and returns its handle with the stream of own digests. Blocks on the disk.
///
/// # Errors
/// [`TaskRecordsError`] when the rows cannot be read.
pub fn start(parts: NegotiationParts) -> Result<Started, TaskRecordsError> {
    let incarnation = parts.records.next_incarnation()?;
    let restored = parts.records.restore()?;
    let configured: BTreeMap<String, bool> =
        parts.pools.iter().map(|pool| (pool.spec.name.clone(), pool.spec.cordoned)).collect();
    let (draining, cordons) = (parts.records.draining()?, parts.records.cordons(&configured)?);
    let board = Arc::new(TaskBoard::new(parts.records.clone()));
    board.restore_index()?;
    for task in &restored.tasks {
        board.restore(&task.record, &task.custody)?;
    }
    let seal = Seal::new(Arc::clone(&parts.signing_key), parts.federation, incarnation);
    let answering = Answering { peers: Arc::clone(&parts.peers), seal: seal.clone() };
    let _ = parts.queues.answer.set(answering);
    let (control, control_in) = mpsc::channel(CONTROL_MAX);
    let (work, work_in) = mpsc::channel(WORK_MAX);
    let (synced, synced_in) = mpsc::unbounded_channel();
    let (fetched, fetched_in) = mpsc::unbounded_channel();
    let (digest, digest_out) = watch::channel(None);
    let gauges = Arc::new(ArcSwap::from_pointee(NegotiationGauges::default()));
    let handle = NegotiationHandle { gauges: Arc::clone(&gauges), control, work, board: Arc::clone(&board) };
    let digest_ttl_ms = parts.digest_ttl_ms;
    let machine = Negotiator::new(parts.me, incarnation, parts.config, parts.dictionary, parts.seed);
    let mut driver = Driver {
        me: parts.me,
        machine,
        clock: Instant::now(),
        peers: parts.peers,
        seal,
        board,
        records: parts.records,
        members: parts.members,
        outgoing: Outgoing::default(),
        custody: CustodyFrames::default(),
        copies: Copies::new(parts.me, Arc::clone(&parts.results)),
        stop: parts.stop.clone(),
        traces: Traces::default(),
        loopback: VecDeque::new(),
        held: Held::default(),
        writing: Vec::new(),
        written: PersistId(0),
        synced: PersistId(0),
        unsynced: VecDeque::new(),
        submits: BTreeMap::new(),
        plans: BTreeMap::new(),
        runs: parts.runs,
        orders: Orders::default(),
        switched: Vec::new(),
        configured,
        results: parts.results,
        fetched,
        synced_out: synced,
        digest,
        gauges,
        digest_ttl_ms,
        digests: 0,
        digest_of: u64::MAX,
    };
    let now = driver.now();
    // Whom to ask is known before any task is taken up again: one that finds only this region would end for it.
    for (member, known) in driver.members.load().iter() {
        driver.input(Input::Member { member: *member, place: known.place.clone(), active: known.active });
    }
    driver.machine.restore(now, restored);
    driver.input(Input::Pools(parts.pools));
    driver.input(Switch::Draining { on: draining }.input());
    for (pool, on) in cordons {
        driver.input(Switch::Cordon { pool, on }.input());
    }
    let inputs = Inputs {
        queues: parts.queues,
        control: control_in,
        work: work_in,
        synced: synced_in,
        fetched: fetched_in,
        reports: parts.reports,
    };
    let task = tokio::spawn(driver.run(inputs, parts.stop));
    Ok((handle, digest_out, task))
}

struct Inputs {
    queues: Queues,
    control: mpsc::Receiver<Control>,
    work: mpsc::Receiver<Control>,
    synced: mpsc::UnboundedReceiver<Result<PersistId, StoreError>>,
    fetched: mpsc::UnboundedReceiver<Fetched>,
    reports: mpsc::Receiver<RunReport>,
}

pub(super) struct Driver {
    pub(super) me: MemberId,
    pub(super) machine: Negotiator,
    pub(super) clock: Instant,
    pub(super) peers: Arc<dyn PeerSender>,
    pub(super) seal: Seal,
    pub(super) board: Arc<TaskBoard>,
    pub(super) records: TaskRecords,
    pub(super) members: KnownMembers,
    pub(super) outgoing: Outgoing,
    pub(super) custody: CustodyFrames,
    pub(super) copies: Copies,
    pub(super) stop: CancellationToken,
    pub(super) traces: Traces,
    pub(super) loopback: VecDeque<Message>,
    pub(super) held: Held,
    pub(super) writing: Vec<Record>,
    pub(super) written: PersistId,
    pub(super) synced: PersistId,
    pub(super) unsynced: VecDeque<(PersistId, Vec<Record>)>,
    pub(super) submits: BTreeMap<TaskId, oneshot::Sender<Result<Durability, Reason>>>,
    pub(super) plans: BTreeMap<PlanId, oneshot::Sender<PlanResult>>,
    pub(super) runs: mpsc::Sender<RunCommand>,
    pub(super) orders: Orders,
    pub(super) switched: Vec<(Switch, oneshot::Sender<()>)>,
    /// What the configuration says of each own pool: whether it takes no new work.
    pub(super) configured: BTreeMap<String, bool>,
    pub(super) results: Arc<dyn ResultFetcher>,
    pub(super) fetched: mpsc::UnboundedSender<Fetched>,
    pub(super) synced_out: mpsc::UnboundedSender<Result<PersistId, StoreError>>,
    pub(super) digest: watch::Sender<Option<Digest>>,
    pub(super) gauges: Arc<ArcSwap<NegotiationGauges>>,
    pub(super) digest_ttl_ms: u64,
    pub(super) digests: u64,
    pub(super) digest_of: u64,
}

enum Woken {
    Stop,
    Synced(Result<PersistId, StoreError>),
    Message(Incoming),
    Custody(MemberId, Box<custody::Message>),
    Report(RunReport),
    Fetched(Fetched),
    Control(Control),
    Timer,
    Digest,
}

impl Driver {
    async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        let mut digest_timer = tokio::time::interval(DIGEST_EVERY);
        digest_timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        self.flush();
        loop {
            let due = self.machine.poll_timeout().map(|at| self.clock + Duration::from_millis(at.0));
            let room = self.unsynced.len() < UNSYNCED_MAX;
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stop,
                Some(result) = inputs.synced.recv() => Woken::Synced(result),
                Some(incoming) = inputs.queues.contracts.recv() => Woken::Message(incoming),
                Some((from, message)) = inputs.queues.custody.recv() => Woken::Custody(from, Box::new(message)),
                Some(report) = inputs.reports.recv() => Woken::Report(report),
                Some(fetched) = inputs.fetched.recv() => Woken::Fetched(fetched),
                Some(control) = inputs.control.recv() => Woken::Control(control),
                () = sleep_until(due) => Woken::Timer,
                permit = self.runs.clone().reserve_owned(), if self.orders.is_ready(self.synced) => {
                    match permit {
                        Ok(permit) => {
                            if let Some(order) = self.orders.pop(self.synced) {
                                permit.send(self.command(order));
                            }
                            continue;
                        }
                        Err(_) => Woken::Stop,
                    }
                }
                _ = digest_timer.tick() => Woken::Digest,
                Some(incoming) = inputs.queues.questions.recv(), if room => Woken::Message(incoming),
                Some(control) = inputs.work.recv(), if room => Woken::Control(control),
            };
            if !self.handle(woken) {
                break;
            }
            if !self.drain(&mut inputs) {
                break;
            }
            self.flush();
        }
        // A failed disk stops the whole node: what it would promise from here on could be lost.
        stop.cancel();
        tracing::info!("negotiation stopped");
    }

    /// Handles what else waits, urgent things first, until the tick is full. False to stop.
    fn drain(&mut self, inputs: &mut Inputs) -> bool {
        for _ in 0..INPUTS_PER_TICK {
            let room = self.unsynced.len() < UNSYNCED_MAX;
            let woken = if let Ok(result) = inputs.synced.try_recv() {
                Woken::Synced(result)
            } else if let Ok(incoming) = inputs.queues.contracts.try_recv() {
                Woken::Message(incoming)
            } else if let Ok((from, message)) = inputs.queues.custody.try_recv() {
                Woken::Custody(from, Box::new(message))
            } else if let Ok(report) = inputs.reports.try_recv() {
                Woken::Report(report)
            } else if let Ok(fetched) = inputs.fetched.try_recv() {
                Woken::Fetched(fetched)
            } else if let Ok(control) = inputs.control.try_recv() {
                Woken::Control(control)
            } else if let Some(incoming) = room.then(|| inputs.queues.questions.try_recv().ok()).flatten() {
                Woken::Message(incoming)
            } else if let Some(control) = room.then(|| inputs.work.try_recv().ok()).flatten() {
                Woken::Control(control)
            } else {
                return true;
            };
            if !self.handle(woken) {
                return false;
            }
        }
        true
    }

    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Now { mono: Monotonic(self.clock.elapsed().as_millis() as u64), wall: Timestamp(wall) }
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        self.machine.handle(now, input);
        self.perform();
    }

    /// Handles one thing. False to stop.
    fn handle(&mut self, woken: Woken) -> bool {
        match woken {
            Woken::Stop => return false,
            Woken::Synced(Ok(up_to)) => self.on_disk(up_to),
            Woken::Synced(Err(error)) => {
                // Nothing that was promised rests on the lost write; the node stops and reads its rows anew.
                tracing::error!(%error, "the node's records failed: negotiation stops");
                return false;
            }
            Woken::Message(incoming) => self.message(incoming),
            Woken::Custody(from, message) => self.input(Input::Custody { from, message }),
            Woken::Report(report) => {
                let attempt = Attempt { task: report.key.task, fence: report.key.fence };
                self.input(Input::Run(attempt, notice(report.state)));
            }
            Woken::Fetched(Fetched { attempt, result, moved }) => {
                if let Some((member, bytes, ms)) = moved.filter(|(member, ..)| *member != self.me) {
                    self.input(Input::Moved { member, bytes, ms });
                }
                self.input(Input::Fetched { attempt, result });
            }
            Woken::Control(control) => self.control(control),
            Woken::Timer => {
                let now = self.now();
                self.machine.handle_timeout(now);
                self.perform();
            }
            Woken::Digest => self.tell_digest(),
        }
        true
    }

    fn message(&mut self, incoming: Incoming) {
        if let Message::Ask(ask) = &incoming.message
            && incoming.at.elapsed() > Duration::from_millis(ask.ttl_ms)
        {
            // Its asker has stopped waiting.
            return;
        }
        if let Some(attempt) = incoming.message.attempt().filter(|_| incoming.trace.is_some()) {
            let (trace, class) = (incoming.trace, incoming.message.class());
            tracing::debug!(%trace, task_id = %attempt.task, fence = %attempt.fence, member = %incoming.from, ?class, "a peer speaks of a task");
            self.traces.note(attempt.task, trace);
        }
        self.input(Input::Message { from: incoming.from, message: incoming.message });
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Submit(submission, trace, answer) => {
                let task = submission.task;
                if self.submits.contains_key(&task) {
                    // the first one is not on disk yet, and its answer belongs to its caller, even to one that is gone
                    let reason = Reason::new(ReasonCode::InvalidTask, "the task is being taken in already");
                    let _ = answer.send(Err(reason));
                    return;
                }
                self.traces.note(task, trace);
                tracing::debug!(%trace, task_id = %task, "a task is handed in");
                self.submits.insert(task, answer);
                self.input(Input::Submit(submission));
            }
            Control::Plan(request, answer) => {
                self.plans.retain(|_, waiting| !waiting.is_closed());
                self.plans.insert(request.plan, answer);
                self.input(Input::Plan(request));
            }
            Control::Cancel(task, principal, answer) => {
                self.input(Input::Cancel { task, principal });
                let _ = answer.send(());
            }
            Control::Feed(input) => {
                if let Input::Pools(pools) = &*input {
                    for pool in pools {
                        self.configured.entry(pool.spec.name.clone()).or_insert(pool.spec.cordoned);
                    }
                }
                self.input(*input);
            }
            Control::Switch(switch, answer) => {
                self.input(switch.clone().input());
                self.switched.push((switch, answer));
            }
            Control::ReadPools(answer) => {
                let _ = answer.send(self.pools());
            }
            Control::ReadRuns(answer) => {
                let _ = answer.send(self.provider_runs());
            }
            Control::ReadStats(answer) => {
                let provider = self.machine.provider();
                let _ = answer.send((self.machine.origin_stats(), provider.stats().clone(), provider.holds()));
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn notice(state: RunReportState) -> RunNotice {
    match state {
        RunReportState::Staged => RunNotice::Staged,
        RunReportState::Failed(reason) => RunNotice::Failed(reason),
        RunReportState::Started => RunNotice::Started,
        RunReportState::Frozen => RunNotice::Frozen,
        RunReportState::Ended(outcome) => RunNotice::Ended(outcome),
        RunReportState::Lost(reason) => RunNotice::Lost(reason),
    }
}

/// No results to bring: for tests and for regions whose runs leave nothing.
pub struct NoResults;

#[async_trait]
impl ResultFetcher for NoResults {
    async fn fetch_results(&self, _: TaskId, _: MemberId, files: Vec<FileRef>) -> Result<(), Reason> {
        match files.first() {
            None => Ok(()),
            Some(file) => Err(Reason::new(ReasonCode::InputLost, format!("{} cannot be brought here", file.path))),
        }
    }
}
