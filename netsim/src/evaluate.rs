//! The paper's table: its figures beside ours, each with the run that it came from; and reports in words.

use crate::bench::{decision, failover, federation};
use crate::experiment::{Experiment, Weather};
use crate::report::Report;
use clap::Args;
use std::fmt::Write as _;
use std::path::PathBuf;

/// What `netsim evaluate` takes.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// The folder with sites.csv and sites_rtt.csv; without it sites are drawn from the seed.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Tasks.
    #[arg(long, default_value_t = 3_000)]
    tasks: usize,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A report in a few lines.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    let t = &report.tasks;
    let _ = writeln!(
        text,
        "{} tasks, {} feasible, {} placed, {} completed, {} open; success of the feasible {:.3} %",
        t.submitted,
        t.feasible,
        t.placed,
        t.completed,
        t.open,
        report.placement_success * 100.0
    );
    for (code, count) in &t.failed {
        let _ = writeln!(text, "  failed: {count} x {code}");
    }
    let d = &report.decision_ms;
    let _ = writeln!(
        text,
        "decision p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms; messages per placement p50 {:.0}, p99 {:.0}",
        d.p50, d.p95, d.p99, report.messages_per_placement.p50, report.messages_per_placement.p99
    );
    let _ = writeln!(
        text,
        "chips allocated {:.2} %, utilisation {:.2} %; trace {}",
        report.capacity.chips_allocated * 100.0,
        report.capacity.chips_utilisation * 100.0,
        &report.trace[..16]
    );
    for what in &report.violations {
        let _ = writeln!(text, "VIOLATED {what}");
    }
    text
}

/// Two reports side by side.
pub fn side_by_side(one: &Report, other: &Report) -> String {
    type Pick = fn(&Report) -> f64;
    let rows: [(&str, Pick); 19] = [
        ("tasks submitted", |r| r.tasks.submitted as f64),
        ("tasks placed", |r| r.tasks.placed as f64),
        ("tasks completed", |r| r.tasks.completed as f64),
        ("success of the feasible, %", |r| r.placement_success * 100.0),
        ("decision p50, ms", |r| r.decision_ms.p50),
        ("decision p95, ms", |r| r.decision_ms.p95),
        ("decision p99, ms", |r| r.decision_ms.p99),
        ("decision / round trip, p50", |r| r.decision_to_rtt.p50),
        ("wait p50, ms", |r| r.waiting_ms.p50),
        ("wait p95, ms", |r| r.waiting_ms.p95),
        ("start error, fixed, ms", |r| r.start_error_ms[0]),
        ("start error, learned, ms", |r| r.start_error_ms[1]),
        ("messages per placement, p50", |r| r.messages_per_placement.p50),
        ("messages per placement, p99", |r| r.messages_per_placement.p99),
        ("chips allocated at the end, %", |r| r.capacity.chips_allocated * 100.0),
        ("chips utilisation, %", |r| r.capacity.chips_utilisation * 100.0),
        ("cost, CNY", |r| r.cost),
        ("carbon, kg", |r| r.carbon_kg),
        ("fairness of waiting", |r| r.fairness_waiting),
    ];
    let mut text = format!("{:<32} {:>14} {:>14} {:>9}\n", "", cut(&one.title), cut(&other.title), "change");
    for (name, pick) in rows {
        let (a, b) = (pick(one), pick(other));
        let change = if a == 0.0 { String::new() } else { format!("{:+.1} %", (b - a) / a * 100.0) };
        let _ = writeln!(text, "{name:<32} {a:>14.3} {b:>14.3} {change:>9}");
    }
    text
}

fn cut(title: &str) -> String {
    title.chars().rev().take(14).collect::<Vec<_>>().into_iter().rev().collect()
}

/// Runs what is needed and prints the table.
///
/// # Errors
/// For people.
pub fn table(args: &EvaluateArgs) -> anyhow::Result<String> {
    let (experiment, run) = match &args.data {
        Some(data) => {
            let ask = decision::Ask {
                data: data.clone(),
                wan: "china".to_owned(),
                factor: 1.0,
                tasks: args.tasks,
                seeds: 1,
                compare: false,
                fair: false,
                report: None,
            };
            (decision::experiment(&ask, args.seed)?, "netsim evaluate --data DIR, 43 cities")
        }
        None => {
            let sites = federation::drawn(args.seed, 43);
            let servers = federation::servers(sites.len());
            let tasks = federation::tasks(args.seed, args.tasks, 10.0);
            let mut experiment = Experiment::new("evaluate", args.seed, sites, servers, tasks);
            experiment.weather = Weather { loss_permille: 10, jitter_permille: 50, down: Some(7), dies_at_s: None };
            experiment.check_every = 200;
            (experiment, "netsim evaluate, 43 drawn sites")
        }
    };
    let (report, _) = experiment.live();
    let (p95, deviation, _) = failover::once(args.seed, 1_000)?;
    let fp16 = report.capacity.peak_by_precision.get("FP16").copied().unwrap_or(0.0);
    let other = &report.architectures;
    let rows = [
        ("connected capacity, PFLOPS FP16 dense", ">= 30,000", format!("{fp16:.0}"), run),
        ("data centres", ">= 30", report.regions.to_string(), run),
        ("decision, mean", "2.3 s", format!("{:.3} s", report.decision_ms.mean / 1000.0), run),
        ("decision, p50", "-", format!("{:.3} s", report.decision_ms.p50 / 1000.0), run),
        ("decision, p99", "<= 5 s", format!("{:.3} s", report.decision_ms.p99 / 1000.0), run),
        ("success of feasible tasks", "99.2 %", format!("{:.3} %", report.placement_success * 100.0), run),
        (
            "the same across architectures",
            "99.2 %",
            format!("{:.3} %", 100.0 * other.placed as f64 / other.feasible.max(1) as f64),
            run,
        ),
        ("pooling: placeable / connected", "80-90 %", format!("{:.1} %", report.capacity.pooling_rate * 100.0), run),
        ("a dying region's tasks start again, p95", "-", format!("{p95:.1} s"), "netsim bench failover"),
        ("their deviation from capacity", "-", format!("{:.1} %", deviation * 100.0), "netsim bench failover"),
        ("utilisation at saturation", "> 80 %", "not simulated here".to_owned(), "netsim bench openb --data DIR"),
        ("resolve", "< 100 ms", "on real processes".to_owned(), "scripts/bench.sh, BENCHMARKS.md"),
        ("availability", "99 %", "on real processes".to_owned(), "make chaos, BENCHMARKS.md"),
    ];
    let mut text = format!("{:<42} {:>12} {:>20}  {}\n", "", "the paper", "here (simulated)", "run");
    for (name, paper, ours, run) in rows {
        let _ = writeln!(text, "{name:<42} {paper:>12} {ours:>20}  {run}");
    }
    let _ = writeln!(text, "seed {}, trace {}, one region down, 1 % of messages lost", args.seed, &report.trace[..16]);
    anyhow::ensure!(report.violations.is_empty(), "{:?}", report.violations);
    Ok(text)
}
