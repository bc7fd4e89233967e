//! Outputs: fetched from the platform into the plugin's folder once a run ended, checked by length, kept until it is removed.

use super::api::Api;
use super::client::{Answer, Payload, SharedClient, Sink};
use super::model::RunSaid;
use crate::contract::{AdapterError, OutputFound, RunInput, RunOutput};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long a look at an ended run waits for its outputs before it says that the run is not over yet.
const FETCH_INLINE: Duration = Duration::from_millis(1_500);
/// For all outputs of a run.
const FETCH_DEADLINE: Duration = Duration::from_secs(3_600);

/// Outputs that were found, and the names of those that were not.
pub(super) type Fetched = (Vec<OutputFound>, Vec<String>);

#[derive(Clone)]
enum Progress {
    UnderWay(tokio::sync::watch::Receiver<bool>),
    Done(Fetched),
}

/// The outputs of all runs.
pub(super) struct Files {
    dir: PathBuf,
    fetched: Mutex<BTreeMap<String, Progress>>,
    /// The last thing that went wrong, for operators.
    trouble: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, fetched: Mutex::default(), trouble: Mutex::default() }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    fn folder(&self, tag: &str) -> PathBuf {
        // a tag of ours has no separators
        self.dir.join(tag)
    }

    /// Sends inputs before a submission.
    pub(super) async fn upload(
        &self,
        api: &Api,
        client: &SharedClient,
        tag: &str,
        inputs: &[RunInput],
        deadline: Instant,
    ) -> Result<(), AdapterError> {
        let verb = api.verb("upload")?;
        for input in inputs {
            let length = tokio::fs::metadata(&input.source).await.map_or(0, |meta| meta.len());
            let what = json!({ "tag": tag, "path": input.path, "digest": input.digest.hex(), "size_bytes": length });
            let parts = api.request(verb, &what)?;
            client.send(api, verb, &parts, Payload::File(&input.source), &Sink::Json, deadline).await?;
        }
        Ok(())
    }

    /// The outputs of an ended run; `None` while they are still on their way.
    pub(super) async fn of(self: &Arc<Self>, api: &Arc<Api>, client: &SharedClient, run: &RunSaid) -> Option<Fetched> {
        let declared = run.declared();
        if declared.is_empty() {
            return Some((Vec::new(), Vec::new()));
        }
        let mut under_way = {
            let mut fetched = lock(&self.fetched);
            match fetched.get(&run.tag) {
                Some(Progress::Done(done)) => return Some(done.clone()),
                Some(Progress::UnderWay(receiver)) => receiver.clone(),
                None => {
                    let (sender, receiver) = tokio::sync::watch::channel(false);
                    fetched.insert(run.tag.clone(), Progress::UnderWay(receiver.clone()));
                    let (files, api, client, run) =
                        (Arc::clone(self), Arc::clone(api), Arc::clone(client), run.clone());
                    tokio::spawn(async move {
                        let done = files.fetch(&api, &client, &run, &declared).await;
                        match done {
                            Ok(done) => {
                                lock(&files.fetched).insert(run.tag, Progress::Done(done));
                            }
                            Err(error) => {
                                *lock(&files.trouble) = Some(format!("outputs of {}: {error}", run.tag));
                                lock(&files.fetched).remove(&run.tag);
                            }
                        }
                        let _ = sender.send(true);
                    });
                    receiver
                }
            }
        };
        let _ = tokio::time::timeout(FETCH_INLINE, under_way.wait_for(|done| *done)).await;
        match lock(&self.fetched).get(&run.tag) {
            Some(Progress::Done(done)) => Some(done.clone()),
            _ => None,
        }
    }

    async fn fetch(
        &self,
        api: &Api,
        client: &SharedClient,
        run: &RunSaid,
        declared: &[RunOutput],
    ) -> Result<Fetched, AdapterError> {
        let disk = |error: std::io::Error| AdapterError::passing(ReasonCode::DiskFull, error.to_string());
        let folder = self.folder(&run.tag);
        tokio::fs::create_dir_all(&folder).await.map_err(disk)?;
        let verb = api.verb("output")?;
        let deadline = Instant::now() + FETCH_DEADLINE;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for output in declared {
            let name = ContentDigest::of(output.path.as_bytes()).hex();
            let (part, source) = (folder.join(format!("{name}.part")), folder.join(name));
            let what = json!({ "tag": run.tag, "handle": run.handle, "path": output.path });
            let parts = api.request(verb, &what)?;
            let sink = Sink::File(part.clone(), api.patience.output_bytes_max);
            match client.send(api, verb, &parts, Payload::Rules, &sink, deadline).await.map_err(AdapterError::from) {
                Ok(Answer::File(digest, size_bytes)) => {
                    tokio::fs::rename(&part, &source).await.map_err(disk)?;
                    found.push(OutputFound { path: output.path.clone(), source, digest, size_bytes });
                }
                Ok(_) if output.optional => {}
                Ok(_) => missing.push(output.path.clone()),
                Err(error) if error.reason.code == ReasonCode::OutputMissing => missing.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok((found, missing))
    }

    /// Forgets a run's outputs.
    pub(super) async fn remove(&self, tag: &str) -> std::io::Result<()> {
        lock(&self.fetched).remove(tag);
        match tokio::fs::remove_dir_all(self.folder(tag)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes the folder for outputs, for this user alone.
pub(super) fn prepare(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
