//! Measurements with whole programs: real nodes as processes, a load generator beside them, and what came of it as JSON.
//!
//! Every figure in BENCHMARKS.md has its command here. What is printed is what was measured in that run.

pub mod etcd;
pub mod flood;
pub mod http;
pub mod idle;
pub mod place;
pub mod plugins;
pub mod resolve;
pub mod writes;

use serde_json::{Value, json};
use std::net::SocketAddr;

/// The node's metrics as text.
pub(super) async fn scrape(address: SocketAddr, key: &str) -> anyhow::Result<String> {
    let response = reqwest::Client::new().get(format!("http://{address}/metrics")).bearer_auth(key).send().await?;
    Ok(response.error_for_status()?.text().await?)
}

/// Milliseconds at a share (0 to 1) of sorted microseconds; 0 for none.
pub fn at_share(sorted_us: &[u32], share: f64) -> f64 {
    let last = sorted_us.len().saturating_sub(1);
    let index = (share * last as f64).round() as usize;
    sorted_us.get(index).map_or(0.0, |us| f64::from(*us) / 1000.0)
}

/// Median and tail of a list of microseconds.
pub fn tails(mut us: Vec<u32>) -> Value {
    us.sort_unstable();
    json!({
        "count": us.len(),
        "p50_ms": at_share(&us, 0.5),
        "p90_ms": at_share(&us, 0.9),
        "p99_ms": at_share(&us, 0.99),
        "max_ms": at_share(&us, 1.0),
    })
}

/// The upper bound of the bucket that holds `share` of what a histogram counted between two scrapes of `/metrics`, in
/// seconds. The true value lies at or below it.
pub fn histogram_bound(before: &str, after: &str, name: &str, share: f64) -> Option<f64> {
    let buckets = |text: &str| -> Vec<(f64, f64)> {
        let mut out: Vec<(f64, f64)> = Vec::new();
        for line in text.lines().filter(|line| line.starts_with(&format!("{name}_bucket"))) {
            let Some((labels, value)) = line.rsplit_once(' ') else { continue };
            let Some(bound) = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()) else { continue };
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(f64::INFINITY) };
            let count: f64 = value.parse().unwrap_or(0.0);
            match out.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => out.push((bound, count)),
            }
        }
        out.sort_by(|a, b| a.0.total_cmp(&b.0));
        out
    };
    let before = buckets(before);
    let counted: Vec<(f64, f64)> = buckets(after)
        .into_iter()
        .map(|(bound, count)| {
            let earlier = before.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, count)| *count);
            (bound, count - earlier)
        })
        .collect();
    let total = counted.last()?.1;
    if total <= 0.0 {
        return None;
    }
    counted.iter().find(|(_, count)| *count >= share * total).map(|(bound, _)| *bound)
}

/// The sum of all series of a counter or gauge in a scrape.
pub fn series_sum(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_taken_from_what_is_there() {
        assert_eq!(at_share(&[], 0.5), 0.0);
        assert_eq!(at_share(&[1000, 2000, 3000], 0.5), 2.0);
        assert_eq!(at_share(&[1000, 2000, 3000], 1.0), 3.0);
    }

    #[test]
    fn a_histogram_is_read_between_two_scrapes() {
        let before = "x_bucket{le=\"0.001\"} 10\nx_bucket{le=\"0.01\"} 10\nx_bucket{le=\"+Inf\"} 10\n";
        let after = "x_bucket{le=\"0.001\"} 108\nx_bucket{le=\"0.01\"} 110\nx_bucket{le=\"+Inf\"} 110\n";
        assert_eq!(histogram_bound(before, after, "x", 0.98), Some(0.001));
        assert_eq!(histogram_bound(before, after, "x", 0.99), Some(0.01));
        assert_eq!(histogram_bound(after, after, "x", 0.99), None);
    }

    #[test]
    fn series_of_one_name_are_summed() {
        assert_eq!(series_sum("a_total{b=\"1\"} 2\na_total{b=\"2\"} 3\na_totals 7\n", "a_total"), 5.0);
    }
}
