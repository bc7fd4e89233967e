//! Tasks that are handed in and run while nodes are killed.

use super::World;
use super::point::{Point, Stage};
use super::promises::{Handed, TaskEvent, events};
use crate::ring::{PATIENCE, shell_task, submit};
use anyhow::{Context as _, anyhow, bail};
use cpi::ids::ContentDigest;
use node::cli::{CliError, Client};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between two looks at the events of a task: its stages last for a few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl World {
    /// Runs a task from each node in peace, to learn when its events come.
    pub(super) async fn take_aim(&mut self) -> anyhow::Result<()> {
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
    pub(super) fn learn_offsets(&mut self, task: &Handed, events: &[TaskEvent], until: jiff::Timestamp) {
        for event in events.iter().filter(|event| event.at < until) {
            let took = Duration::try_from(event.at.duration_since(task.begun)).unwrap_or_default();
            let known = self.offsets.entry((task.origin, event.kind.clone())).or_insert(took);
            *known = (*known * 3 + took) / 4;
        }
    }

    /// Hands a task in and kills at its stage. Gives when.
    pub(super) async fn task_while_killing(
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
