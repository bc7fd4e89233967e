//! Stories of the driver: two regions in one process, with real records on disk and frames that are signed and opened.

use super::*;
use crate::drivers::custody::TaskRecords;
use crate::drivers::members::{KnownMember, KnownMembers};
use crate::drivers::run_channel::{RunCommand, RunReport, RunReportState};
use crate::mesh::{FrameHandler as _, MeshError, StreamClass};
use crate::trace::TraceId;
use bytes::Bytes;
use consensus::envelope::Federation;
use consensus::negotiation::{
    Digest, Input, Need, NegotiationConfig, OwnPool, PlanRequest, RunOutcome, Submission, TaskState, Wishes,
};
use consensus::store::Records;
use cpi::dictionary::Dictionary;
use cpi::ids::{MemberId, PlanId, TaskId};
use cpi::reason::ReasonCode;
use cpi::resource::{ComputeClass, Firmness, GIB, PoolSpec, PriceList, Quantity, RegionPlace, ServerClass};
use cpi::task::TaskSpec;
use ed25519_dalek::SigningKey;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The backend lets this one wait for ever.
const NEVER_STARTS: u64 = 404;
const FEDERATION: Federation = Federation { id: [9; 32], epoch: 1 };

/// Delivers frames between the regions of a test.
#[derive(Clone, Default)]
struct Hub {
    inboxes: Arc<Mutex<BTreeMap<MemberId, Arc<Inbox>>>>,
    /// The traces of the runs that were prepared anywhere.
    prepared: Arc<Mutex<Vec<TraceId>>>,
}

struct Port {
    me: MemberId,
    hub: Hub,
}

impl PeerSender for Port {
    fn send_frame(&self, to: MemberId, class: StreamClass, frame: Bytes) -> Result<(), MeshError> {
        let inbox = self.hub.inboxes.lock().unwrap().get(&to).cloned();
        let inbox = inbox.ok_or(MeshError::Stopped)?;
        inbox.on_frame(self.me, class, frame);
        Ok(())
    }
}

