//! The driver: one task that holds the machine, writes before it calls, and gives back what comes.

use super::rows::{OperationRows, OperationRowsError};
use super::sight;
use super::webhook::Webhooks;
use crate::drivers::backends::Backends;
use adapters::contract::{Adapter, AdapterError};
use adapters::resources::{PowerAction, ProvisionRequest, ResourceTag};
use adapters::vault::Vault;
use consensus::operation::{Action, Input, OperationConfig, OperationRecord, Operations, QuestionId, Sight, Verb};
use consensus::store::StoreError;
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::ids::TaskId;
use cpi::reason::{Reason, ReasonCode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Wishes that may wait for the driver.
const WAITING_MAX: usize = 1_024;
/// Changes that a slow reader may lag behind.
const EVENTS_KEPT: usize = 4_096;
/// Operations that are over and kept, at most.
const ENDED_MAX: usize = 10_000;

/// Why an operation was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// Refused.
    #[error("{0}")]
    Refused(Reason),
    /// Another one has this id.
    #[error("the key was used for another operation")]
    Mismatch(Box<OperationRecord>),
    /// The node stops, or its disk failed.
    #[error("the node stops")]
    Stopped,
}

/// What the driver works with.
pub struct OperationParts {
    /// The records.
    pub rows: OperationRows,
    /// The backends.
    pub backends: Backends,
    /// Where webhooks' secrets are.
    pub vault: Arc<Vault>,
    /// How patient it is.
    pub config: OperationConfig,
    /// Ends it.
    pub stop: CancellationToken,
}

enum Wish {
    Begin(Box<OperationRecord>, oneshot::Sender<Result<OperationRecord, BeginError>>),
    Input(Input),
    Failed(StoreError),
}

/// Hands wishes to the driver. Cheap to clone.
#[derive(Clone)]
pub struct OperationHandle {
    wishes: mpsc::Sender<Wish>,
    events: broadcast::Sender<Arc<OperationRecord>>,
    rows: OperationRows,
    /// All operations by the time of their beginning.
    index: Arc<Mutex<BTreeSet<(Timestamp, TaskId)>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OperationHandle {
    /// Begins an operation; returns once it is on disk. The same id with the same request is the same operation.
    ///
    /// # Errors
    /// [`BeginError`].
    pub async fn begin(&self, record: OperationRecord) -> Result<OperationRecord, BeginError> {
        let (answer, waiting) = oneshot::channel();
        self.wishes.send(Wish::Begin(Box::new(record), answer)).await.map_err(|_| BeginError::Stopped)?;
        waiting.await.map_err(|_| BeginError::Stopped)?
    }

    /// Somebody says that a resource changed: it is looked at.
    pub async fn hint(&self, resource: TaskId) {
        let _ = self.wishes.send(Wish::Input(Input::Hint(resource))).await;
    }

    /// An operation.
    ///
    /// # Errors
    /// [`OperationRowsError`].
    pub fn get(&self, id: TaskId) -> Result<Option<OperationRecord>, OperationRowsError> {
        self.rows.get(id)
    }

    /// Operations, newest first, from before `before`; at most `limit`.
    ///
    /// # Errors
    /// [`OperationRowsError`].
    pub fn list(
        &self,
        before: Option<(Timestamp, TaskId)>,
        limit: usize,
    ) -> Result<Vec<OperationRecord>, OperationRowsError> {
        let ids: Vec<TaskId> = {
            let index = lock(&self.index);
            let all = before.map_or_else(|| index.range(..), |before| index.range(..before));
            all.rev().take(limit).map(|(_, id)| *id).collect()
        };
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.extend(self.rows.get(id)?);
        }
        Ok(found)
    }

    /// How many operations are kept.
    pub fn count(&self) -> usize {
        lock(&self.index).len()
    }

    /// Changes of operations, each once it is on disk.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<OperationRecord>> {
        self.events.subscribe()
    }
}

