//! The contract's verbs.

use super::api::{Api, Verb};
use super::client::{Answer, Failure, Payload, Retry, Sink};
use super::machines;
use super::model::{RunSaid, chip_of, submission};
use super::runs::Runs;
use crate::contract::{
    Adapter, AdapterDescription, AdapterError, AdapterHealth, LogChunk, LogStream, RunEvent, RunKey, RunRequest,
    RunState, RunStatus,
};
use crate::resources::{
    Capabilities, InventoryEvent, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceTag,
};
use crate::rules::Direction;
use crate::southbound::tag_of;
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::{PoolSpec, Quantity};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, broadcast, mpsc};
use tokio::time::Instant;

/// The rule file, and what it looked like when it was read.
pub(super) struct RuleSource {
    pub(super) path: PathBuf,
    pub(super) seen: Mutex<(Option<SystemTime>, u64)>,
    pub(super) trouble: Mutex<Option<String>>,
}

impl RuleSource {
    pub(super) fn stamp(&self) -> (Option<SystemTime>, u64) {
        std::fs::metadata(&self.path).map_or((None, 0), |meta| (meta.modified().ok(), meta.len()))
    }
}

/// A platform behind an HTTP API.
pub(super) struct RestAdapter {
    pub(super) runs: Arc<Runs>,
    pub(super) pools: Vec<PoolSpec>,
    pub(super) source: RuleSource,
    /// One making of a run or a machine at a time, by tag.
    pub(super) submitting: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>,
    pub(super) poller: tokio::task::JoinHandle<()>,
}

impl Drop for RestAdapter {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

fn lost(key: RunKey) -> AdapterError {
    AdapterError::fatal(ReasonCode::RunLost, format!("no run {} {} is on the platform", key.task, key.fence))
}

fn down(why: impl Into<String>) -> AdapterError {
    AdapterError::passing(ReasonCode::AdapterDown, why)
}

impl RestAdapter {
    /// Reads the rules again if their file changed. Rules that got worse are told, and the last good ones stay.
    fn reload(&self) {
        let stamp = self.source.stamp();
        let mut seen = self.source.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == stamp {
            return;
        }
        *seen = stamp;
        let trouble = match Api::read(&self.source.path) {
            Ok(api) => {
                tracing::info!(rules = api.rules.name(), "rules are in force");
                self.runs.set_api(Arc::new(api));
                None
            }
            Err(error) => Some(format!("the rules that were read last stay in force: {error}")),
        };
        *self.source.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    async fn alone(&self, tag: String) -> OwnedMutexGuard<()> {
        let gate = {
            let mut submitting = self.submitting.lock().unwrap_or_else(PoisonError::into_inner);
            submitting.retain(|_, gate| Arc::strong_count(gate) > 1);
            Arc::clone(submitting.entry(tag).or_default())
        };
        gate.lock_owned().await
    }

    /// What the answer to a submission says of the run; `None` where it says nothing that is understood.
    fn told(api: &Api, key: RunKey, answer: &Answer) -> Result<Option<RunSaid>, AdapterError> {
        let Answer::Json(body) = answer else { return Ok(None) };
        if !api.rules.has(Direction::North, "submit") {
            return Ok(None);
        }
        let run: RunSaid = api.read_answer("submit", body)?;
        if run.tag != tag_of(key) || run.handle.is_empty() {
            return Err(down(format!("submit: the answer is about {:?}", super::fault::shown(&run.tag))));
        }
        // how it ended is read where everything is said of it
        Ok(run.under_way().is_some().then_some(run))
    }

    /// What no server of the class could hold, even empty, is not asked for.
    fn check(&self, pool: &str, class: &str, need: &Quantity) -> Result<(), AdapterError> {
        let wrong = |why: &str| AdapterError::fatal(ReasonCode::InvalidTask, why);
        let known = self.pools.iter().find(|known| known.name == pool).ok_or_else(|| wrong("pool: no such pool"))?;
        match known.classes.iter().find(|known| known.name == class) {
            Some(known) if !known.per_server.fits(need) => {
                Err(AdapterError::fatal(ReasonCode::ShapeTooLarge, "need: no server of the class has as much"))
            }
            // a class that the operator did not write down may be one that the platform told
            None if !self.runs.api().has("classes") => Err(wrong("class: no such server class")),
            _ => Ok(()),
        }
    }

    async fn create(&self, api: &Arc<Api>, run: &RunRequest, deadline: Instant) -> Result<RunSaid, AdapterError> {
        let key = run.key;
        let verb = api.verb("submit")?;
        let uploads = api.has("upload");
        let chip = chip_of(&self.pools, &run.pool, &run.class);
        let what = submission(run, chip, !uploads, api.patience.inline_bytes_max).await?;
        let parts = api.request(verb, &what)?;
        if uploads {
            self.runs.files.upload(api, &self.runs.client, &tag_of(key), &run.inputs, deadline).await?;
        }
        let mut tries = 0;
        loop {
            let sent = self.runs.client.send(api, verb, &parts, Payload::Rules, &Sink::Json, deadline).await;
            let failure = match sent {
                // a run that was made counts, whatever was said of it
                Ok(answer) => match Self::told(api, key, &answer) {
                    Ok(Some(said)) => return Ok(said),
                    Ok(None) => down("submit: it was accepted and is not there"),
                    Err(error) => error,
                },
                Err(Failure { error, retry: Retry::Unsure, .. }) => error,
                Err(failure) => return Err(failure.into()),
            };
            // the answer was lost or made no sense: look before it is sent again
            if let Some(said) = self.runs.find(api, key).await? {
                return Ok(said);
            }
            tries += 1;
            if tries > api.patience.retries_max.min(2) || !failure.retryable || Instant::now() >= deadline {
                return Err(failure);
            }
        }
    }

    /// The run as the platform has it, with its state.
    async fn seen(&self, api: &Arc<Api>, key: RunKey) -> Result<Option<(RunSaid, RunState)>, AdapterError> {
        let asked = Instant::now();
        match self.runs.find(api, key).await? {
            Some(run) => {
                let state = self.runs.state(api, key, &run, asked).await;
                Ok(Some((run, state)))
            }
            None => {
                self.runs.forget(key);
                Ok(None)
            }
        }
    }

    async fn log_bytes(
        &self,
        api: &Api,
        verb: &Verb,
        what: &Value,
        (offset, bytes_max): (u64, usize),
    ) -> Result<Vec<u8>, AdapterError> {
        let deadline = Runs::deadline(api);
        let parts = api.request(verb, what)?;
        let sink = match (&verb.text, verb.ranged) {
            (Some(_), _) => Sink::Json,
            (None, true) => Sink::Beginning(bytes_max),
            (None, false) => Sink::Beginning(api.patience.log_bytes_max),
        };
        let whole = match self.runs.client.send(api, verb, &parts, Payload::Rules, &sink, deadline).await? {
            Answer::Raw(bytes) => bytes,
            Answer::Json(body) => {
                let text = verb.text.as_ref().map(|text| text.run([("body", &body)])).transpose().map_err(down)?;
                match text {
                    Some(Value::String(text)) => text.into_bytes(),
                    Some(Value::Null) | None => Vec::new(),
                    Some(other) => return Err(down(format!("logs: `text` makes {other}: expected text"))),
                }
            }
            // nothing was written yet, or nothing is beyond that offset
            Answer::Absent | Answer::Done | Answer::File(..) => Vec::new(),
        };
        let from = if verb.ranged { 0 } else { usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len()) };
        Ok(whole[from..from.saturating_add(bytes_max).min(whole.len())].to_vec())
    }
}

#[async_trait]
impl Adapter for RestAdapter {
    fn describe(&self) -> AdapterDescription {
        let api = self.runs.api();
        AdapterDescription {
            backend: "rest".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs_commands: true,
            runs_images: api.runs_images,
            stops_on_lapse: false,
            firmness: api.firmness,
        }
    }

