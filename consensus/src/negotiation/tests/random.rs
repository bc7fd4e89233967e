//! Random interleavings of everything that can happen; `Net` checks the invariants at each step.

use super::net::Net;
use super::{chips, submission, task, task_id};
use crate::negotiation::{Attempt, Input, NegotiationConfig};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Lives one random life of three regions: submissions, loss, doubling, reordering, stalled disks, kills, cancels.
fn live(seed: u64, commit_if: bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let config = NegotiationConfig { commit_if, ..NegotiationConfig::default() };
    let mut net = Net::of(&[(1, 0), (2, 2), (1, 4)], config);
    let mut submitted = 0;
    for _ in 0..400 {
        let node = rng.random_range(0..net.nodes.len());
        match rng.random_range(0..100) {
            0..10 if submitted < 25 => {
                submitted += 1;
                let mut spec = match rng.random_range(0..3) {
                    0 => chips(None, Some(rng.random_range(1..1000))),
                    1 => chips(Some(rng.random_range(1..=2)), None),
                    _ => task(),
                };
                spec.retry.max_attempts = 50;
                net.feed(node, Input::Submit(Box::new(submission(submitted, &spec))));
            }
            10..55 if !net.mail.is_empty() => {
                // Mostly in order, sometimes any.
                let last = net.mail.len();
                let near = if rng.random_range(0..4) == 0 { last } else { last.min(3) };
                let which = rng.random_range(0..near);
                net.deliver(which, rng.random_range(0..20) == 0);
            }
            55..58 if !net.mail.is_empty() => {
                let which = rng.random_range(0..net.mail.len());
                net.mail.remove(which);
            }
            58..80 => net.sync(node, rng.random_range(1..4)),
            80..90 => net.wait(rng.random_range(1..3_000)),
            90..92 => net.crash(node),
            92..96 => net.start(node),
            96..98 => {
                let started: Vec<Attempt> = net.nodes[node].runs.iter().filter(|(_, s)| **s).map(|(a, _)| *a).collect();
                if let Some(attempt) = started.first() {
                    net.end_run(node, *attempt);
                }
            }
            98 => {
                let task = task_id(rng.random_range(1..=submitted.max(1)));
                net.feed(node, Input::Cancel { task, principal: "tester".to_owned() });
            }
            _ => net.gossip(),
        }
    }
    net.come_to_rest();
}

#[test]
fn random_lives_with_commits_at_once_keep_every_invariant() {
    let seeds = std::env::var("SEEDS")
        .map_or(0..60, |s| s.split_once('-').map(|(a, b)| a.parse().unwrap()..b.parse().unwrap()).unwrap());
    for seed in seeds {
        if std::env::var("SEEDS").is_ok() {
            println!("seed {seed}");
        }
        live(seed, true);
    }
}

#[test]
fn random_lives_with_held_offers_keep_every_invariant() {
    for seed in 1_000..1_060 {
        live(seed, false);
    }
}
