//! Stories of placing: where a task goes, what it costs in messages, and what happens when a region is not what it said.

use consensus::negotiation::{Input, NegotiationConfig};
use cpi::reason::ReasonCode;
use netsim::World;
use netsim::scenario::{Scenario, live};
use netsim::testing::{gpu_task, place, plan_request, pool, submission, task, task_id, world};
use netsim::wan::Wan;

fn sound(world: &World) {
    assert_eq!(world.invariants.violations(), &[] as &[String]);
}

/// Beijing without chips, and two regions with eight each, `latency_ms` away.
fn chips_elsewhere(seed: u64, latency_ms: u64, config: NegotiationConfig) -> World {
    let regions = vec![
        (place(0), vec![pool("cpu", 2, 0)]),
        (place(1), vec![pool("gpu", 1, 8)]),
        (place(2), vec![pool("gpu", 1, 8)]),
    ];
    World::new(seed, Wan::uniform(3, latency_ms), config, regions)
}

#[test]
fn a_clear_favourite_commits_in_one_round_trip() {
    let mut world = chips_elsewhere(1, 40, NegotiationConfig::default());
    let task = world.submit(0, 1, &gpu_task(2));
    assert!(world.run_while(10_000, |w| w.holder(0, task).is_some()));
    // There and back, the provider's sync, and the origin's own.
    assert!(world.now_ms <= 80 + 2 * 2 + 1, "bound after {} ms", world.now_ms);
    assert!(world.run_while(60_000, |w| w.end(0, task) == Some(None)));
    assert_ne!(world.holder(0, task), Some(0));
    sound(&world);
}

#[test]
fn a_placement_takes_few_messages() {
    let mut world = chips_elsewhere(2, 40, NegotiationConfig::default());
    let before = world.messages;
    let task = world.submit(0, 1, &gpu_task(2));
    assert!(world.run_while(60_000, |w| w.end(0, task) == Some(None)));
    // Ask, accepted, bound, staged, started, ended, acknowledged: a wave of three may cost four each.
    assert!(world.messages - before <= 12, "{} messages", world.messages - before);
}

#[test]
fn offers_are_compared_where_nobody_may_commit_at_once() {
    let config = NegotiationConfig { commit_if: false, ..NegotiationConfig::default() };
    let mut world = chips_elsewhere(3, 40, config);
    let task = world.submit(0, 1, &gpu_task(2));
    assert!(world.run_while(60_000, |w| w.end(0, task) == Some(None)));
    // The loser's hold is gone by its release, long before it would lapse.
    for node in 1..3 {
        assert_eq!(world.machine(node).provider().holds(), 0);
    }
    sound(&world);
}

#[test]
fn a_losing_region_that_never_hears_of_it_frees_its_hold_by_itself() {
    let config = NegotiationConfig { commit_if: false, ..NegotiationConfig::default() };
    let mut world = chips_elsewhere(4, 40, config);
    let task = world.submit(0, 1, &gpu_task(2));
    assert!(world.run_while(10_000, |w| w.machine(1).provider().holds() + w.machine(2).provider().holds() == 2));
    let winner_known = world.run_while(10_000, |w| w.holder(0, task).is_some());
    assert!(winner_known);
    let loser = if world.holder(0, task) == Some(1) { 2 } else { 1 };
    world.wan.partition(&[loser], &[0, 3 - loser]);
    world.run_until(world.now_ms + 6_000);
    assert_eq!(world.machine(loser).provider().holds(), 0);
    sound(&world);
}

#[test]
fn a_silent_region_costs_one_deadline() {
    let mut world = chips_elsewhere(5, 10, NegotiationConfig::default());
    let first = world.submit(0, 1, &gpu_task(1));
    assert!(world.run_while(10_000, |w| w.holder(0, first).is_some()));
    let silent = world.holder(0, first).expect("it was just bound");
    world.run_until(world.now_ms + 2_000);
    world.wan.partition(&[silent], &[0, 3 - silent]);
    let asked_at = world.now_ms;
    // The digest still praises the silent region: fill the other one a little so that it is asked first.
    let tasks: Vec<_> = (2..6).map(|n| world.submit(0, n, &gpu_task(1))).collect();
    for task in tasks {
        assert!(world.run_while(10_000, |w| w.holder(0, task).is_some()));
    }
    assert!(world.now_ms - asked_at < 2_000, "{} ms", world.now_ms - asked_at);
    sound(&world);
}

