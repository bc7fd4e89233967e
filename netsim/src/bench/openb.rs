//! Alibaba's GPU trace over regions that negotiate, against schedulers that know every server.
//!
//! As in the paper of that trace: tasks are drawn in random order until they ask for so many per cent of all GPUs, and none
//! leaves. A task that no region takes within ten seconds is given up.

use super::global::{Rule, Server, Shape, place};
use super::{federation, in_words};
use crate::convert::Convert;
use crate::experiment::Experiment;
use crate::input::{self, ServerRow, Spread, TaskRow};
use crate::trace::Detail;
use crate::world::World;
use anyhow::Context as _;
use consensus::negotiation::{NegotiationConfig, Weights};
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Between arrivals, in seconds.
const EVERY_S: f64 = 0.5;
/// After so long a task that nobody took is given up, in seconds.
const PATIENCE_S: f64 = 10.0;

/// What is asked of it.
#[derive(Debug)]
pub struct Ask {
    /// Where alibaba/ lies.
    pub data: PathBuf,
    /// How servers are dealt out.
    pub split: Spread,
    /// Regions.
    pub regions: usize,
    /// Arrivals in per cent.
    pub arrivals: u64,
    /// Seeds from 1.
    pub seeds: u64,
    /// The regions' policy.
    pub policy: Option<PathBuf>,
    /// Without the regions.
    pub only_global: bool,
    /// Without the schedulers that know every server.
    pub only_regions: bool,
    /// Where the last report goes.
    pub report: Option<PathBuf>,
}

/// The policy of a federation that wants its chips used up: fragmentation alone decides, and no tie is drawn for.
fn packing() -> NegotiationConfig {
    let none = Weights {
        price: 0,
        start: 0,
        data: 0,
        latency: 0,
        carbon: 0,
        keep: 0,
        fragmentation: 1_000,
        affinity: 0,
        waiting: 0,
        failure: 0,
    };
    NegotiationConfig {
        tie_permille: 0,
        own_permille: 1_000,
        weights: none,
        // Nothing is lost here and nothing ends: renewals would only take time of the machine that simulates.
        lease_ttl_ms: 600_000,
        renew_every_ms: 200_000,
        ..NegotiationConfig::default()
    }
}

fn read(ask: &Ask) -> anyhow::Result<(Vec<ServerRow>, Vec<TaskRow>)> {
    let folder = std::env::temp_dir().join(format!("netsim-openb-{}", std::process::id()));
    let convert = Convert::Openb {
        nodes: ask.data.join("alibaba/openb_node_list_all_node.csv"),
        pods: ask.data.join("alibaba/openb_pod_list_default.csv"),
        out: folder.clone(),
    };
    convert.run()?;
    let servers = input::read_servers(&folder.join("servers.csv"), &[])?;
    let tasks = input::read_tasks(&folder.join("tasks.csv"), &[])?;
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok((servers, tasks))
}

/// Tasks in random order until they ask for `percent` of `gpu_milli`.
fn inflated(tasks: &[TaskRow], gpu_milli: u64, percent: u64, rng: &mut ChaCha8Rng) -> Vec<TaskRow> {
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.shuffle(rng);
    let mut chosen = Vec::new();
    let mut asked = 0;
    let mut next = 0;
    while asked * 100 < gpu_milli * percent {
        let index = order.get(next).copied().unwrap_or_else(|| rng.random_range(0..tasks.len()));
        next += 1;
        asked += tasks[index].chip_milli;
        let task = &tasks[index];
        chosen.push(TaskRow { submit_s: next as f64 * EVERY_S, duration_s: 1e7, ..task.clone() });
    }
    chosen
}

