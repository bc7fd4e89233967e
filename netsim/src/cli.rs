//! The command line: run, sweep, replay, compare, report, scenarios, convert, bench, evaluate.

use crate::bench;
use crate::catalogue;
use crate::convert::Convert;
use crate::evaluate;
use crate::experiment::{Experiment, Weather};
use crate::html;
use crate::input::{self, Spread};
use crate::report::Report;
use crate::story;
use crate::trace::Detail;
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// The node's pure machines on a virtual clock and a virtual WAN.
#[derive(Parser)]
#[command(name = "netsim")]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Lives an experiment of regions and tasks through and writes its report.
    Run(Box<RunArgs>),
    /// Lives fault scenarios through, many seeds of each; exits with 1 if an invariant was violated.
    Sweep {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds from there.
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// One scenario of the catalogue, `random` for random lives, or `all`.
        #[arg(long, default_value = "all")]
        scenario: String,
        /// Stops after so many seconds of real time, between two lives.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Lives one scenario through again and prints its timeline.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Its name, or `random`.
        #[arg(long, default_value = "random")]
        scenario: String,
        /// Only lines about this task, by its number.
        #[arg(long)]
        task: Option<u64>,
    },
    /// The catalogue of fault scenarios.
    Scenarios,
    /// Two reports side by side.
    Compare {
        /// One report.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// Draws a report as one HTML page.
    Report {
        /// The report.
        report: PathBuf,
        /// The page.
        #[arg(long, default_value = "report.html")]
        out: PathBuf,
    },
    /// Converts public traces and matrices into input files.
    #[command(subcommand)]
    Convert(Convert),
    /// Runs a benchmark.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Prints the paper's table: its figure, ours, and the run that it came from.
    Evaluate(evaluate::EvaluateArgs),
}

#[derive(Args)]
struct RunArgs {
    /// id, name, lat, lon, country, carbon, price.
    #[arg(long)]
    sites: PathBuf,
    /// from, to, rtt_ms; from coordinates where it is not given.
    #[arg(long)]
    rtt: Option<PathBuf>,
    /// from, to, bytes_per_s.
    #[arg(long)]
    throughput: Option<PathBuf>,
    /// from, to, price_per_gb.
    #[arg(long)]
    egress: Option<PathBuf>,
    /// site, cpu_milli, memory_mib, chip_model, chips, count.
    #[arg(long)]
    servers: PathBuf,
    /// How servers without a site are dealt out.
    #[arg(long, value_enum, default_value = "round-robin")]
    spread: Spread,
    /// What is handed in.
    #[arg(long)]
    tasks: PathBuf,
    /// Keys of the `[negotiation]` section as TOML.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Of 1,000 messages so many are lost for good.
    #[arg(long, default_value_t = 0)]
    loss_permille: u32,
    /// Jitter of one-way times, in thousandths.
    #[arg(long, default_value_t = 0)]
    jitter_permille: u32,
    /// A site that is down from the beginning.
    #[arg(long)]
    down: Option<String>,
    /// How long a disk takes to sync, in ms.
    #[arg(long, default_value_t = 2)]
    sync_ms: u64,
    /// How long it goes on after the last submission, in virtual seconds.
    #[arg(long, default_value_t = 3_600.0)]
    tail_s: f64,
    /// Writes the report here.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Writes every step here.
    #[arg(long)]
    trace: Option<PathBuf>,
}

fn read_report(path: &Path) -> anyhow::Result<Report> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no report of this release", path.display()))
}

