//! Ten thousand submissions at once on small pools: nothing is overcommitted, and every task ends placed or with its reason.

use super::http::{Load, drive, request};
use super::resolve::door;
use crate::ring::{Ring, RingOptions, items, shell_task};
use anyhow::bail;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Submits `count` tasks over many connections, watches the pools meanwhile, and waits until all ended.
///
/// # Errors
/// A pool was overcommitted, or a task does not end.
pub async fn run(count: u64) -> anyhow::Result<Value> {
    let options = RingOptions {
        backend: "fake",
        servers: 2,
        extra: "[negotiation]\nretry_ms_min = 100\nretry_ms_max = 2000\n".to_owned(),
        ..RingOptions::default()
    };
    let ring = Ring::start(options).await?;
    let (address, key) = door(&ring, 0)?;
    let mut document = shell_task("flood", "exit 0", &[]);
    document["command"] = json!(["/bin/true"]);
    document["outputs"] = json!([]);
    document["resources"]["cpu"] = json!("2");
    document["deadline"] = json!("20m");
    let body = document.to_string();

    // the watch over the pools: cores in use can never be more than there are
    let (stop, looks, worst) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut watches = tokio::task::JoinSet::new();
    for at in 0..ring.nodes.len() {
        let client = ring.client(at)?;
        let (stop, looks, worst) = (Arc::clone(&stop), Arc::clone(&looks), Arc::clone(&worst));
        watches.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(view) = client.get("/v1/pools/main/inventory", vec![]).await {
                    // a lease whose run ended holds nothing any more: it waits for its origin to take the result
                    let used: u64 = view["runs"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(|run| run["phase"] != "ended")
                        .filter_map(|run| run["quantity"]["cpu_milli"].as_u64())
                        .sum();
                    let total = view["pool"]["classes"][0]["total"]["cpu_milli"].as_u64().unwrap_or(0);
                    looks.fetch_add(1, Ordering::Relaxed);
                    worst.fetch_max(used * 1000 / total.max(1), Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    let connections = 256;
    let make = move |connection: usize, sent: u64| {
        let number = sent * connections as u64 + connection as u64;
        let idempotency = format!("flood-{number}");
        (number < count).then(|| request("POST", "/v1/tasks", &key, &[("idempotency-key", &idempotency)], &body))
    };
    let begin = Instant::now();
    let load = Load { connections, time: Duration::from_secs(600), rate: None };
    let submitted = drive(address, load, make).await?;
    let accepted_in = begin.elapsed().as_secs_f64();
    let client = ring.client(0)?;
    loop {
        let open =
            client.get("/v1/tasks", vec![("state", Some("open".to_owned())), ("limit", Some("1".to_owned()))]).await;
        if open.is_ok_and(|page| items(&page).is_empty()) {
            break;
        }
        if begin.elapsed() > Duration::from_secs(1200) {
            bail!("tasks are still open after 20 minutes");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all_ended_in = begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    while watches.join_next().await.is_some() {}

    let page = client.list("/v1/tasks", vec![("limit", Some("1000".to_owned()))], true).await;
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let mut without_reason = 0;
    for task in items(&page.map_err(|error| anyhow::anyhow!("{error}"))?) {
        let state = task["state"].as_str().unwrap_or_default();
        let reason = task["reason"]["code"].as_str().unwrap_or_default();
        without_reason += u64::from(state != "succeeded" && reason.is_empty());
        *ends.entry(format!("{state} {reason}").trim().to_owned()).or_default() += 1;
    }
    let most_used = worst.load(Ordering::Relaxed);
    if most_used > 1000 {
        bail!("a pool was overcommitted: {most_used} permille of its cores were in use");
    }
    Ok(json!({
        "submitted": submitted.us.len(),
        "refused_at_the_door": submitted.errors,
        "example_of_refusal": submitted.example,
        "accepted_in_s": accepted_in,
        "all_ended_in_s": all_ended_in,
        "ends": ends,
        "ended_without_reason": without_reason,
        "looks_at_pools": looks.load(Ordering::Relaxed),
        "most_used_permille": most_used,
    }))
}