struct Region {
    handle: NegotiationHandle,
    digests: watch::Receiver<Option<Digest>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Region {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn key(member: MemberId) -> SigningKey {
    SigningKey::from_bytes(&[member.0 as u8; 32])
}

fn place(member: MemberId) -> RegionPlace {
    RegionPlace {
        region: format!("region-{}", member.0).parse().unwrap(),
        city: "G110100".to_owned(),
        country: "CN".to_owned(),
    }
}

fn members() -> KnownMembers {
    let known = KnownMembers::default();
    let all = [MemberId(1), MemberId(2)].map(|member| {
        let signing_keys = vec![key(member).verifying_key().to_bytes()];
        (member, KnownMember { place: place(member), active: true, signing_keys })
    });
    known.set(all.into_iter().collect());
    known
}

fn pool(servers: u32) -> OwnPool {
    let per_server = Quantity { cpu_milli: 8_000, memory_bytes: 32 * GIB, storage_bytes: 100 * GIB, chip_milli: 0 };
    let class = ServerClass { name: "s".to_owned(), cpu_model: "X".to_owned(), chip: None, per_server, servers };
    let spec = PoolSpec {
        name: "p".to_owned(),
        backend: "fake".to_owned(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: vec![class],
        firmness: Firmness::Held,
        price: PriceList { currency: "CNY".to_owned(), ..PriceList::default() },
        carbon_g_per_kwh: None,
        cordoned: false,
    };
    OwnPool { spec, commands: true, images: false }
}

/// Runs that end at once, or only when they are cancelled.
async fn execute(hub: Hub, mut commands: mpsc::Receiver<RunCommand>, reports: mpsc::Sender<RunReport>, ends: bool) {
    let ended = |reason: Option<ReasonCode>| {
        let outcome = RunOutcome { reason: reason.map(Into::into), ..RunOutcome::default() };
        RunReportState::Ended(Box::new(outcome))
    };
    while let Some(command) = commands.recv().await {
        let said = match command {
            RunCommand::Prepare(lease) => {
                hub.prepared.lock().unwrap().push(lease.trace);
                vec![(lease.key, RunReportState::Staged)]
            }
            RunCommand::Start { key, .. } if key.task == submission(NEVER_STARTS).task => Vec::new(),
            RunCommand::Start { key, .. } if ends => vec![(key, RunReportState::Started), (key, ended(None))],
            RunCommand::Start { key, .. } => vec![(key, RunReportState::Started)],
            RunCommand::Reattach(lease) => vec![(lease.key, RunReportState::Started)],
            RunCommand::Cancel(key) => vec![(key, ended(Some(ReasonCode::Cancelled)))],
            RunCommand::Renew { .. } | RunCommand::Release(_) => Vec::new(),
        };
        for (key, state) in said {
            if reports.send(RunReport { key, state }).await.is_err() {
                return;
            }
        }
    }
}

fn start_region(hub: &Hub, me: MemberId, dir: &Path, servers: u32, ends: bool) -> Region {
    start_knowing(hub, me, dir, servers, ends, members())
}

fn start_knowing(hub: &Hub, me: MemberId, dir: &Path, servers: u32, ends: bool, members: KnownMembers) -> Region {
    let (inbox, queues) = inbox(me, FEDERATION, members.clone());
    hub.inboxes.lock().unwrap().insert(me, inbox);
    let (runs, runs_in) = mpsc::channel(64);
    let (reports, reports_in) = mpsc::channel(64);
    tokio::spawn(execute(hub.clone(), runs_in, reports, ends));
    let stop = CancellationToken::new();
    let records = Records::open(&dir.join(format!("records-{}", me.0))).unwrap();
    let (handle, digests, task) = start(NegotiationParts {
        me,
        federation: FEDERATION,
        signing_key: Arc::new(key(me)),
        config: NegotiationConfig::default(),
        dictionary: Dictionary::first(),
        records: TaskRecords::new(records),
        members,
        peers: Arc::new(Port { me, hub: hub.clone() }),
        queues,
        runs,
        reports: reports_in,
        results: Arc::new(NoResults),
        pools: vec![pool(servers)],
        digest_ttl_ms: 30_000,
        seed: 1,
        stop: stop.clone(),
    })
    .unwrap();
    Region { handle, digests, stop, task }
}

/// Two regions that know of each other; only the second has servers.
async fn pair(dir: &Path, ends: bool) -> (Hub, Region, Region) {
    let hub = Hub::default();
    let one = start_region(&hub, MemberId(1), dir, 0, ends);
    let mut two = start_region(&hub, MemberId(2), dir, 4, ends);
    introduce(&one, &mut two).await;
    (hub, one, two)
}

async fn introduce(one: &Region, two: &mut Region) {
    for member in [MemberId(1), MemberId(2)] {
        for region in [one, &*two] {
            let place = place(member);
            region.handle.feed(Input::Member { member, place, active: true }).await.unwrap();
            region.handle.feed(Input::Rtt { member, rtt_ms: Some(1) }).await.unwrap();
        }
    }
    let digest = two.digests.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    one.handle.feed(Input::Digest(Arc::new(digest))).await.unwrap();
}

fn spec() -> TaskSpec {
    serde_json::from_value(serde_json::json!({ "name": "story", "command": ["/bin/true"] })).unwrap()
}

fn submission(n: u64) -> Submission {
    let spec = spec();
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    Submission {
        task: TaskId(id),
        principal: "tester".to_owned(),
        idempotency_key: Some(format!("key-{n}")),
        document: serde_json::to_vec(&spec).unwrap().into(),
        need: Need::of(&spec, &Dictionary::first()),
        wishes: Wishes::of(&spec).unwrap(),
        deadline_ms: None,
        retry: spec.retry,
        plan: None,
    }
}

async fn until(region: &Region, task: TaskId, done: impl Fn(&BoardTask) -> bool) -> BoardTask {
    let mut watch = region.handle.board().watch();
    loop {
        if let Some(task) = region.handle.board().task(task).unwrap().filter(&done) {
            return task;
        }
        watch.recv().await.unwrap();
    }
}

#[tokio::test]
async fn the_trace_of_a_submission_reaches_the_run_in_the_other_region() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, one, two) = pair(dir.path(), true).await;
    let traces = [TraceId([1; 16]), TraceId([2; 16])];
    for (n, trace) in [1, 2].into_iter().zip(traces) {
        trace.scope(one.handle.submit(submission(n))).await.unwrap();
        until(&one, submission(n).task, |t| t.summary.state.is_ended()).await;
    }
    assert_eq!(*hub.prepared.lock().unwrap(), traces);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_digest_says_how_many_tasks_wait_inside() {
    let dir = tempfile::tempdir().unwrap();
    let (_hub, one, mut two) = pair(dir.path(), false).await;
    let queued = |digest: &Option<Digest>| digest.as_ref().map(|digest| digest.pools[0].queue);
    one.handle.submit(submission(NEVER_STARTS)).await.unwrap();
    two.digests.wait_for(|digest| queued(digest) == Some(1)).await.unwrap();
    // the next one starts, and does not count once it runs
    one.handle.submit(submission(1)).await.unwrap();
    let free = |digest: &Option<Digest>| digest.as_ref().map(|digest| digest.pools[0].classes[0].free.cpu_milli);
    two.digests.wait_for(|digest| queued(digest) == Some(1) && free(digest) == Some(30_000)).await.unwrap();
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_task_goes_to_the_other_region_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (_hub, one, two) = pair(dir.path(), true).await;
    one.handle.submit(submission(1)).await.unwrap();
    let task = until(&one, submission(1).task, |t| t.summary.state.is_ended()).await;
    assert_eq!(task.summary.state, TaskState::Succeeded);
    assert_eq!(task.custody.binding.as_ref().map(|b| b.provider), Some(MemberId(2)));
    let events = one.handle.board().events(submission(1).task, 0, 100).unwrap();
    let seqs: Vec<u32> = events.iter().map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u32).collect::<Vec<_>>());
    assert!(!one.handle.board().decisions(submission(1).task, 10).unwrap().is_empty());
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_node_that_learns_of_its_own_admission_after_its_start_places_on_itself() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::default();
    let me = MemberId(2);
    let mut region = start_knowing(&hub, me, dir.path(), 4, true, KnownMembers::default());
    // it told its capacity once, when nobody was known
    region.digests.wait_for(Option::is_some).await.unwrap();
    region.handle.feed(Input::Member { member: me, place: place(me), active: true }).await.unwrap();
    region.handle.submit(submission(1)).await.unwrap();
    let task = until(&region, submission(1).task, |t| t.summary.state.is_ended()).await;
    assert_eq!(task.custody.binding.as_ref().map(|b| b.provider), Some(me));
    region.stop().await;
}

