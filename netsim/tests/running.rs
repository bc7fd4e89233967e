//! Stories of runs: restarts, losses, partitions, cancels, deadlines.

use consensus::negotiation::{Input, TaskState};
use cpi::ids::TaskId;
use cpi::reason::ReasonCode;
use cpi::task::OnPartition;
use cpi::units::DurationText;
use netsim::World;
use netsim::testing::{task, world};

fn sound(world: &World) {
    assert_eq!(world.invariants.violations(), &[] as &[String]);
}

/// Three regions; the task runs in another one than its origin 0.
fn running_elsewhere(seed: u64, run_ms: u64, change: impl Fn(&mut cpi::task::TaskSpec)) -> (World, TaskId, usize) {
    let mut world = world(seed, 3, 10, 1);
    for node in &mut world.nodes {
        node.run_ms = run_ms;
    }
    let mut spec = task();
    spec.placement.exclude_regions = vec![netsim::testing::place(0).region];
    change(&mut spec);
    let id = world.submit(0, 1, &spec);
    assert!(world.run_while(10_000, |w| w.nodes.iter().any(|n| !n.runs.is_empty() && w.holder(0, id).is_some())));
    world.run_until(world.now_ms + 100);
    let holder = world.holder(0, id).expect("it is bound");
    (world, id, holder)
}

#[test]
fn a_task_survives_the_restart_of_its_origin() {
    let (mut world, id, holder) = running_elsewhere(1, 5_000, |_| {});
    world.crash(0);
    world.run_until(world.now_ms + 1_000);
    world.restart(0);
    assert!(world.run_while(60_000, |w| w.end(0, id) == Some(None)));
    assert_eq!(world.holder(0, id), Some(holder));
    assert_eq!(world.nodes[0].disk.custody(id).map(|c| c.runs), Some(1));
    sound(&world);
}

#[test]
fn a_task_survives_the_restart_of_its_provider() {
    let (mut world, id, holder) = running_elsewhere(2, 5_000, |_| {});
    world.crash(holder);
    world.run_until(world.now_ms + 2_000);
    world.restart(holder);
    assert!(world.run_while(60_000, |w| w.end(0, id) == Some(None)));
    assert_eq!(world.nodes[0].disk.custody(id).map(|c| c.runs), Some(1));
    sound(&world);
}

#[test]
fn a_result_waits_for_an_origin_that_is_down() {
    let (mut world, id, holder) = running_elsewhere(3, 5_000, |_| {});
    world.crash(0);
    world.run_until(world.now_ms + 8_000);
    assert_eq!(world.nodes[holder].disk.leases().count(), 1);
    world.restart(0);
    assert!(world.run_while(120_000, |w| w.end(0, id) == Some(None)));
    assert!(world.run_while(10_000, |w| w.nodes[holder].disk.leases().next().is_none()));
    sound(&world);
}

#[test]
fn a_lost_region_is_replaced() {
    let (mut world, id, holder) = running_elsewhere(4, 20_000, |_| {});
    world.destroy(holder);
    assert!(world.run_while(120_000, |w| w.end(0, id) == Some(None)));
    let other = world.holder(0, id).expect("it ran elsewhere");
    assert_ne!(other, holder);
    assert_eq!(world.nodes[0].disk.custody(id).map(|c| c.runs), Some(2));
    // The old region comes back and finds nothing to do.
    world.restart(holder);
    assert!(world.run_while(60_000, |w| w.nodes[holder].disk.leases().next().is_none()));
    sound(&world);
}

#[test]
fn a_restarted_region_without_its_runs_says_so_at_once() {
    let (mut world, id, holder) = running_elsewhere(5, 20_000, |_| {});
    world.destroy(holder);
    world.run_until(world.now_ms + 1_000);
    world.restart(holder);
    let back = world.now_ms;
    assert!(world.run_while(20_000, |w| w.nodes[0].disk.custody(id).is_some_and(|c| c.runs == 2)));
    assert!(world.now_ms - back < 5_000, "{} ms", world.now_ms - back);
    assert!(world.run_while(120_000, |w| w.end(0, id) == Some(None)));
    sound(&world);
}

#[test]
fn a_cut_off_run_freezes_and_another_finishes() {
    let (mut world, id, holder) = running_elsewhere(6, 60_000, |_| {});
    let others: Vec<usize> = (0..3).filter(|n| *n != holder).collect();
    world.wan.partition(&[holder], &others);
    assert!(world.run_while(60_000, |w| w.nodes[0].disk.custody(id).is_some_and(|c| c.runs == 2)));
    let now = world.now_ms;
    assert!(world.nodes[holder].runs.values().all(|run| !run.is_active(now)));
    world.wan.heal();
    assert!(world.run_while(30_000, |w| w.nodes[holder].disk.leases().next().is_none()), "the old run is stopped");
    assert!(world.run_while(200_000, |w| w.end(0, id) == Some(None)));
    sound(&world);
}

#[test]
fn a_cut_off_run_that_may_finish_is_not_replaced() {
    let (mut world, id, holder) = running_elsewhere(7, 60_000, |spec| spec.on_partition = OnPartition::Finish);
    let others: Vec<usize> = (0..3).filter(|n| *n != holder).collect();
    world.wan.partition(&[holder], &others);
    world.run_until(world.now_ms + 100_000);
    assert_eq!(world.nodes[0].disk.custody(id).map(|c| c.runs), Some(1));
    world.wan.heal();
    assert!(world.run_while(120_000, |w| w.end(0, id) == Some(None)));
    assert_eq!(world.holder(0, id), Some(holder));
    sound(&world);
}

