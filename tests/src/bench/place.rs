//! Placements: tasks submitted at one node at a steady rate, run in pools of the fake backend (or as local processes), and
//! counted in the regions where they ran.

use super::http::{Load, drive, request};
use super::resolve::door;
use super::tails;
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
}

/// Submits at node 0 of three and waits until all have ended.
///
/// # Errors
/// A node does not start, or a task does not end.
pub async fn run(placing: Placing) -> anyhow::Result<Value> {
    let options = RingOptions { backend: placing.backend, servers: 64, ..RingOptions::default() };
    let ring = Ring::start(options).await?;
    let (address, key) = door(&ring, 0)?;
    // the origin's own pool may take some; the others together must take most
    let mut document = shell_task("bench", "exit 0", &[]);
    document["command"] = json!(["/bin/true"]);
    document["outputs"] = json!([]);
    let body = document.to_string();
    let make = move |connection: usize, sent: u64| {
        let idempotency = format!("bench-{connection}-{sent}");
        Some(request("POST", "/v1/tasks", &key, &[("idempotency-key", &idempotency)], &body))
    };
    let load = Load { connections: 64, time: Duration::from_secs(placing.seconds), rate: Some(placing.rate) };
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
    let elsewhere = succeeded.iter().filter(|task| task["place"]["region"] != "r0").count();
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
        "elsewhere_share": elsewhere as f64 / succeeded.len().max(1) as f64,
        "decision": tails(decided),
        "answer_to_submission": tails(submitted.us),
    }))
}
