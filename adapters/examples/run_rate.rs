//! How many short processes per second the local backend starts and ends, beside the same processes by a shell loop.
//!
//! `cargo run --release -p adapters --example run_rate -- SUPERVISOR_EXE [RUNS] [AT_ONCE]`, where SUPERVISOR_EXE is
//! `target/release/causeway-run-supervisor`, or `causeway` (then `run-supervisor` is put in front of the folder).

use adapters::contract::{Adapter as _, RunKey, RunRequest, RunState};
use adapters::local::{LocalAdapter, LocalConfig};
use cpi::ids::{Epoch, Fence, MemberId, TaskId};
use cpi::resource::Quantity;
use std::collections::BTreeMap;
use std::time::Instant;

fn request(number: u64) -> RunRequest {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    RunRequest {
        key: RunKey { task: TaskId(id), fence: Fence { epoch: Epoch { counter: 1, member: MemberId(1) }, attempt: 1 } },
        pool: String::new(),
        class: String::new(),
        need: Quantity { cpu_milli: 1000, memory_bytes: 64 << 20, storage_bytes: 1 << 30, chip_milli: 0 },
        command: vec!["/bin/true".to_owned()],
        image: None,
        env: BTreeMap::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        max_runtime_ms: 60_000,
        lease_ttl_ms: 60_000,
        freeze_on_lapse: true,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let exe = arguments.next().unwrap_or_else(|| "target/release/causeway-run-supervisor".to_owned());
    let runs: u64 = arguments.next().map_or(Ok(2000), |text| text.parse())?;
    let at_once: u64 = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let mut config = LocalConfig::new(dir.path().join("runs"), &exe, Vec::new());
    if exe.ends_with("run-supervisor") {
        config.supervisor_args.clear();
    }
    let adapter = LocalAdapter::new(config).await?;
    println!("{}", adapter.notes().join("; "));

    let shell = Instant::now();
    let script = format!("i=0; while [ $i -lt {runs} ]; do /bin/true; i=$((i+1)); done");
    std::process::Command::new("sh").args(["-c", &script]).status()?;
    let shell = shell.elapsed();

    let mut events = adapter.watch();
    let begun = Instant::now();
    let (mut submitted, mut ended) = (0, 0);
    while ended < runs {
        while submitted < runs && submitted - ended < at_once {
            submitted += 1;
            adapter.submit(request(submitted)).await?;
        }
        let event = events.recv().await?;
        if let RunState::Ended(end) = event.state {
            anyhow::ensure!(end.reason.is_none(), "{end:?}");
            adapter.remove(event.key).await?;
            ended += 1;
        }
    }
    let ours = begun.elapsed();
    let rate = |elapsed: std::time::Duration| runs as f64 / elapsed.as_secs_f64();
    println!("shell loop: {:.0}/s; local backend: {:.0}/s ({at_once} at once)", rate(shell), rate(ours));
    Ok(())
}
