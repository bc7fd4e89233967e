//! `resolve` over HTTP on a node's own replica: how many a second with the generator on the same cores, and how long the node
//! itself takes at half of that.

use super::http::{Load, Request, drive, request};
use super::{histogram_bound, scrape, tails};
use crate::ring::{Ring, RingOptions, identifier};
use anyhow::{Context as _, bail};
use node::http::NodeFile;
use node::http::auth::read_key;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The histogram of the time that a resolution takes in the node.
const METRIC: &str = "causeway_resolve_duration_seconds";

/// Where a node listens, and its key.
pub(super) fn door(ring: &Ring, at: usize) -> anyhow::Result<(SocketAddr, String)> {
    let file = NodeFile::read(&ring.nodes[at].data_dir.join("node.json"))?;
    let address = file.url.rsplit('/').next().context("a URL")?.parse()?;
    Ok((address, read_key(&file.api_key_file)?.to_string()))
}

/// Registers `count` identifiers at one node, then resolves random ones for `seconds` at full speed and at half.
///
/// # Errors
/// The node does not start, or does not know what it acknowledged.
pub async fn run(count: u64, seconds: u64, connections: usize) -> anyhow::Result<Value> {
    let ring = Ring::start(RingOptions { nodes: 1, ..RingOptions::default() }).await?;
    let (address, key) = door(&ring, 0)?;
    let writers = 64;
    let register = {
        let key = key.clone();
        move |connection: usize, sent: u64| {
            let number = 1 + sent * writers as u64 + connection as u64;
            let body = json!({ "cpi": identifier(0, number) }).to_string();
            (number <= count).then(|| request("POST", "/v1/identifiers", &key, &[], &body))
        }
    };
    let load = Load { connections: writers, time: Duration::from_secs(3600), rate: None };
    let registered = drive(address, load, register).await?;
    if registered.errors > 0 || registered.us.len() as u64 != count {
        bail!("{} of {count} were registered: {:?}", registered.us.len(), registered.example);
    }

    // all requests are made beforehand, and each answer must begin with the key and the text that were asked for
    let requests: Vec<Request> = (1..=count)
        .map(|number| {
            let text = identifier(0, number);
            let key_of_text = cpi::identifier::Cpi::parse(&text).map(|cpi| cpi.stable_key());
            let answer = format!("{{\"identifier\":{{\"key\":\"{}\",\"cpi\":\"{text}\"", key_of_text?);
            let body = json!({ "cpi": text }).to_string();
            Ok(Request { answer: answer.into(), ..request("POST", "/v1/identifiers:resolve", &key, &[], &body) })
        })
        .collect::<Result<_, cpi::identifier::CpiError>>()?;
    let requests = Arc::new(requests);
    let resolve = |seed: u64| {
        let requests = Arc::clone(&requests);
        move |connection: usize, sent: u64| {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ (connection as u64) << 40 ^ sent);
            requests.get(random.random_range(0..requests.len())).cloned()
        }
    };
    let time = Duration::from_secs(seconds);
    let full = drive(address, Load { connections, time, rate: None }, resolve(1)).await?;
    let half = full.per_second() / 2.0;
    let before = scrape(address, &key).await?;
    let load = Load { connections, time, rate: Some(half) };
    let calm = drive(address, load, resolve(2)).await?;
    let after = scrape(address, &key).await?;
    Ok(json!({
        "identifiers": count,
        "registered_per_second": registered.per_second(),
        "resolved_per_second": full.per_second(),
        "errors": full.errors + calm.errors,
        "latency_at_full_speed": tails(full.us),
        "half_rate_per_second": calm.us.len() as f64 / calm.seconds,
        "latency_at_half_speed": tails(calm.us),
        "server_p99_seconds_at_most": histogram_bound(&before, &after, METRIC, 0.99),
        "server_p50_seconds_at_most": histogram_bound(&before, &after, METRIC, 0.5),
    }))
}
