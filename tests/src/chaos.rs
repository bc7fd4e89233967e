//! Chaos: `kill -9` of nodes of a working ring at seeded points, and the promises that must hold afterwards.
//!
//! A point is a stage of the work, a role in it, and a delay, all from the seed. The driver brings the ring to the stage (it
//! submits, and waits for the task's event that opens the stage), waits the delay, kills the role's node, and starts it
//! again. Then it holds the ring to what it acknowledged:
//!
//! - every registration that was answered resolves at every node;
//! - every task that was answered ends well, with the one right result and exactly one end;
//! - the killed node comes back without help.

use crate::ring::{PATIENCE, Ring, RingOptions, ended, history, identifier, output, shell_task, submit, until};
use anyhow::{Context as _, anyhow, bail};
use cpi::ids::ContentDigest;
use node::cli::{CliError, Client, Extra};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Where in its life a task (or a registration) is hit, and the event that opens the stage.
const STAGES: &[(&str, &str)] = &[
    ("registration", ""),
    ("submission", ""),
    ("hold", "offered"),
    ("award", "awarded"),
    ("bind", "accepted"),
    ("staging", "bound"),
    ("start", "staged"),
    ("run", "started"),
    ("result", "run_ended"),
    ("end", "collected"),
];

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Origin,
    Provider,
    Leader,
}

/// One point.
#[derive(Debug, Clone)]
struct Point {
    stage: &'static str,
    opens_with: &'static str,
    role: Role,
    delay: Duration,
}

impl Point {
    fn draw(random: &mut ChaCha8Rng, number: u64) -> Self {
        let (stage, opens_with) = STAGES[(number as usize) % STAGES.len()];
        let role = match random.random_range(0..5u32) {
            0 | 1 => Role::Origin,
            2 | 3 => Role::Provider,
            _ => Role::Leader,
        };
        let delay = Duration::from_micros(random.random_range(0..30_000u64));
        Self { stage, opens_with, role, delay }
    }
}

/// What a run of points did.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Points hit, by stage.
    pub by_stage: BTreeMap<&'static str, u32>,
    /// Tasks acknowledged.
    pub tasks: u32,
    /// Registrations acknowledged.
    pub registrations: u32,
    /// The longest that a killed node took to be ready again.
    pub slowest_return: Duration,
}

/// Hits `points` points of a fresh ring of three.
///
/// # Errors
/// A promise was broken: which, at which point of which seed, with the history of the task.
pub async fn run(seed: u64, points: u64, mut say: impl FnMut(&str)) -> anyhow::Result<Tally> {
    let options = RingOptions {
        extra: "[negotiation]\nlease_ttl_ms = 5000\nlease_renew_ms = 1500\nretry_ms_max = 1000\n".to_owned(),
        ..RingOptions::default()
    };
    let mut world = World {
        ring: Ring::start(options).await?,
        random: ChaCha8Rng::seed_from_u64(seed),
        registered: BTreeMap::new(),
        tasks: Vec::new(),
        tally: Tally::default(),
        // identifier 0 stands in the pools' configurations
        next_identifier: 1,
    };
    for number in 0..points {
        let point = Point::draw(&mut world.random, number);
        let hit = world.hit(number, &point).await;
        if let Err(error) = hit {
            let kept = world.ring.keep();
            bail!(
                "seed {seed}, point {number} ({} / {:?} / {:?}): {error:#}\nlogs and disks: {}",
                point.stage,
                point.role,
                point.delay,
                kept.display()
            );
        }
        *world.tally.by_stage.entry(point.stage).or_default() += 1;
        if (number + 1).is_multiple_of(10) || number + 1 == points {
            world.all_registered().await.with_context(|| format!("seed {seed}, after point {number}"))?;
            say(&format!(
                "{} of {points} points, {} tasks and {} registrations acknowledged and kept",
                number + 1,
                world.tally.tasks,
                world.tally.registrations
            ));
        }
    }
    Ok(world.tally)
}

