//! Identifiers that are registered and revised while nodes are killed.

use super::World;
use super::point::Point;
use super::promises::Registered;
use crate::ring::identifier_of;
use anyhow::{anyhow, bail};
use cpi::identifier::Cpi;
use futures::future::join_all;
use node::cli::Extra;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Identifiers registered or revised at one point.
const BATCH: u64 = 6;

impl World {
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

    /// Registers a few identifiers, one after the other, and kills in between.
    pub(super) async fn register_while_killing(
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
    pub(super) async fn revise_while_killing(
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
    pub(super) async fn register_without_quorum(&mut self, point: &Point) -> anyhow::Result<BTreeSet<String>> {
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
}

/// The same identifier with another capacity.
fn revised(text: &str, revision: usize) -> anyhow::Result<String> {
    let text = text.split_once('~').map_or(text, |(before, _)| before);
    let capacity = format!("-{}PF16-", 1010 + 10 * revision);
    Ok(Cpi::seal(&text.replace("-1010PF16-", &capacity)).map_err(|error| anyhow!("{error}"))?.as_str().to_owned())
}
