//! Stories of custody: what breaks such a system, and that it does not break here.

use super::super::{BindError, EndError, Seat, complete};
use super::*;

#[test]
fn three_custodians_are_named_once_and_two_disks_make_a_submission_count() {
    let mut net = Net::of(1, 5);
    let task = net.submit(0, 1, &[]);
    let custodians = net.custodians(0, task);
    assert_eq!(custodians.len(), 3);
    assert_eq!(custodians[0], 0);
    assert!(!custodians.contains(&2), "another member of the origin's city is the last choice: {custodians:?}");
    assert!(net.run_until(500, |n| n.durable.contains_key(&task)));
    assert_eq!(net.durable[&task], Durability::Quorum);
    let disks = net.nodes.iter().filter(|n| n.disk.custody.contains_key(&task)).count();
    assert!(disks >= 2, "acknowledged with {disks} disks");
}

#[test]
fn custodians_obey_residency_and_without_a_second_disk_a_task_is_local_and_never_adopted() {
    let mut net = Net::of(2, 5);
    let german = net.submit(3, 1, &["DE"]);
    assert_eq!(net.custodians(3, german), vec![3]);
    let chinese = net.submit(0, 2, &["CN"]);
    assert!(!net.custodians(0, chinese).contains(&3));
    assert!(net.run_until(500, |n| n.durable.len() == 2));
    assert_eq!(net.durable[&german], Durability::Local);
    net.bind(3, german, 100);
    net.run_for(100);
    assert!(net.counts(3, german), "its own disk is the whole quorum");
    net.crash(3);
    net.run_for(120_000);
    assert_eq!(net.holders(german), Vec::<usize>::new());
    net.restart(3);
    net.run_for(100);
    assert_eq!(net.holders(german), vec![3], "its origin goes on with it");
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn members_that_can_be_reached_are_chosen_first() {
    let seat = |city: &str, reachable| Seat { city: city.into(), country: "CN".into(), active: true, reachable };
    let mut members: BTreeMap<MemberId, Seat> = BTreeMap::new();
    members.insert(MemberId(1), seat("a", true));
    members.insert(MemberId(2), seat("b", false));
    members.insert(MemberId(3), seat("a", true));
    members.insert(MemberId(4), seat("a", true));
    let set = complete(MemberId(1), vec![MemberId(1)], &[], &[], &members).expect("three can be had");
    assert!(set.contains(&MemberId(3)) && set.contains(&MemberId(4)), "{set:?}");
    for seat in members.values_mut() {
        seat.reachable = false;
    }
    assert_eq!(complete(MemberId(1), vec![MemberId(1)], &[], &[], &members), None, "nobody can be reached");
}

/// CORRECTNESS 1: the origin is cut off, not dead, and goes on deciding.
#[test]
fn a_cut_off_origin_and_its_adopter_never_both_count() {
    let mut net = Net::of(3, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    net.bind(0, task, 100);
    net.run_for(200);
    assert!(net.counts(0, task));
    let rest: Vec<usize> = (1..4).collect();
    net.partition(&[0], &rest);
    // The origin gives its run up and binds another region, on its own disk alone.
    net.make(0, task, CustodyRecord::unbind);
    net.bind(0, task, 101);
    assert!(net.run_until(60_000, |n| n.holders(task).len() == 2), "nobody adopted the task");
    assert!(!net.counts(0, task), "one disk is not enough");
    let adopter = net.holders(task)[1];
    let kept = net.nodes[adopter].working[&task].clone();
    assert_eq!(kept.binding.as_ref().map(|b| b.provider), Some(MemberId(100)), "the live run is kept");
    assert!(kept.written.counter > 1 && kept.written.member == Net::member(adopter));
    net.end(adopter, task);
    net.run_for(500);
    let accepted = net.accepted[&task];
    // The origin believes in its own run and accepts that result, too: it never counts.
    net.end(0, task);
    net.run_for(1_000);
    net.heal();
    assert!(net.run_until(30_000, |n| !n.holds(0, task)), "the origin learns that it lost the task");
    net.work(adopter, task, 1);
    net.run_for(2_000);
    assert!(net.refused > 0, "lower epochs are refused");
    assert_eq!(net.accepted[&task], accepted);
    assert!(net.nodes[0].disk.custody[&task].closed);
    assert_eq!(net.nodes[0].disk.custody[&task].end.as_ref().map(|e| e.digest), Some(accepted));
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

/// CORRECTNESS 1, second half: custodians do not follow the ring's members.
#[test]
fn a_member_without_the_record_never_adopts() {
    let mut net = Net::of(4, 5);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    let custodians = net.custodians(0, task);
    net.crash(0);
    assert!(net.run_until(60_000, |n| !n.holders(task).is_empty()));
    let adopter = net.holders(task)[0];
    assert!(custodians[1..].contains(&adopter));
    assert_eq!(net.nodes[adopter].working[&task].custodians.len(), 3, "the set is the same");
    net.run_for(60_000);
    assert_eq!(net.holders(task), vec![adopter], "one adopts, the other follows");
}

/// CORRECTNESS 2: the origin dies before any other disk names the provider.
#[test]
fn a_binding_on_one_disk_never_counts_and_its_fence_is_never_used_again() {
    let mut net = Net::of(5, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    let rest: Vec<usize> = (1..4).collect();
    net.partition(&[0], &rest);
    net.bind(0, task, 100);
    net.run_for(1_000);
    let lost = net.nodes[0].working[&task].fence;
    assert!(!net.counts(0, task), "a run must not start on one disk's word");
    net.crash(0);
    net.heal();
    assert!(net.run_until(60_000, |n| !n.holders(task).is_empty()));
    let adopter = net.holders(task)[0];
    assert_eq!(net.nodes[adopter].working[&task].binding, None);
    net.bind(adopter, task, 101);
    net.run_for(500);
    assert!(net.counts(adopter, task));
    assert!(net.nodes[adopter].working[&task].fence > lost, "a later attempt has a higher fence");
    net.restart(0);
    net.run_for(5_000);
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

/// CORRECTNESS 2: a binding that one custodian has is found and made to count.
#[test]
fn an_adopter_binds_again_to_the_run_of_a_half_written_binding() {
    let mut net = Net::of(6, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    let custodians = net.custodians(0, task);
    net.partition(&[0], &[custodians[2]]);
    net.bind(0, task, 100);
    net.run_for(200);
    net.destroy(0);
    net.heal();
    assert!(net.run_until(60_000, |n| !n.holders(task).is_empty()));
    let adopter = net.holders(task)[0];
    let provider = net.nodes[adopter].working[&task].binding.as_ref().map(|b| b.provider);
    assert_eq!(provider, Some(MemberId(100)));
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn one_provider_per_fence_and_ends_only_under_the_bound_one() {
    let mut record = CustodyRecord::submitted(task_id(1), vec![MemberId(1)], MemberId(1));
    let first = record.next_fence();
    record.bind(binding(first, 100)).expect("the fence is free");
    record.bind(binding(first, 100)).expect("the same again is no error");
    let taken = record.bind(binding(first, 101));
    assert_eq!(taken, Err(BindError::Taken { fence: first, holder: MemberId(100) }));
    let second = record.next_fence();
    record.bind(binding(second, 101)).expect("the next fence is free");
    assert!(matches!(record.bind(binding(first, 100)), Err(BindError::Fenced { .. })));
    // CORRECTNESS 4: the old run finishes after the new one was bound.
    assert_eq!(record.end(outcome(first)), Err(EndError::Fenced { asked: first, bound: Some(second) }));
    record.end(outcome(second)).expect("the bound run's result counts");
    record.end(outcome(second)).expect("the same again is no error");
    assert_eq!(record.end(EndMark { digest: ContentDigest::of(b"x"), ..outcome(second) }), Err(EndError::Ended));
}

/// CORRECTNESS 4: an end that counted is found by whoever comes later, and nobody places the task again.
#[test]
fn a_result_counts_once_two_hold_its_digest_and_an_adopter_finds_it() {
    let mut net = Net::of(7, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    net.bind(0, task, 100);
    net.run_for(200);
    net.end(0, task);
    assert!(net.run_until(500, |n| n.accepted.contains_key(&task)));
    let accepted = net.accepted[&task];
    net.destroy(0);
    assert!(net.run_until(60_000, |n| !n.holders(task).is_empty()));
    let adopter = net.holders(task)[0];
    assert_eq!(net.nodes[adopter].working[&task].end.as_ref().map(|e| e.digest), Some(accepted));
    net.run_for(100);
    net.work(adopter, task, 1);
    net.run_for(2_000);
    assert!(net.nodes[adopter].disk.custody[&task].closed);
    // A custodian that was away asks later: it is told, and no closed task comes to life again.
    net.run_for(200_000);
    assert_eq!(net.holders(task), Vec::<usize>::new());
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn a_custodian_that_missed_the_end_learns_it_instead_of_adopting() {
    let mut net = Net::of(8, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    let away = net.custodians(0, task)[2];
    net.crash(away);
    net.bind(0, task, 100);
    net.run_for(200);
    net.end(0, task);
    net.run_for(200);
    net.work(0, task, 1);
    net.run_for(300_000);
    assert_eq!(net.nodes[0].machine.as_ref().and_then(|m| m.record(task)), None, "let go after a while");
    net.restart(away);
    assert!(net.run_until(60_000, |n| n.nodes[away].disk.custody[&task].closed));
    assert_eq!(net.holders(task), Vec::<usize>::new());
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn an_origin_that_restarts_claims_its_tasks_under_a_higher_epoch() {
    let mut net = Net::of(9, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    net.bind(0, task, 100);
    net.run_for(200);
    net.crash(0);
    net.restart(0);
    assert!(net.run_until(1_000, |n| n.holds(0, task)), "it takes a round trip, not a time-out");
    let record = &net.nodes[0].working[&task];
    assert_eq!(record.written, Epoch { counter: 2, member: MemberId(1) });
    assert_eq!(record.binding.as_ref().map(|b| b.provider), Some(MemberId(100)));
}

#[test]
fn an_adopted_task_goes_back_to_its_origin_in_order() {
    let mut net = Net::of(10, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    net.bind(0, task, 100);
    net.run_for(200);
    net.crash(0);
    assert!(net.run_until(60_000, |n| !n.holders(task).is_empty()));
    let adopter = net.holders(task)[0];
    net.restart(0);
    net.run_for(5_000);
    assert_eq!(net.holders(task), vec![adopter], "the origin does not take what another holds");
    assert!(net.run_until(60_000, |n| n.holds(0, task)), "the adopter hands it back");
    assert_eq!(net.holders(task), vec![0]);
    let record = &net.nodes[0].working[&task];
    assert!(record.written.counter > net.nodes[adopter].disk.custody[&task].fence.epoch.counter);
    assert_eq!(record.binding.as_ref().map(|b| b.provider), Some(MemberId(100)));
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn a_lost_custodian_is_replaced_by_the_old_set_and_then_the_new() {
    let mut net = Net::of(11, 5);
    let task = net.submit(0, 1, &["CN"]);
    net.run_for(200);
    let lost = net.custodians(0, task)[1];
    net.destroy(lost);
    let long = net.config.replace_after_ms;
    net.run_for(long + 20_000);
    let record = net.nodes[0].working[&task].clone();
    assert!(!record.custodians.contains(&Net::member(lost)), "{:?}", record.custodians);
    assert_eq!((record.custodians.len(), record.former), (3, None));
    assert!(!record.custodians.contains(&MemberId(4)), "the new one obeys residency, too");
    assert!(net.counts(0, task));
    // The new set can do what the old one could: the origin dies, and the task goes on.
    net.destroy(0);
    assert!(net.run_until(60_000, |n| !n.holders(task).is_empty()));
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn one_set_is_never_enough_while_it_changes() {
    let ids: Vec<MemberId> = (1..=4).map(MemberId).collect();
    let mut quorum = super::super::Quorum::joint(&[ids[0], ids[2], ids[3]], &[ids[0], ids[1], ids[2]]);
    assert!(!quorum.synced_by(ids[3]));
    assert!(!quorum.synced_by(ids[2]), "two of the new and one of the old");
    assert!(!quorum.synced_by(MemberId(9)), "a stranger's disk does not count");
    assert!(quorum.synced_by(ids[0]));
}

#[test]
fn a_cancel_reaches_the_holder_from_any_custodian() {
    let mut net = Net::of(12, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    let other = net.custodians(0, task)[1];
    net.feed(other, Input::Cancel { task, principal: "somebody".into() });
    net.run_for(200);
    assert_eq!(net.nodes[0].working[&task].cancel.as_ref().map(|c| c.principal.as_str()), Some("somebody"));
}

#[test]
fn a_frame_that_speaks_for_another_member_is_refused() {
    let record = CustodyRecord::submitted(task_id(1), (1..=3).map(MemberId).collect(), MemberId(1));
    let write = super::super::Write { boot: 1, record, task: None, events: Vec::new() };
    let frames = super::super::seal_frames(&[Message::Write(Box::new(write))]);
    assert!(super::super::open_frame(MemberId(1), &frames[0]).is_ok());
    assert!(super::super::open_frame(MemberId(2), &frames[0]).is_err(), "only the holder of an epoch writes under it");
    assert!(super::super::open_frame(MemberId(1), &frames[0][..frames[0].len() - 1]).is_err());
}

#[test]
fn a_removed_task_does_not_come_back_from_a_late_copy() {
    let mut net = Net::of(30, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    let custodians = net.custodians(0, task);
    let late = custodians[2];
    net.crash(late);
    net.bind(0, task, 100);
    net.run_for(500);
    net.end(0, task);
    net.run_for(500);
    net.work(0, task, 1);
    net.run_for(400_000);
    let accepted = net.accepted[&task];
    // Days later the two others have removed it; the third has an open copy of it on its disk.
    for node in [0, custodians[1]] {
        net.crash(node);
        net.nodes[node].disk.remove(task);
        net.restart(node);
    }
    net.restart(late);
    net.run_for(300_000);
    assert!(net.holders(task).is_empty(), "it came back to life at {:?}", net.holders(task));
    let kept = &net.nodes[late].disk.custody[&task];
    assert!(kept.closed, "the late one learns that it ended");
    assert_eq!(kept.end.as_ref().map(|end| end.digest), Some(accepted));
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn a_wish_to_cancel_outlasts_the_claim_that_it_met() {
    let mut net = Net::of(31, 4);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    net.bind(0, task, 100);
    net.run_for(200);
    net.crash(0);
    net.restart(0);
    assert!(!net.holds(0, task), "it is claimed first");
    net.feed(0, Input::Cancel { task, principal: "p".to_owned() });
    assert!(net.run_until(2_000, |n| n.nodes[0].working.get(&task).is_some_and(|r| r.cancel.is_some())));
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}
