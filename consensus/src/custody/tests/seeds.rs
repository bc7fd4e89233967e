//! Random lives of three to five custodians: losses, doubles, late messages, cuts, crashes that lose unsynced writes.

use super::*;

const SPAN_MS: u64 = 200_000;

/// Lives a seed through; what was violated, and a digest of what happened.
fn live(seed: u64) -> (Net, ContentDigest) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let nodes = rng.random_range(3..=5);
    let mut net = Net::of(seed, nodes);
    net.lost_permille = rng.random_range(0..200);
    net.latency_ms = rng.random_range(1..100);
    net.config.orphan_after_ms = 5_000;
    let mut tasks: Vec<TaskId> = Vec::new();
    let mut moment = 0;
    let mut number = 0;
    while moment < SPAN_MS {
        let pause = rng.random_range(1..800);
        moment += pause;
        net.run_for(pause);
        let node = rng.random_range(0..nodes);
        match rng.random_range(0..40) {
            0 | 1 => net.crash(node),
            2..=5 => net.restart(node),
            6 => {
                let others: Vec<usize> = (0..nodes).filter(|o| *o != node).collect();
                net.partition(&[node], &others);
            }
            7 => {
                let other = rng.random_range(0..nodes);
                if other != node {
                    net.cut.insert((node, other));
                }
            }
            8 | 9 => net.heal(),
            10..=13 => {
                if tasks.len() < 12 && net.nodes[node].machine.is_some() {
                    number += 1;
                    tasks.push(net.submit(node, number, &[]));
                }
            }
            _ => {
                let chance = rng.random();
                for task in &tasks {
                    for holder in net.holders(*task) {
                        net.work(holder, *task, chance);
                    }
                }
            }
        }
    }
    // The faults are over: every acknowledged task comes to its one end.
    net.heal();
    net.lost_permille = 0;
    for node in 0..nodes {
        net.restart(node);
    }
    for _ in 0..2_000 {
        net.run_for(200);
        let chance = 1 + 4 * rng.random_range(0..100);
        for task in &tasks {
            for holder in net.holders(*task) {
                net.work(holder, *task, chance);
            }
        }
        if tasks.iter().all(|t| !net.durable.contains_key(t) || is_closed(&net, *t)) {
            break;
        }
    }
    for task in &tasks {
        if net.durable.contains_key(task) && !(is_closed(&net, *task) && net.accepted.contains_key(task)) {
            net.violations.push(format!("the acknowledged task {task} never ended"));
        }
    }
    let mut told = Vec::new();
    for ((task, (epoch, revision)), record) in &net.states {
        told.extend_from_slice(format!("{task} {epoch:?} {revision} {}\n", record.fence).as_bytes());
    }
    told.extend_from_slice(&net.sent.to_be_bytes());
    (net, ContentDigest::of(&told))
}

/// Whether most custodians have the end of a task as closed.
fn is_closed(net: &Net, task: TaskId) -> bool {
    net.nodes.iter().any(|n| n.disk.custody.get(&task).is_some_and(|c| c.closed))
}

#[test]
fn no_seed_breaks_custody() {
    let (mut adopted, mut ended, mut refused) = (0, 0, 0);
    for seed in 0..1_000 {
        let (net, _) = live(seed);
        assert!(net.violations.is_empty(), "seed {seed}: {:#?}", net.violations);
        adopted += net.states.values().filter(|r| r.written.member != r.origin).count();
        ended += net.accepted.len();
        refused += net.refused;
    }
    // A sweep in which nothing happens proves nothing.
    assert!(adopted > 1_000 && ended > 5_000 && refused > 300, "{adopted} adopted, {ended} ended, {refused} refused");
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in [3, 77, 1_234] {
        assert_eq!(live(seed).1, live(seed).1);
    }
}
