//! A few points of chaos with each test run. More of them, or another seed: `make chaos POINTS=200 SEED=1`.

use e2e::chaos;
use std::time::{SystemTime, UNIX_EPOCH};

/// One point of each stage.
const POINTS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_nodes_are_killed() {
    // another seed each day: a failure prints it, and `make chaos SEED=...` draws the same points again
    let days = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs() / 86_400;
    match chaos::run(days, POINTS, |line| println!("{line}")).await {
        Ok(tally) => println!("seed {days}: {tally:?}"),
        Err(error) => panic!("make chaos SEED={days} POINTS={POINTS}: {error:#}"),
    }
}
