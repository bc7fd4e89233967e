//! Placements: tasks submitted at one node at a steady rate, run in pools of the fake backend (or as local processes), and
//! counted in the regions where they ran.

use super::http::{Load, drive, request};
use super::resolve::door;
use super::{scrape, series_sum, tails};
use crate::ring::{Ring, RingOptions, items, shell_task};
use anyhow::bail;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What to place.
#[derive(Debug, Clone, Copy)]
pub struct Placing {
    /// Tasks a second.
    pub rate: f64,
    /// For how long.
    pub seconds: u64,
    /// `fake` or `local`.
    pub backend: &'static str,
    /// Whether the tasks need a chip, which every region has but the one that takes them in.
    pub only_elsewhere: bool,
}

/// Runs that ended in each region since its start, as its own counters say.
async fn runs(ring: &Ring) -> anyhow::Result<Vec<f64>> {
    let mut all = Vec::new();
    for at in 0..ring.nodes.len() {
        let (address, key) = door(ring, at)?;
        all.push(series_sum(&scrape(address, &key).await?, "causeway_runs_total"));
    }
    Ok(all)
}

/// Submits at node 0 of three and waits until all have ended.
///
/// # Errors
/// A node does not start, or a task does not end.
pub async fn run(placing: Placing) -> anyhow::Result<Value> {
    let options = RingOptions {
        backend: placing.backend,
        servers: 64,
        first_without_chips: placing.only_elsewhere,
        ..RingOptions::default()
    };
    let ring = Ring::start(options).await?;
    let (address, key) = door(&ring, 0)?;
    let mut document = shell_task("bench", "exit 0", &[]);
    document["command"] = json!(["/bin/true"]);
    document["outputs"] = json!([]);
    if placing.only_elsewhere {
        document["resources"]["chips"] = json!({ "model": "NVH800S80", "count": 1 });
    }
    let body = document.to_string();
    let make = move |connection: usize, sent: u64| {
        let idempotency = format!("bench-{connection}-{sent}");
        Some(request("POST", "/v1/tasks", &key, &[("idempotency-key", &idempotency)], &body))
    };
    let load = Load { connections: 64, time: Duration::from_secs(placing.seconds), rate: Some(placing.rate) };
    let before = runs(&ring).await?;
    let begin = Instant::now();
    let submitted = drive(address, load, make).await?;
    if submitted.us.is_empty() {
        bail!("nothing was accepted: {:?}", submitted.example);
    }
    let client = ring.client(0)?;
    let wait = Instant::now();
    loop {
        let open =
            client.get("/v1/tasks", vec![("state", Some("open".to_owned())), ("limit", Some("1".to_owned()))]).await;
        if open.is_ok_and(|page| items(&page).is_empty()) {
            break;
        }
        if wait.elapsed() > Duration::from_secs(120) {
            bail!("tasks are still open two minutes after the last submission");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = begin.elapsed().as_secs_f64();

    let page = client.list("/v1/tasks", vec![("limit", Some("1000".to_owned()))], true).await;
    let tasks = items(&page.map_err(|error| anyhow::anyhow!("{error}"))?);
    let succeeded: Vec<&Value> = tasks.iter().filter(|task| task["state"] == "succeeded").collect();
    // counted where they ran, since the measurement began
    let mut ran: Vec<f64>;
    let look = Instant::now();
    loop {
        ran = runs(&ring).await?.iter().zip(&before).map(|(after, before)| after - before).collect();
        // the counters are pictures taken five times a second
        if ran.iter().sum::<f64>() >= submitted.us.len() as f64 || look.elapsed() > Duration::from_secs(5) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let elsewhere: f64 = ran[1..].iter().sum();
    let decided: Vec<u32> =
        succeeded.iter().filter_map(|task| Some(u32::try_from(task["decided_ms"].as_u64()?).ok()? * 1000)).collect();
    Ok(json!({
        "backend": placing.backend,
        "asked_per_second": placing.rate,
        "submitted": submitted.us.len(),
        "refused": submitted.errors,
        "example_of_refusal": submitted.example,
        "succeeded": succeeded.len(),
        "ended_otherwise": tasks.len() - succeeded.len(),
        "placed_per_second": succeeded.len() as f64 / seconds,
        "ran_in_each_region": ran,
        "ran_elsewhere_per_second": elsewhere / seconds,
        "elsewhere_share": elsewhere / ran.iter().sum::<f64>().max(1.0),
        "decision": tails(decided),
        "answer_to_submission": tails(submitted.us),
    }))
}
