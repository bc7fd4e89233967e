//! Registry writes: clients with connections that stay open, spread over three voters, each registering one identifier of
//! 256 bytes at a time and waiting until it is committed by a quorum on synced logs.

use super::http::{Load, Loaded, drive, request};
use super::idle::cpu_seconds;
use super::resolve::door;
use super::tails;
use crate::ring::{PATIENCE, Ring, RingOptions, enterprise, until};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::time::Duration;

/// Bytes of what is written at a time.
const VALUE_BYTES: usize = 256;
/// Nodes, all of them voters.
const NODES: usize = 3;

/// An identifier of exactly [`VALUE_BYTES`]: private extensions carry what its fields do not need.
fn value(at: usize, number: u64) -> anyhow::Result<String> {
    let stem = format!(
        "cpi:1:{}-GI6450-G110100-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A{at}/GPU/NVH800S80/S{number:016}",
        enterprise(at),
    );
    let mut text = stem;
    let mut left = VALUE_BYTES.checked_sub(text.len() + "~0123456".len()).context("the stem is too long")?;
    for name in ["XA", "XB", "XC", "XD", "XE", "XF", "XG", "XH"] {
        // the last two share what is left, so that neither becomes too short to hold anything
        let take = if left > 19 && left < 23 { left - 4 } else { left.min(19) };
        if take == 0 {
            break;
        }
        text.push('~');
        text.push_str(name);
        text.extend(std::iter::repeat_n('7', take - 3));
        left -= take;
    }
    let sealed = cpi::identifier::Cpi::seal(&text)?.as_str().to_owned();
    if sealed.len() == VALUE_BYTES { Ok(sealed) } else { bail!("{} bytes instead of {VALUE_BYTES}", sealed.len()) }
}

async fn status(ring: &Ring, at: usize) -> Value {
    match ring.client(at) {
        Ok(client) => client.get("/v1/registry", vec![]).await.unwrap_or_default(),
        Err(_) => Value::Null,
    }
}

/// Writes from `clients` for `seconds`.
///
/// # Errors
/// A node does not start, a write is refused, or a replica lacks what was acknowledged.
pub async fn run(clients: usize, seconds: u64) -> anyhow::Result<Value> {
    let ring = Ring::start(RingOptions { nodes: NODES, backend: "fake", ..RingOptions::default() }).await?;
    let three_vote = until(PATIENCE, || async {
        status(&ring, 0).await["voters"].as_array().is_some_and(|voters| voters.len() == NODES)
    });
    three_vote.await.context("three voters")?;
    let before = status(&ring, 0).await["identifiers"].as_u64().unwrap_or(0);
    let pids: Vec<u32> = ring.nodes.iter().filter_map(|node| node.pid()).collect();
    let cpu = || -> anyhow::Result<f64> { pids.iter().map(|pid| cpu_seconds(*pid)).sum() };

    // a wrong text is found here and not by 256 clients
    value(NODES - 1, u64::MAX >> 16)?;
    let (cpu_before, mut loads) = (cpu()?, tokio::task::JoinSet::new());
    for at in 0..NODES {
        let (address, key) = door(&ring, at)?;
        let connections = clients / NODES + usize::from(at < clients % NODES);
        let make = move |connection: usize, sent: u64| {
            let text = value(at, sent * connections as u64 + connection as u64).ok()?;
            Some(request("POST", "/v1/identifiers", &key, &[], &json!({ "cpi": text }).to_string()))
        };
        let load = Load { connections, time: Duration::from_secs(seconds), rate: None };
        loads.spawn(drive(address, load, make));
    }
    let mut all = Loaded::default();
    while let Some(part) = loads.join_next().await {
        let part = part??;
        all.us.extend(part.us);
        all.errors += part.errors;
        all.example = all.example.or(part.example);
        all.seconds = all.seconds.max(part.seconds);
    }
    let spent = cpu()? - cpu_before;
    if all.errors > 0 {
        bail!("{} of {} writes failed: {:?}", all.errors, all.us.len(), all.example);
    }
    let written = all.us.len() as u64;
    for at in 0..NODES {
        let has_all = until(PATIENCE, || async { status(&ring, at).await["identifiers"] == before + written });
        has_all.await.with_context(|| format!("node {at} lacks some of {written} acknowledged writes"))?;
    }
    let mut hashes = Vec::new();
    for at in 0..NODES {
        hashes.push(status(&ring, at).await["state_hash"].clone());
    }
    Ok(json!({
        "clients": clients,
        "value_bytes": VALUE_BYTES,
        "writes": written,
        "writes_per_second": all.per_second(),
        "latency": tails(all.us),
        "processor_us_per_write": spent * 1e6 / written.max(1) as f64,
        "replicas_agree": hashes.windows(2).all(|pair| pair[0] == pair[1]),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_length_and_differ() {
        let texts: std::collections::BTreeSet<String> =
            (0..3).flat_map(|at| (0..50).map(move |number| value(at, number).expect("sealed"))).collect();
        assert_eq!(texts.len(), 150);
        assert!(texts.iter().all(|text| text.len() == VALUE_BYTES));
    }
}
