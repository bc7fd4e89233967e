//! Runs the fuzz targets: `fuzz --minutes 10`, `fuzz --target filter --seed 7`, `fuzz --target task --replay FILE`.

use e2e::fuzz::{Budget, TARGETS, Target, Verdict, run};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: fuzz [--minutes N | --inputs N] [--seed N] [--target NAME] [--replay FILE]";

fn main() -> ExitCode {
    match fuzz() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn fuzz() -> Result<bool, String> {
    let (mut budget, mut seed, mut only, mut replay) = (Budget::Time(Duration::from_secs(600)), 1, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: {value:?} is no number"));
        match name.as_str() {
            "--minutes" => budget = Budget::Time(Duration::from_secs(number()? * 60)),
            "--inputs" => budget = Budget::Inputs(number()?),
            "--seed" => seed = number()?,
            "--target" => only = Some(value),
            "--replay" => replay = Some(value),
            _ => return Err(format!("{name} is not known")),
        }
    }
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|target| only.as_deref().is_none_or(|only| only == target.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        return Err(format!("there is no such target; there are {}", names.join(", ")));
    }
    if let Some(file) = replay {
        let input = std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?;
        for target in chosen {
            match (target.try_input)(&input) {
                Verdict::Held(answer) => println!("{}: held: {answer}", target.name),
                Verdict::Broken(problem) => println!("{}: BROKEN: {problem}", target.name),
            }
        }
        return Ok(true);
    }

    // the targets run side by side, one thread each: they are single-threaded
    let outcomes = std::thread::scope(|scope| {
        let running: Vec<_> =
            chosen.iter().map(|target| (target.name, scope.spawn(move || run(target, seed, budget)))).collect();
        running.into_iter().map(|(name, thread)| (name, thread.join())).collect::<Vec<_>>()
    });
    let mut clean = true;
    for (name, outcome) in outcomes {
        let outcome = outcome.map_err(|_| format!("the thread of {name} panicked"))?;
        println!(
            "{name:<12} {:>12} inputs, {:>6} different answers, {:>5} kept: {}",
            outcome.inputs,
            outcome.answers,
            outcome.corpus,
            if outcome.finding.is_some() { "FINDING" } else { "no finding" }
        );
        if let Some(finding) = outcome.finding {
            clean = false;
            let saved = finding.save(name).map_or_else(|error| error.to_string(), |path| path.display().to_string());
            println!(
                "  {}\n  seed {seed}; the input is in {saved}; again: fuzz --target {name} --replay {saved}",
                finding.problem
            );
        }
    }
    Ok(clean)
}
