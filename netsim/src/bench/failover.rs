//! A region dies with 1,000 tasks: how fast they are placed again, and whether in proportion to capacity.

use super::in_words;
use crate::testing::{place, pool, task};
use crate::trace::Detail;
use crate::wan::Wan;
use crate::world::World;
use consensus::negotiation::{Input, NegotiationConfig};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// Servers of 8 cores of the regions that live on, by position from 1.
const SERVERS: [u32; 10] = [80, 100, 120, 140, 160, 180, 200, 220, 240, 260];

/// One seed: 95th percentile in seconds, weighted mean deviation from proportion over regions that expect 50 or more,
/// and how many tasks were placed again.
pub fn once(seed: u64, tasks: u64) -> anyhow::Result<(f64, f64, usize)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let wan = Wan::random(SERVERS.len() + 1, 40, &mut rng);
    let dying = 0;
    let mut regions = vec![(place(0), vec![pool("p", (tasks as u32).div_ceil(8) + 1, 0)])];
    regions.extend(SERVERS.iter().enumerate().map(|(i, n)| (place(i + 1), vec![pool("p", *n, 0)])));
    let mut world = World::new(seed, wan, NegotiationConfig::default(), regions);
    world.trace.set_detail(Detail::Off);
    world.invariants.every = 0;
    let living: Vec<usize> = (1..=SERVERS.len()).collect();
    let cordon = |world: &mut World, cordoned: bool| {
        for &node in &living {
            world.feed(node, Input::Cordon { pool: "p".to_owned(), cordoned });
        }
    };
    cordon(&mut world, true);
    world.run_until(3_000);
    for node in &mut world.nodes {
        node.run_ms = 3_600_000;
    }
    for number in 1..=tasks {
        let origin = living[(number % living.len() as u64) as usize];
        world.submit(origin, number, &task());
        if number.is_multiple_of(20) {
            world.run_until(world.now_ms + 100);
        }
    }
    world.run_until(world.now_ms + 60_000);
    let there = world.metrics.tasks[1..].iter().filter(|t| t.accepted_us > 0 && t.winner == dying as u32).count();
    anyhow::ensure!(there as u64 == tasks, "only {there} of {tasks} tasks ran in the region that dies");
    cordon(&mut world, false);
    world.run_until(world.now_ms + 15_000);
    let died_us = world.now_us;
    world.destroy(dying);
    world.run_until(world.now_ms + 240_000);
    let mut waits = Vec::new();
    let mut got = vec![0usize; SERVERS.len() + 1];
    for facts in &world.metrics.tasks[1..] {
        if facts.restarted_us > died_us {
            waits.push((facts.restarted_us - died_us) as f64 / 1e6);
            got[facts.placed_at as usize] += 1;
        }
    }
    waits.sort_by(f64::total_cmp);
    let p95 = waits.get((waits.len() as f64 * 0.95).ceil() as usize - 1).copied().unwrap_or(f64::MAX);
    let whole: u32 = SERVERS.iter().sum();
    let (mut off, mut expected_sum) = (0.0, 0.0);
    for (index, servers) in SERVERS.iter().enumerate() {
        let expected = waits.len() as f64 * f64::from(*servers) / f64::from(whole);
        if expected >= 50.0 {
            off += (got[index + 1] as f64 - expected).abs();
            expected_sum += expected;
        }
    }
    Ok((p95, off / expected_sum.max(1.0), waits.len()))
}

/// Runs all seeds.
///
/// # Errors
/// For people.
pub fn run(seeds: u64, tasks: u64) -> anyhow::Result<()> {
    let lives: Vec<_> = (1..=seeds).map(|seed| once(seed, tasks)).collect::<Result<_, _>>()?;
    let placed: usize = lives.iter().map(|life| life.2).min().unwrap_or(0);
    println!("{tasks} tasks on a region that dies, {} regions live on, {seeds} seeds", SERVERS.len());
    println!("  placed again, the worst seed             {placed}");
    println!(
        "  p95 from death to the new start, s       {}",
        in_words(&lives.iter().map(|l| l.0).collect::<Vec<_>>(), 1)
    );
    println!(
        "  weighted mean deviation from capacity, % {}",
        in_words(&lives.iter().map(|l| l.1 * 100.0).collect::<Vec<_>>(), 1)
    );
    Ok(())
}