    async fn health(&self) -> AdapterHealth {
        self.reload();
        let api = self.runs.api();
        let mut notes = vec![format!("rules {}", api.rules.name())];
        notes.extend(self.runs.client.endpoint.notes.iter().cloned());
        notes.extend(self.source.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone());
        notes.extend(self.runs.trouble());
        notes.extend(self.runs.files.trouble());
        if let Some(wait) = self.runs.client.asked_to_wait() {
            notes.push(format!("the platform asks to be left alone for {} ms", wait.as_millis()));
        }
        let mut ready = true;
        if api.has("health") {
            let soon = Instant::now() + std::time::Duration::from_millis(api.patience.request_ms.min(800));
            match self.runs.ask(&api, "health", &json!({}), soon).await {
                Ok(Answer::Json(_)) => {}
                Ok(_) => (ready, notes) = (false, [notes, vec!["health: it is not there".to_owned()]].concat()),
                // being asked to wait is no illness
                Err(failure) if failure.error.reason.code == ReasonCode::Busy => notes.push(failure.error.to_string()),
                Err(failure) => (ready, notes) = (false, [notes, vec![failure.error.to_string()]].concat()),
            }
        }
        AdapterHealth { ready, notes }
    }

    async fn inventory(&self) -> Result<Vec<PoolSpec>, AdapterError> {
        machines::pools(&self.runs, &self.pools).await
    }