#[test]
fn an_impossible_task_ends_with_a_reason_for_every_region() {
    let mut world = world(6, 3, 10, 2);
    let task = world.submit(0, 1, &gpu_task(1));
    assert!(world.run_while(10_000, |w| w.end(0, task).is_some()));
    assert_eq!(world.end(0, task), Some(Some(ReasonCode::NoCandidates)));
    let mut huge = netsim::testing::task();
    huge.resources.cpu.milli = 1_000_000;
    let task = world.submit(0, 2, &huge);
    assert!(world.run_while(10_000, |w| w.end(0, task).is_some()));
    assert_eq!(world.end(0, task), Some(Some(ReasonCode::NoCandidates)));
}

#[test]
fn residency_keeps_a_task_in_its_country() {
    let mut world = World::new(
        7,
        Wan::uniform(5, 10),
        NegotiationConfig::default(),
        (0..5).map(|i| (place(i), vec![pool("p", if i == 4 { 100 } else { 1 }, 0)])).collect(),
    );
    let mut german = task();
    german.placement.residency = vec!["DE".to_owned()];
    let id = world.submit(0, 1, &german);
    assert!(world.run_while(10_000, |w| w.holder(0, id).is_some()));
    assert_eq!(world.holder(0, id), Some(4));
    let mut nowhere = task();
    nowhere.placement.residency = vec!["FR".to_owned()];
    let id = world.submit(0, 2, &nowhere);
    assert!(world.run_while(10_000, |w| w.end(0, id).is_some()));
    assert_eq!(world.end(0, id), Some(Some(ReasonCode::NoCandidates)));
}

#[test]
fn a_plan_shows_all_and_is_run_exactly() {
    let mut world = chips_elsewhere(8, 40, NegotiationConfig::default());
    world.run_until(100);
    let spec = gpu_task(4);
    world.feed(0, Input::Plan(Box::new(plan_request(1, &spec))));
    assert!(world.run_while(2_000, |w| !w.plans.is_empty()));
    let plan = world.plans[0].clone();
    assert!(plan.took_ms <= 2 * 80 + 10, "{} ms", plan.took_ms);
    assert_eq!(plan.offers.len(), 2);
    assert_eq!(plan.refusals.len(), 1);
    assert_eq!(plan.refusals[0].reason.code, ReasonCode::ChipUnavailable);
    let choice = plan.choice.expect("two regions can");
    assert!(choice.hold_ms > 5_000);
    world.run_until(world.now_ms + 30_000);
    let mut planned = submission(1, &spec);
    planned.plan = Some(plan.plan);
    world.feed(0, Input::Submit(Box::new(planned)));
    let id = task_id(1);
    assert!(world.run_while(10_000, |w| w.holder(0, id).is_some()));
    assert_eq!(world.holder(0, id), Some(world.index(choice.member)));
    assert!(world.run_while(60_000, |w| w.end(0, id) == Some(None)));
    sound(&world);
}

