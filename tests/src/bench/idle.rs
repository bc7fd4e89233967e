//! What a node costs that has nothing to do: resident memory and processor share, in a ring of three.

use crate::ring::{Ring, RingOptions};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::time::Duration;

/// Watches an idle ring for `seconds`.
///
/// # Errors
/// A node does not start.
pub async fn run(seconds: u64) -> anyhow::Result<Value> {
    let ring = Ring::start(RingOptions::default()).await?;
    // what the start left to do is done first
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pids: Vec<u32> = ring.nodes.iter().filter_map(|node| node.pid()).collect();
    let before: Vec<f64> = pids.iter().map(|pid| cpu_seconds(*pid)).collect::<anyhow::Result<_>>()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let mut nodes = Vec::new();
    for (pid, before) in pids.iter().zip(before) {
        let share = (cpu_seconds(*pid)? - before) / seconds as f64;
        nodes.push(json!({ "resident_mib": resident_mib(*pid)?, "core_percent": share * 100.0 }));
    }
    Ok(json!({ "seconds": seconds, "nodes": nodes }))
}

/// Processor seconds of a process, user and system.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("a stat line");
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("clock ticks")? as f64;
    Ok((ticks(11)? + ticks(12)?) / hertz)
}

/// Resident memory of a process, in MiB.
pub fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
