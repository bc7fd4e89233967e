//! Whole-program measurements: `bench resolve`, `place`, `spread`, `decide`, `local`, `flood`, `idle`, `swap`, `plugins`, `writes`,
//! `etcd`. Prints one JSON object.

use e2e::bench::place::Placing;
use e2e::bench::{etcd, flood, idle, place, plugins, resolve, writes};
use std::process::ExitCode;

const USAGE: &str = "usage: bench resolve [IDENTIFIERS] [SECONDS] [CONNECTIONS]
       bench place [PER_SECOND] [SECONDS]     fake pools whose runs end at once; only other regions have the chip
       bench spread [PER_SECOND] [SECONDS]    the same where every region fits, the own one too
       bench decide [PER_SECOND] [SECONDS]    the same, calm: decision times
       bench local [PER_SECOND] [SECONDS]     processes of this machine
       bench flood [TASKS]
       bench idle [SECONDS]
       bench swap [TASKS] [PER_SECOND]        another version of a plugin under running tasks and requests
       bench plugins [COUNT]                  memory of a node with idle plugins
       bench writes [CLIENTS] [SECONDS]       registry writes at three voters
       bench etcd [CLIENTS] [SECONDS] [ROUNDS]  the same and etcd in turn";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| match arguments.get(at) {
        None => Ok(default),
        Some(text) => text.parse::<u64>().map_err(|_| ()),
    };
    let parsed = (number(1, 0), number(2, 0), number(3, 0));
    let (Ok(_), Ok(_), Ok(_)) = parsed else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let or = |at: usize, default: u64| number(at, default).unwrap_or(default);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    let placing = |rate: u64, seconds: u64, backend, only_elsewhere| {
        let (rate, seconds) = (or(1, rate) as f64, or(2, seconds));
        Placing { rate, seconds, backend, only_elsewhere }
    };
    let result = runtime.block_on(async {
        match arguments.first().map(String::as_str) {
            Some("resolve") => resolve::run(or(1, 100_000), or(2, 20), or(3, 32) as usize).await.map(Some),
            Some("place") => place::run(placing(600, 60, "fake", true)).await.map(Some),
            Some("spread") => place::run(placing(600, 60, "fake", false)).await.map(Some),
            Some("decide") => place::run(placing(20, 30, "fake", true)).await.map(Some),
            Some("local") => place::run(placing(600, 15, "local", false)).await.map(Some),
            Some("flood") => flood::run(or(1, 10_000)).await.map(Some),
            Some("idle") => idle::run(or(1, 30)).await.map(Some),
            Some("swap") => plugins::swap(or(1, 200), or(2, 50)).await.map(Some),
            Some("plugins") => plugins::idle(or(1, 5)).await.map(Some),
            Some("writes") => writes::run(or(1, 64) as usize, or(2, 20)).await.map(Some),
            Some("etcd") => etcd::against(or(1, 64) as usize, or(2, 20), or(3, 3)).await.map(Some),
            _ => Ok(None),
        }
    });
    match result {
        Ok(Some(value)) => {
            println!("{value:#}");
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
