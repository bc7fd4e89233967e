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

use self::point::{Point, Role, Stage};
use self::promises::{Handed, Promises, Registered, TaskEvent, events};
use crate::ring::{PATIENCE, Ring, RingOptions, identifier_of, shell_task, submit};
use anyhow::{Context as _, anyhow, bail};
use cpi::identifier::Cpi;
use cpi::ids::ContentDigest;
use futures::future::join_all;
use node::cli::{CliError, Client, Extra};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Identifiers registered or revised at one point.
const BATCH: u64 = 6;
/// Between two looks at the events of a task: its stages last for a few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(1);
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
    /// Runs a task from each node in peace, to learn when its events come.
    async fn take_aim(&mut self) -> anyhow::Result<()> {
        for origin in 0..self.ring.nodes.len() {
            let provider = (origin + 1) % self.ring.nodes.len();
            let mut prepared = self.prepare(&format!("aim-{origin}"), origin, Some(provider)).await?;
            prepared.handed.begun = jiff::Timestamp::now();
            let answer = submit(&prepared.client, &prepared.document, &prepared.handed.name).await;
            prepared.handed.id = id_of(&answer.map_err(|error| anyhow!("{error}"))?)?;
            self.remember(prepared.handed);
        }
        for (task, events) in self.promises.check_tasks(&self.ring).await? {
            self.learn_offsets(&task, &events, jiff::Timestamp::MAX);
        }
        Ok(())
    }

    /// Learns from a history when events come, as far as nobody was killed before them.
    fn learn_offsets(&mut self, task: &Handed, events: &[TaskEvent], until: jiff::Timestamp) {
        for event in events.iter().filter(|event| event.at < until) {
            let took = Duration::try_from(event.at.duration_since(task.begun)).unwrap_or_default();
            let known = self.offsets.entry((task.origin, event.kind.clone())).or_insert(took);
            *known = (*known * 3 + took) / 4;
        }
    }

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

    /// Takes down what an answer to a registration or revision promises. Gives the key.
    fn acknowledge(&mut self, owner: usize, text: String, answer: &Value) -> anyhow::Result<String> {
        let key = Cpi::parse(&text)?.stable_key().to_string();
        match answer["state"].as_str() {
            Some("active") => self.tally.committed += 1,
            Some("pending") => self.tally.waiting += 1,
            _ => bail!("{text} is answered by {answer}"),
        }
        let promised = self.promises.registered.entry(key.clone());
        let promised = promised.or_insert(Registered { owner, texts: vec![text.clone()], certain: 1, revision: 0 });
        let sent = promised.texts.iter().position(|sent| *sent == text);
        promised.certain = promised.certain.max(sent.map_or(0, |at| at + 1));
        promised.revision = promised.revision.max(answer["revision"].as_u64().unwrap_or(1));
        Ok(key)
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

    /// Registers a few identifiers, one after the other, and kills in between.
    async fn register_while_killing(
        &mut self,
        point: &Point,
        victims: &BTreeSet<usize>,
    ) -> anyhow::Result<BTreeSet<String>> {
        let client = self.ring.client(point.origin)?;
        let texts = self.new_texts(point.origin, BATCH);
        let writing = async {
            let mut answered = Vec::new();
            for text in texts {
                if let Ok(answer) = client.post("/v1/identifiers", json!({ "cpi": text })).await {
                    answered.push((text, answer));
                }
            }
            answered
        };
        let (answered, _) = self.kill_during(victims, point.delay * 20, writing).await?;
        answered.into_iter().map(|(text, answer)| self.acknowledge(point.origin, text, &answer)).collect()
    }

    /// Revises identifiers of the origin that were registered before, and kills in between.
    async fn revise_while_killing(
        &mut self,
        point: &Point,
        victims: &BTreeSet<usize>,
    ) -> anyhow::Result<BTreeSet<String>> {
        let client = self.ring.client(point.origin)?;
        let own = self.promises.registered.iter_mut().filter(|(_, promised)| promised.owner == point.origin);
        // those whose last revision is certain: another one's number is not known for sure
        let own = own.filter(|(_, promised)| promised.certain == promised.texts.len() && promised.revision > 0);
        let mut revisions = Vec::new();
        for (key, promised) in own.take(BATCH as usize) {
            let text = revised(&promised.texts[0], promised.texts.len())?;
            promised.texts.push(text.clone());
            revisions.push((key.clone(), text, promised.revision));
        }
        let writing = async {
            let mut answered = Vec::new();
            for (key, text, revision) in revisions {
                let headers = vec![("if-match", format!("\"{revision}\""))];
                let extra = Extra { body: Some(json!({ "cpi": text })), headers, ..Extra::default() };
                let path = format!("/v1/identifiers/{key}");
                if let Ok(answer) = client.call(reqwest::Method::PUT, &path, extra).await {
                    answered.push((text, answer));
                }
            }
            answered
        };
        let (answered, _) = self.kill_during(victims, point.delay * 20, writing).await?;
        answered.into_iter().map(|(text, answer)| self.acknowledge(point.origin, text, &answer)).collect()
    }

    /// Registers while the others are down, so that the answer can only be that it waits; then kills this node too.
    async fn register_without_quorum(&mut self, point: &Point) -> anyhow::Result<BTreeSet<String>> {
        let client = self.ring.client(point.origin)?;
        let others = (0..self.ring.nodes.len()).filter(|at| *at != point.origin).collect();
        self.kill(&others)?;
        let texts = self.new_texts(point.origin, 2);
        let calls = texts.into_iter().map(|text| {
            let client = client.clone();
            async move { (client.post("/v1/identifiers", json!({ "cpi": text })).await, text) }
        });
        let mut keys = BTreeSet::new();
        for (answer, text) in join_all(calls).await {
            let answer = answer.map_err(|error| anyhow!("without a quorum it is not kept: {error}"))?;
            if answer["state"] != "pending" {
                bail!("without a quorum it is answered as {answer}");
            }
            keys.insert(self.acknowledge(point.origin, text, &answer)?);
        }
        tokio::time::sleep(point.delay).await;
        self.kill(&BTreeSet::from([point.origin]))?;
        Ok(keys)
    }

    fn new_texts(&mut self, owner: usize, count: u64) -> Vec<String> {
        let first = self.next_identifier;
        self.next_identifier += count;
        (first..first + count).map(|number| identifier_of(owner, number, 1010)).collect()
    }

    /// Hands a task in and kills at its stage. Gives when.
    async fn task_while_killing(
        &mut self,
        point: &Point,
        victims: &BTreeSet<usize>,
    ) -> anyhow::Result<jiff::Timestamp> {
        let Point { number, origin, provider, .. } = *point;
        let companion = (origin + 1) % self.ring.nodes.len();
        let mut beside = self.prepare(&format!("beside-{number}"), companion, None).await?;
        beside.handed.begun = jiff::Timestamp::now();
        let answer = submit(&beside.client, &beside.document, &beside.handed.name).await;
        let answer = answer.map_err(|error| anyhow!("{error}"))?;
        beside.handed.id = id_of(&answer)?;
        self.remember(beside.handed);

        let Prepared { client, document, mut handed } =
            self.prepare(&format!("point-{number}"), origin, Some(provider)).await?;
        let key = handed.name.clone();
        let (answer, killed_at) = match point.stage {
            Stage::After(event) => {
                handed.begun = jiff::Timestamp::now();
                let answer = submit(&client, &document, &key).await;
                if let Ok(task) = &answer {
                    wait_for_event(&client, &id_of(task)?, event).await;
                    tokio::time::sleep(point.delay).await;
                }
                (answer, self.kill(victims)?)
            }
            stage => {
                let aimed = match stage {
                    Stage::Aim(event) => self.offsets.get(&(origin, event.to_owned())).copied().unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                handed.begun = jiff::Timestamp::now();
                let submitting = {
                    let (client, document, key) = (client.clone(), document.clone(), key.clone());
                    async move { submit(&client, &document, &key).await }
                };
                self.kill_during(victims, aimed + point.delay / 3, submitting).await?
            }
        };
        let task = match answer {
            Ok(task) => task,
            // Not acknowledged: the same key must give one task, whether it had arrived or not.
            Err(_) => {
                self.bring_back(victims).await?;
                let task = retry(&self.ring.client(origin)?, &document, &key).await?;
                self.kill(victims)?;
                task
            }
        };
        handed.id = id_of(&task)?;
        self.remember(handed);
        Ok(killed_at)
    }

    /// Makes a task with an input and uploads it.
    async fn prepare(&self, name: &str, origin: usize, provider: Option<usize>) -> anyhow::Result<Prepared> {
        let client = self.ring.client(origin)?;
        let content = format!("the input of {name}, fence ").into_bytes();
        let digest = upload(&client, &content).await?;
        let regions: Vec<String> = provider.map(|at| format!("r{at}")).into_iter().collect();
        let regions: Vec<&str> = regions.iter().map(String::as_str).collect();
        // a program that is begun twice in its folder fails, and with it the point
        let script =
            "[ -e begun ] && exit 9; : > begun; cat in > out; printf %s \"$CAUSEWAY_FENCE\" >> out; sleep 0.15";
        let mut document = shell_task(name, script, &regions);
        document["inputs"] = json!([{ "path": "in", "digest": digest.to_string(), "size_bytes": content.len() }]);
        let begun = jiff::Timestamp::now();
        let handed = Handed { origin, id: String::new(), name: name.to_owned(), content, begun };
        Ok(Prepared { client, document, handed })
    }

    fn remember(&mut self, task: Handed) {
        self.tally.tasks += 1;
        self.promises.tasks.push(task);
    }
}

struct Prepared {
    client: Client,
    document: Value,
    handed: Handed,
}

fn id_of(task: &Value) -> anyhow::Result<String> {
    Ok(task["id"].as_str().with_context(|| format!("an acknowledged task has an id: {task}"))?.to_owned())
}

/// The same identifier with another capacity.
fn revised(text: &str, revision: usize) -> anyhow::Result<String> {
    let text = text.split_once('~').map_or(text, |(before, _)| before);
    let capacity = format!("-{}PF16-", 1010 + 10 * revision);
    Ok(Cpi::seal(&text.replace("-1010PF16-", &capacity)).map_err(|error| anyhow!("{error}"))?.as_str().to_owned())
}

/// The kind of the last event before `instant`.
fn last_before(events: &[TaskEvent], instant: jiff::Timestamp) -> String {
    let mut before = events.iter().filter(|event| event.at <= instant);
    before.next_back().map_or("nothing", |event| &event.kind).to_owned()
}

/// Submits until there is an answer.
async fn retry(client: &Client, document: &Value, key: &str) -> anyhow::Result<Value> {
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

/// Waits until the task has an event of `kind`, or is over. A stage that was missed is hit a little late, which is a point
/// too: the tally tells by the history what was really hit.
async fn wait_for_event(client: &Client, id: &str, kind: &str) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        let events = events(client, id).await.unwrap_or_default();
        if events.iter().any(|event| event.kind == kind || event.kind == "ended") {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