/// Of what regions leased, thousandths of chips that do not fit onto single GPUs: shares must lie on one, whole ones be free.
fn unrealisable(world: &World) -> u64 {
    let mut lost = 0;
    for node in &world.nodes {
        let Some(machine) = &node.machine else { continue };
        let mut by_server: BTreeMap<(String, u32), (u64, Vec<u64>)> = BTreeMap::new();
        let classes = &node.pools[0].spec.classes;
        for lease in machine.provider().leases() {
            let record = &lease.record;
            let Some(class) = classes.iter().find(|class| class.name == record.target.class) else { continue };
            let entry = by_server.entry((class.name.clone(), record.server)).or_default();
            entry.0 = class.per_server.chip_milli / 1000;
            entry.1.push(record.quantity.chip_milli);
        }
        for (chips, mut shares) in by_server.into_values() {
            shares.sort_unstable_by(|a, b| b.cmp(a));
            let mut free = vec![1000u64; chips as usize];
            for share in shares.into_iter().filter(|share| *share > 0) {
                if share >= 1000 {
                    let mut whole = share / 1000;
                    for gpu in free.iter_mut().filter(|gpu| **gpu == 1000) {
                        if whole > 0 {
                            *gpu = 0;
                            whole -= 1;
                        }
                    }
                    lost += whole * 1000;
                } else if let Some(gpu) = free.iter_mut().filter(|gpu| **gpu >= share).min() {
                    *gpu -= share;
                } else {
                    lost += share;
                }
            }
        }
    }
    lost
}

/// Runs all seeds.
///
/// # Errors
/// For people.
pub fn run(ask: &Ask) -> anyhow::Result<()> {
    let (rows, all) = read(ask)?;
    let gpu_milli: u64 = rows.iter().map(|row| u64::from(row.chips) * 1000).sum();
    let servers: Vec<Server> = rows
        .iter()
        .map(|row| Server { cpu: row.cpu_milli, memory: row.memory_mib, gpus: vec![1000; row.chips as usize] })
        .collect();
    println!(
        "openb: {} servers, {} GPUs, {} tasks; {} regions, {:?} split, {} % arrivals, {} seeds",
        rows.len(),
        gpu_milli / 1000,
        all.len(),
        ask.regions,
        ask.split,
        ask.arrivals,
        ask.seeds
    );
    let mut global: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    let (mut regional, mut lost, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for seed in 1..=ask.seeds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let tasks = inflated(&all, gpu_milli, ask.arrivals, &mut rng);
        let shapes: Vec<Shape> =
            tasks.iter().map(|t| Shape { cpu: t.cpu_milli, memory: t.memory_mib, gpu: t.chip_milli }).collect();
        for (position, (rule, tunings)) in Rule::ALL.iter().enumerate() {
            for tuning in (0..tunings.len()).filter(|_| !ask.only_regions) {
                let allocated = place(&servers, &shapes, *rule, tuning, &mut rng.clone());
                global.entry((position, tuning)).or_default().push(100.0 * allocated as f64 / gpu_milli as f64);
            }
        }
        if ask.only_global {
            continue;
        }
        let sites = federation::drawn(seed, ask.regions);
        let at = input::spread_servers(&rows, ask.regions, ask.split, &mut rng);
        let mut experiment = Experiment::new("openb", seed, sites, at, tasks);
        experiment.policy = match &ask.policy {
            Some(path) => input::read_policy(path)?,
            None => packing(),
        };
        experiment.give_up_s = Some(PATIENCE_S);
        experiment.detail = Detail::Off;
        experiment.oracle = false;
        experiment.check_every = 2_000;
        experiment.tail_s = 30.0;
        let (report, world) = experiment.live();
        anyhow::ensure!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        let off = 100.0 * unrealisable(&world) as f64 / gpu_milli as f64;
        regional.push(report.capacity.chips_allocated * 100.0 - off);
        lost.push(off);
        p50.push(report.messages_per_placement.p50);
        p99.push(report.messages_per_placement.p99);
        if let Some(path) = &ask.report {
            std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
        }
    }
    if !ask.only_regions {
        println!("  GPUs allocated, %, schedulers that know every server:");
    }
    for ((position, tuning), values) in &global {
        let (rule, tunings) = Rule::ALL[*position];
        println!("    {:<13} {}  {}", format!("{rule:?}"), in_words(values, 2), tunings[*tuning]);
    }
    if !ask.only_global {
        println!("  GPUs allocated, %, regions that negotiate: {}", in_words(&regional, 2));
        println!("    leased beyond that but not on single GPUs: {}", in_words(&lost, 2));
        println!("    messages per placement: p50 {}, p99 {}", in_words(&p50, 1), in_words(&p99, 1));
    }
    Ok(())
}
