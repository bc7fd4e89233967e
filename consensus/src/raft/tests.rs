//! Three and more replicas in one process, over a transport in memory that can be cut.

use super::timers::Timers;
use super::*;
use crate::envelope::{Envelope, Federation, StatementKind};
use crate::registry::command::{JoinRequest, Registration};
use crate::registry::{Admission, Command, Genesis, ItemOutcome, Response};
use crate::time::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use cpi::identifier::Cpi;
use cpi::ids::MemberId;
use cpi::resource::RegionPlace;
use ed25519_dalek::{Signer as _, SigningKey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) const STEM: &str =
    "cpi:1:C91110108MA00CP019A-GI6450-G110100-A01.GC-VM-2870TF64-20P-400G-INX8480P_800.RS-INX8480P-112-1024G-15T-400";
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Who is there, and which pairs are cut.
#[derive(Default)]
pub(super) struct Switch {
    pub replicas: Mutex<BTreeMap<MemberId, RegistryHandle>>,
    pub cut: Mutex<BTreeSet<MemberId>>,
    /// Frames by who asked whom, and of what class.
    pub asked: Mutex<BTreeMap<(MemberId, MemberId, RaftClass), u64>>,
    /// Of every line, in ms.
    round_trip_ms: AtomicU64,
}

struct Line {
    from: MemberId,
    switch: Arc<Switch>,
}

impl Line {
    fn target(&self, to: MemberId) -> Option<RegistryHandle> {
        let cut = self.switch.cut.lock().unwrap();
        if cut.contains(&to) || cut.contains(&self.from) {
            return None;
        }
        self.switch.replicas.lock().unwrap().get(&to).cloned()
    }
}

#[async_trait]
impl RaftTransport for Line {
    async fn call(
        &self,
        to: MemberId,
        class: RaftClass,
        frame: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        let target = self.target(to).ok_or(TransportError::Unreachable(to))?;
        *self.switch.asked.lock().unwrap().entry((self.from, to, class)).or_default() += 1;
        let half = Duration::from_millis(self.switch.round_trip_ms.load(Ordering::Relaxed) / 2);
        let answer = tokio::time::timeout(deadline, async {
            // what is sent in order comes in order: the timer has a millisecond's grain and keeps the order of equal ones
            tokio::time::sleep(half).await;
            let answer = target.serve(self.from, class, frame).await;
            tokio::time::sleep(half).await;
            answer
        })
        .await;
        if self.target(to).is_none() {
            return Err(TransportError::Timeout(to));
        }
        answer
            .map_err(|_| TransportError::Timeout(to))?
            .map_err(|message| TransportError::Refused { member: to, message })
    }

    fn members(&self) -> Vec<MemberId> {
        self.switch.replicas.lock().unwrap().keys().copied().collect()
    }

    fn rtt_ms(&self, to: MemberId) -> Option<u32> {
        self.target(to).map(|_| self.switch.round_trip_ms.load(Ordering::Relaxed).max(1) as u32)
    }
}

pub(super) struct Ring {
    dir: tempfile::TempDir,
    pub switch: Arc<Switch>,
    federation: Federation,
    sequence: AtomicU64,
}

pub(super) fn key(member: u64) -> SigningKey {
    SigningKey::from_bytes(&[member as u8; 32])
}

fn transport_key(member: u64) -> SigningKey {
    SigningKey::from_bytes(&[100 + member as u8; 32])
}

fn place(member: u64) -> RegionPlace {
    RegionPlace {
        region: format!("r{member}").parse().unwrap(),
        city: format!("G{member}10000"),
        country: "CN".to_owned(),
    }
}

fn genesis() -> Genesis {
    Genesis {
        name: "test".to_owned(),
        founded_at: Timestamp(1),
        nonce: [0; 16],
        place: place(1),
        transport_key: transport_key(1).verifying_key().to_bytes(),
        signing_key: key(1).verifying_key().to_bytes(),
        addresses: Vec::new(),
        enterprises: vec!["C91110108MA00CP019A".to_owned()],
    }
}

