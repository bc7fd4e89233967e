//! Tasks: submitted, planned, read, explained, cancelled. Lists, results and retention have files of their own.
//!
//! A task belongs to the node that accepted it. Repeating a submission with the same key of the same principal gives the
//! same task; the row of the key is on disk together with the task.

use super::artifacts::{ArtifactStore, PinOwner};
use super::logs::LogService;
use super::plans::plan_view;
use super::task_error::KEY_BYTES_MAX;
pub use super::task_error::TaskError;
use super::task_explain::explain_view;
use super::task_render::{event_view, task_view};
use super::task_views::{EventView, ExplainView, PlanView, Submitted, TaskView};
use crate::drivers::custody::idempotency_row;
use crate::drivers::members::KnownMembers;
use crate::drivers::negotiation::{BoardTask, HandleError, NegotiationHandle, SubmitError, TaskBoard};
use crate::mesh::MeshHandle;
use crate::trace::TraceId;
use bytes::Bytes;
use consensus::negotiation::{DOCUMENT_BYTES_MAX, Need, PlanRequest, Submission, Wishes};
use consensus::time::Timestamp;
use cpi::dictionary::Dictionary;
use cpi::ids::{ContentDigest, PlanId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::task::{TaskSpec, validate};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, broadcast};

/// Submissions with keys or plans are taken one at a time per stripe, so that two with one key or plan never race.
const STRIPES: usize = 256;
/// Attempts shown by `explain`.
const ATTEMPTS_SHOWN: usize = 10;
/// How long a cancel waits for whoever decides for the task.
const CANCEL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// What the service is made of.
pub struct TaskParts {
    /// The driver.
    pub negotiation: NegotiationHandle,
    /// The members.
    pub members: KnownMembers,
    /// The mesh.
    pub mesh: MeshHandle,
    /// Reads logs of living runs.
    pub logs: LogService,
    /// Inputs and results.
    pub store: ArtifactStore,
    /// The dictionary in force.
    pub dictionary: Arc<dyn Fn() -> Arc<Dictionary> + Send + Sync>,
    /// How long an idempotency key is remembered, in ms.
    pub idempotency_ttl_ms: u64,
    /// Submissions under way at most, with those whose caller has left.
    pub submits_max: usize,
}

/// Tasks of this origin. Cheap to share behind an `Arc`.
pub struct TaskService {
    pub(super) parts: TaskParts,
    key_turns: Vec<Arc<Mutex<()>>>,
    plan_turns: Vec<Arc<Mutex<()>>>,
    places: Arc<Semaphore>,
}

/// A task that is on disk.
struct Taken {
    task: TaskId,
    /// False if an earlier submission brought it there.
    created: bool,
    /// Until its caller is answered, or has left.
    _turns: Vec<OwnedMutexGuard<()>>,
}

/// Wall clock in ms.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A new task id: the time, then randomness.
fn new_id() -> [u8; 16] {
    let mut id: [u8; 16] = rand::random();
    id[..6].copy_from_slice(&now_ms().to_be_bytes()[2..]);
    // The first bit stays 0, as in the text form of the layout.
    id
}

impl TaskService {
    /// A service over its parts.
    pub fn new(parts: TaskParts) -> Self {
        let turns = || (0..STRIPES).map(|_| Arc::default()).collect();
        let places = Arc::new(Semaphore::new(parts.submits_max));
        Self { parts, key_turns: turns(), plan_turns: turns(), places }
    }

    pub(super) fn board(&self) -> &TaskBoard {
        self.parts.negotiation.board()
    }