struct Driver {
    machine: Operations,
    clock: Instant,
    rows: OperationRows,
    backends: Backends,
    wishes: mpsc::Sender<Wish>,
    events: broadcast::Sender<Arc<OperationRecord>>,
    index: Arc<Mutex<BTreeSet<(Timestamp, TaskId)>>>,
    waiting: BTreeMap<TaskId, Vec<oneshot::Sender<Result<OperationRecord, BeginError>>>>,
    webhooks: Webhooks,
    ended: BTreeSet<(Timestamp, TaskId)>,
}

/// Reads the rows and starts the driver. Blocks on the disk.
///
/// # Errors
/// [`OperationRowsError`].
pub fn start(parts: OperationParts) -> Result<(OperationHandle, tokio::task::JoinHandle<()>), OperationRowsError> {
    let OperationParts { rows, backends, vault, config, stop } = parts;
    let (wishes, wishes_in) = mpsc::channel(WAITING_MAX);
    let (events, _) = broadcast::channel(EVENTS_KEPT);
    let (mut all, mut index, mut ended) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    rows.each(|record| {
        index.insert((record.begun, record.id));
        if let Some(at) = record.ended {
            ended.insert((at, record.id));
        }
        all.push(record);
    })?;
    all.sort_by_key(|record| (record.begun, record.id));
    let webhooks = Webhooks::start(rows.clone(), vault, &all, stop.clone())?;
    let index = Arc::new(Mutex::new(index));
    let handle = OperationHandle {
        wishes: wishes.clone(),
        events: events.clone(),
        rows: rows.clone(),
        index: Arc::clone(&index),
    };
    let mut driver = Driver {
        machine: Operations::new(config, rand::random::<u64>() >> 1),
        clock: Instant::now(),
        rows,
        backends,
        wishes,
        events,
        index,
        waiting: BTreeMap::new(),
        webhooks,
        ended,
    };
    let now = driver.now();
    driver.machine.restore(now, all);
    driver.perform();
    let task = tokio::spawn(driver.run(wishes_in, stop));
    Ok((handle, task))
}