#[test]
fn a_plan_that_cannot_be_kept_ends_with_the_difference() {
    let mut world = chips_elsewhere(9, 10, NegotiationConfig::default());
    world.run_until(100);
    let spec = gpu_task(8);
    world.feed(0, Input::Plan(Box::new(plan_request(1, &spec))));
    assert!(world.run_while(2_000, |w| !w.plans.is_empty()));
    let plan = world.plans[0].clone();
    let chosen = world.index(plan.choice.as_ref().expect("two regions can").member);
    // The region is restarted and another takes its chips: the hold was in memory only.
    world.crash(chosen);
    world.restart(chosen);
    world.nodes[chosen].run_ms = 100_000;
    let other = world.submit(chosen, 2, &spec);
    assert!(world.run_while(10_000, |w| w.holder(chosen, other) == Some(chosen)));
    let mut planned = submission(1, &spec);
    planned.plan = Some(plan.plan);
    world.feed(0, Input::Submit(Box::new(planned)));
    assert!(world.run_while(10_000, |w| w.end(0, task_id(1)).is_some()));
    assert_eq!(world.end(0, task_id(1)), Some(Some(ReasonCode::PlanChanged)));
    let end = world.nodes[0].disk.custody(task_id(1)).and_then(|c| c.end.clone()).expect("it ended");
    let detail = end.reason.expect("with a reason").detail;
    assert!(detail.contains("planned:") && detail.contains("now:"), "{detail}");
    sound(&world);
}

#[test]
fn a_plan_is_run_once_and_for_its_own_document() {
    let mut world = chips_elsewhere(10, 10, NegotiationConfig::default());
    world.run_until(100);
    world.feed(0, Input::Plan(Box::new(plan_request(1, &gpu_task(1)))));
    assert!(world.run_while(2_000, |w| !w.plans.is_empty()));
    let mut other = submission(1, &gpu_task(2));
    other.plan = Some(world.plans[0].plan);
    world.feed(0, Input::Submit(Box::new(other)));
    let refused = |w: &World| w.answers.get(&task_id(1)).cloned().map(|a| a.map_err(|r| r.code));
    assert_eq!(refused(&world), Some(Err(ReasonCode::PlanChanged)));
    let mut unknown = submission(2, &gpu_task(1));
    unknown.plan = Some(cpi::ids::PlanId([7; 16]));
    world.feed(0, Input::Submit(Box::new(unknown)));
    assert_eq!(world.answers[&task_id(2)].clone().map_err(|r| r.code), Err(ReasonCode::OfferExpired));
}

#[test]
fn waiting_tasks_go_when_capacity_comes() {
    let mut world = world(11, 2, 10, 1);
    for node in &mut world.nodes {
        node.run_ms = 5_000;
    }
    let mut whole = task();
    whole.resources.cpu.milli = 8_000;
    let tasks: Vec<_> = (1..=6).map(|n| world.submit(0, n, &whole)).collect();
    let began = world.now_ms;
    assert!(world.run_while(60_000, |w| tasks.iter().all(|t| w.end(0, *t) == Some(None))));
    // Three rounds of five seconds on two servers, and little time in between.
    assert!(world.now_ms - began < 20_000, "{} ms", world.now_ms - began);
    sound(&world);
}

#[test]
fn ten_thousand_at_once_are_never_overcommitted_and_all_end() {
    let regions = (0..5).map(|i| (place(i), vec![pool("p", 20, 0)])).collect();
    let mut world = World::new(12, Wan::uniform(5, 20), NegotiationConfig::default(), regions);
    for node in &mut world.nodes {
        node.run_ms = 200;
    }
    let mut spec = task();
    spec.resources.cpu.milli = 2_000;
    for n in 0..10_000 {
        world.submit((n % 5) as usize, n + 1, &spec);
    }
    let done = |w: &World| w.nodes.iter().map(|n| n.disk.tasks().filter(|c| c.end.is_some()).count()).sum::<usize>();
    // Looking at every task after every step would take longer than the story.
    while done(&world) < 10_000 && world.now_ms < 600_000 {
        world.run_until(world.now_ms + 500);
    }
    assert_eq!(done(&world), 10_000);
    let mut ends = world.nodes.iter().flat_map(|n| n.disk.tasks()).filter_map(|c| c.end.as_ref());
    assert!(ends.all(|end| end.reason.is_none()));
    sound(&world);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let (one, _) = live(&Scenario::of(seed), false);
        let (two, _) = live(&Scenario::of(seed), false);
        assert_eq!(one, two);
    }
}

#[test]
fn random_lives_keep_every_invariant() {
    for seed in 100..140 {
        let (report, _) = live(&Scenario::of(seed), false);
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}: netsim run --seed {seed} --trace");
    }
}