#[test]
fn a_cancel_stops_the_run_for_good() {
    let (mut world, id, holder) = running_elsewhere(8, 60_000, |_| {});
    world.feed(0, Input::Cancel { task: id, principal: "tester".to_owned() });
    assert!(world.run_while(5_000, |w| w.end(0, id) == Some(Some(ReasonCode::Cancelled))));
    assert!(world.run_while(5_000, |w| w.nodes[holder].runs.is_empty()));
    assert!(world.run_while(5_000, |w| w.nodes[holder].disk.leases().next().is_none()));
    sound(&world);
}

#[test]
fn a_cancel_ends_a_task_in_every_phase() {
    // The cancel comes a little later each time: queued, asked, accepted, binding, staging, running, ended.
    for after_ms in 0..60 {
        let mut world = world(100 + after_ms, 3, 7, 1);
        let mut spec = task();
        spec.placement.exclude_regions = vec![netsim::testing::place(0).region];
        let id = world.submit(0, 1, &spec);
        for node in &mut world.nodes {
            node.run_ms = 20;
        }
        world.run_until(world.now_ms + after_ms);
        world.feed(0, Input::Cancel { task: id, principal: "tester".to_owned() });
        assert!(world.run_while(60_000, |w| w.end(0, id).is_some()), "cancel after {after_ms} ms");
        let end = world.end(0, id).expect("it ended");
        assert!(end.is_none() || end == Some(ReasonCode::Cancelled), "{end:?} after {after_ms} ms");
        let settled = |w: &World| w.nodes.iter().all(|n| n.disk.leases().next().is_none() && n.runs.is_empty());
        assert!(world.run_while(60_000, settled), "cancel after {after_ms} ms leaves a run");
        sound(&world);
    }
}

#[test]
fn a_cancel_with_the_region_gone_ends_once_its_lease_lapsed() {
    let (mut world, id, holder) = running_elsewhere(9, 60_000, |_| {});
    let others: Vec<usize> = (0..3).filter(|n| *n != holder).collect();
    world.wan.partition(&[holder], &others);
    world.feed(0, Input::Cancel { task: id, principal: "tester".to_owned() });
    assert!(world.run_while(45_000, |w| w.end(0, id) == Some(Some(ReasonCode::Cancelled))));
    let now = world.now_ms;
    assert!(world.nodes[holder].runs.values().all(|run| !run.is_active(now)));
    sound(&world);
}

#[test]
fn a_deadline_ends_what_waits_and_what_runs() {
    let (mut world, id, holder) =
        running_elsewhere(10, 60_000, |spec| spec.deadline = Some(DurationText::from_secs(10)));
    assert!(world.run_while(15_000, |w| w.end(0, id) == Some(Some(ReasonCode::DeadlinePassed))));
    assert!(world.run_while(5_000, |w| w.nodes[holder].runs.is_empty()));
    let mut waiting = task();
    waiting.resources.cpu.milli = 8_000;
    let full: Vec<_> = (2..5).map(|n| world.submit(0, n, &waiting)).collect();
    waiting.deadline = Some(DurationText::from_secs(5));
    world.run_until(world.now_ms + 1_000);
    let late = world.submit(0, 9, &waiting);
    assert!(world.run_while(6_000, |w| w.end(0, late) == Some(Some(ReasonCode::DeadlinePassed))));
    assert!(world.run_while(200_000, |w| full.iter().all(|t| w.end(0, *t) == Some(None))));
    sound(&world);
}

#[test]
fn attempts_are_bounded() {
    let (mut world, id, _) = running_elsewhere(11, 100_000, |spec| spec.retry.max_attempts = 2);
    for _ in 0..2 {
        let holder = world.holder(0, id).expect("it is bound");
        world.destroy(holder);
        world.run_until(world.now_ms + 40_000);
        world.restart(holder);
        world.run_until(world.now_ms + 1_000);
    }
    assert!(world.run_while(60_000, |w| w.end(0, id) == Some(Some(ReasonCode::AttemptsExhausted))));
    sound(&world);
}

#[test]
fn what_was_not_acknowledged_may_be_lost_and_nothing_else() {
    let mut world = world(12, 3, 10, 1);
    let first = world.submit(0, 1, &task());
    world.run_until(world.now_ms + 3);
    let second = world.submit(0, 2, &task());
    world.crash(0);
    assert_eq!(world.answers.get(&first), Some(&Ok(())));
    assert_eq!(world.answers.get(&second), None);
    world.restart(0);
    assert!(world.run_while(60_000, |w| w.end(0, first) == Some(None)));
    assert!(!world.machine(0).has_task(second));
    // Whoever committed to the lost one frees it when its lease lapses or at the first renewal.
    assert!(world.run_while(60_000, |w| w.nodes.iter().all(|n| n.disk.leases().next().is_none())));
    sound(&world);
}

#[test]
fn states_are_named_as_people_see_them() {
    assert!(TaskState::Succeeded.is_ended() && !TaskState::Finishing.is_ended());
}
