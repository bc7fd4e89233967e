//! What the leader does beside ordering writes: beacons, and one step at a time towards the wanted seats.

use super::beacon::Beacon;
use super::handle::{Inner, RegistryHandle, wall};
use super::seats::{self, Replica, Step};
use super::types::Peer;
use super::wire::Question;
use crate::registry::Standing;
use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{ChangeMembers, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Between two looks at who should vote, and between beacons.
const BEAT: Duration = Duration::from_secs(1);
/// A learner whose log is at most so many entries behind may vote.
const CAUGHT_UP_ENTRIES: u64 = 256;

impl RegistryHandle {
    /// The leader's once-a-second work: beacons, and one step towards the wanted seats.
    async fn lead(&self, silent: &mut BTreeMap<u64, Instant>) {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
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
        };
        let envelope: Bytes = beacon.seal(summary.federation, &self.inner.signing_key).into();
        let roster = reader.roster();
        for record in roster.iter().filter(|record| record.member != self.inner.member) {
            let (handle, envelope, to) = (self.clone(), envelope.clone(), record.member);
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
                    caught_up: me || matched.is_some_and(|id| id.index() + CAUGHT_UP_ENTRIES >= last),
                    rtt_ms: rtt.unwrap_or(u32::MAX),
                    silent_ms: since.map_or(0, |since| since.elapsed().as_millis() as u64),
                };
                (id, replica)
            })
            .collect();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let learners: BTreeSet<u64> = membership.learner_ids().collect();
        let target = reader.policy().voters;
        if let Some(step) = seats::next_step(self.inner.raft_id, target, &wanted, &voters, &learners) {
            self.change(step).await;
        }
    }

    async fn change(&self, step: Step) {
        let raft = &self.inner.raft;
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

/// Once a second, while the handle lives.
pub(super) async fn beat(inner: std::sync::Weak<Inner>) {
    let mut ticks = tokio::time::interval(BEAT / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent = BTreeMap::new();
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        RegistryHandle { inner }.lead(&mut silent).await;
    }
}