    async fn submit(&self, request: RunRequest) -> Result<RunStatus, AdapterError> {
        if request.command.first().is_none_or(String::is_empty) && request.image.is_none() {
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, "command: expected a program"));
        }
        self.check(&request.pool, &request.class, &request.need)?;
        let key = request.key;
        let api = self.runs.api();
        let deadline = Runs::deadline(&api);
        let _alone = self.alone(tag_of(key)).await;
        if let Some((_, state)) = self.seen(&api, key).await? {
            return Ok(RunStatus { key, state });
        }
        let asked = Instant::now();
        let run = self.create(&api, &request, deadline).await?;
        let state = self.runs.state(&api, key, &run, asked).await;
        self.runs.stale(key);
        Ok(RunStatus { key, state })
    }

    async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        self.runs.status(key).await
    }

    async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        self.runs.list().await
    }

    fn watch(&self) -> broadcast::Receiver<RunEvent> {
        self.runs.watch()
    }

    async fn logs(
        &self,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError> {
        let api = self.runs.api();
        // the state goes first: what is read after an end is all there is
        let (run, state) = self.seen(&api, key).await?.ok_or_else(|| lost(key))?;
        let ended = matches!(state, RunState::Ended(_));
        let name = match stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        };
        let verb = api.verb("logs")?;
        let told_apart = verb.streams.as_ref().is_none_or(|streams| streams.iter().any(|known| known == name));
        if !told_apart || bytes_max == 0 {
            return Ok(LogChunk { offset, bytes: Vec::new(), end: ended && !told_apart });
        }
        let what = json!({ "tag": tag_of(key), "handle": run.handle, "stream": name, "offset": offset,
            "bytes_max": bytes_max });
        let bytes = self.log_bytes(&api, verb, &what, (offset, bytes_max)).await?;
        let end = ended && bytes.len() < bytes_max;
        Ok(LogChunk { offset, bytes, end })
    }

    async fn renew(&self, key: RunKey, ttl_ms: u64) -> Result<(), AdapterError> {
        let api = self.runs.api();
        let (run, state) = self.seen(&api, key).await?.ok_or_else(|| lost(key))?;
        if api.has("renew") && !matches!(state, RunState::Ended(_)) {
            let what = json!({ "tag": tag_of(key), "handle": run.handle, "ttl_ms": ttl_ms });
            self.runs.ask(&api, "renew", &what, Runs::deadline(&api)).await?;
        }
        Ok(())
    }

    async fn cancel(&self, key: RunKey, grace_ms: u64) -> Result<(), AdapterError> {
        let api = self.runs.api();
        let Some((run, state)) = self.seen(&api, key).await? else { return Ok(()) };
        if matches!(state, RunState::Ended(_)) {
            return Ok(());
        }
        let what = json!({ "tag": tag_of(key), "handle": run.handle, "grace_ms": grace_ms });
        self.runs.ask(&api, "cancel", &what, Runs::deadline(&api)).await?;
        self.runs.stale(key);
        Ok(())
    }

    async fn remove(&self, key: RunKey) -> Result<(), AdapterError> {
        let api = self.runs.api();
        // all that have the tag: what was made twice is removed twice
        for run in self.runs.all(&api, key).await? {
            if run.under_way().is_some() {
                return Err(AdapterError::fatal(ReasonCode::Internal, "only a run that ended can be removed"));
            }
            let what = json!({ "tag": tag_of(key), "handle": run.handle });
            self.runs.ask(&api, "remove", &what, Runs::deadline(&api)).await?;
        }
        self.runs.forget(key);
        self.runs.files.remove(&tag_of(key)).await.map_err(|error| {
            AdapterError::passing(ReasonCode::DiskFull, format!("the outputs cannot be removed: {error}"))
        })
    }

    fn capabilities(&self) -> Capabilities {
        let api = self.runs.api();
        Capabilities {
            reserves: api.has("reserve"),
            provisions: api.has("provision"),
            streams_inventory: api.has("servers"),
            exclusive: false,
            by_runner: false,
        }
    }

    async fn servers(&self, follow: bool) -> Result<mpsc::Receiver<InventoryEvent>, AdapterError> {
        machines::tell(Arc::clone(&self.runs), follow).await
    }

    async fn reserve(&self, request: ReserveRequest) -> Result<Reservation, AdapterError> {
        self.check(&request.pool, &request.class, &request.need)?;
        machines::reserve(&self.runs, &self.pools, request).await
    }

    async fn unreserve(&self, key: RunKey) -> Result<(), AdapterError> {
        machines::unreserve(&self.runs, key).await
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        self.check(&request.pool, &request.class, &request.need)?;
        let _alone = self.alone(request.tag.to_string()).await;
        machines::provision(&self.runs, &self.pools, request).await
    }

    async fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        machines::modify(&self.runs, tag, need).await
    }

    async fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        machines::power(&self.runs, tag, action).await
    }

    async fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        machines::release(&self.runs, tag).await
    }

    async fn resource(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        machines::resource(&self.runs, tag).await
    }
}