impl Ring {
    /// A federation of `members`, all of them up.
    pub async fn of(members: u64) -> Self {
        let federation = Federation { id: genesis().federation_id(), epoch: 0 };
        let ring =
            Self { dir: tempfile::tempdir().unwrap(), switch: Arc::default(), federation, sequence: AtomicU64::new(1) };
        ring.start(1, Some(genesis())).await;
        for member in 2..=members {
            let admitted = ring.handle(1).propose(ring.admission(member), PATIENCE).await.unwrap().response;
            assert_eq!(admitted, Response::Admitted { member: MemberId(member), raft_id: member });
            ring.start(member, None).await;
        }
        ring
    }

    fn path(&self, member: u64) -> std::path::PathBuf {
        self.dir.path().join(member.to_string())
    }

    fn options(&self, member: u64, raft_id: u64, found: Option<Genesis>) -> RegistryOptions {
        RegistryOptions {
            dir: self.path(member),
            seat: self.path(member).with_extension("seat"),
            member: MemberId(member),
            raft_id,
            federation: self.federation,
            signing_key: key(member),
            floor: TimerFloor { heartbeat_ms: 160, election_ms: 480 },
            snapshot_log_bytes: 64 << 20,
            log_entries_kept: 1_000,
            cache_bytes: 1 << 20,
            found,
        }
    }

    fn line(&self, member: u64) -> Arc<Line> {
        Arc::new(Line { from: MemberId(member), switch: Arc::clone(&self.switch) })
    }

    pub async fn start(&self, member: u64, found: Option<Genesis>) {
        self.start_as(member, member, found).await;
    }