struct World {
    ring: Ring,
    random: ChaCha8Rng,
    /// Acknowledged registrations: text by its node.
    registered: BTreeMap<String, usize>,
    /// Acknowledged tasks: origin, id, expected result.
    tasks: Vec<(usize, String, Vec<u8>)>,
    tally: Tally,
    next_identifier: u64,
}

impl World {
    async fn hit(&mut self, number: u64, point: &Point) -> anyhow::Result<()> {
        let origin = self.random.random_range(0..self.ring.nodes.len());
        let provider = (origin + 1 + self.random.random_range(0..self.ring.nodes.len() - 1)) % self.ring.nodes.len();
        let victim = match point.role {
            Role::Origin => origin,
            Role::Provider => provider,
            Role::Leader => self.ring.leader().await?,
        };
        if point.stage == "registration" {
            self.register_while_killing(origin, victim, point.delay).await?;
        } else {
            self.task_while_killing(number, origin, provider, victim, point).await?;
        }
        let begin = Instant::now();
        self.ring.nodes[victim].start()?;
        self.ring.ready(victim).await.context("the killed node does not come back")?;
        self.tally.slowest_return = self.tally.slowest_return.max(begin.elapsed());
        self.settle(number, origin, provider).await
    }

    /// Registers a few identifiers and kills in between; remembers what was answered.
    async fn register_while_killing(&mut self, at: usize, victim: usize, delay: Duration) -> anyhow::Result<()> {
        let client = self.ring.client(at)?;
        let texts: Vec<String> = (0..6).map(|offset| identifier(at, self.next_identifier + offset)).collect();
        self.next_identifier += 6;
        let writing = async {
            let mut answered = Vec::new();
            for text in texts {
                if client.post("/v1/identifiers", json!({ "cpi": text })).await.is_ok() {
                    answered.push(text);
                }
            }
            answered
        };
        let mut writing = Box::pin(writing);
        let answered = tokio::select! {
            answered = &mut writing => Some(answered),
            () = tokio::time::sleep(delay) => None,
        };
        self.ring.nodes[victim].kill()?;
        let answered = match answered {
            Some(answered) => answered,
            None => writing.await,
        };
        self.tally.registrations += answered.len() as u32;
        self.registered.extend(answered.into_iter().map(|text| (text, at)));
        Ok(())
    }