impl RunArgs {
    fn experiment(&self) -> anyhow::Result<Experiment> {
        let sites = input::read_sites(&self.sites)?;
        anyhow::ensure!(!sites.is_empty(), "{} has no site", self.sites.display());
        let rows = input::read_servers(&self.servers, &sites)?;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let servers = input::spread_servers(&rows, sites.len(), self.spread, &mut rng);
        let tasks = input::read_tasks(&self.tasks, &sites)?;
        let pairs = |path: &Option<PathBuf>, value: &str, both: bool| {
            path.as_ref().map_or(Ok(Default::default()), |path| input::read_pairs(path, value, &sites, both))
        };
        let rtt_ms = pairs(&self.rtt, "rtt_ms", true)?;
        if !rtt_ms.is_empty() {
            let missing = (0..sites.len()).flat_map(|a| (0..sites.len()).map(move |b| (a, b)));
            let missing = missing.filter(|(a, b)| a != b).find(|pair| !rtt_ms.contains_key(pair));
            if let Some((a, b)) = missing {
                anyhow::bail!("--rtt has no round trip from {} to {}", sites[a].id, sites[b].id);
            }
        }
        let (throughput, egress) =
            (pairs(&self.throughput, "bytes_per_s", true)?, pairs(&self.egress, "price_per_gb", false)?);
        let down = match &self.down {
            Some(id) => {
                Some(sites.iter().position(|site| site.id == *id).with_context(|| format!("--down: no site is {id}"))?)
            }
            None => None,
        };
        let mut experiment = Experiment::new(&self.tasks.display().to_string(), self.seed, sites, servers, tasks);
        experiment.rtt_ms = rtt_ms;
        experiment.throughput = throughput;
        experiment.egress = egress;
        if let Some(path) = &self.policy {
            experiment.policy = input::read_policy(path)?;
        }
        experiment.weather = Weather {
            loss_permille: self.loss_permille.min(1000),
            jitter_permille: self.jitter_permille,
            down,
            dies_at_s: None,
        };
        experiment.sync_ms = self.sync_ms;
        experiment.tail_s = self.tail_s;
        experiment.detail = if self.trace.is_some() { Detail::Lines } else { Detail::Digest };
        Ok(experiment)
    }
}

/// Does what the command line says; false if an invariant was violated.
///
/// # Errors
/// What went wrong, for people.
pub fn run() -> anyhow::Result<bool> {
    match Cli::parse().verb {
        Verb::Run(args) => {
            let experiment = args.experiment()?;
            let (report, world) = experiment.live();
            if let Some(path) = &args.trace {
                std::fs::write(path, world.lines().join("\n") + "\n").with_context(|| path.display().to_string())?;
            }
            if let Some(path) = &args.report {
                let json = serde_json::to_vec_pretty(&report).context("writing the report")?;
                std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
            }
            print!("{}", evaluate::summary(&report));
            Ok(report.violations.is_empty())
        }
        Verb::Sweep { seed, count, scenario, seconds } => sweep(seed, count, &scenario, seconds),
        Verb::Replay { seed, scenario, task } => {
            let lived = story::live_named(&scenario, seed, true)?;
            for line in lived.lines.iter().filter(|line| task.is_none_or(|n| line.contains(&format!(" task {n} ")))) {
                println!("{line}");
            }
            println!("{scenario}, seed {seed}: trace {}", &lived.trace[..16]);
            lived.violations.iter().for_each(|what| println!("VIOLATED {what}"));
            Ok(lived.violations.is_empty())
        }
        Verb::Scenarios => {
            for scenario in catalogue::all() {
                println!("{:<34} {:<8} {}", scenario.name, scenario.story, scenario.about);
            }
            Ok(true)
        }
        Verb::Compare { one, other } => {
            print!("{}", evaluate::side_by_side(&read_report(&one)?, &read_report(&other)?));
            Ok(true)
        }
        Verb::Report { report, out } => {
            let page = html::page(&read_report(&report)?);
            std::fs::write(&out, page).with_context(|| format!("writing {}", out.display()))?;
            println!("{}", out.display());
            Ok(true)
        }
        Verb::Convert(convert) => {
            convert.run()?;
            Ok(true)
        }
        Verb::Bench(bench) => {
            bench.run()?;
            Ok(true)
        }
        Verb::Evaluate(args) => {
            print!("{}", evaluate::table(&args)?);
            Ok(true)
        }
    }
}

fn sweep(seed: u64, count: u64, scenario: &str, seconds: Option<u64>) -> anyhow::Result<bool> {
    let names: Vec<String> = if scenario == "all" {
        catalogue::all().iter().map(|s| s.name.clone()).chain(["random".to_owned()]).collect()
    } else {
        vec![scenario.to_owned()]
    };
    let began = std::time::Instant::now();
    let (mut lives, mut failed) = (0u64, 0u64);
    for seed in seed..seed.saturating_add(count) {
        for name in &names {
            if seconds.is_some_and(|most| began.elapsed().as_secs() >= most) {
                println!("{lives} lives in {} s, {failed} violated an invariant", began.elapsed().as_secs());
                return Ok(failed == 0);
            }
            let lived = story::live_named(name, seed, false)?;
            lives += 1;
            if !lived.violations.is_empty() {
                failed += 1;
                for what in lived.violations.iter().take(3) {
                    println!("{name}, seed {seed}: VIOLATED {what}");
                }
                println!("  replay: netsim replay --seed {seed} --scenario {name}");
            }
        }
    }
    println!("{lives} lives in {:.1} s, {failed} violated an invariant", began.elapsed().as_secs_f64());
    Ok(failed == 0)
}
