//! How long a decision takes over real distances, and how many messages: one region down, 1 % of all messages lost.

use super::{federation, in_words};
use crate::experiment::{Experiment, Weather};
use crate::report::Report;
use crate::trace::Detail;
use anyhow::Context as _;
use cpi::task::Durability;
use std::path::PathBuf;

/// What is asked of it.
#[derive(Debug)]
pub struct Ask {
    /// Where sites and matrices lie.
    pub data: PathBuf,
    /// `china` or `world`.
    pub wan: String,
    /// Round trips times this.
    pub factor: f64,
    /// Tasks per seed.
    pub tasks: usize,
    /// Seeds from 1.
    pub seeds: u64,
    /// Compares offers.
    pub compare: bool,
    /// Nothing goes wrong.
    pub fair: bool,
    /// Where the last report goes.
    pub report: Option<PathBuf>,
}

/// One experiment of it.
///
/// # Errors
/// For people.
pub fn experiment(ask: &Ask, seed: u64) -> anyhow::Result<Experiment> {
    let (sites, rtt_ms) = match ask.wan.as_str() {
        "china" => federation::china(&ask.data, ask.factor)?,
        "world" => federation::world(&ask.data)?,
        other => anyhow::bail!("--wan is `china` or `world`, not `{other}`"),
    };
    let servers = federation::servers(sites.len());
    let tasks = federation::tasks(seed, ask.tasks, 10.0);
    let down = (seed as usize * 7) % sites.len();
    let title = format!("decisions over {} x {}", ask.wan, ask.factor);
    let mut experiment = Experiment::new(&title, seed, sites, servers, tasks);
    experiment.rtt_ms = rtt_ms;
    experiment.policy.commit_if = !ask.compare;
    experiment.durability = Durability::Quorum;
    if !ask.fair {
        experiment.weather = Weather { loss_permille: 10, jitter_permille: 50, down: Some(down), dies_at_s: None };
    }
    experiment.tail_s = 3_600.0;
    experiment.detail = Detail::Digest;
    experiment.check_every = 200;
    Ok(experiment)
}

/// Runs all seeds and prints the figures with their intervals.
///
/// # Errors
/// For people.
pub fn run(ask: &Ask) -> anyhow::Result<()> {
    let mut reports: Vec<Report> = Vec::new();
    for seed in 1..=ask.seeds {
        let (report, _) = experiment(ask, seed)?.live();
        anyhow::ensure!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        reports.push(report);
    }
    let last = reports.last().context("--seeds is at least 1")?;
    if let Some(path) = &ask.report {
        std::fs::write(path, serde_json::to_vec_pretty(last)?).with_context(|| path.display().to_string())?;
    }
    let each = |pick: &dyn Fn(&Report) -> f64, digits| in_words(&reports.iter().map(pick).collect::<Vec<_>>(), digits);
    println!("{}, {} regions, {} seeds of {} tasks", last.title, last.regions, ask.seeds, ask.tasks);
    println!("  decision p50, ms                {}", each(&|r| r.decision_ms.p50, 1));
    println!("  decision p99, ms                {}", each(&|r| r.decision_ms.p99, 1));
    println!("  decision / round trip, p50      {}", each(&|r| r.decision_to_rtt.p50, 3));
    println!("  favourite: ratio to bar, p50    {}", each(&|r| r.favourite.ratio.p50, 3));
    println!("  favourite: within its bar, %    {}", each(&|r| r.favourite.within * 100.0, 2));
    println!("  comparison: ratio to bar, p50   {}", each(&|r| r.comparison.ratio.p50, 3));
    println!("  comparison: decisions           {}", each(&|r| r.comparison.count as f64, 0));
    println!("  before comparing, p50, ms       {}", each(&|r| r.before_comparing_ms.p50, 1));
    println!("  custody after acceptance, p50   {}", each(&|r| r.custody_ms.p50, 1));
    println!("  custody after acceptance, p99   {}", each(&|r| r.custody_ms.p99, 1));
    println!("  success of the feasible, %      {}", each(&|r| r.placement_success * 100.0, 4));
    println!(
        "  across architectures, %         {}",
        each(&|r| 100.0 * r.architectures.placed as f64 / r.architectures.feasible.max(1) as f64, 4)
    );
    println!(
        "  completed / submitted, %        {}",
        each(&|r| 100.0 * r.tasks.completed as f64 / r.tasks.submitted.max(1) as f64, 4)
    );
    println!("  messages per placement, p50     {}", each(&|r| r.messages_per_placement.p50, 1));
    println!("  messages per placement, p99     {}", each(&|r| r.messages_per_placement.p99, 1));
    println!(
        "  FP16 peak, PFLOPS               {}",
        each(&|r| r.capacity.peak_by_precision.get("FP16").copied().unwrap_or(0.0), 0)
    );
    println!("  trace of the last seed          {}", &last.trace[..16]);
    Ok(())
}