impl Driver {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Now { mono: Monotonic(self.clock.elapsed().as_millis() as u64), wall: Timestamp(wall) }
    }

    async fn run(mut self, mut wishes: mpsc::Receiver<Wish>, stop: CancellationToken) {
        loop {
            let due = self.machine.poll_timeout().map(|at| self.clock + Duration::from_millis(at.0));
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                wish = wishes.recv() => match wish {
                    Some(Wish::Begin(record, answer)) => self.begin(*record, answer),
                    Some(Wish::Input(input)) => {
                        let now = self.now();
                        self.machine.handle(now, input);
                    }
                    Some(Wish::Failed(error)) => {
                        // what it would promise from here on could be lost
                        tracing::error!(%error, "the records of operations failed: the node stops");
                        stop.cancel();
                        return;
                    }
                    None => return,
                },
                () = timer => {
                    let now = self.now();
                    self.machine.handle_timeout(now);
                }
            }
            self.perform();
        }
    }

    fn begin(&mut self, record: OperationRecord, answer: oneshot::Sender<Result<OperationRecord, BeginError>>) {
        let id = record.id;
        let there = match self.rows.get(id) {
            Ok(there) => there,
            Err(error) => {
                tracing::error!(%error, "an operation cannot be looked up");
                return drop(answer.send(Err(BeginError::Stopped)));
            }
        };
        match there {
            Some(there) => {
                let same =
                    (&there.adapter, there.verb, &there.request) == (&record.adapter, record.verb, &record.request);
                let _ = answer.send(if same { Ok(there) } else { Err(BeginError::Mismatch(Box::new(there))) });
            }
            None => {
                self.waiting.entry(id).or_default().push(answer);
                let now = self.now();
                self.machine.handle(now, Input::Begin(Box::new(record)));
            }
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Persist(record) => self.persist(*record),
                Action::Call(record, question) => self.ask(*record, question, true),
                Action::Look(record, question) => self.ask(*record, question, false),
                Action::Tell(record) => self.tell(*record),
                Action::Refuse(id, reason) => {
                    for answer in self.waiting.remove(&id).into_iter().flatten() {
                        let _ = answer.send(Err(BeginError::Refused(reason.clone())));
                    }
                }
            }
        }
    }

    fn persist(&self, record: OperationRecord) {
        let (id, revision, wishes) = (record.id, record.revision, self.wishes.clone());
        let runtime = tokio::runtime::Handle::current();
        self.rows.put(&record, move |written| {
            let wish = match written {
                Ok(()) => Wish::Input(Input::Persisted(id, revision)),
                Err(error) => Wish::Failed(error),
            };
            // the sync thread must not wait
            runtime.spawn(async move { wishes.send(wish).await });
        });
    }

    fn tell(&mut self, record: OperationRecord) {
        for answer in self.waiting.remove(&record.id).into_iter().flatten() {
            let _ = answer.send(Ok(record.clone()));
        }
        lock(&self.index).insert((record.begun, record.id));
        if let Some(at) = record.ended {
            self.ended.insert((at, record.id));
            self.forget_oldest();
        }
        tracing::info!(operation = %record.id, machine = %record.resource, adapter = record.adapter, verb = ?record.verb,
            phase = ?record.phase, "an operation changed");
        self.webhooks.tell(&record);
        // nobody watching is fine
        let _ = self.events.send(Arc::new(record));
    }

    fn forget_oldest(&mut self) {
        let mut gone = Vec::new();
        while self.ended.len() > ENDED_MAX {
            let Some((_, id)) = self.ended.pop_first() else { break };
            gone.push(id);
        }
        if !gone.is_empty() {
            lock(&self.index).retain(|(_, id)| !gone.contains(id));
            self.rows.delete(&gone);
        }
    }

    /// Calls the backend or looks at the resource, beside the driver.
    fn ask(&self, record: OperationRecord, question: QuestionId, call: bool) {
        let (backends, wishes) = (self.backends.clone(), self.wishes.clone());
        tokio::spawn(async move {
            let tag = ResourceTag(record.resource);
            let refusal = |error: AdapterError| (error.retryable, error.reason);
            let adapter = backends.get(&record.adapter).ok_or_else(|| {
                let why = format!("this node has no adapter {:?}", record.adapter);
                AdapterError::passing(ReasonCode::AdapterDown, why)
            });
            let input = match (adapter, call) {
                (Ok(adapter), true) => {
                    let called = carry_out(adapter.as_ref(), &record).await;
                    Input::Called(record.id, question, called.map_err(refusal))
                }
                (Ok(adapter), false) => {
                    let seen = adapter.resource(tag).await;
                    Input::Looked(record.id, question, seen.map(|one| one.map(sight)).map_err(refusal))
                }
                (Err(error), true) => Input::Called(record.id, question, Err(refusal(error))),
                (Err(error), false) => Input::Looked(record.id, question, Err(refusal(error))),
            };
            // a driver that stopped needs no answer
            let _ = wishes.send(Wish::Input(input)).await;
        });
    }
}

async fn carry_out(adapter: &dyn Adapter, record: &OperationRecord) -> Result<Sight, AdapterError> {
    let tag = ResourceTag(record.resource);
    let made = match record.verb {
        Verb::Provision => {
            let mut request: ProvisionRequest = serde_json::from_slice(&record.request)
                .map_err(|error| AdapterError::fatal(ReasonCode::Internal, format!("the request on disk: {error}")))?;
            request.tag = tag;
            adapter.provision(request).await
        }
        Verb::Modify(need) => adapter.modify(tag, need).await,
        Verb::Start => adapter.power(tag, PowerAction::Start).await,
        Verb::Stop => adapter.power(tag, PowerAction::Stop).await,
        Verb::Restart => adapter.power(tag, PowerAction::Restart).await,
        Verb::Release => adapter.release(tag).await,
    };
    made.map(sight)
}
