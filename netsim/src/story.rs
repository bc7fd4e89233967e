//! Living a scenario through: its tasks drawn from the seed, its acts in time, then healing, then the reckoning.

use crate::bug::Bug;
use crate::catalogue::{self, Act, Scenario, What};
use crate::invariants::Fact;
use crate::node::{Manners, Node};
use crate::registry;
use crate::scenario;
use crate::testing::{gpu_task, place, pool, task};
use crate::wan::Wan;
use crate::world::World;
use consensus::negotiation::{Input, NegotiationConfig};
use cpi::ids::{MemberId, TaskId};
use cpi::task::{Durability, OnPartition};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// How long everything may take to come to its end once all is healed, in ms.
const PATIENCE_MS: u64 = 1_800_000;

/// What a life came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lived {
    /// Digest of the trace.
    pub trace: String,
    /// Its lines, where they were kept.
    pub lines: Vec<String>,
    /// What was violated.
    pub violations: Vec<String>,
    /// Ends by reason.
    pub ends: BTreeMap<String, u32>,
}

/// Why a life could not be lived.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// There is no such scenario.
    #[error("no scenario is called `{name}`; the nearest is `{nearest}` (`netsim scenarios` lists all)")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What may be meant.
        nearest: String,
    },
}

/// Lives a scenario of the catalogue through, or a random life.
///
/// # Errors
/// [`StoryError`].
pub fn live_named(name: &str, seed: u64, lines: bool) -> Result<Lived, StoryError> {
    if name == "random" {
        let (report, world) = scenario::live(&scenario::Scenario::of(seed), lines);
        let lines = world.lines().to_vec();
        return Ok(Lived { trace: report.trace, lines, violations: report.violations, ends: report.ends });
    }
    let Some(found) = catalogue::find(name) else {
        let nearest = catalogue::all().into_iter().map(|s| s.name).max_by_key(|s| common(s, name)).unwrap_or_default();
        return Err(StoryError::Unknown { name: name.to_owned(), nearest });
    };
    Ok(live(&found, seed, None, lines))
}

fn common(a: &str, b: &str) -> usize {
    a.split('_').filter(|word| b.contains(word)).count()
}

/// Lives a scenario through; `bug` plants one.
pub fn live(scenario: &Scenario, seed: u64, bug: Option<Bug>, lines: bool) -> Lived {
    if scenario.registry {
        return registry::live(scenario, seed, bug, lines);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7363_656e_6172_696f);
    let wan = Wan::random(scenario.regions, scenario.latency_ms_max, &mut rng);
    let regions: Vec<_> =
        (0..scenario.regions).map(|i| (place(i), vec![pool("cpu", 2, 0), pool("gpu", 1, 8)])).collect();
    let config = NegotiationConfig { commit_if: !scenario.compare, ..NegotiationConfig::default() };
    let nodes =
        regions.into_iter().enumerate().map(|(i, (place, pools))| Node::new(MemberId(i as u64 + 1), place, pools));
    let mut world = World::asleep(seed, wan, config, nodes.collect());
    if scenario.durability == Durability::Quorum {
        world.keep_with_others();
    }
    world.wake_all();
    world.bug = bug;
    if lines {
        world.keep_lines();
    }
    for node in &mut world.nodes {
        node.run_ms = rng.random_range(1..scenario.run_ms_max);
    }
    let span_ms = scenario.span_s * 1000;
    let mut moments: Vec<(u64, Option<usize>, u64)> =
        (0..scenario.tasks).map(|n| (rng.random_range(0..span_ms), None, n + 1)).collect();
    moments.extend(scenario.acts.iter().enumerate().map(|(i, act)| ((act.at_s * 1000.0) as u64, Some(i), 0)));
    moments.sort_unstable();
    let mut teller = Teller { origins: BTreeMap::new(), next: scenario.tasks + 1, rng, scenario };
    for (ms, act, number) in moments {
        world.run_until(ms);
        match act {
            Some(index) => teller.act(&mut world, &scenario.acts[index]),
            None => {
                let node = scenario.origin.unwrap_or_else(|| teller.rng.random_range(0..scenario.regions));
                teller.submit(&mut world, node, number);
            }
        }
    }
    world.run_until(span_ms);
    heal_all(&mut world);
    let (violations, ends) = reckon(&mut world, &teller.origins);
    Lived { trace: world.trace().hex(), lines: world.lines().to_vec(), violations, ends }
}

