//! Chaos by hand: `chaos --points 200 --seed 1`. A failing seed is printed; the same seed draws the same points.

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let (mut points, mut seed) = (200, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--points", Some(value)) => points = value,
            ("--seed", Some(value)) => seed = value,
            _ => {
                eprintln!("usage: chaos [--points N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::FAILURE;
        }
    };
    let begin = Instant::now();
    match runtime.block_on(e2e::chaos::run(seed, points, |line| println!("{line}"))) {
        Ok(tally) => {
            for (stage, hits) in &tally.by_stage {
                println!("  {stage:<14} {hits} points");
            }
            println!("last event of the task before its point's kill:");
            for (event, hits) in &tally.struck_after {
                println!("  {event:<14} {hits} points");
            }
            println!(
                "seed {seed}: {points} points, {} kills in {:.0?}; {} tasks, {} commits and {} promises to commit kept; nothing acknowledged was lost, no task has two results; \
                 the slowest return took {:.1?}",
                tally.kills,
                begin.elapsed(),
                tally.tasks,
                tally.committed,
                tally.waiting,
                tally.slowest_return
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("CHAOS FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}
