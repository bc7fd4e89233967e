//! What an experiment came to, as JSON. Figures of a simulation, not of a measurement.

use crate::experiment::{Experiment, chip_kind};
use crate::metrics::{Sample, TaskFacts};
use crate::world::World;
use cpi::dictionary::Dictionary;
use cpi::reason::ReasonCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the report's form.
const VERSION: u32 = 1;
/// Points of a distribution that are kept for plots.
const POINTS: usize = 101;

/// A distribution in one unit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// How many values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Half are at most this.
    pub p50: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// Every hundredth, from the least to the largest.
    pub curve: Vec<f64>,
}

impl Distribution {
    /// Of these values.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let Some(&max) = values.last() else { return Self::default() };
        let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
        Self {
            count: values.len(),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            max,
            curve: (0..POINTS).map(|i| at(i as f64 / (POINTS - 1) as f64)).collect(),
        }
    }
}

/// Counts of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tasks {
    /// Handed in.
    pub submitted: usize,
    /// The oracle found room at submission, or they were placed later.
    pub feasible: usize,
    /// Accepted by a region at least once.
    pub placed: usize,
    /// Of the feasible ones.
    pub feasible_placed: usize,
    /// Ended well.
    pub completed: usize,
    /// Ended otherwise or refused, by reason.
    pub failed: BTreeMap<String, usize>,
    /// Neither.
    pub open: usize,
    /// Runs that were lost or given up and placed again.
    pub attempts_lost: u64,
}

/// Decisions that count against one bar.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bar {
    /// Decisions.
    pub count: usize,
    /// Latency by the bar's own measure, as a ratio to it: at most 1 is within.
    pub ratio: Distribution,
    /// Share within the bar.
    pub within: f64,
}

/// Accelerators and cores.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Chips connected.
    pub chips: f64,
    /// Cores connected.
    pub cores: f64,
    /// Share of chips leased at the end.
    pub chips_allocated: f64,
    /// The most of it at any sample.
    pub chips_allocated_peak: f64,
    /// Mean share of chips leased over the whole time.
    pub chips_utilisation: f64,
    /// Mean share of cores leased over the whole time.
    pub cores_utilisation: f64,
    /// Chips on servers that are up, not cordoned and firm, of all connected: what can be placed on automatically.
    pub pooling_rate: f64,
    /// Dense peak by precision in PFLOPS (INT8: POPS), over chips whose peak at that precision is stated.
    pub peak_by_precision: BTreeMap<String, f64>,
    /// Chips whose peak at that precision is not stated.
    pub unstated_by_precision: BTreeMap<String, f64>,
    /// Chips by model.
    pub chips_by_model: BTreeMap<String, f64>,
}

/// Tasks that name several ways to run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Architectures {
    /// Tasks with more than one way.
    pub tasks: usize,
    /// Of those, feasible.
    pub feasible: usize,
    /// Of the feasible ones, placed.
    pub placed: usize,
    /// Placed by another way than the first.
    pub by_other_way: usize,
    /// Placed tasks by the kind of chip they run on.
    pub by_kind: BTreeMap<String, usize>,
}

/// One region.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RegionFigures {
    /// Its site.
    pub id: String,
    /// Chips.
    pub chips: f64,
    /// Tasks handed in here.
    pub submitted: usize,
    /// Tasks placed here (their newest run).
    pub placed: usize,
    /// Mean share of its chips leased.
    pub chips_utilisation: f64,
    /// Mean wait of the tasks handed in here, in ms.
    pub waiting_ms: f64,
}