#[tokio::test]
async fn a_restarted_origin_finds_its_task_running() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, one, mut two) = pair(dir.path(), false).await;
    one.handle.submit(submission(1)).await.unwrap();
    until(&one, submission(1).task, |t| t.summary.state == TaskState::Running).await;
    one.stop().await;
    let one = start_region(&hub, MemberId(1), dir.path(), 0, false);
    introduce(&one, &mut two).await;
    let task = until(&one, submission(1).task, |t| t.summary.state == TaskState::Running).await;
    assert_eq!(task.custody.runs, 1);
    one.handle.cancel(submission(1).task, "tester".to_owned()).await.unwrap();
    let task = until(&one, submission(1).task, |t| t.summary.state.is_ended()).await;
    assert_eq!(task.summary.state, TaskState::Cancelled);
    assert!(one.handle.board().records().restore().unwrap().tasks.is_empty());
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_restarted_provider_keeps_its_leases() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, one, two) = pair(dir.path(), false).await;
    one.handle.submit(submission(1)).await.unwrap();
    until(&one, submission(1).task, |t| t.summary.state == TaskState::Running).await;
    two.stop().await;
    let two = start_region(&hub, MemberId(2), dir.path(), 4, false);
    assert_eq!(two.handle.runs().await.unwrap().len(), 1);
    let pools = two.handle.pools().await.unwrap();
    assert!(pools.iter().any(|p| p.digest.classes[0].free.cpu_milli == 31_000));
    one.handle.cancel(submission(1).task, "tester".to_owned()).await.unwrap();
    until(&one, submission(1).task, |t| t.summary.state.is_ended()).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_plan_holds_and_a_task_made_of_it_goes_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_hub, one, two) = pair(dir.path(), true).await;
    let submission = submission(7);
    let plan = PlanId(submission.task.0);
    let request = PlanRequest {
        plan,
        document: submission.document.clone(),
        need: submission.need.clone(),
        wishes: submission.wishes.clone(),
        deadline_ms: None,
        hold: true,
    };
    let result = one.handle.plan(request).await.unwrap();
    assert_eq!(result.choice.as_ref().map(|c| c.member), Some(MemberId(2)));
    one.handle.submit(Submission { plan: Some(plan), ..submission.clone() }).await.unwrap();
    let task = until(&one, submission.task, |t| t.summary.state.is_ended()).await;
    assert_eq!(task.summary.state, TaskState::Succeeded);
    // Used once.
    let again = one.handle.submit(Submission { plan: Some(plan), ..submission }).await;
    assert!(matches!(again, Err(SubmitError::Refused(_))));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_frame_with_a_strange_signature_is_dropped() {
    let (inbox, mut queues) = inbox(MemberId(1), FEDERATION, members());
    let decline = consensus::negotiation::Message::Decline(Box::new(consensus::negotiation::Decline {
        task: TaskId([1; 16]),
        fence: cpi::ids::Fence { epoch: cpi::ids::Epoch { counter: 1, member: MemberId(1) }, attempt: 1 },
        origin: MemberId(1),
        reason: ReasonCode::Busy.into(),
        retry_after_ms: 1,
        status: Vec::new(),
        counter: None,
    }));
    let sent_by = |signer: MemberId| {
        let seal = super::outgoing::Seal::new(Arc::new(key(signer)), FEDERATION, 1);
        let hub = Hub::default();
        hub.inboxes.lock().unwrap().insert(MemberId(1), Arc::clone(&inbox));
        let port = Port { me: MemberId(2), hub };
        super::outgoing::send_now(&port, &seal, MemberId(1), std::slice::from_ref(&decline));
    };
    sent_by(MemberId(3));
    assert!(queues.contracts.try_recv().is_err());
    sent_by(MemberId(2));
    assert!(queues.contracts.try_recv().is_ok());
    inbox.on_frame(MemberId(2), StreamClass::Negotiation, Bytes::from_static(b"\x01rubbish"));
    assert!(queues.contracts.try_recv().is_err());
}

