//! What is done beside ordering writes: timers that fit the voters' round trip, snapshots, and by the leader beacons, and one
//! step at a time towards the wanted seats.

use super::beacon::Beacon;
use super::handle::{Inner, Metrics, RegistryHandle, wall};
use super::seats::{self, Replica, Step, Wished};
use super::timers::{Drift, Timers};
use super::types::Peer;
use super::wire::Question;
use crate::registry::Standing;
use bytes::Bytes;
use cpi::ids::MemberId;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{ChangeMembers, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Between two looks at who should vote, and between beacons.
const BEAT: Duration = Duration::from_secs(1);
/// A learner whose log is at most so many entries behind may vote.
const CAUGHT_UP_ENTRIES: u64 = 256;
/// A log that grew at all is snapshotted after this time, so that a restart never applies days of it again.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(3600);
/// For how long a leader's word on the round trip counts.
const BEACON_COUNTS: Duration = Duration::from_secs(10);

impl RegistryHandle {
    /// The leader's once-a-second work: beacons, and one step towards the wanted seats.
    async fn lead(&self, silent: &mut BTreeMap<u64, Instant>) {
        let metrics = self.inner.raft().metrics().borrow_watched().clone();
        self.advance_proof();
        if metrics.state != ServerState::Leader || !self.quorum_confirmed(&metrics) {
            silent.clear();
            return;
        }
        let reader = self.reader();
        let Some(summary) = reader.summary() else { return };
        let beacon = Beacon {
            term: metrics.current_term,
            leader: self.inner.raft_id,
            index: summary.applied,
            hash: summary.hash,
            at: wall(),
            round_trip_ms: self.round_trip_ms(&metrics),
        };
        let envelope: Bytes = beacon.seal(summary.federation, &self.inner.signing_key).into();
        self.inner.beacon.lock().unwrap_or_else(PoisonError::into_inner).replace((envelope.clone(), Instant::now()));
        let roster = reader.roster();
        // who has no seat is given it with the entries that it pulls
        let seats: BTreeSet<u64> =
            metrics.membership_config.membership().nodes().map(|(_, peer)| peer.member).collect();
        for to in seats.into_iter().map(MemberId).filter(|to| *to != self.inner.member) {
            let (handle, envelope) = (self.clone(), envelope.clone());
            if handle.inner.transport.rtt_ms(to).is_some() {
                tokio::spawn(async move { handle.ask(to, &Question::Beacon { envelope }, BEAT).await });
            }
        }
        let membership = metrics.membership_config.membership();
        if membership.get_joint_config().len() > 1 {
            // a leader that died in between left it joint; its end is the newest set
            if let Some(last) = membership.get_joint_config().last() {
                self.change(Step::SetVoters(last.clone())).await;
            }
            return;
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let now = Instant::now();
        let timers = self.inner.timers();
        let wanted: BTreeMap<u64, Replica> = roster
            .iter()
            .filter(|record| record.standing == Standing::Active)
            .map(|record| {
                let id = record.raft_id;
                let rtt = self.inner.transport.rtt_ms(record.member);
                let me = id == self.inner.raft_id;
                if rtt.is_some() || me {
                    silent.remove(&id);
                }
                let since = silent.get(&id).copied().or_else(|| (rtt.is_none() && !me).then_some(now));
                if let Some(since) = since {
                    silent.insert(id, since);
                }
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).copied().flatten();
                let replica = Replica {
                    member: record.member.0,
                    city: record.place.city.clone(),
                    reachable: me || rtt.is_some(),
                    // who is too far for the timers that run would vote and never be heard in time
                    caught_up: me
                        || matched.is_some_and(|id| id.index() + CAUGHT_UP_ENTRIES >= last)
                            && rtt.is_some_and(|rtt| timers.bear(u64::from(rtt))),
                    rtt_ms: rtt.unwrap_or(u32::MAX),
                    silent_ms: since.map_or(0, |since| since.elapsed().as_millis() as u64),
                };
                (id, replica)
            })
            .collect();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let learners: BTreeSet<u64> = membership.learner_ids().collect();
        let policy = reader.policy();
        let wished = Wished { voters: policy.voters, learners: policy.learners };
        if let Some(step) = seats::next_step(self.inner.raft_id, wished, &wanted, &voters, &learners) {
            self.change(step).await;
        }
    }

    async fn change(&self, step: Step) {
        let raft = &self.inner.raft();
        tracing::info!(?step, "registry membership changes");
        let changed = match step.clone() {
            Step::AddLearner { id, member } => raft.add_learner(id, Peer { member }, false).await.map(drop),
            // a voter that steps down stays as a learner until it is no longer wanted
            Step::SetVoters(voters) => raft.change_membership(voters, true).await.map(drop),
            Step::Remove(id) => raft.change_membership(ChangeMembers::RemoveNodes([id].into()), true).await.map(drop),
        };
        if let Err(error) = changed {
            tracing::warn!(?step, %error, "the membership did not change; it is tried again");
        }
    }
}

impl RegistryHandle {
    /// The longest p99 round trip to a replica that votes or may soon, in ms.
    fn round_trip_ms(&self, metrics: &Metrics) -> u32 {
        let membership = metrics.membership_config.membership();
        let me = self.inner.raft_id;
        let voters = membership.voter_ids().count();
        // while seats are free, the learners are those who will take them
        let counts = |id: u64| id != me && (voters < 3 || membership.voter_ids().any(|voter| voter == id));
        let round_trips = membership
            .nodes()
            .filter(|(id, _)| counts(**id))
            .filter_map(|(_, peer)| self.inner.transport.rtt_ms(MemberId(peer.member)));
        round_trips.max().unwrap_or(0)
    }

    /// Has timers follow the longest round trip that this replica or the leader sees.
    async fn keep_time(&self, drift: &mut Drift) {
        let metrics = self.inner.raft().metrics().borrow_watched().clone();
        // timers are for those who vote or may soon
        if metrics.membership_config.membership().get_node(&self.inner.raft_id).is_none() {
            return;
        }
        let held = self.inner.proof.lock().unwrap_or_else(PoisonError::into_inner).held;
        let told =
            held.filter(|(_, heard)| heard.elapsed() < BEACON_COUNTS).map_or(0, |(beacon, _)| beacon.round_trip_ms);
        let round_trip = self.round_trip_ms(&metrics).max(told);
        let (running, wanted) = (self.inner.timers(), Timers::of(u64::from(round_trip), self.inner.again.floor));
        if !drift.look(running, wanted) {
            return;
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let heir = metrics.replication.as_ref().and_then(|all| {
            let membership = metrics.membership_config.membership();
            let caught_up = |id: &u64| {
                let matched = all.get(id).copied().flatten();
                matched.is_some_and(|matched| matched.index() + CAUGHT_UP_ENTRIES >= last)
            };
            membership.voter_ids().find(|id| *id != self.inner.raft_id && caught_up(id))
        });
        self.retime(wanted, heir.filter(|_| metrics.state == ServerState::Leader)).await;
    }

    /// A snapshot after so many bytes, or after so much time.
    async fn keep_log_short(&self, newest: &mut (u64, Instant)) {
        let raft = self.inner.raft();
        let metrics = raft.metrics().borrow_watched().clone();
        let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index());
        let (applied, snapshot) = (index(metrics.last_applied), index(metrics.snapshot));
        if snapshot != newest.0 {
            *newest = (snapshot, Instant::now());
        }
        let due = self.inner.again.log_is_long() || newest.1.elapsed() >= SNAPSHOT_EVERY;
        if due && applied > snapshot {
            self.inner.again.count_anew();
            newest.1 = Instant::now();
            if let Err(error) = raft.trigger().snapshot().await {
                tracing::warn!(%error, "no snapshot was begun");
            }
        }
    }
}

/// Once a second, while the handle lives.
pub(super) async fn beat(inner: std::sync::Weak<Inner>) {
    let mut ticks = tokio::time::interval(BEAT / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut silent, mut drift) = (BTreeMap::new(), Drift::default());
    let mut newest = (0, Instant::now());
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let handle = RegistryHandle { inner };
        handle.keep_time(&mut drift).await;
        handle.keep_log_short(&mut newest).await;
        handle.lead(&mut silent).await;
    }
}