/// What one size of federation costs each of its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct SizePoint {
    /// Regions.
    pub regions: usize,
    /// The largest table of peers, the own region included.
    pub table: usize,
    /// Messages sent per region and second.
    pub messages: f64,
    /// Digests received per region and second.
    pub digests: f64,
    /// Bytes per region and second, with 500 a message assumed.
    pub bytes: f64,
    /// Messages per placement at the median.
    pub per_placement: f64,
    /// Seconds of this machine's clock and the most memory in MiB that the run took.
    pub took_s: f64,
    /// See above.
    pub memory_mib: u64,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// For people.
    pub title: String,
    /// The seed.
    pub seed: u64,
    /// Regions.
    pub regions: usize,
    /// How long it lasted, in virtual seconds.
    pub virtual_s: f64,
    /// Digest of the trace; the same for the same seed and inputs.
    pub trace: String,
    /// Steps of machines.
    pub steps: u64,
    /// Task counts.
    pub tasks: Tasks,
    /// Placed of the feasible.
    pub placement_success: f64,
    /// From submission to the acceptance, of tasks that were feasible at submission, in ms.
    pub decision_ms: Distribution,
    /// The same of tasks placed in other regions, as a ratio to the round trip to the winner.
    pub decision_to_rtt: Distribution,
    /// A clear favourite: against 1.2 x round trip + sync + 5 ms.
    pub favourite: Bar,
    /// With comparison: from the first ask for an offer on, against 1.1 x (longest round trip asked for one + round trip
    /// to the winner) + sync.
    pub comparison: Bar,
    /// How long a favourite that refused or was silent took before offers were compared, in ms.
    pub before_comparing_ms: Distribution,
    /// From the acceptance until enough custodians' disks have the binding, in ms.
    pub custody_ms: Distribution,
    /// From submission to the start of the first run, in ms.
    pub waiting_ms: Distribution,
    /// How far the start expected at the binding lies from the real one, in ms, in the mean of tasks bound to a region of
    /// which something was learned: by fixed assumptions (a line of 100 Mbit/s), and by what was learned.
    pub start_error_ms: [f64; 2],
    /// Negotiation messages between regions up to the first start of each placed task.
    pub messages_per_placement: Distribution,
    /// All messages between regions.
    pub messages: u64,
    /// By kind.
    pub messages_by_kind: BTreeMap<String, u64>,
    /// Digests that reached a region.
    pub digests: u64,
    /// The largest digest, in bytes.
    pub digest_bytes: u64,
    /// Messages and digests a second and region.
    pub messages_per_region_s: f64,
    /// The same for federations of other sizes, where a benchmark of size took them.
    pub sizes: Vec<SizePoint>,
    /// Accelerators and cores.
    pub capacity: Capacity,
    /// Tasks with several ways to run.
    pub architectures: Architectures,
    /// What runs cost, CNY.
    pub cost: f64,
    /// What moving inputs cost, CNY.
    pub egress_cost: f64,
    /// Bytes moved before runs.
    pub moved_bytes: f64,
    /// Carbon in kg, at 500 W a busy chip and 5 W a busy core.
    pub carbon_kg: f64,
    /// Jain's index over origins of placed / submitted: 1 for equal treatment.
    pub fairness_success: f64,
    /// Jain's index over origins of the mean wait + 1 ms.
    pub fairness_waiting: f64,
    /// Regions.
    pub by_region: Vec<RegionFigures>,
    /// Moments.
    pub samples: Vec<Sample>,
    /// What was violated.
    pub violations: Vec<String>,
}

/// Jain's fairness index. Source: Jain, Chiu & Hawe, DEC-TR-301, 1984.
fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|v| v * v).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (values.len() as f64 * squares) }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

