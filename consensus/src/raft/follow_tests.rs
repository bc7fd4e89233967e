//! Followers: the leader's work does not grow with them, they keep up, come back, and believe no forger.

use super::beacon::Beacon;
use super::tests::{PATIENCE, Ring, key};
use super::{RaftClass, Role};
use crate::time::Timestamp;
use cpi::ids::MemberId;
use openraft::async_runtime::WatchReceiver as _;
use std::collections::BTreeSet;
use std::time::Duration;

fn of_role(ring: &Ring, members: u64, role: Role) -> BTreeSet<u64> {
    (1..=members).filter(|member| ring.handle(*member).freshness().role == role).collect()
}

/// A ring at rest: three voters, four learners, all others follow.
async fn settled(members: u64) -> (Ring, u64, BTreeSet<u64>) {
    let ring = Ring::of(members).await;
    ring.voters(3).await;
    ring.until("seats", |ring| of_role(ring, members, Role::Learner).len() == 4).await;
    let followers = of_role(&ring, members, Role::Follower);
    assert_eq!(followers.len() as u64, members - 7);
    let leader = *of_role(&ring, members, Role::Leader).first().expect("somebody leads");
    ring.until("beacons", |ring| followers.iter().all(|member| ring.handle(*member).freshness().as_of.is_some())).await;
    (ring, leader, followers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_work_per_write_does_not_grow_with_the_followers() {
    let (ring, leader, followers) = settled(12).await;
    ring.switch.asked.lock().unwrap().clear();
    let mut last = 0;
    for zone in 1..=20 {
        let (envelope, _) = ring.registration(zone);
        // also through a follower, which hands it to the leader and reads its own write
        let through = if zone % 2 == 0 { leader } else { *followers.first().unwrap() };
        last = ring.handle(through).propose(envelope, PATIENCE).await.unwrap().index;
    }
    ring.until("all have it", |ring| (1..=12).all(|m| ring.handle(m).freshness().applied_index >= last)).await;
    let hash = |member| ring.handle(member).reader().summary().unwrap().hash;
    ring.until("one state", |_| (1..=12).all(|member| hash(member) == hash(leader))).await;
    let asked = ring.switch.asked.lock().unwrap().clone();
    let of_leader = |class: RaftClass, to: &dyn Fn(u64) -> bool| -> u64 {
        asked.iter().filter(|((by, whom, of), _)| by.0 == leader && *of == class && to(whom.0)).map(|(_, n)| n).sum()
    };
    let seated = |member: u64| !followers.contains(&member);
    println!("appends by the leader for 20 writes: {} to 6 seats", of_leader(RaftClass::Log, &seated));
    assert!(of_leader(RaftClass::Log, &seated) > 0);
    for class in [RaftClass::Log, RaftClass::Control, RaftClass::Snapshot, RaftClass::Forward] {
        assert_eq!(of_leader(class, &|member| !seated(member)), 0, "the leader sent {class:?} frames to followers");
    }
    // nor do followers ask the leader for entries: at most it refused one that did not know who leads
    let pulls: u64 = asked
        .iter()
        .filter(|((by, whom, of), _)| followers.contains(&by.0) && whom.0 == leader && *of == RaftClass::Snapshot)
        .map(|(_, n)| n)
        .sum();
    assert_eq!(pulls, 0);
    for member in &followers {
        let fresh = ring.handle(*member).freshness();
        assert!(fresh.age_ms.is_some_and(|age| age < 10_000), "{fresh:?}");
        assert_eq!(fresh.leader, Some(MemberId(leader)));
        assert_eq!(ring.handle(*member).status().diverged_at, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_fell_behind_the_purged_log_takes_a_snapshot_and_one_that_is_alone_says_so() {
    let (ring, leader, followers) = settled(9).await;
    let away = *followers.first().unwrap();
    ring.switch.cut.lock().unwrap().insert(MemberId(away));
    let mut newest = 0;
    for zone in 1..=30 {
        let (envelope, _) = ring.registration(zone);
        newest = ring.handle(leader).propose(envelope, PATIENCE).await.unwrap().index;
    }
    for member in (1..=9).filter(|member| *member != away) {
        ring.until("there", |ring| ring.handle(member).freshness().applied_index >= newest).await;
        let raft = ring.handle(member).inner_raft();
        raft.trigger().snapshot().await.unwrap();
        ring.until("snapshots", |_| raft.metrics().borrow_watched().snapshot.is_some_and(|id| id.index() >= newest))
            .await;
        raft.trigger().purge_log(newest).await.unwrap();
        ring.until("purged", |_| raft.metrics().borrow_watched().purged.is_some_and(|id| id.index() >= newest)).await;
    }
    let lonely = ring.handle(away);
    ring.until("it knows that it is stale", |_| lonely.freshness().age_ms.is_some_and(|age| age > 1_500)).await;
    assert!(lonely.freshness().applied_index < newest);
    ring.switch.cut.lock().unwrap().clear();
    ring.until("caught up", |_| lonely.freshness().applied_index >= newest).await;
    assert!(lonely.status().snapshot_index >= newest, "by a snapshot, not by entries");
    let (envelope, stable) = ring.registration(99);
    ring.handle(leader).propose(envelope, PATIENCE).await.unwrap();
    ring.until("goes on", |_| lonely.reader().identifier(&stable).is_some()).await;
    let hash = |member| ring.handle(member).reader().summary().unwrap().hash;
    ring.until("one state", |_| hash(away) == hash(leader)).await;
    assert_eq!(lonely.status().diverged_at, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_believes_no_beacon_but_that_of_a_voter() {
    let (ring, _, followers) = settled(8).await;
    let follower = ring.handle(*followers.first().unwrap());
    let learner = *of_role(&ring, 8, Role::Learner).first().unwrap();
    let before = follower.inner_raft().metrics().borrow_watched().vote;
    let forged =
        Beacon { term: 1_000, leader: learner, index: 1, hash: [0; 32], at: Timestamp(u64::MAX / 2), round_trip_ms: 0 };
    for signer in [learner, 200] {
        let envelope = forged.seal(follower.federation(), &key(signer)).into();
        let taken = follower.take_beacon_for_test(&envelope, Duration::ZERO).await;
        assert!(!taken, "a beacon of {signer} proves nothing");
    }
    // in another voter's name
    let voter = *of_role(&ring, 8, Role::Voter).first().unwrap();
    let envelope = Beacon { leader: voter, ..forged }.seal(follower.federation(), &key(learner)).into();
    assert!(!follower.take_beacon_for_test(&envelope, Duration::ZERO).await);
    let after = follower.inner_raft().metrics().borrow_watched().vote;
    assert!(after.leader_id().term < 1_000 && before.leader_id().term < 1_000, "no term was taken from it");
}
