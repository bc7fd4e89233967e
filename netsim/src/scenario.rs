//! A random life of a few regions, made from a seed: submissions, losses, cuts, crashes, cancels.

use crate::testing::{gpu_task, place, pool, task};
use crate::wan::Wan;
use crate::world::World;
use consensus::negotiation::{Input, NegotiationConfig};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// What a scenario is made of.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// How many regions.
    pub regions: usize,
    /// How many tasks.
    pub tasks: u64,
    /// How many faults.
    pub faults: u64,
    /// Of 1,000 messages so many are lost.
    pub loss_permille: u32,
}

impl Scenario {
    /// The default life for a seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, regions: 5, tasks: 60, faults: 12, loss_permille: 20 }
    }
}

/// What a scenario came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The digest of the trace.
    pub trace: String,
    /// Steps taken.
    pub steps: u64,
    /// Messages between regions.
    pub messages: u64,
    /// Ends by reason; `succeeded` for success.
    pub ends: BTreeMap<String, u32>,
    /// What was violated.
    pub violations: Vec<String>,
}

/// Lives a scenario through. `lines` keeps the trace in words.
pub fn live(scenario: &Scenario, lines: bool) -> (Report, World) {
    let mut rng = ChaCha8Rng::seed_from_u64(scenario.seed);
    let mut wan = Wan::random(scenario.regions, 80, &mut rng);
    wan.loss_permille = scenario.loss_permille;
    wan.double_permille = 20;
    let regions = (0..scenario.regions).map(|i| (place(i), vec![pool("cpu", 2, 0), pool("gpu", 1, 8)])).collect();
    let mut world = World::new(scenario.seed, wan, NegotiationConfig::default(), regions);
    if lines {
        world.keep_lines();
    }
    for node in &mut world.nodes {
        node.run_ms = rng.random_range(1..20_000);
    }
    let mut down: Vec<usize> = Vec::new();
    let span_ms = 120_000;
    let mut moments: Vec<(u64, bool, u64)> =
        (0..scenario.tasks).map(|n| (rng.random_range(0..span_ms), true, n)).collect();
    moments.extend((0..scenario.faults).map(|n| (rng.random_range(0..span_ms), false, n)));
    moments.sort_unstable();
    let mut origins = BTreeMap::new();
    for (ms, submits, n) in moments {
        world.run_until(ms);
        if submits {
            let node = rng.random_range(0..scenario.regions);
            let mut spec = if n % 3 == 0 { gpu_task(rng.random_range(1..=8)) } else { task() };
            spec.resources.cpu.milli = rng.random_range(100..4000);
            spec.retry.max_attempts = 20;
            if world.nodes[node].machine.is_some() {
                origins.insert(world.submit(node, n + 1, &spec), node);
            }
            continue;
        }
        match rng.random_range(0..6) {
            0 | 1 => {
                let node = rng.random_range(0..scenario.regions);
                world.crash(node);
                down.push(node);
            }
            2 => {
                let node = rng.random_range(0..scenario.regions);
                world.destroy(node);
                down.push(node);
            }
            3 => {
                let node = rng.random_range(0..scenario.regions);
                let others: Vec<usize> = (0..scenario.regions).filter(|o| *o != node).collect();
                world.wan.partition(&[node], &others);
            }
            4 => world.wan.heal(),
            _ => {
                if let Some((task, node)) = origins.iter().nth(rng.random_range(0..origins.len().max(1))) {
                    let (task, node) = (*task, *node);
                    world.feed(node, Input::Cancel { task, principal: "tester".to_owned() });
                }
            }
        }
        if rng.random_range(0..2) == 0
            && let Some(node) = down.pop()
        {
            world.restart(node);
        }
    }
    // The faults are over: everything that was acknowledged comes to its end.
    world.wan.heal();
    world.wan.loss_permille = 0;
    for node in 0..scenario.regions {
        world.restart(node);
    }
    let acknowledged: Vec<_> = origins.iter().filter(|(t, _)| world.answers.get(t) == Some(&Ok(()))).collect();
    let acknowledged: Vec<_> = acknowledged.into_iter().map(|(t, n)| (*t, *n)).collect();
    let list = acknowledged.clone();
    world.run_while(900_000, move |w| list.iter().all(|(task, node)| w.end(*node, *task).is_some()));
    let settled = |w: &World| w.nodes.iter().all(|n| n.disk.leases().next().is_none());
    world.run_while(900_000, settled);
    let mut violations = world.invariants.violations().to_vec();
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for (task, node) in acknowledged {
        match world.end(node, task) {
            None => violations.push(format!("all_end: {task} of region {node} never ended")),
            Some(reason) => *ends.entry(reason.map_or("succeeded".to_owned(), |r| r.to_string())).or_default() += 1,
        }
    }
    if !settled(&world) {
        violations.push("all_settled: a lease was never settled".to_owned());
    }
    let report = Report { trace: world.trace().hex(), steps: world.steps, messages: world.messages, ends, violations };
    (report, world)
}
