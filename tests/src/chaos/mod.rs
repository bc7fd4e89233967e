//! Chaos: `kill -9` of nodes of a working ring at seeded points, and the promises that must hold afterwards.
//!
//! A point is a stage of the work, who is killed in it, and a delay, all from the seed. The driver brings the ring to the
//! stage, waits the delay, kills, and starts the killed nodes again. Then it holds the ring to what it acknowledged:
//!
//! - every registration and revision that was answered, whether as committed or as waiting for a quorum, is committed and
//!   in force at every node;
//! - every task that was answered ends well, with the one right result and exactly one end: the result of the
//!   attempt whose result was collected, by a program that was begun once;
//! - the killed nodes come back without help.

mod point;
mod promises;
mod registrations;
mod tasks;

use self::point::{Point, Role, Stage};
use self::promises::{Promises, TaskEvent};
use crate::ring::{Ring, RingOptions};
use anyhow::{Context as _, bail};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A run of so many points must have struck right after each of these at least once, else it shows nothing about them.
/// Events that follow each other within the same millisecond count as one.
const POINTS_FOR_ALL: u64 = 150;
const STRUCK_WANTED: [&[&str]; 8] = [
    &["submitted"],
    &["asked"],
    &["offered", "awarded"],
    &["accepted", "bound"],
    &["staged"],
    &["started"],
    &["run_ended"],
    &["collected", "ended"],
];

/// What a run of points did.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Points hit, by stage.
    pub by_stage: BTreeMap<&'static str, u32>,
    /// The last event of the point's task before the kill, as its history shows it.
    pub struck_after: BTreeMap<String, u32>,
    /// Nodes killed.
    pub kills: u32,
    /// Tasks acknowledged.
    pub tasks: u32,
    /// Registrations and revisions acknowledged as committed.
    pub committed: u32,
    /// Registrations and revisions acknowledged as waiting for a quorum.
    pub waiting: u32,
    /// The longest that killed nodes took to be ready again.
    pub slowest_return: Duration,
}

/// Hits `points` points of a fresh ring of three.
///
/// # Errors
/// A promise was broken: which, at which point of which seed, with the history of the task.
pub async fn run(seed: u64, points: u64, mut say: impl FnMut(&str)) -> anyhow::Result<Tally> {
    // both ways of awarding: at once within limits, and by comparing held offers
    let section = |mode: &str| {
        format!("[negotiation]\nmode = \"{mode}\"\nlease_ttl_ms = 5000\nlease_renew_ms = 1500\nretry_ms_max = 1000\n")
    };
    let each = vec![section("hold"), section("commit_if"), section("hold")];
    let ring = Ring::start(RingOptions { each, ..RingOptions::default() }).await?;
    let mut world = World {
        ring,
        random: ChaCha8Rng::seed_from_u64(seed),
        promises: Promises::default(),
        tally: Tally::default(),
        // identifier 0 stands in the pools' configurations
        next_identifier: 1,
        offsets: BTreeMap::new(),
    };
    world.take_aim().await.context("before the first point")?;
    for number in 0..points {
        let point = Point::draw(&mut world.random, number, world.ring.nodes.len());
        if let Err(error) = world.hit(&point).await {
            let kept = world.ring.keep();
            bail!("seed {seed}, point {number} ({}): {error:#}\nlogs and disks: {}", point.words(), kept.display());
        }
        *world.tally.by_stage.entry(point.name).or_default() += 1;
        if (number + 1).is_multiple_of(10) || number + 1 == points {
            let all = world.promises.check_registered(&world.ring, world.promises.registered.keys()).await;
            if let Err(error) = all {
                bail!("seed {seed}, after point {number}: {error:#}\nlogs and disks: {}", world.ring.keep().display());
            }
            let Tally { kills, tasks, committed, waiting, .. } = world.tally;
            say(&format!(
                "{} of {points} points, {kills} kills; kept: {tasks} tasks, {committed} registrations committed and \
                 {waiting} that waited",
                number + 1
            ));
        }
    }
    let struck = |kinds: &&[&str]| kinds.iter().any(|kind| world.tally.struck_after.contains_key(*kind));
    let missed: Vec<&[&str]> = STRUCK_WANTED.into_iter().filter(|kinds| !struck(kinds)).collect();
    if points >= POINTS_FOR_ALL && !missed.is_empty() {
        bail!("seed {seed}: no point struck after {missed:?}; struck: {:?}", world.tally.struck_after);
    }
    Ok(world.tally)
}

