//! Benchmarks of the simulator: the machine alone, decisions over real WANs, a dying region, a GPU trace, size.

pub mod decision;
pub mod failover;
pub mod federation;
pub mod global;
pub mod learned;
pub mod machine;
pub mod openb;
pub mod scale;

use clap::Subcommand;
use std::path::PathBuf;

/// What can be run.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Placements a second that the machines make without network and disk.
    Machine {
        /// Tasks.
        #[arg(long, default_value_t = 300_000)]
        tasks: u64,
        /// Regions, the origin included.
        #[arg(long, default_value_t = 5)]
        regions: usize,
    },
    /// Decision time over a WAN of real distances, with one region down and 1 % of all messages lost.
    Decision {
        /// The folder with sites.csv, sites_rtt.csv and skyplane/.
        #[arg(long)]
        data: PathBuf,
        /// `china` or `world`.
        #[arg(long, default_value = "china")]
        wan: String,
        /// Round trips times this.
        #[arg(long, default_value_t = 1.0)]
        factor: f64,
        /// Tasks per seed.
        #[arg(long, default_value_t = 3_000)]
        tasks: usize,
        /// Seeds from 1.
        #[arg(long, default_value_t = 10)]
        seeds: u64,
        /// Compares offers instead of letting a clear favourite commit.
        #[arg(long)]
        compare: bool,
        /// Fair weather: nothing down, nothing lost.
        #[arg(long)]
        fair: bool,
        /// Writes the last seed's report here.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// 1,000 tasks on a region that dies.
    Failover {
        /// Seeds from 1.
        #[arg(long, default_value_t = 10)]
        seeds: u64,
        /// Tasks.
        #[arg(long, default_value_t = 1_000)]
        tasks: u64,
    },
    /// Alibaba's openb trace over 34 regions at 130 % arrivals, against schedulers that know everything.
    Openb {
        /// The folder with alibaba/.
        #[arg(long)]
        data: PathBuf,
        /// How servers are split over the regions.
        #[arg(long, value_enum, default_value = "contiguous")]
        split: crate::input::Spread,
        /// Regions.
        #[arg(long, default_value_t = 34)]
        regions: usize,
        /// Arrivals in per cent of all GPUs.
        #[arg(long, default_value_t = 130)]
        arrivals: u64,
        /// Seeds from 1.
        #[arg(long, default_value_t = 3)]
        seeds: u64,
        /// A policy for the regions.
        #[arg(long)]
        policy: Option<PathBuf>,
        /// Only the schedulers that know every server.
        #[arg(long)]
        only_global: bool,
        /// Only the regions.
        #[arg(long, conflicts_with = "only_global")]
        only_regions: bool,
        /// Writes the last seed's report here.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Whether learned estimates tell starts better than fixed assumptions, and what weighing them does to waits.
    Learned {
        /// The folder with skyplane/.
        #[arg(long)]
        data: PathBuf,
        /// Seeds from 1.
        #[arg(long, default_value_t = 10)]
        seeds: u64,
        /// Tasks per seed.
        #[arg(long, default_value_t = 3_000)]
        tasks: usize,
        /// What learned waits and failures weigh in the second half of the runs.
        #[arg(long, default_value_t = 200)]
        weight: u32,
    },
    /// Many regions and tasks for an hour of virtual time at load 0.8.
    Scale {
        /// Regions.
        #[arg(long, default_value_t = 10_000)]
        regions: usize,
        /// Tasks.
        #[arg(long, default_value_t = 1_000_000)]
        tasks: usize,
        /// Peers that a region keeps in detail, at most.
        #[arg(long, default_value_t = 96)]
        peers: usize,
        /// Seconds between a region's digests.
        #[arg(long, default_value_t = 60)]
        digest_s: u64,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Smaller federations that are run first with as many tasks per region, for the curve in the report.
        #[arg(long, value_delimiter = ',')]
        curve: Vec<usize>,
        /// Writes the report here.
        #[arg(long)]
        report: Option<PathBuf>,
    },
}

impl Bench {
    /// Runs it and prints what it came to.
    ///
    /// # Errors
    /// For people.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Machine { tasks, regions } => {
                let placed = machine::place_many(tasks, regions.max(2));
                let rate = placed.tasks as f64 / placed.took.as_secs_f64();
                println!("{} placements in {:.2} s: {rate:.0} per second", placed.tasks, placed.took.as_secs_f64());
                Ok(())
            }
            Self::Decision { data, wan, factor, tasks, seeds, compare, fair, report } => {
                decision::run(&decision::Ask { data, wan, factor, tasks, seeds, compare, fair, report })
            }
            Self::Failover { seeds, tasks } => failover::run(seeds, tasks),
            Self::Openb { data, split, regions, arrivals, seeds, policy, only_global, only_regions, report } => {
                openb::run(&openb::Ask {
                    data,
                    split,
                    regions,
                    arrivals,
                    seeds,
                    policy,
                    only_global,
                    only_regions,
                    report,
                })
            }
            Self::Learned { data, seeds, tasks, weight } => learned::run(&data, seeds, tasks, weight),
            Self::Scale { regions, tasks, peers, digest_s, seed, curve, report } => {
                scale::run(&scale::Ask { regions, tasks, peers, digest_s, seed, curve, report })
            }
        }
    }
}

/// Mean and half of the 95 % interval over seeds (normal approximation).
pub fn interval(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, 1.96 * (variance / n).sqrt())
}

/// The same in words.
pub fn in_words(values: &[f64], digits: usize) -> String {
    let (mean, half) = interval(values);
    format!("{mean:.digits$} ± {half:.digits$}")
}
