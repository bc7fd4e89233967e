//! What the ring acknowledged, and whether it holds to it.

use crate::ring::{PATIENCE, Ring, ended, items, output, until};
use anyhow::{Context as _, anyhow, bail};
use node::cli::{Client, Extra};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Long enough for a task whose nodes were killed: leases lapse, attempts are repeated.
const TASK_PATIENCE: Duration = Duration::from_secs(90);

/// An identifier that was acknowledged.
pub struct Registered {
    /// Its node.
    pub owner: usize,
    /// The texts that were sent, the oldest first.
    pub texts: Vec<String>,
    /// How many of them, from the first, are certain: the last acknowledged one and all before.
    pub certain: usize,
    /// The revision that was acknowledged last.
    pub revision: u64,
}

/// A task that was acknowledged.
pub struct Handed {
    /// The node that took it.
    pub origin: usize,
    /// Its id.
    pub id: String,
    /// Its name and idempotency key.
    pub name: String,
    /// What its result begins with; the fence of the run follows.
    pub content: Vec<u8>,
    /// When it was begun to be handed in.
    pub begun: jiff::Timestamp,
}

/// Everything acknowledged so far.
#[derive(Default)]
pub struct Promises {
    /// By stable key.
    pub registered: BTreeMap<String, Registered>,
    /// Tasks whose end was not checked yet.
    pub tasks: Vec<Handed>,
}

/// One event of a task.
pub struct TaskEvent {
    /// What happened.
    pub kind: String,
    /// When.
    pub at: jiff::Timestamp,
    /// The fence, or empty.
    pub fence: String,
    /// All of it, for people.
    pub line: String,
}

impl Promises {
    /// Checks that every node knows an acknowledged text, or one sent later, under each of `keys`, as committed.
    pub async fn check_registered(
        &self,
        ring: &Ring,
        keys: impl Iterator<Item = &String> + Clone,
    ) -> anyhow::Result<()> {
        for at in 0..ring.nodes.len() {
            let client = ring.client(at)?;
            for key in keys.clone() {
                let Some(Registered { owner, texts, certain, .. }) = self.registered.get(key) else { continue };
                let path = format!("/v1/identifiers/{key}");
                let known = until(PATIENCE, || async {
                    let Ok(answer) = client.get(&path, vec![]).await else { return false };
                    let text = answer["cpi"].as_str().unwrap_or_default();
                    answer["state"] == "active" && texts[certain - 1..].iter().any(|sent| sent == text)
                });
                if known.await.is_err() {
                    let says = client.get(&path, vec![]).await;
                    bail!("r{at} does not have {}, which r{owner} acknowledged; it says {says:?}", texts[certain - 1]);
                }
            }
        }
        Ok(())
    }

    /// Waits for the end of all open tasks and checks each: succeeded, the right content, one end, and the
    /// one result that was collected. Gives their histories.
    pub async fn check_tasks(&mut self, ring: &Ring) -> anyhow::Result<Vec<(Handed, Vec<TaskEvent>)>> {
        let mut histories = Vec::new();
        for task in std::mem::take(&mut self.tasks) {
            let client = ring.client(task.origin)?;
            let done = ended(&client, &task.id, TASK_PATIENCE).await?;
            let events = events(&client, &task.id).await?;
            check_task(&client, &task, &done, &events).await.with_context(|| {
                let lines: Vec<&str> = events.iter().map(|event| event.line.as_str()).collect();
                format!("task {} ({}) of r{}:\n{}", task.id, task.name, task.origin, lines.join("\n"))
            })?;
            histories.push((task, events));
        }
        Ok(histories)
    }
}

async fn check_task(client: &Client, task: &Handed, done: &Value, events: &[TaskEvent]) -> anyhow::Result<()> {
    if done["state"] != "succeeded" {
        bail!("it ended as {}: {}", done["state"], done["reason"]);
    }
    let ends = events.iter().filter(|event| event.kind == "ended").count();
    if ends != 1 {
        bail!("it has {ends} ends");
    }
    let result = output(client, done, "out").await?;
    let fence = result.strip_prefix(&*task.content).map(String::from_utf8_lossy);
    let Some(fence) = fence else { bail!("its result is {:?}", String::from_utf8_lossy(&result)) };
    let collected: BTreeSet<&str> = events.iter().filter(|e| e.kind == "collected").map(|e| e.fence.as_str()).collect();
    if collected != BTreeSet::from([&*fence]) {
        bail!("results of the fences {collected:?} were collected, and the one to be had is of {fence}");
    }
    Ok(())
}

/// The history of a task.
pub async fn events(client: &Client, id: &str) -> anyhow::Result<Vec<TaskEvent>> {
    let extra = Extra { query: vec![("limit", Some("1000".to_owned()))], ..Extra::default() };
    let path = format!("/v1/tasks/{id}/events");
    let page = client.call(reqwest::Method::GET, &path, extra).await.map_err(|error| anyhow!("{error}"))?;
    Ok(items(&page)
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            let (kind, at, fence) = (text("kind"), text("at").parse()?, text("fence"));
            let reason = event["reason"]["code"].as_str().unwrap_or_default();
            let line = format!("{at} {kind} {} {fence} {reason} {}", text("region"), text("detail"));
            Ok(TaskEvent { kind, at, fence, line })
        })
        .collect::<Result<_, jiff::Error>>()?)
}