    /// Starts a member's replica under a Raft id; one that was stopped a moment ago may still hold its files.
    async fn start_as(&self, member: u64, raft_id: u64, found: Option<Genesis>) {
        let end = Instant::now() + PATIENCE;
        let handle = loop {
            let options = self.options(member, raft_id, found.clone());
            match RegistryHandle::start(options, self.line(member)).await {
                Ok(handle) => break handle,
                Err(error @ StartError::LogLost { .. }) => panic!("{error}"),
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.switch.replicas.lock().unwrap().insert(MemberId(member), handle);
    }

    pub async fn stop(&self, member: u64) {
        let handle = self.switch.replicas.lock().unwrap().remove(&MemberId(member)).unwrap();
        handle.shutdown().await;
    }

    pub fn handle(&self, member: u64) -> RegistryHandle {
        self.switch.replicas.lock().unwrap()[&MemberId(member)].clone()
    }

    pub fn sign(&self, signer: &SigningKey, command: &Command) -> Vec<u8> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        Envelope::seal(StatementKind::RegistryCommand, self.federation, signer, sequence, command.to_bytes()).to_bytes()
    }

    fn admission(&self, member: u64) -> Vec<u8> {
        let (signing, transport) = (key(member), transport_key(member));
        let nonce = [member as u8; 16];
        let claim = JoinRequest::transport_claim(&signing.verifying_key().to_bytes(), &nonce);
        let request = JoinRequest {
            invitation_nonce: nonce,
            place: place(member),
            transport_key: transport.verifying_key().to_bytes(),
            addresses: Vec::new(),
            transport_proof: transport.sign(&claim).to_bytes().to_vec(),
        };
        let envelope = Envelope::seal(StatementKind::JoinRequest, self.federation, &signing, 1, request.to_bytes());
        let admission = Admission {
            invitation_nonce: nonce,
            place: request.place,
            transport_key: request.transport_key,
            signing_key: signing.verifying_key().to_bytes(),
            addresses: Vec::new(),
            enterprises: Vec::new(),
            request: envelope.to_bytes(),
            approvals: Vec::new(),
        };
        self.sign(&key(1), &Command::Admit(Box::new(admission)))
    }

    pub fn registration(&self, zone: u32) -> (Vec<u8>, cpi::ids::StableKey) {
        let cpi = Cpi::seal(&STEM.replace("-A01.", &format!("-{zone:03}."))).unwrap();
        let items = vec![Registration { text: cpi.as_str().to_owned() }];
        (self.sign(&key(1), &Command::Register { items, release: 1 }), cpi.stable_key())
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            if Instant::now() >= end {
                for (member, handle) in self.switch.replicas.lock().unwrap().iter() {
                    let status = handle.status();
                    eprintln!(
                        "{member}: {:?} voters {:?} learners {:?} last {} snapshot {}",
                        status.freshness, status.voters, status.learners, status.last_log_index, status.snapshot_index
                    );
                }
                panic!("not in time: {what}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn voters(&self, count: usize) {
        self.until("voters", |ring| {
            ring.switch.replicas.lock().unwrap().values().all(|handle| handle.status().voters.len() == count)
        })
        .await;
    }

    pub fn leader(&self, among: &[u64]) -> Option<u64> {
        among.iter().copied().find(|member| self.handle(*member).freshness().role == Role::Leader)
    }
}

fn registered(committed: &Committed) -> bool {
    matches!(&committed.response, Response::Registered(items) if matches!(items[0], ItemOutcome::Registered { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_at_any_member_is_committed_and_read_at_all() {
    let ring = Ring::of(4).await;
    ring.voters(3).await;
    for member in 1..=4 {
        let (envelope, key) = ring.registration(member as u32);
        assert!(registered(&ring.handle(member).propose(envelope, PATIENCE).await.unwrap()));
        assert!(ring.handle(member).reader().identifier(&key).is_some(), "a member reads its own write");
        for other in 1..=4 {
            ring.handle(other).linearizable(PATIENCE).await.unwrap();
            assert!(ring.handle(other).reader().identifier(&key).is_some());
        }
    }
    ring.until("beacons", |ring| (1..=4).all(|member| ring.handle(member).freshness().as_of.is_some())).await;
    let hash = |member| ring.handle(member).reader().summary().unwrap().hash;
    assert!((2..=4).all(|member| hash(member) == hash(1)));
    assert_eq!(ring.handle(4).status().diverged_at, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_resume_when_the_leader_is_gone_and_nothing_acknowledged_is_lost() {
    let ring = Ring::of(3).await;
    ring.voters(3).await;
    let (before, kept) = ring.registration(1);
    ring.handle(2).propose(before, PATIENCE).await.unwrap();
    let leader = ring.leader(&[1, 2, 3]).unwrap();
    ring.switch.cut.lock().unwrap().insert(MemberId(leader));
    let other = if leader == 2 { 3 } else { 2 };
    let (after, _) = ring.registration(2);
    let began = Instant::now();
    assert!(registered(&ring.handle(other).propose(after.clone(), PATIENCE).await.unwrap()));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(ring.handle(other).reader().identifier(&kept).is_some());
    // alone it commits nothing and says so; healed, it has what the others have, and a repeat gives the first outcome
    let (lonely, _) = ring.registration(3);
    assert!(matches!(
        ring.handle(leader).propose(lonely.clone(), Duration::from_secs(1)).await,
        Err(ProposeError::NoQuorum)
    ));
    assert!(ring.handle(leader).linearizable(Duration::from_millis(300)).await.is_err());
    ring.switch.cut.lock().unwrap().clear();
    assert!(registered(&ring.handle(leader).propose(lonely, PATIENCE).await.unwrap()));
    assert!(registered(&ring.handle(leader).propose(after, PATIENCE).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raft_that_does_not_start_again_is_tried_until_it_does() {
    let ring = Ring::of(1).await;
    ring.voters(1).await;
    let handle = ring.handle(1);
    handle.inner.again.fails.store(true, Ordering::Release);
    let timers = Timers::of(100, TimerFloor { heartbeat_ms: 160, election_ms: 480 });
    let restarting = handle.clone();
    let restart = tokio::spawn(async move { restarting.retime(timers, None).await });
    ring.until("said to be stopped", |ring| ring.handle(1).status().stopped.is_some()).await;
    let (envelope, key) = ring.registration(1);
    let refused = handle.propose(envelope.clone(), Duration::from_millis(200)).await;
    assert!(matches!(refused, Err(ProposeError::NoQuorum)), "{refused:?}");
    handle.inner.again.fails.store(false, Ordering::Release);
    restart.await.unwrap();
    assert_eq!(handle.status().stopped, None);
    assert!(registered(&handle.propose(envelope, PATIENCE).await.unwrap()));
    assert!(handle.reader().identifier(&key).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_announced_beyond_all_bounds_is_not_begun() {
    use super::wire::{Answer, Question, WireProgress, WireVote, decode_frame, encode_frame};
    let ring = Ring::of(1).await;
    ring.voters(1).await;
    for sizes in [vec![2 << 40], vec![u64::MAX, 2], vec![1 << 40, 1]] {
        let files = sizes.into_iter().enumerate().map(|(n, size)| (format!("{n}.sst"), size)).collect();
        let vote = WireVote::from(super::types::Vote::new_committed(1, 1));
        let progress = WireProgress::new(None, &super::types::StoredMembership::default());
        let question = Question::SnapshotBegin { to: 1, vote, progress, files };
        let answer = ring.handle(1).serve(MemberId(1), RaftClass::Snapshot, encode_frame(&question).into()).await;
        let answer: Answer = decode_frame(&answer.unwrap()).unwrap();
        assert!(matches!(&answer, Answer::Failed(why) if why.contains("announced")), "it is refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_replica_has_everything() {
    let ring = Ring::of(3).await;
    ring.voters(3).await;
    let (envelope, key) = ring.registration(1);
    ring.handle(1).propose(envelope, PATIENCE).await.unwrap();
    for member in 1..=3 {
        ring.stop(member).await;
    }
    for member in [1, 2] {
        ring.start(member, None).await;
    }
    ring.handle(2).linearizable(PATIENCE).await.unwrap();
    assert!(ring.handle(2).reader().identifier(&key).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_its_log_does_not_vote_and_begins_anew_under_another_id() {
    let ring = Ring::of(3).await;
    ring.voters(3).await;
    let (envelope, key) = ring.registration(1);
    ring.handle(1).propose(envelope, PATIENCE).await.unwrap();
    ring.stop(3).await;
    let end = Instant::now() + PATIENCE;
    // what was stopped a moment ago may still write its state
    while let Err(error) = std::fs::remove_dir_all(ring.path(3)) {
        assert!(Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lost = loop {
        match RegistryHandle::start(ring.options(3, 3, None), ring.line(3)).await {
            // what was stopped a moment ago still holds its files
            Err(StartError::Store(_)) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
            other => break other,
        }
    };
    assert!(matches!(lost, Err(StartError::LogLost { raft_id: 3, .. })), "{:?}", lost.err());
    let command = Command::RenewRaftId { lost: 3 };
    let renewal = ring.sign(&super::tests::key(3), &command);
    let others = [MemberId(3), MemberId(2), MemberId(1)];
    let raft_id = RegistryHandle::renew(&*ring.line(3), &others, &renewal, PATIENCE).await.unwrap();
    assert_eq!(raft_id, 4);
    // the answer was forgotten: another question gives the same id, not one more
    let again = ring.sign(&super::tests::key(3), &command);
    assert_eq!(RegistryHandle::renew(&*ring.line(3), &others, &again, PATIENCE).await.unwrap(), 4);
    ring.start_as(3, 4, None).await;
    let seats = |ring: &Ring| ring.handle(1).status().voters.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    ring.until("the new id votes instead of the lost one", |ring| seats(ring) == [1, 2, 4]).await;
    ring.handle(3).linearizable(PATIENCE).await.unwrap();
    assert!(ring.handle(3).reader().identifier(&key).is_some());
    // what is meant for the lost id is not answered in its name
    let vote = openraft::raft::VoteRequest::new(super::types::Vote::new(1_000, 1), None);
    let question = super::wire::encode_frame(&super::wire::vote_question(3, &vote, false));
    let answer = ring.handle(3).serve(MemberId(1), RaftClass::Control, question.into()).await.unwrap();
    let answer = super::wire::decode_frame(&answer).unwrap();
    assert!(matches!(answer, super::wire::Answer::Failed(message) if message.contains("Raft id 3 is no more")));
    // who does not vote is not listened to as if it did, nor is a voter in another's name
    for (from, id, what) in [(MemberId(2), 1, "not yours"), (MemberId(3), 99, "does not vote")] {
        let vote = openraft::raft::VoteRequest::new(super::types::Vote::new(1_000, id), None);
        let question = super::wire::encode_frame(&super::wire::vote_question(1, &vote, false));
        let answer = ring.handle(1).serve(from, RaftClass::Control, question.into()).await.unwrap();
        let answer = super::wire::decode_frame(&answer).unwrap();
        assert!(matches!(&answer, super::wire::Answer::Failed(message) if message.contains(what)), "{from} as {id}");
    }
    // a restart under the new id is an ordinary one
    ring.stop(3).await;
    ring.start_as(3, 4, None).await;
    ring.handle(3).linearizable(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_follow_far_voters_and_writes_resume_soon_when_their_leader_is_gone() {
    let ring = Ring::of(3).await;
    ring.voters(3).await;
    ring.switch.round_trip_ms.store(200, Ordering::Relaxed);
    let far = Timers::of(200, TimerFloor { heartbeat_ms: 160, election_ms: 480 });
    let fit = |timers: (u64, u64, u64)| timers == (far.heartbeat_ms, far.election_ms_min, far.election_ms_max);
    ring.until("timers", |ring| (1..=3).all(|member| fit(ring.handle(member).status().timers_ms))).await;
    let (envelope, key) = ring.registration(1);
    ring.handle(1).propose(envelope, PATIENCE).await.unwrap();
    ring.until("a leader", |ring| ring.leader(&[1, 2, 3]).is_some()).await;
    let leader = ring.leader(&[1, 2, 3]).unwrap();
    ring.stop(leader).await;
    let other = if leader == 2 { 3 } else { 2 };
    let (after, _) = ring.registration(2);
    let began = Instant::now();
    assert!(registered(&ring.handle(other).propose(after, PATIENCE).await.unwrap()));
    // one election takes 3 s at these timers; room for a second one, where a busy machine loses the first
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(ring.handle(other).reader().identifier(&key).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_late_gets_a_snapshot() {
    let ring = Ring::of(1).await;
    let mut keys = Vec::new();
    for zone in 0..50 {
        let (envelope, key) = ring.registration(zone);
        ring.handle(1).propose(envelope, PATIENCE).await.unwrap();
        keys.push(key);
    }
    // the log is purged up to a snapshot, so that the new one cannot be fed from it
    let raft = &ring.handle(1).inner_raft();
    raft.trigger().snapshot().await.unwrap();
    ring.until("a snapshot", |ring| ring.handle(1).status().snapshot_index >= 50).await;
    raft.trigger().purge_log(50).await.unwrap();
    let admitted = ring.handle(1).propose(ring.admission(2), PATIENCE).await.unwrap();
    assert!(matches!(admitted.response, Response::Admitted { .. }));
    ring.start(2, None).await;
    ring.until("the snapshot at the other", |ring| {
        ring.handle(2).reader().summary().is_some_and(|summary| summary.applied >= admitted.index)
    })
    .await;
    assert!(keys.iter().all(|key| ring.handle(2).reader().identifier(key).is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_hold_is_refused_before_it_is_proposed() {
    let ring = Ring::of(1).await;
    let (mut envelope, _) = ring.registration(1);
    let last = envelope.len() - 1;
    envelope[last] ^= 1;
    assert!(matches!(ring.handle(1).propose(envelope, PATIENCE).await, Err(ProposeError::Rejected(_))));
    let snapshot = ring.handle(1).snapshot().await.unwrap();
    assert!(Path::new(&snapshot.0).exists() && snapshot.1 > 0);
}
