//! Stories of the executor over the fake backend and a store of its own.

use super::*;
use crate::drivers::backends::Backends;
use crate::drivers::run_channel::{RunCommand, RunLease, RunReport, RunReportState};
use crate::services::artifacts::{ArtifactFetcher, ArtifactStore, ByteStream, PinOwner, StreamOpener};
use adapters::contract::RunKey;
use adapters::fake::{FakeAdapter, FakeScript, Lie};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::negotiation::RunOutcome;
use cpi::ids::{ContentDigest, Epoch, Fence, LeaseId, MemberId, TaskId};
use cpi::reason::ReasonCode;
use cpi::resource::{ComputeClass, Firmness, PoolSpec, PriceList, Quantity};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

const ORIGIN: MemberId = MemberId(1);
const HERE: MemberId = MemberId(2);

struct Nobody;

#[async_trait]
impl StreamOpener for Nobody {
    async fn open_stream(&self, _: MemberId, _: Bytes) -> io::Result<Box<dyn ByteStream>> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

struct Region {
    fake: FakeAdapter,
    store: ArtifactStore,
    table: RunTable,
    commands: mpsc::Sender<RunCommand>,
    reports: mpsc::Receiver<RunReport>,
    _stop: DropGuard,
    dir: tempfile::TempDir,
}

fn pool() -> PoolSpec {
    PoolSpec {
        name: "pool".into(),
        backend: "fake".into(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: Vec::new(),
        firmness: Firmness::Held,
        price: PriceList::default(),
        carbon_g_per_kwh: None,
        cordoned: false,
    }
}

impl Region {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let fake = FakeAdapter::with_files(vec![pool()], Some(dir.path().join("files")));
        Self::with(dir, fake)
    }

    fn with(dir: tempfile::TempDir, fake: FakeAdapter) -> Self {
        let store = ArtifactStore::open(dir.path().join("artifacts"), 0).unwrap();
        let (commands, commands_in) = mpsc::channel(64);
        let (reports_out, reports) = mpsc::channel(64);
        let (stop, table) = (CancellationToken::new(), RunTable::default());
        let backends = Backends::new(vec![pool()]);
        backends.insert("fake", Arc::new(fake.clone()));
        RunExecutor::spawn(ExecutorParts {
            backends,
            fetcher: ArtifactFetcher::new(HERE, store.clone(), Arc::new(Nobody)),
            table: table.clone(),
            commands: commands_in,
            reports: reports_out,
            cancel_grace_ms: 1000,
            stop: stop.clone(),
        });
        Self { fake, store, table, commands, reports, _stop: stop.drop_guard(), dir }
    }

    /// The node restarts: all that was in memory is gone, backend and disk are not.
    fn restarted(self) -> Self {
        let Self { fake, dir, .. } = self;
        Self::with(dir, fake)
    }

    async fn tell(&self, command: RunCommand) {
        self.commands.send(command).await.unwrap();
    }

    async fn next(&mut self) -> RunReportState {
        tokio::time::timeout(Duration::from_secs(120), self.reports.recv())
            .await
            .expect("a report in time")
            .unwrap()
            .state
    }

    async fn ended(&mut self) -> RunOutcome {
        loop {
            match self.next().await {
                RunReportState::Ended(outcome) => return *outcome,
                RunReportState::Staged | RunReportState::Started | RunReportState::Frozen => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn later() -> tokio::time::Instant {
    tokio::time::Instant::now() + std::time::Duration::from_secs(30)
}

/// Starts a run under the lease that it was prepared with.
fn start(key: RunKey) -> RunCommand {
    RunCommand::Start { key, until: tokio::time::Instant::now() }
}

fn lease(number: u8, document: &str) -> RunLease {
    RunLease {
        trace: crate::trace::TraceId::NONE,
        key: RunKey {
            task: TaskId([number; 16]),
            fence: Fence { epoch: Epoch { counter: 1, member: ORIGIN }, attempt: 1 },
        },
        lease: LeaseId([number; 16]),
        origin: ORIGIN,
        custodians: vec![ORIGIN],
        pool: "pool".into(),
        class: "class".into(),
        variant: 0,
        need: Quantity::default(),
        document: Bytes::copy_from_slice(document.as_bytes()),
        lease_ttl_ms: 30_000,
        freeze_on_lapse: true,
    }
}

const PLAIN: &str = r#"{"name":"t","command":["x"],"outputs":[{"path":"out"}]}"#;

fn writes() -> FakeScript {
    FakeScript {
        stdout: "said".into(),
        files: [("out".to_owned(), "result".to_owned())].into(),
        ..FakeScript::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_is_staged_started_and_its_results_wait_for_the_origin() {
    let mut region = Region::new();
    let lease = lease(1, PLAIN);
    region.fake.script(lease.key.task, FakeScript { run_ms: 1000, ..writes() });
    region.tell(RunCommand::Prepare(Box::new(lease.clone()))).await;
    assert_eq!(region.next().await, RunReportState::Staged);
    assert_eq!(region.fake.submitted(), 0, "nothing runs before it is bound");
    region.tell(start(lease.key)).await;
    assert_eq!(region.next().await, RunReportState::Started);
    let outcome = region.ended().await;
    assert!(outcome.is_success(), "{outcome:?}");
    assert_eq!(outcome.outputs[0].digest, ContentDigest::of(b"result"));
    assert_eq!((outcome.logs.len(), outcome.logs[0].path.as_str()), (1, "stdout"));
    for file in outcome.outputs.iter().chain(&outcome.logs) {
        assert!(region.store.has(&file.digest));
        assert!(region.store.may_read(ORIGIN, lease.key.task, &file.digest));
        assert!(!region.store.may_read(MemberId(9), lease.key.task, &file.digest));
    }
    // said again when asked again, and started only once
    region.tell(start(lease.key)).await;
    assert_eq!(region.ended().await, outcome);
    region.tell(RunCommand::Prepare(Box::new(lease.clone()))).await;
    assert_eq!(region.ended().await, outcome);
    assert_eq!(region.fake.submitted(), 1);
    region.tell(RunCommand::Release(lease.key)).await;
    let gone = async {
        while region.store.may_read(ORIGIN, lease.key.task, &outcome.outputs[0].digest) || !region.table.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_a_run_wherever_it_stands() {
    let mut region = Region::new();
    let (staged, running, unknown) = (lease(1, PLAIN), lease(2, PLAIN), lease(3, PLAIN));
    region.fake.script(running.key.task, FakeScript { run_ms: 1_000_000, ..writes() });
    region.tell(RunCommand::Prepare(Box::new(staged.clone()))).await;
    assert_eq!(region.next().await, RunReportState::Staged);
    region.tell(RunCommand::Cancel(staged.key)).await;
    let code = |outcome: RunOutcome| outcome.reason.map(|reason| reason.code);
    assert_eq!(code(region.ended().await), Some(ReasonCode::Cancelled));
    // a start that comes late does not bring it back
    region.tell(start(staged.key)).await;
    assert_eq!(code(region.ended().await), Some(ReasonCode::Cancelled));
    assert_eq!(region.fake.submitted(), 0);
    region.tell(RunCommand::Prepare(Box::new(running.clone()))).await;
    region.tell(start(running.key)).await;
    region.tell(RunCommand::Cancel(running.key)).await;
    assert_eq!(code(region.ended().await), Some(ReasonCode::Cancelled));
    region.tell(RunCommand::Cancel(unknown.key)).await;
    assert_eq!(code(region.ended().await), Some(ReasonCode::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn runs_are_found_again_after_a_restart_and_never_started_anew() {
    let mut region = Region::new();
    let (long, short, lost) = (lease(1, PLAIN), lease(2, PLAIN), lease(3, PLAIN));
    region.fake.script(long.key.task, FakeScript { run_ms: 20_000, ..writes() });
    region.fake.script(short.key.task, FakeScript { run_ms: 10, ..writes() });
    for lease in [&long, &short] {
        region.tell(RunCommand::Prepare(Box::new(lease.clone()))).await;
        region.tell(start(lease.key)).await;
    }
    let mut started = 0;
    while started < 2 {
        started += usize::from(region.next().await == RunReportState::Started);
    }
    let mut region = region.restarted();
    region.tell(RunCommand::Reattach(Box::new(short.clone()))).await;
    let outcome = region.ended().await;
    assert!(outcome.is_success() && region.store.has(&outcome.outputs[0].digest), "{outcome:?}");
    region.tell(RunCommand::Reattach(Box::new(long.clone()))).await;
    assert_eq!(region.next().await, RunReportState::Started);
    assert!(region.ended().await.is_success());
    region.tell(RunCommand::Reattach(Box::new(lost.clone()))).await;
    assert!(matches!(region.next().await, RunReportState::Lost(_)));
    assert_eq!(region.fake.submitted(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_lies_does_not_confuse() {
    for (number, lie) in [Lie::Silent, Lie::Repeats, Lie::LateRunning, Lie::SubmitLostAnswer].into_iter().enumerate() {
        let mut region = Region::new();
        let lease = lease(number as u8 + 1, PLAIN);
        region.fake.script(lease.key.task, FakeScript { run_ms: 500, lie: Some(lie), ..writes() });
        region.tell(RunCommand::Prepare(Box::new(lease.clone()))).await;
        region.tell(start(lease.key)).await;
        let outcome = region.ended().await;
        assert!(outcome.is_success(), "{lie:?}: {outcome:?}");
        assert_eq!(region.fake.submitted(), 1, "{lie:?}");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(region.reports.try_recv().is_err(), "{lie:?}: an end is said once");
    }
    let mut region = Region::new();
    let vanishing = lease(9, PLAIN);
    region.fake.script(vanishing.key.task, FakeScript { run_ms: 500, lie: Some(Lie::Vanishes), ..writes() });
    region.tell(RunCommand::Prepare(Box::new(vanishing.clone()))).await;
    region.tell(start(vanishing.key)).await;
    assert_eq!(region.next().await, RunReportState::Staged);
    assert_eq!(region.next().await, RunReportState::Started);
    assert!(matches!(region.next().await, RunReportState::Lost(_)));
}

#[tokio::test(start_paused = true)]
async fn failures_before_the_program_runs_say_why() {
    let mut region = Region::new();
    let failed = |state: RunReportState| match state {
        RunReportState::Failed(reason) => reason.code,
        other => panic!("{other:?}"),
    };
    region.tell(RunCommand::Prepare(Box::new(lease(1, "{")))).await;
    assert_eq!(failed(region.next().await), ReasonCode::InvalidTask);
    let mut elsewhere = lease(2, PLAIN);
    elsewhere.pool = "nowhere".into();
    region.tell(RunCommand::Prepare(Box::new(elsewhere))).await;
    assert_eq!(failed(region.next().await), ReasonCode::AdapterDown);
    // its input cannot be had
    let digest = ContentDigest::of(b"input");
    let document = format!(r#"{{"name":"t","command":["x"],"inputs":[{{"path":"in","digest":"{digest}"}}]}}"#);
    region.tell(RunCommand::Prepare(Box::new(lease(3, &document)))).await;
    assert_eq!(failed(region.next().await), ReasonCode::PeerUnreachable);
    // and once it is here it starts by itself
    region.store.put_bytes(Bytes::from_static(b"input")).await.unwrap();
    let there = lease(4, &document);
    region.tell(RunCommand::Prepare(Box::new(there.clone()))).await;
    region.tell(start(there.key)).await;
    assert!(region.ended().await.is_success());
    region.store.unpin(PinOwner::Run(there.key)).unwrap();
    // the backend is down for too long
    let down = lease(5, PLAIN);
    region.tell(RunCommand::Prepare(Box::new(down.clone()))).await;
    assert_eq!(region.next().await, RunReportState::Staged);
    region.fake.set_down(true);
    region.tell(start(down.key)).await;
    assert_eq!(failed(region.next().await), ReasonCode::AdapterDown);
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_freezes_and_a_renewal_lets_it_go_on() {
    let mut region = Region::new();
    let mut short = lease(1, PLAIN);
    short.lease_ttl_ms = 100;
    region.fake.script(short.key.task, FakeScript { run_ms: 500, ..writes() });
    region.tell(RunCommand::Prepare(Box::new(short.clone()))).await;
    region.tell(start(short.key)).await;
    for expected in [RunReportState::Staged, RunReportState::Started, RunReportState::Frozen] {
        assert_eq!(region.next().await, expected);
    }
    region.tell(RunCommand::Renew { keys: vec![short.key], until: later() }).await;
    assert_eq!(region.next().await, RunReportState::Started);
    assert!(region.ended().await.is_success());
}
