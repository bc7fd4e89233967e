//! `netsim run --seed N`: lives one random scenario through and says what it came to.

use clap::{Parser, Subcommand};
use netsim::scenario::{Scenario, live};

/// The node's pure machines on a virtual clock and a virtual WAN.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Lives scenarios through; exits with 1 if an invariant was violated.
    Run {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds from there.
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// Regions.
        #[arg(long, default_value_t = 5)]
        regions: usize,
        /// Tasks.
        #[arg(long, default_value_t = 60)]
        tasks: u64,
        /// Crashes, cuts and cancels.
        #[arg(long, default_value_t = 12)]
        faults: u64,
        /// Of 1,000 messages so many are lost.
        #[arg(long, default_value_t = 20)]
        loss_permille: u32,
        /// Prints every step.
        #[arg(long)]
        trace: bool,
    },
    /// Measures how many placements a second the machines make without network and disk.
    Bench {
        /// Tasks.
        #[arg(long, default_value_t = 300_000)]
        tasks: u64,
        /// Regions, the origin included.
        #[arg(long, default_value_t = 5)]
        regions: usize,
    },
}

fn main() -> anyhow::Result<()> {
    let (seed, count, regions, tasks, faults, loss_permille, trace) = match Cli::parse().verb {
        Verb::Run { seed, count, regions, tasks, faults, loss_permille, trace } => {
            (seed, count, regions, tasks, faults, loss_permille, trace)
        }
        Verb::Bench { tasks, regions } => {
            let placed = netsim::bench::place_many(tasks, regions.max(2));
            let rate = placed.tasks as f64 / placed.took.as_secs_f64();
            println!("{} placements in {:.2} s: {rate:.0} per second", placed.tasks, placed.took.as_secs_f64());
            return Ok(());
        }
    };
    let mut failed = 0;
    for seed in seed..seed + count {
        let (report, world) = live(&Scenario { seed, regions, tasks, faults, loss_permille }, trace);
        for line in world.lines() {
            println!("{line}");
        }
        println!(
            "seed {seed}: {} steps, {} messages, trace {}, ends {:?}",
            report.steps,
            report.messages,
            &report.trace[..16],
            report.ends
        );
        for violation in &report.violations {
            println!("seed {seed}: VIOLATED {violation}");
        }
        failed += u64::from(!report.violations.is_empty());
    }
    anyhow::ensure!(failed == 0, "{failed} of {count} seeds violated an invariant");
    Ok(())
}
