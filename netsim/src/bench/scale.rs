//! Size: many regions and tasks for an hour of virtual time at load 0.8, and what it takes of this machine.

use super::federation;
use crate::experiment::Experiment;
use crate::input::{ServerRow, Site, TaskRow};
use crate::report::{Report, SizePoint};
use crate::trace::Detail;
use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

/// Virtual seconds in which tasks arrive.
const SPAN_S: f64 = 3_600.0;
/// Cores of a region.
const CORES: f64 = 4.0;
/// Share of all cores that is asked for in the mean.
const LOAD: f64 = 0.8;
/// What a message is taken to weigh, signature and frame included.
const MESSAGE_BYTES: f64 = 500.0;

/// What is asked of it.
#[derive(Debug)]
pub struct Ask {
    /// Regions.
    pub regions: usize,
    /// Tasks.
    pub tasks: usize,
    /// Peers in detail, at most.
    pub peers: usize,
    /// Seconds between digests.
    pub digest_s: u64,
    /// The seed.
    pub seed: u64,
    /// Smaller federations that are run first, with as many tasks per region, for a curve.
    pub curve: Vec<usize>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
}

/// For each region half of its peers nearest, half drawn from all; knowing is mutual, so a table may grow to 512.
fn peers(sites: &[Site], count: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let points: Vec<[f32; 3]> = sites
        .iter()
        .map(|site| {
            let (lat, lon) = (site.lat.to_radians(), site.lon.to_radians());
            [(lat.cos() * lon.cos()) as f32, (lat.cos() * lon.sin()) as f32, lat.sin() as f32]
        })
        .collect();
    let near = |a: usize, b: usize| -(0..3).map(|i| points[a][i] * points[b][i]).sum::<f32>();
    let mut known: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); sites.len()];
    let half = (count / 4).max(1);
    for a in 0..sites.len() {
        let mut others: Vec<usize> = (0..sites.len()).filter(|b| *b != a).collect();
        let nearest = half.min(others.len());
        if nearest < others.len() {
            others.select_nth_unstable_by(nearest, |x, y| near(a, *x).total_cmp(&near(a, *y)));
        }
        let mut chosen: Vec<usize> = others[..nearest].to_vec();
        chosen.extend((0..half).map(|_| others[rng.random_range(0..others.len())]));
        for b in chosen {
            if known[a].len() < 512 && known[b].len() < 512 {
                known[a].insert(b);
                known[b].insert(a);
            }
        }
    }
    known.into_iter().map(|set| set.into_iter().collect()).collect()
}

/// Processor time of this process so far, in seconds: what a run takes of a machine that does other things beside it.
fn processor_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: state and ten more fields, then user and system time in hundredths.
    let after = stat.rsplit(')').next().unwrap_or("");
    after.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Runs all sizes and prints what they took.
///
/// # Errors
/// For people.
pub fn run(ask: &Ask) -> anyhow::Result<()> {
    anyhow::ensure!(ask.regions >= 2 && ask.tasks >= 1, "--regions is at least 2 and --tasks at least 1");
    anyhow::ensure!(ask.peers <= 512, "--peers is at most 512");
    anyhow::ensure!(ask.curve.iter().all(|n| (2..=ask.regions).contains(n)), "--curve goes from 2 to --regions");
    let mut sizes = Vec::new();
    let mut last = Report::default();
    for regions in ask.curve.iter().copied().filter(|n| *n < ask.regions).chain([ask.regions]) {
        let tasks = (ask.tasks as u128 * regions as u128 / ask.regions as u128).max(1) as usize;
        let (report, point) = once(ask, regions, tasks);
        sizes.push(point);
        last = report;
    }
    last.sizes = sizes;
    if let Some(path) = &ask.report {
        std::fs::write(path, serde_json::to_vec_pretty(&last)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// One size.
fn once(ask: &Ask, regions: usize, tasks: usize) -> (Report, SizePoint) {
    let began = Instant::now();
    let mut rng = ChaCha8Rng::seed_from_u64(ask.seed);
    let sites = federation::drawn(ask.seed, regions);
    let server = ServerRow {
        site: None,
        spread: None,
        cpu_milli: (CORES * 1000.0) as u64,
        memory_mib: 65_536,
        chip_model: String::new(),
        chips: 0,
        count: 1,
    };
    // Cores asked: 1, 2 or 3, two in the mean.
    let mean_s = LOAD * CORES * regions as f64 * SPAN_S / (2.0 * tasks as f64);
    let mut at = 0.0;
    let rows: Vec<TaskRow> = (0..tasks)
        .map(|_| {
            at += -(SPAN_S / tasks as f64) * (1.0 - rng.random_range(0.0..1.0f64)).ln();
            TaskRow {
                submit_s: at,
                duration_s: (-mean_s * (1.0 - rng.random_range(0.0..1.0f64)).ln()).clamp(1.0, 10.0 * mean_s),
                cpu_milli: rng.random_range(1..=3) * 1000,
                memory_mib: 1024,
                chip_milli: 0,
                chip_model: None,
                variants: Vec::new(),
                origin: None,
                input_bytes: 0,
                input_site: None,
                residency: Vec::new(),
                max_price: None,
                deadline_s: None,
            }
        })
        .collect();
    let servers = vec![vec![server]; sites.len()];
    let known = if regions <= ask.peers { None } else { Some(peers(&sites, ask.peers, &mut rng)) };
    let table = known.as_ref().map_or(regions, |known| known.iter().map(Vec::len).max().unwrap_or(0) + 1);
    let mut experiment = Experiment::new("size", ask.seed, sites, servers, rows);
    experiment.detail = Detail::Off;
    experiment.oracle = false;
    experiment.check_every = 0;
    experiment.tail_s = 600.0;
    experiment.peers = known;
    experiment.digest_every_ms = Some(ask.digest_s * 1000);
    experiment.forgetful = true;
    experiment.policy.digest_age_ms_max = 4 * ask.digest_s * 1000;
    let (report, world): (Report, _) = experiment.live();
    let took_s = began.elapsed().as_secs_f64();
    let bytes = report.messages as f64 * MESSAGE_BYTES + report.digests as f64 * report.digest_bytes as f64;
    let per = |value: f64| value / regions as f64 / report.virtual_s;
    let point = SizePoint {
        regions,
        table,
        messages: per(report.messages as f64),
        digests: per(report.digests as f64),
        bytes: per(bytes),
        per_placement: report.messages_per_placement.p50,
        took_s,
        memory_mib: memory_mib(),
    };
    println!(
        "{regions} regions, {tasks} tasks, {:.0} virtual s: {took_s:.0} s, of them {:.0} s on a processor, {} MiB at most, {} \
         steps, largest table {table}",
        report.virtual_s,
        processor_s(),
        point.memory_mib,
        world.steps
    );
    println!(
        "  placed {}, completed {}, decision p50 {:.0} ms, p99 {:.0} ms, messages per placement p50 {:.0}, p99 {:.0}",
        report.tasks.placed,
        report.tasks.completed,
        report.decision_ms.p50,
        report.decision_ms.p99,
        report.messages_per_placement.p50,
        report.messages_per_placement.p99
    );
    println!(
        "  per region and second: {:.3} messages, {:.3} digests, about {:.0} bytes (500 a message assumed, {} a digest)",
        point.messages, point.digests, point.bytes, report.digest_bytes
    );
    (report, point)
}
