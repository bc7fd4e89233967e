//! Whether what origins learn of regions tells the start of a run better than fixed assumptions, and whether weighing it
//! makes tasks wait less: the world's measured lines, inputs of many lengths.

use super::{federation, in_words};
use crate::experiment::Experiment;
use crate::report::Report;
use crate::trace::Detail;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// Lives one seed, with learned terms weighed by `weight`.
fn once(data: &Path, seed: u64, tasks: usize, weight: u32) -> anyhow::Result<Report> {
    let ((sites, rtt_ms), throughput) = federation::world_lines(data)?;
    let servers = federation::servers(sites.len());
    let mut rows = federation::tasks(seed, tasks, 10.0);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x006c_6561_726e);
    for row in &mut rows {
        // From 1 MB to 10 GB, each power of ten as often.
        row.input_bytes = 10f64.powf(rng.random_range(6.0..10.0)) as u64;
    }
    let mut experiment = Experiment::new("learned estimates", seed, sites, servers, rows);
    (experiment.rtt_ms, experiment.throughput) = (rtt_ms, throughput);
    (experiment.policy.weights.waiting, experiment.policy.weights.failure) = (weight, weight);
    (experiment.detail, experiment.oracle, experiment.check_every) = (Detail::Off, false, 2_000);
    let (report, _) = experiment.live();
    anyhow::ensure!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
    Ok(report)
}

/// Runs all seeds and prints the figures with their intervals.
///
/// # Errors
/// For people.
pub fn run(data: &Path, seeds: u64, tasks: usize, weight: u32) -> anyhow::Result<()> {
    println!("learned estimates, {seeds} seeds of {tasks} tasks over the world's measured lines");
    for (name, weight) in [("shown only", 0), ("weighed", weight)] {
        let reports = (1..=seeds).map(|seed| once(data, seed, tasks, weight)).collect::<Result<Vec<_>, _>>()?;
        let each = |pick: &dyn Fn(&Report) -> f64| in_words(&reports.iter().map(pick).collect::<Vec<_>>(), 1);
        println!("  {name} (weight {weight})");
        println!("    start error by fixed assumptions, ms {}", each(&|r| r.start_error_ms[0]));
        println!("    start error as learned, ms           {}", each(&|r| r.start_error_ms[1]));
        println!("    wait until the start, p50, ms        {}", each(&|r| r.waiting_ms.p50));
        println!("    wait until the start, mean, ms       {}", each(&|r| r.waiting_ms.mean));
        println!("    wait until the start, p95, ms        {}", each(&|r| r.waiting_ms.p95));
    }
    Ok(())
}