struct World {
    ring: Ring,
    random: ChaCha8Rng,
    promises: Promises,
    tally: Tally,
    next_identifier: u64,
    /// How long after a task was begun to be handed in at a node its events came, lately.
    offsets: BTreeMap<(usize, String), Duration>,
}

impl World {
    async fn hit(&mut self, point: &Point) -> anyhow::Result<()> {
        let all: BTreeSet<usize> = (0..self.ring.nodes.len()).collect();
        let victims = match point.role {
            Role::Origin => BTreeSet::from([point.origin]),
            Role::Provider => BTreeSet::from([point.provider]),
            Role::Leader => BTreeSet::from([self.ring.leader().await?]),
            Role::Both => BTreeSet::from([point.origin, point.provider]),
            Role::Everyone => all.clone(),
        };
        let (mut touched, mut down, mut task) = (BTreeSet::new(), victims.clone(), None);
        match point.stage {
            Stage::Registration => touched = self.register_while_killing(point, &victims).await?,
            Stage::Revision => touched = self.revise_while_killing(point, &victims).await?,
            Stage::Pending => {
                touched = self.register_without_quorum(point).await?;
                down = all;
            }
            Stage::Submission | Stage::Aim(_) | Stage::After(_) => {
                task = Some(self.task_while_killing(point, &victims).await?)
            }
        }
        self.bring_back(&down).await?;
        self.promises.check_registered(&self.ring, touched.iter()).await?;
        let histories = self.promises.check_tasks(&self.ring).await?;
        if let Some(killed_at) = task
            && let Some((_, events)) = histories.last()
        {
            *self.tally.struck_after.entry(last_before(events, killed_at)).or_default() += 1;
            for (task, events) in &histories {
                self.learn_offsets(task, events, killed_at);
            }
        }
        Ok(())
    }

    fn kill(&mut self, victims: &BTreeSet<usize>) -> anyhow::Result<jiff::Timestamp> {
        for victim in victims {
            self.ring.nodes[*victim].kill()?;
            self.tally.kills += 1;
        }
        Ok(jiff::Timestamp::now())
    }

    async fn bring_back(&mut self, down: &BTreeSet<usize>) -> anyhow::Result<()> {
        let begin = Instant::now();
        for at in down {
            self.ring.nodes[*at].start()?;
        }
        for at in down {
            self.ring.ready(*at).await.with_context(|| format!("r{at} was killed and does not come back"))?;
        }
        self.tally.slowest_return = self.tally.slowest_return.max(begin.elapsed());
        Ok(())
    }

    /// Runs `writing` and kills in between; gives what it answered.
    async fn kill_during<T>(
        &mut self,
        victims: &BTreeSet<usize>,
        delay: Duration,
        writing: impl Future<Output = T>,
    ) -> anyhow::Result<(T, jiff::Timestamp)> {
        let mut writing = Box::pin(writing);
        let answered = tokio::select! {
            answered = &mut writing => Some(answered),
            () = tokio::time::sleep(delay) => None,
        };
        let killed_at = self.kill(victims)?;
        let answered = match answered {
            Some(answered) => answered,
            None => writing.await,
        };
        Ok((answered, killed_at))
    }
}

/// The kind of the last event before `instant`.
fn last_before(events: &[TaskEvent], instant: jiff::Timestamp) -> String {
    let mut before = events.iter().filter(|event| event.at <= instant);
    before.next_back().map_or("nothing", |event| &event.kind).to_owned()
}