    /// Takes a task in; returns once it is on disk. With a plan it is placed exactly so, or the answer is
    /// `plan_changed` with the difference.
    ///
    /// # Errors
    /// [`TaskError`].
    pub async fn submit(
        self: &Arc<Self>,
        principal: &str,
        idempotency_key: Option<String>,
        spec: TaskSpec,
        plan: Option<PlanId>,
    ) -> Result<Submitted, TaskError> {
        if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err(TaskError::Key);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| HandleError::Busy)?;
        let (service, principal) = (Arc::clone(self), principal.to_owned());
        let taking = async move {
            let _place = place;
            service.take_in(&principal, idempotency_key, spec, plan).await
        };
        // A caller that leaves drops this future, but not what it began: the key's turn lasts until the task is on disk.
        let taken = match tokio::spawn(TraceId::current().scope(taking)).await {
            Ok(taken) => taken?,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(HandleError::Stopped.into()),
            },
        };
        if taken.created && plan.is_some() {
            self.await_plan(taken.task).await?;
        }
        let task = self.find(taken.task)?;
        Ok(Submitted { task: self.view(&task), created: taken.created })
    }

    /// Finds the task of an earlier submission under the same key, or brings a new one to disk.
    async fn take_in(
        &self,
        principal: &str,
        idempotency_key: Option<String>,
        spec: TaskSpec,
        plan: Option<PlanId>,
    ) -> Result<Taken, TaskError> {
        // always the key's turn before the plan's, so that no two wait for each other
        let mut turns = Vec::new();
        if let Some(key) = &idempotency_key {
            let row = idempotency_row(principal, key);
            turns.push(Arc::clone(&self.key_turns[usize::from(row[0]) % STRIPES]).lock_owned().await);
            if let Some(before) = self.board().records().repeated(&row)?
                && now_ms().saturating_sub(before.at.0) < self.parts.idempotency_ttl_ms
            {
                if ContentDigest::of(&document_of(&spec)?) != before.document {
                    return Err(TaskError::KeyReused { task: before.task });
                }
                if self.board().task(before.task)?.is_none() {
                    return Err(TaskError::KeyOutlives { task: before.task });
                }
                return Ok(Taken { task: before.task, created: false, _turns: turns });
            }
        }
        // a task is not taken in where its records or results may find no room
        self.parts.store.check_space()?;
        let (document, need, wishes) = self.read(&spec, true)?;
        let task = TaskId(plan.map_or_else(new_id, |plan| plan.0));
        if plan.is_some() {
            // a second submission of a plan has the same task: refused, it must not unpin what the first one pinned
            turns.push(Arc::clone(&self.plan_turns[usize::from(task.0[15]) % STRIPES]).lock_owned().await);
            if self.board().task(task)?.is_some() {
                let reason = Reason::new(ReasonCode::OfferExpired, format!("the plan was used for task {task}"));
                return Err(TaskError::Refused(reason));
            }
        }
        self.keep_inputs(task, &spec).await?;
        let submission = Submission {
            task,
            principal: principal.chars().take(128).collect(),
            idempotency_key,
            document,
            need,
            wishes,
            deadline_ms: spec.deadline.map(|d| d.ms),
            retry: spec.retry.clone(),
            plan,
        };
        match self.parts.negotiation.submit(submission).await {
            Ok(_) => Ok(Taken { task, created: true, _turns: turns }),
            // it may be on disk already and go on after a restart: its inputs stay
            Err(SubmitError::Handle(HandleError::Stopped)) => Err(HandleError::Stopped.into()),
            Err(error) => {
                self.forget_inputs(task, &spec).await;
                Err(match error {
                    SubmitError::Handle(error) => error.into(),
                    SubmitError::Refused(reason) => TaskError::Refused(reason),
                })
            }
        }
    }

    /// Waits until a planned task is bound or ended: "exactly that placement, or the difference".
    async fn await_plan(&self, id: TaskId) -> Result<(), TaskError> {
        let mut watch = self.board().watch();
        loop {
            let Some(task) = self.board().task(id)? else { return Err(TaskError::NotFound { id }) };
            if let Some(reason) = task.custody.end.as_ref().and_then(|end| end.reason.clone()) {
                return if reason.code == ReasonCode::PlanChanged { Err(TaskError::Refused(reason)) } else { Ok(()) };
            }
            if task.custody.binding.is_some() || task.summary.state.is_ended() {
                return Ok(());
            }
            match watch.recv().await {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(HandleError::Stopped.into()),
            }
        }
    }

    /// Reads a document into what the machine needs. The inputs of a task to run have to be here; a plan takes their
    /// stated lengths.
    fn read(&self, spec: &TaskSpec, to_run: bool) -> Result<(Bytes, Need, Wishes), TaskError> {
        let dictionary = (self.parts.dictionary)();
        validate(spec, &dictionary).map_err(TaskError::Invalid)?;
        for input in spec.inputs.iter().filter(|_| to_run) {
            let size = input.digest.as_ref().and_then(|digest| self.parts.store.size(digest));
            if size.is_none() || input.size_bytes.is_some_and(|stated| Some(stated) != size) {
                let digest = input.digest.map_or_else(|| "its content".to_owned(), |d| d.to_string());
                return Err(TaskError::InputMissing { path: input.path.clone(), digest });
            }
        }
        let mut need = Need::of(spec, &dictionary);
        let here = |input: &cpi::task::InputFile| self.parts.store.size(input.digest.as_ref()?).or(input.size_bytes);
        need.input_bytes = spec.inputs.iter().filter_map(here).fold(0, u64::saturating_add);
        Ok((document_of(spec)?, need, Wishes::of(spec)?))
    }

    async fn keep_inputs(&self, task: TaskId, spec: &TaskSpec) -> Result<(), TaskError> {
        let digests: Vec<ContentDigest> = spec.inputs.iter().filter_map(|input| input.digest).collect();
        if digests.is_empty() {
            return Ok(());
        }
        let store = self.parts.store.clone();
        let pinned = tokio::task::spawn_blocking(move || store.pin(PinOwner::Task(task), digests, []));
        pinned.await.map_err(std::io::Error::other)??;
        Ok(())
    }

    async fn forget_inputs(&self, task: TaskId, spec: &TaskSpec) {
        if spec.inputs.is_empty() {
            return;
        }
        let store = self.parts.store.clone();
        let unpinned = tokio::task::spawn_blocking(move || store.unpin(PinOwner::Task(task))).await;
        if !matches!(unpinned, Ok(Ok(()))) {
            tracing::warn!(task_id = %task, "the inputs of a refused task stay pinned");
        }
    }

    /// Collects offers and refusals of all regions; the first choice is held for a while.
    ///
    /// # Errors
    /// [`TaskError`].
    pub async fn plan(&self, spec: TaskSpec) -> Result<PlanView, TaskError> {
        let (document, need, wishes) = self.read(&spec, false)?;
        let (input_bytes, max_runtime_ms) = (need.input_bytes, need.max_runtime_ms);
        let request = PlanRequest {
            plan: PlanId(new_id()),
            document,
            need,
            wishes,
            deadline_ms: spec.deadline.map(|d| d.ms),
            hold: true,
        };
        let result = self.parts.negotiation.plan(request).await?;
        Ok(plan_view(&result, &self.parts.members, input_bytes, max_runtime_ms))
    }

    pub(super) fn view(&self, task: &BoardTask) -> TaskView {
        task_view(task, &self.parts.members)
    }

    pub(super) fn find(&self, id: TaskId) -> Result<BoardTask, TaskError> {
        self.board().task(id)?.ok_or(TaskError::NotFound { id })
    }

    /// A task.
    ///
    /// # Errors
    /// [`TaskError::NotFound`].
    pub fn get(&self, id: TaskId) -> Result<TaskView, TaskError> {
        Ok(self.view(&self.find(id)?))
    }

    /// Events of a task after `seq`, oldest first.
    ///
    /// # Errors
    /// [`TaskError::NotFound`].
    pub fn events(&self, id: TaskId, after_seq: u32, limit: usize) -> Result<Vec<EventView>, TaskError> {
        self.find(id)?;
        let events = self.board().events(id, after_seq, limit.clamp(1, 10_000))?;
        Ok(events.iter().map(|e| event_view(u64::from(e.seq), e, &self.parts.members)).collect())
    }

    /// Events of all tasks after `index`, oldest first.
    ///
    /// # Errors
    /// [`TaskError::Gone`] if some of them are no longer kept.
    pub fn events_from(&self, index: u64, limit: usize) -> Result<Vec<EventView>, TaskError> {
        let events = self.board().events_from(index, limit.clamp(1, 10_000)).ok_or(TaskError::Gone)?;
        Ok(events.iter().map(|(index, e)| event_view(*index, e, &self.parts.members)).collect())
    }

    /// New events of all tasks.
    pub fn watch(&self) -> broadcast::Receiver<(u64, Arc<consensus::negotiation::TaskEvent>)> {
        self.board().watch()
    }

    /// An event as people see it.
    pub fn show_event(&self, index: u64, event: &consensus::negotiation::TaskEvent) -> EventView {
        event_view(index, event, &self.parts.members)
    }

    /// Why a task is where it is.
    ///
    /// # Errors
    /// [`TaskError::NotFound`].
    pub fn explain(&self, id: TaskId) -> Result<ExplainView, TaskError> {
        let task = self.find(id)?;
        let decisions = self.board().decisions(id, ATTEMPTS_SHOWN)?;
        Ok(explain_view(&self.view(&task), &decisions, &self.parts.members))
    }

    /// Ends a task; what runs is stopped. Cancelling an ended task changes nothing.
    ///
    /// # Errors
    /// [`TaskError::NotFound`].
    pub async fn cancel(&self, principal: &str, id: TaskId) -> Result<TaskView, TaskError> {
        let mut watch = self.board().watch();
        let task = self.find(id)?;
        if task.custody.end.is_some() || task.custody.cancel.is_some() {
            return Ok(self.view(&task));
        }
        self.parts.negotiation.cancel(id, principal.to_owned()).await?;
        // The wish is on disk before it is answered; it may have to reach another custodian first.
        let until = tokio::time::Instant::now() + CANCEL_PATIENCE;
        loop {
            let task = self.find(id)?;
            if task.custody.end.is_some() || task.custody.cancel.is_some() {
                return Ok(self.view(&task));
            }
            match tokio::time::timeout_at(until, watch.recv()).await {
                Ok(Ok(_) | Err(broadcast::error::RecvError::Lagged(_))) => {}
                Ok(Err(broadcast::error::RecvError::Closed)) => return Err(HandleError::Stopped.into()),
                Err(_) => {
                    let why = format!("{} decides for it and does not answer", task.custody.holder());
                    return Err(TaskError::Refused(cpi::reason::Reason::new(ReasonCode::PeerUnreachable, why)));
                }
            }
        }
    }
}

/// The canonical text of a document: what travels, and what keys and plans compare.
fn document_of(spec: &TaskSpec) -> Result<Bytes, TaskError> {
    let document = serde_json::to_vec(spec).expect("a task document is plain data");
    if document.len() > DOCUMENT_BYTES_MAX {
        return Err(TaskError::TooLong { bytes: document.len() });
    }
    Ok(document.into())
}

/// RFC 3339 in UTC.
pub(super) fn rfc3339(at: Timestamp) -> String {
    super::registry::rfc3339(at)
}
