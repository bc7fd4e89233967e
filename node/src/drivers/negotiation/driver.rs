//! The task that owns the machine: gathers inputs, performs actions, writes once and speaks once a tick.

use super::board::TaskBoard;
use super::handle::{NegotiationGauges, NegotiationHandle, PoolState, ProviderRun};
use super::inbox::{Answering, Incoming, Queues};
use super::outgoing::{Outgoing, PeerSender, Seal};
use super::traces::Traces;
use crate::drivers::custody::{TaskRecords, TaskRecordsError};
use crate::drivers::members::KnownMembers;
use crate::drivers::run_channel::{RunCommand, RunLease, RunReport, RunReportState};
use crate::trace::TraceId;
use adapters::contract::RunKey;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use consensus::envelope::Federation;
use consensus::negotiation::{
    Action, AskMode, Attempt, Digest, FileRef, Input, Message, NegotiationConfig, Negotiator, OriginStats, OwnPool,
    PersistId, PlanRequest, PlanResult, ProviderStats, Record, RunNotice, RunOrder, Submission,
};
use consensus::store::{RecordBatch, StoreError};
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
    Submit(Box<Submission>, TraceId, oneshot::Sender<Result<(), Reason>>),
    Plan(Box<PlanRequest>, oneshot::Sender<PlanResult>),
    Cancel(TaskId, String, oneshot::Sender<()>),
    Feed(Box<Input>),
    Switch(Switch, oneshot::Sender<()>),
    ReadPools(oneshot::Sender<Vec<PoolState>>),
    ReadRuns(oneshot::Sender<Vec<ProviderRun>>),
    ReadStats(oneshot::Sender<(OriginStats, ProviderStats, usize)>),
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
        traces: Traces::default(),
        loopback: VecDeque::new(),
        held: VecDeque::new(),
        writing: Vec::new(),
        written: PersistId(0),
        synced: PersistId(0),
        unsynced: VecDeque::new(),
        submits: BTreeMap::new(),
        admitted: VecDeque::new(),
        plans: BTreeMap::new(),
        runs: parts.runs,
        orders: VecDeque::new(),
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
    fetched: mpsc::UnboundedReceiver<(Attempt, Result<(), Reason>)>,
    reports: mpsc::Receiver<RunReport>,
}

struct Driver {
    me: MemberId,
    machine: Negotiator,
    clock: Instant,
    peers: Arc<dyn PeerSender>,
    seal: Seal,
    board: Arc<TaskBoard>,
    records: TaskRecords,
    members: KnownMembers,
    outgoing: Outgoing,
    traces: Traces,
    loopback: VecDeque<Message>,
    held: VecDeque<(PersistId, MemberId, Message)>,
    writing: Vec<Record>,
    written: PersistId,
    synced: PersistId,
    unsynced: VecDeque<(PersistId, Vec<Record>)>,
    submits: BTreeMap<TaskId, oneshot::Sender<Result<(), Reason>>>,
    admitted: VecDeque<(PersistId, TaskId)>,
    plans: BTreeMap<PlanId, oneshot::Sender<PlanResult>>,
    runs: mpsc::Sender<RunCommand>,
    /// Orders with the persist that they rest on.
    orders: VecDeque<(PersistId, RunCommand)>,
    switched: Vec<(Switch, oneshot::Sender<()>)>,
    /// What the configuration says of each own pool: whether it takes no new work.
    configured: BTreeMap<String, bool>,
    results: Arc<dyn ResultFetcher>,
    fetched: mpsc::UnboundedSender<(Attempt, Result<(), Reason>)>,
    synced_out: mpsc::UnboundedSender<Result<PersistId, StoreError>>,
    digest: watch::Sender<Option<Digest>>,
    gauges: Arc<ArcSwap<NegotiationGauges>>,
    digest_ttl_ms: u64,
    digests: u64,
    digest_of: u64,
}