impl Report {
    /// Sums up what a world lived through.
    pub fn of(experiment: &Experiment, world: &World) -> Self {
        let metrics = &world.metrics;
        let facts = &metrics.tasks[1..];
        let ms = |us: u64| us as f64 / 1000.0;
        let decided = |task: &&TaskFacts| task.accepted_us > 0 && task.feasible != Some(false);
        let latency = |task: &TaskFacts| ms(task.accepted_us - task.submitted_us);
        let comparing = |task: &TaskFacts| ms(task.accepted_us - task.compared_us.max(task.submitted_us));
        let sync_ms = experiment.sync_ms as f64;
        let decisions: Vec<f64> = facts.iter().filter(decided).map(latency).collect();
        let remote = |task: &&TaskFacts| decided(task) && task.winner_rtt_us > 0;
        let ratios = facts.iter().filter(remote).map(|task| latency(task) / ms(task.winner_rtt_us)).collect();
        let bar = |wanted: &dyn Fn(&TaskFacts) -> bool, most: &dyn Fn(&TaskFacts) -> f64| {
            let ratio: Vec<f64> = facts
                .iter()
                .filter(decided)
                .filter(|task| wanted(task))
                .map(|task| comparing(task) / most(task))
                .collect();
            let within = share(ratio.iter().filter(|r| **r <= 1.0).count() as f64, ratio.len() as f64);
            Bar { count: ratio.len(), within, ratio: Distribution::of(ratio) }
        };
        let clear = |task: &TaskFacts| !task.compared && task.asked <= 1;
        let favourite = bar(&clear, &|task| 1.2 * ms(task.winner_rtt_us) + sync_ms + 5.0);
        let comparison =
            bar(&|task| task.compared, &|task| 1.1 * (ms(task.asked_rtt_us) + ms(task.winner_rtt_us)) + sync_ms);
        let after_favourite = facts.iter().filter(decided).filter(|task| task.compared_us > task.submitted_us);
        let before_comparing = after_favourite.map(|task| ms(task.compared_us - task.submitted_us)).collect();
        let started = facts.iter().filter(|task| task.bound_us > 0 && task.started_us > task.bound_us);
        let errors: Vec<(f64, f64)> = started
            .filter_map(|task| {
                let (fixed, learned) = task.expected_start?;
                let real = ms(task.started_us - task.bound_us);
                Some(((real - fixed).abs(), (real - learned).abs()))
            })
            .collect();
        let mean = |pick: fn(&(f64, f64)) -> f64| share(errors.iter().map(pick).sum(), errors.len() as f64);
        let start_error_ms = [mean(|e| e.0), mean(|e| e.1)];
        let mut failed: BTreeMap<String, usize> = BTreeMap::new();
        for code in facts.iter().filter_map(|task| task.failed) {
            *failed.entry(ReasonCode::code(code).to_owned()).or_default() += 1;
        }
        let count = |wanted: &dyn Fn(&TaskFacts) -> bool| facts.iter().filter(|task| wanted(task)).count();
        let feasible = |task: &TaskFacts| task.feasible != Some(false) || task.accepted_us > 0;
        let tasks = Tasks {
            submitted: count(&|task| task.submitted_us > 0),
            feasible: count(&feasible),
            placed: count(&|task| task.accepted_us > 0),
            feasible_placed: count(&|task| task.accepted_us > 0 && feasible(task)),
            completed: count(&|task| task.ended_us > 0 && task.failed.is_none()),
            failed,
            open: count(&|task| task.ended_us == 0 && task.failed.is_none()),
            attempts_lost: metrics.attempts_lost,
        };
        let waited = |task: &TaskFacts| ms(task.started_us - task.submitted_us);
        let virtual_s = world.now_us as f64 / 1e6;
        let capacity = capacity(world, virtual_s);
        let regions = world.nodes.len();
        let by_region: Vec<RegionFigures> = (0..regions)
            .map(|index| {
                let own: Vec<&TaskFacts> = facts.iter().filter(|task| task.origin as usize == index).collect();
                let waits: Vec<f64> = own.iter().filter(|task| task.started_us > 0).map(|task| waited(task)).collect();
                let chip_milli = chips_of(world, index);
                RegionFigures {
                    id: experiment.sites[index].id.clone(),
                    chips: chip_milli as f64 / 1000.0,
                    submitted: own.len(),
                    placed: facts.iter().filter(|t| t.accepted_us > 0 && t.placed_at as usize == index).count(),
                    chips_utilisation: share(metrics.chip_ms[index] as f64, chip_milli as f64 * virtual_s * 1000.0),
                    waiting_ms: share(waits.iter().sum(), waits.len() as f64),
                }
            })
            .collect();
        let origins: Vec<&RegionFigures> = by_region.iter().filter(|region| region.submitted > 0).collect();
        let mut placed_from = vec![0usize; regions];
        facts.iter().filter(|t| t.accepted_us > 0).for_each(|t| placed_from[t.origin as usize] += 1);
        let successes: Vec<f64> = by_region
            .iter()
            .zip(&placed_from)
            .filter(|(region, _)| region.submitted > 0)
            .map(|(region, placed)| *placed as f64 / region.submitted as f64)
            .collect();
        let waits: Vec<f64> = origins.iter().map(|region| region.waiting_ms + 1.0).collect();
        Self {
            version: VERSION,
            title: experiment.title.clone(),
            seed: experiment.seed,
            regions,
            virtual_s,
            trace: world.trace().hex(),
            steps: world.steps,
            placement_success: share(tasks.feasible_placed as f64, tasks.feasible as f64),
            decision_ms: Distribution::of(decisions),
            decision_to_rtt: Distribution::of(ratios),
            favourite,
            comparison,
            before_comparing_ms: Distribution::of(before_comparing),
            custody_ms: Distribution::of(
                facts.iter().filter(|t| t.bound_us > 0).map(|t| ms(t.bound_us.saturating_sub(t.accepted_us))).collect(),
            ),
            waiting_ms: Distribution::of(facts.iter().filter(|t| t.started_us > 0).map(waited).collect()),
            start_error_ms,
            messages_per_placement: Distribution::of(
                facts.iter().filter(|t| t.accepted_us > 0).map(|t| f64::from(t.messages_placing)).collect(),
            ),
            messages: world.messages,
            messages_by_kind: metrics.by_kind.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect(),
            digests: world.digests,
            digest_bytes: metrics.digest_bytes,
            messages_per_region_s: (world.messages + world.digests) as f64 / regions as f64 / virtual_s.max(0.001),
            sizes: Vec::new(),
            architectures: architectures(world, facts),
            cost: metrics.cost_micro as f64 / 1e6,
            egress_cost: metrics.egress_micro as f64 / 1e6,
            moved_bytes: metrics.moved_bytes as f64,
            carbon_kg: metrics.carbon_g / 1000.0,
            fairness_success: jain(&successes),
            fairness_waiting: jain(&waits),
            samples: metrics.samples.clone(),
            violations: world.invariants.violations().to_vec(),
            tasks,
            capacity,
            by_region,
        }
    }
}