struct Teller<'a> {
    origins: BTreeMap<TaskId, usize>,
    next: u64,
    rng: ChaCha8Rng,
    scenario: &'a Scenario,
}

impl Teller<'_> {
    fn submit(&mut self, world: &mut World, node: usize, number: u64) {
        let mut spec = if number.is_multiple_of(3) { gpu_task(self.rng.random_range(1..=8)) } else { task() };
        spec.resources.cpu.milli = self.rng.random_range(100..4000);
        spec.retry.max_attempts = 20;
        if self.scenario.finish {
            spec.on_partition = OnPartition::Finish;
        }
        if world.nodes[node].machine.is_some() {
            self.origins.insert(world.submit(node, number, &spec), node);
        }
    }

    fn act(&mut self, world: &mut World, act: &Act) {
        let all: Vec<usize> = (0..world.nodes.len()).collect();
        let nodes: &[usize] = if act.nodes.is_empty() { &all } else { &act.nodes };
        let rest: Vec<usize> = if act.others.is_empty() {
            all.iter().copied().filter(|n| !nodes.contains(n)).collect()
        } else {
            act.others.clone()
        };
        let permille = act.value.clamp(0, 1000) as u32;
        match act.what {
            What::Cut => world.cut(nodes, &rest),
            What::Heal => world.heal(),
            What::Loss => world.wan.loss_permille = permille,
            What::Double => world.wan.double_permille = permille,
            What::Reorder => world.wan.reorder_permille = permille,
            What::Jitter => world.wan.jitter_permille = act.value.clamp(0, 100_000) as u32,
            What::GossipLoss => world.wan.gossip_loss_permille = permille,
            What::Cancel => {
                for _ in 0..act.value {
                    let pick = self.rng.random_range(0..self.origins.len().max(1));
                    if let Some((&task, &node)) = self.origins.iter().nth(pick) {
                        world.feed(node, Input::Cancel { task, principal: "tester".to_owned() });
                    }
                }
            }
            What::Resubmit => {
                // A client that heard nothing hands the same task in again.
                let again: Vec<(TaskId, usize)> =
                    self.origins.iter().map(|(t, n)| (*t, *n)).take(act.value as usize).collect();
                for (task, node) in again {
                    if world.knows(node, task) {
                        world.submit(node, crate::trace::number(task), &crate::testing::task());
                    }
                }
            }
            _ => {
                for &node in nodes {
                    self.one(world, act, node, &rest);
                }
            }
        }
    }

    fn one(&mut self, world: &mut World, act: &Act, node: usize, rest: &[usize]) {
        match act.what {
            What::Crash => world.crash(node),
            What::PowerCut => world.destroy(node),
            What::Lose => world.lose(node),
            What::Restart => world.restart(node),
            What::CutOneWay => rest.iter().for_each(|other| world.cut_one_way(node, *other)),
            What::SlowDisk => world.nodes[node].sync_us = Some(act.value.max(0) as u64 * 1000),
            What::SlowLink => rest.iter().for_each(|other| world.wan.slow(node, *other, act.value.max(0) as u64)),
            What::ClockRate => world.set_clock_rate(node, act.value as i32),
            What::ClockJump => world.nodes[node].clock.wall_ahead_ms += act.value,
            What::Praise => world.nodes[node].manners.praises_itself = true,
            What::IgnoreAsks => world.nodes[node].manners.ignores_asks = true,
            What::HideEnds => world.nodes[node].manners.hides_ends = true,
            What::HideRenewals => world.nodes[node].manners.hides_renewals = true,
            What::Honest => world.nodes[node].manners = Manners::default(),
            What::Greedy => world.become_greedy(node, act.value.max(0) as u32),
            What::Drain => world.feed(node, Input::Draining(true)),
            What::Undrain => world.feed(node, Input::Draining(false)),
            What::Cordon | What::Uncordon => {
                let cordoned = act.what == What::Cordon;
                for pool in ["cpu", "gpu"] {
                    world.feed(node, Input::Cordon { pool: pool.to_owned(), cordoned });
                }
            }
            What::Burst => {
                for _ in 0..act.value {
                    let number = self.next;
                    self.next += 1;
                    self.submit(world, node, number);
                }
            }
            What::Suspend | What::Admit => {
                let (member, place) = (world.nodes[node].member, world.nodes[node].place.clone());
                let active = act.what == What::Admit;
                for other in 0..world.nodes.len() {
                    world.feed(other, Input::Member { member, place: place.clone(), active });
                }
            }
            _ => {}
        }
    }
}