    async fn task_while_killing(
        &mut self,
        number: u64,
        origin: usize,
        provider: usize,
        victim: usize,
        point: &Point,
    ) -> anyhow::Result<()> {
        let client = self.ring.client(origin)?;
        let content = format!("input of point {number}").into_bytes();
        let digest = upload(&client, &content).await?;
        let regions = [format!("r{provider}")];
        let regions: Vec<&str> = regions.iter().map(String::as_str).collect();
        let script = "printf 'point %s: ' \"$N\" > out; cat in >> out; sleep 0.15";
        let mut document = shell_task(&format!("chaos-{number}"), script, &regions);
        document["env"] = json!({ "N": number.to_string() });
        document["inputs"] = json!([{ "path": "in", "digest": digest.to_string(), "size_bytes": content.len() }]);
        let expected = [format!("point {number}: ").into_bytes(), content].concat();

        let key = format!("chaos-{number}");
        let mut submitting = Box::pin(submit(&client, &document, &key));
        let mut killed = false;
        let answer = if point.stage == "submission" {
            let first = tokio::select! {
                answer = &mut submitting => Some(answer),
                () = tokio::time::sleep(point.delay / 4) => None,
            };
            self.ring.nodes[victim].kill()?;
            killed = true;
            match first {
                Some(answer) => answer,
                None => submitting.await,
            }
        } else {
            submitting.await
        };
        if let Ok(task) = &answer {
            self.remember(origin, task, expected.clone())?;
            if !killed {
                let id = task["id"].as_str().unwrap_or_default();
                wait_for_event(&client, id, point.opens_with).await;
                tokio::time::sleep(point.delay).await;
            }
        }
        if !killed {
            self.ring.nodes[victim].kill()?;
        }
        if answer.is_err() {
            // not acknowledged: the same key must give one task, whether it had arrived or not
            if victim == origin {
                self.ring.nodes[victim].start()?;
                self.ring.ready(victim).await?;
            }
            let client = self.ring.client(origin)?;
            let task = retry(&client, &document, &key).await?;
            self.remember(origin, &task, expected)?;
            if victim == origin {
                self.ring.nodes[victim].kill()?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, origin: usize, task: &serde_json::Value, expected: Vec<u8>) -> anyhow::Result<()> {
        let id = task["id"].as_str().context("an acknowledged task has an id")?.to_owned();
        self.tally.tasks += 1;
        self.tasks.push((origin, id, expected));
        Ok(())
    }

    /// Waits until all open tasks ended, and checks each: succeeded, right, once.
    async fn settle(&mut self, number: u64, _origin: usize, _provider: usize) -> anyhow::Result<()> {
        for (origin, id, expected) in std::mem::take(&mut self.tasks) {
            let client = self.ring.client(origin)?;
            let done = ended(&client, &id, Duration::from_secs(90)).await?;
            let events = history(&client, &id).await?;
            let tell = || format!("task {id} of point {number}:\n{}", events.join("\n"));
            if done["state"] != "succeeded" {
                bail!("it ended as {}: {}\n{}", done["state"], done["reason"], tell());
            }
            let result = output(&client, &done, "out").await.with_context(tell)?;
            if result != expected {
                bail!("its result is {:?}\n{}", String::from_utf8_lossy(&result), tell());
            }
            let ends = events.iter().filter(|event| event.starts_with("ended ")).count();
            if ends != 1 {
                bail!("it has {ends} ends\n{}", tell());
            }
        }
        Ok(())
    }

    /// Every acknowledged registration is known as committed at every node.
    async fn all_registered(&self) -> anyhow::Result<()> {
        for at in 0..self.ring.nodes.len() {
            let client = self.ring.client(at)?;
            for (text, owner) in &self.registered {
                let key = cpi::identifier::Cpi::parse(text)?.stable_key();
                let path = format!("/v1/identifiers/{key}");
                let known = until(PATIENCE, || async {
                    client.get(&path, vec![]).await.is_ok_and(|answer| answer["state"] == "active")
                });
                known.await.with_context(|| format!("r{at} does not know {text}, which r{owner} acknowledged"))?;
            }
        }
        Ok(())
    }
}

/// Submits until there is an answer.
async fn retry(client: &Client, document: &serde_json::Value, key: &str) -> anyhow::Result<serde_json::Value> {
    let begin = Instant::now();
    loop {
        match submit(client, document, key).await {
            Ok(task) => return Ok(task),
            Err(error) if begin.elapsed() > PATIENCE => bail!("it is never acknowledged: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Uploads a small input.
async fn upload(client: &Client, content: &[u8]) -> anyhow::Result<ContentDigest> {
    let digest = ContentDigest::of(content);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), content)?;
    client.upload(digest, file.path(), |_| {}).await.map_err(|error: CliError| anyhow!("{error}"))?;
    Ok(digest)
}

/// Waits until the task has an event of `kind`, or is over. A stage that was missed is hit a little late, which is a point too.
async fn wait_for_event(client: &Client, id: &str, kind: &str) {
    let seen = until(Duration::from_secs(10), || async {
        let extra = Extra { query: vec![("limit", Some("1000".to_owned()))], ..Extra::default() };
        let page =
            client.call(reqwest::Method::GET, &format!("/v1/tasks/{id}/events"), extra).await.unwrap_or_default();
        crate::ring::items(&page).iter().any(|event| event["kind"] == kind || event["kind"] == "ended")
    });
    let _ = seen.await;
}