#[tokio::test]
async fn the_last_change_of_a_pool_holds_be_it_a_command_or_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let region = start_region(&Hub::default(), MemberId(1), dir.path(), 1, true);
    region.handle.cordon("p", true).await.unwrap();
    region.handle.drain(true).await.unwrap();
    region.stop().await;
    let records = TaskRecords::new(Records::open(&dir.path().join("records-1")).unwrap());
    assert!(records.draining().unwrap());
    let configured = |on| [("p".to_owned(), on)].into();
    assert_eq!(records.cordons(&configured(false)).unwrap(), [("p".to_owned(), true)], "the command came last");
    assert!(records.cordons(&configured(true)).unwrap().is_empty(), "the configuration was changed since");
    assert!(records.cordons(&[].into()).unwrap().is_empty(), "the pool is gone");
}

#[tokio::test]
async fn a_second_submission_of_a_task_takes_nothing_from_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (_hub, one, two) = pair(dir.path(), false).await;
    let (first, second) = tokio::join!(one.handle.submit(submission(1)), one.handle.submit(submission(1)));
    assert!(first.is_ok(), "the first caller gets its own answer: {first:?}");
    assert!(matches!(second, Err(SubmitError::Refused(reason)) if reason.code == ReasonCode::InvalidTask));
    until(&one, submission(1).task, |t| t.summary.state == TaskState::Running).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn an_ended_task_loses_its_files_first_and_goes_later() {
    use crate::drivers::custody::idempotency_row;
    use crate::services::artifacts::{ArtifactStore, PinOwner};
    use crate::services::task_retention::{Swept, TaskRetention, sweep};
    let dir = tempfile::tempdir().unwrap();
    let (_hub, one, two) = pair(dir.path(), true).await;
    let (id, other) = (submission(1).task, submission(2).task);
    for n in [1, 2] {
        one.handle.submit(submission(n)).await.unwrap();
    }
    let ended_at = until(&one, id, |task| task.summary.ended.is_some()).await.summary.ended.unwrap().0;
    until(&one, other, |task| task.summary.ended.is_some()).await;
    let board = Arc::clone(one.handle.board());
    let store = ArtifactStore::open(dir.path().join("artifacts"), 0).unwrap();
    let content = store.put_bytes(Bytes::from_static(b"an input")).await.unwrap().digest;
    store.pin(PinOwner::Task(id), [content], []).unwrap();

    let retention = TaskRetention { results_ms: 1_000_000, tasks_ms: 2_000_000, tasks_max: 10, keys_ms: 1_000_000 };
    let at = |ms: u64| sweep(&board, &store, retention, ended_at + ms).unwrap();
    assert_eq!(at(999_000), Swept::default());
    assert_eq!(at(1_500_000), Swept { unpinned: 1, removed: 0 });
    assert!(!store.names(id, &content), "its files are kept no longer");
    assert_eq!(board.count(|state| state.is_ended()), 2);
    // more than may be kept: the one that was submitted first goes before its time
    let few = TaskRetention { tasks_max: 1, ..retention };
    assert_eq!(sweep(&board, &store, few, ended_at).unwrap(), Swept { unpinned: 0, removed: 1 });
    assert!(board.task(id).unwrap().is_none());
    assert!(board.task(other).unwrap().is_some());
    // its key does not: a repeat is no new task
    let key = |n: u64| board.records().repeated(&idempotency_row("tester", &format!("key-{n}"))).unwrap();
    assert_eq!(key(1).map(|repeated| repeated.task), Some(id));
    assert_eq!(at(900_000), Swept::default());
    assert!(key(1).is_some());
    assert_eq!(at(1_000_000), Swept::default());
    assert!(key(1).is_none(), "the key has had its time");
    assert!(key(2).is_some(), "the other's goes with its task");
    assert_eq!(at(3_000_000), Swept { unpinned: 0, removed: 1 });
    assert_eq!(board.count(|_| true), 0);
    assert!(board.events(other, 0, 10).unwrap().is_empty());
    assert!(key(2).is_none());
    one.stop().await;
    two.stop().await;
}