/// The faults are over: links, disks, clocks and manners are well, every node is up, nothing is drained.
fn heal_all(world: &mut World) {
    world.wan.loss_permille = 0;
    world.wan.double_permille = 0;
    world.wan.reorder_permille = 0;
    world.wan.gossip_loss_permille = 0;
    world.heal();
    for node in 0..world.nodes.len() {
        world.nodes[node].manners = Manners::default();
        world.nodes[node].sync_us = None;
        world.restart(node);
        world.feed(node, Input::Draining(false));
        for pool in ["cpu", "gpu"] {
            world.feed(node, Input::Cordon { pool: pool.to_owned(), cordoned: false });
        }
        let (member, place) = (world.nodes[node].member, world.nodes[node].place.clone());
        for other in 0..world.nodes.len() {
            world.feed(other, Input::Member { member, place: place.clone(), active: true });
        }
    }
}

/// Waits until everything that was acknowledged has ended, and looks at what is left.
fn reckon(world: &mut World, origins: &BTreeMap<TaskId, usize>) -> (Vec<String>, BTreeMap<String, u32>) {
    // What only a lost region's disk had was never promised to outlive it.
    let gone = |world: &World, task: &TaskId, node: usize| {
        world.lost.contains(&node) && world.worth.get(task) != Some(&Durability::Quorum)
    };
    let now: &World = world;
    let acknowledged: Vec<(TaskId, usize)> = origins
        .iter()
        .filter(|(task, node)| now.answers.get(task) == Some(&Ok(())) && !gone(now, task, **node))
        .map(|(task, node)| (*task, *node))
        .collect();
    // A lease of such a task waits for an origin that does not come back.
    let orphaned: BTreeSet<TaskId> =
        origins.iter().filter(|(task, node)| gone(now, task, **node)).map(|(task, _)| *task).collect();
    let leases = |world: &World| {
        let all = world.nodes.iter().flat_map(|node| node.disk.leases());
        all.filter(|lease| !orphaned.contains(&lease.attempt.task)).count()
    };
    let until = world.now_ms + PATIENCE_MS;
    let done = |world: &World| {
        acknowledged.iter().all(|(task, node)| world.end_anywhere(*node, *task).is_some()) && leases(world) == 0
    };
    while !done(world) && world.now_ms < until {
        world.run_until(world.now_ms + 500);
    }
    // The last holds and timers.
    world.run_until(world.now_ms + 10_000);
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let (mut open, mut lost) = (Vec::new(), Vec::new());
    for (task, node) in &acknowledged {
        match world.end_anywhere(*node, *task) {
            Some(reason) => *ends.entry(reason.map_or("succeeded".to_owned(), |r| r.to_string())).or_default() += 1,
            None if world.nodes.iter().any(|n| n.disk.custody(*task).is_some()) => open.push(*task),
            None => lost.push(*task),
        }
    }
    let leases = leases(world);
    world.invariants.observe(world.now_ms, &Fact::Over { open: &open, lost: &lost, leases });
    (world.invariants.violations().to_vec(), ends)
}