fn chips_of(world: &World, node: usize) -> u64 {
    let classes = world.nodes[node].pools.iter().flat_map(|pool| &pool.spec.classes);
    classes.map(|class| class.per_server.chip_milli * u64::from(class.servers)).sum()
}

fn capacity(world: &World, virtual_s: f64) -> Capacity {
    let dictionary = Dictionary::first();
    let metrics = &world.metrics;
    let (mut chip_milli, mut core_milli, mut placeable) = (0u64, 0u64, 0u64);
    let mut out = Capacity::default();
    for node in &world.nodes {
        for pool in &node.pools {
            for class in &pool.spec.classes {
                let chips = class.per_server.chip_milli * u64::from(class.servers);
                chip_milli += chips;
                core_milli += class.per_server.cpu_milli * u64::from(class.servers);
                if node.machine.is_some() && !pool.spec.cordoned {
                    placeable += chips;
                }
                let Some(model) = class.chip.as_ref() else { continue };
                *out.chips_by_model.entry(model.model.clone()).or_default() += chips as f64 / 1000.0;
                let known = dictionary.chips.iter().find(|chip| chip.code.code == model.model);
                let peaks = known.map(|chip| chip.peaks).unwrap_or_default();
                for (precision, peak) in [
                    ("FP64", peaks.fp64),
                    ("FP32", peaks.fp32),
                    ("TF32", peaks.tf32),
                    ("FP16", peaks.fp16),
                    ("BF16", peaks.bf16),
                    ("FP8", peaks.fp8),
                    ("INT8", peaks.int8),
                ] {
                    match peak {
                        // Peaks are in GFLOPS.
                        Some(gflops) => {
                            let pflops = chips as f64 / 1000.0 * gflops as f64 / 1e6;
                            *out.peak_by_precision.entry(precision.to_owned()).or_default() += pflops;
                        }
                        None => {
                            *out.unstated_by_precision.entry(precision.to_owned()).or_default() +=
                                chips as f64 / 1000.0;
                        }
                    }
                }
            }
        }
    }
    let leased = metrics.leased_sum();
    let whole_ms = virtual_s * 1000.0;
    out.chips = chip_milli as f64 / 1000.0;
    out.cores = core_milli as f64 / 1000.0;
    out.chips_allocated = share(leased.chip_milli as f64, chip_milli as f64);
    out.chips_allocated_peak = metrics.samples.iter().map(|s| s.chips).fold(out.chips_allocated, f64::max);
    out.chips_utilisation = share(metrics.chip_ms.iter().sum::<u128>() as f64, chip_milli as f64 * whole_ms);
    out.cores_utilisation = share(metrics.core_ms.iter().sum::<u128>() as f64, core_milli as f64 * whole_ms);
    out.pooling_rate = share(placeable as f64, chip_milli as f64);
    out
}

fn architectures(world: &World, facts: &[TaskFacts]) -> Architectures {
    let dictionary = Dictionary::first();
    let several: Vec<&TaskFacts> = facts.iter().filter(|task| task.variants > 1).collect();
    let mut by_kind: BTreeMap<String, usize> = BTreeMap::new();
    for task in several.iter().filter(|task| task.accepted_us > 0) {
        let class = world.nodes[task.placed_at as usize].pools.iter().flat_map(|pool| &pool.spec.classes).next();
        let kind = class
            .and_then(|class| class.chip.as_ref())
            .map_or("CPU", |chip| chip_kind(&chip.model, &dictionary).code());
        *by_kind.entry(kind.to_owned()).or_default() += 1;
    }
    Architectures {
        tasks: several.len(),
        feasible: several.iter().filter(|task| task.feasible != Some(false) || task.accepted_us > 0).count(),
        placed: several.iter().filter(|task| task.accepted_us > 0).count(),
        by_other_way: several.iter().filter(|task| task.accepted_us > 0 && task.variant > 0).count(),
        by_kind,
    }
}