enum Woken {
    Stop,
    Synced(Result<PersistId, StoreError>),
    Message(Incoming),
    Report(RunReport),
    Fetched(Attempt, Result<(), Reason>),
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
                Some(report) = inputs.reports.recv() => Woken::Report(report),
                Some((attempt, result)) = inputs.fetched.recv() => Woken::Fetched(attempt, result),
                Some(control) = inputs.control.recv() => Woken::Control(control),
                () = sleep_until(due) => Woken::Timer,
                permit = self.runs.reserve(), if self.has_order() => {
                    match permit {
                        Ok(permit) => {
                            if let Some((_, order)) = self.orders.pop_front() {
                                permit.send(order);
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

    /// Whether an order may go to the executor: what it rests on is on disk.
    fn has_order(&self) -> bool {
        self.orders.front().is_some_and(|(after, _)| *after <= self.synced)
    }

    /// Handles what else waits, urgent things first, until the tick is full. False to stop.
    fn drain(&mut self, inputs: &mut Inputs) -> bool {
        for _ in 0..INPUTS_PER_TICK {
            let room = self.unsynced.len() < UNSYNCED_MAX;
            let woken = if let Ok(result) = inputs.synced.try_recv() {
                Woken::Synced(result)
            } else if let Ok(incoming) = inputs.queues.contracts.try_recv() {
                Woken::Message(incoming)
            } else if let Ok(report) = inputs.reports.try_recv() {
                Woken::Report(report)
            } else if let Ok((attempt, result)) = inputs.fetched.try_recv() {
                Woken::Fetched(attempt, result)
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

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Now { mono: Monotonic(self.clock.elapsed().as_millis() as u64), wall: Timestamp(wall) }
    }

    fn input(&mut self, input: Input) {
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
            Woken::Report(report) => {
                let attempt = Attempt { task: report.key.task, fence: report.key.fence };
                self.input(Input::Run(attempt, notice(report.state)));
            }
            Woken::Fetched(attempt, result) => self.input(Input::Fetched { attempt, result }),
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
            Control::Feed(input) => self.input(*input),
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

    /// Does what the machine asks for; nothing here waits.
    fn perform(&mut self) {
        loop {
            let Some(action) = self.machine.poll_action() else {
                let Some(message) = self.loopback.pop_front() else { return };
                let now = self.now();
                self.machine.handle(now, Input::Message { from: self.me, message });
                continue;
            };
            match action {
                Action::Persist { id, records } => {
                    self.written = id;
                    self.writing.extend(records);
                }
                Action::Send { to, message, after } => match after.filter(|after| *after > self.synced) {
                    Some(after) => self.held.push_back((after, to, message)),
                    None => self.send(to, message),
                },
                Action::Admitted { task, result: Ok(persist) } => self.admitted.push_back((persist, task)),
                Action::Admitted { task, result: Err(reason) } => {
                    if let Some(answer) = self.submits.remove(&task) {
                        let _ = answer.send(Err(reason));
                    }
                }
                Action::Planned(plan) => {
                    if let Some(answer) = self.plans.remove(&plan.plan) {
                        let _ = answer.send(*plan);
                    }
                }
                Action::Run(order) => self.order(order),
                Action::Fetch { attempt, from, files } => self.fetch(attempt, from, files),
            }
        }
    }

    fn send(&mut self, to: MemberId, message: Message) {
        match &message {
            Message::Ask(ask) if ask.mode == AskMode::CommitIf => self.board.note_asked(ask.task, to),
            Message::Award(award) => self.board.note_asked(award.task, to),
            _ => {}
        }
        if to == self.me {
            self.loopback.push_back(message);
        } else {
            let trace = message.attempt().map_or(TraceId::NONE, |attempt| self.traces.of(attempt.task));
            self.outgoing.push(to, trace, message);
        }
    }

    fn fetch(&self, attempt: Attempt, from: MemberId, files: Vec<FileRef>) {
        let results = Arc::clone(&self.results);
        let fetched = self.fetched.clone();
        tokio::spawn(async move {
            let result = results.fetch_results(attempt.task, from, files).await;
            let _ = fetched.send((attempt, result));
        });
    }

    fn order(&mut self, order: RunOrder) {
        let key = |a: Attempt| RunKey { task: a.task, fence: a.fence };
        let lease = |grant: consensus::negotiation::RunGrant| {
            Box::new(RunLease {
                key: key(grant.attempt),
                trace: self.traces.of(grant.attempt.task),
                lease: grant.lease,
                origin: grant.origin,
                pool: grant.target.pool,
                class: grant.target.class,
                variant: grant.target.variant,
                need: grant.quantity,
                document: grant.document,
                lease_ttl_ms: grant.lease_ttl_ms,
                freeze_on_lapse: grant.freeze_on_lapse,
            })
        };
        let command = match order {
            RunOrder::Prepare(grant) => RunCommand::Prepare(lease(*grant)),
            RunOrder::Start(attempt) => RunCommand::Start(key(attempt)),
            RunOrder::Reattach(grant) => RunCommand::Reattach(lease(*grant)),
            RunOrder::Renew { runs, ttl_ms } => RunCommand::Renew { keys: runs.into_iter().map(key).collect(), ttl_ms },
            RunOrder::Cancel(attempt) => RunCommand::Cancel(key(attempt)),
            RunOrder::Release(attempt) => RunCommand::Release(key(attempt)),
        };
        self.orders.push_back((self.written, command));
    }

    /// Ends the tick: one write, one frame per peer and class, orders to the executor.
    fn flush(&mut self) {
        while self.has_order() {
            let Ok(permit) = self.runs.try_reserve() else { break };
            if let Some((_, order)) = self.orders.pop_front() {
                permit.send(order);
            }
        }
        // What could not be sent counts as silence; it may cause more actions, once.
        let unsent = self.outgoing.flush(self.peers.as_ref(), &self.seal);
        for (member, messages) in unsent {
            for message in messages {
                if let Message::Ask(ask) = message {
                    let attempt = Some(Attempt { task: ask.task, fence: ask.fence });
                    self.input(Input::PeerBusy { member, attempt, question: true });
                }
            }
        }
        self.outgoing.flush(self.peers.as_ref(), &self.seal);
        self.write();
    }

    fn write(&mut self) {
        if self.writing.is_empty() && self.switched.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.writing);
        let mut batch = RecordBatch::default();
        for record in &records {
            TaskRecords::put(&mut batch, record);
        }
        self.board.summarise(&mut batch, &records);
        let mut answers = Vec::new();
        for (switch, answer) in std::mem::take(&mut self.switched) {
            match &switch {
                Switch::Cordon { pool, on } => {
                    let configured = self.configured.get(pool).copied().unwrap_or(false);
                    TaskRecords::put_cordon(&mut batch, pool, *on, configured);
                }
                Switch::Draining { on } => TaskRecords::put_draining(&mut batch, *on),
            }
            answers.push(answer);
        }
        let id = self.written;
        self.unsynced.push_back((id, records));
        let synced = self.synced_out.clone();
        self.records.records().write_then(batch, move |result| {
            if result.is_ok() {
                for answer in answers {
                    let _ = answer.send(());
                }
            }
            // A driver that stopped needs no answer.
            let _ = synced.send(result.map(|()| id));
        });
    }

    /// Records are on disk: they are shown, answers are given, held messages go out.
    fn on_disk(&mut self, up_to: PersistId) {
        self.synced = self.synced.max(up_to);
        while self.unsynced.front().is_some_and(|(id, _)| *id <= up_to) {
            let Some((_, records)) = self.unsynced.pop_front() else { break };
            self.board.show(records);
        }
        while self.admitted.front().is_some_and(|(persist, _)| *persist <= up_to) {
            let Some((_, task)) = self.admitted.pop_front() else { break };
            if let Some(answer) = self.submits.remove(&task) {
                let _ = answer.send(Ok(()));
            }
        }
        while self.held.front().is_some_and(|(after, ..)| *after <= up_to) {
            let Some((_, to, message)) = self.held.pop_front() else { break };
            self.send(to, message);
        }
        self.input(Input::Persisted { up_to });
    }

    /// Looks at own capacity; if it changed, tells it to the own directory and to the digests' driver.
    fn tell_digest(&mut self) {
        let changes = self.machine.provider().changes();
        // the directory takes no digest of a member that it does not know yet: on a first start, not even our own
        let untold = self.machine.directory().get(self.me).is_some_and(|own| own.digest.is_none());
        if changes == self.digest_of && !untold {
            return;
        }
        self.digest_of = changes;
        self.digests += 1;
        let digest = self.machine.digest(self.digests, self.digest_ttl_ms);
        let classes = digest.pools.iter().flat_map(|pool| pool.classes.iter().map(move |class| (pool, class)));
        let stats = self.machine.provider().stats();
        self.gauges.store(Arc::new(NegotiationGauges {
            holds: self.machine.provider().holds(),
            leases: self.machine.provider().leases().count(),
            runs_ended: (stats.ended - stats.ended_for_others, stats.ended_for_others),
            capacity: classes
                .map(|(pool, class)| {
                    (format!("{}/{}", pool.name, class.name), class.total(), class.free, class.largest_fit)
                })
                .collect(),
        }));
        let _ = self.digest.send(Some(digest.clone()));
        self.input(Input::Digest(Box::new(Digest { ttl_ms: u64::MAX, ..digest })));
    }

    fn pools(&self) -> Vec<PoolState> {
        let now = self.now();
        let mut pools = Vec::new();
        let own = self.machine.digest(0, 0);
        let provider = self.machine.provider();
        for (index, (digest, spec)) in own.pools.into_iter().zip(provider.book().specs()).enumerate() {
            pools.push(PoolState {
                member: self.me,
                digest,
                draining: own.draining,
                age_ms: 0,
                stale: false,
                backend: Some(spec.backend.clone()),
                runs: Some(provider.runs_in(index as u16)),
            });
        }
        let members = self.members.load();
        for (member, region) in self.machine.directory().iter() {
            let Some(digest) = &region.digest else { continue };
            if *member == self.me || !members.contains_key(member) {
                continue;
            }
            let age_ms = now.mono.since_ms(region.digest_at);
            pools.extend(digest.pools.iter().map(|pool| PoolState {
                member: *member,
                digest: pool.clone(),
                draining: digest.draining,
                age_ms,
                stale: age_ms > digest.ttl_ms,
                backend: None,
                runs: None,
            }));
        }
        pools
    }

    fn provider_runs(&self) -> Vec<ProviderRun> {
        let leases = self.machine.provider().leases();
        leases
            .map(|lease| ProviderRun {
                attempt: lease.record.attempt,
                origin: lease.record.origin,
                pool: lease.record.target.pool.clone(),
                class: lease.record.target.class.clone(),
                server: lease.record.server,
                quantity: lease.record.quantity,
                phase: lease.record.phase,
            })
            .collect()
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
