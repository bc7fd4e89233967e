//! Tasks: submitted, planned, read, explained, cancelled; their logs and results.
//!
//! A task belongs to the node that accepted it. Repeating a submission with the same key of the same principal gives the
//! same task; the row of the key is on disk together with the task.

use super::artifacts::{ArtifactFetcher, ArtifactStore, FetchError, PinOwner, PutError};
use super::logs::{LogService, ReadLogError};
use super::plans::plan_view;
use super::task_explain::explain_view;
use super::task_render::{event_view, task_view};
use super::task_views::{EventView, ExplainView, LogPiece, PlanView, Submitted, TaskPage, TaskQuery, TaskView};
use crate::drivers::custody::{TaskRecordsError, idempotency_row};
use crate::drivers::members::KnownMembers;
use crate::drivers::negotiation::{BoardTask, HandleError, NegotiationHandle, ResultFetcher, SubmitError, TaskBoard};
use crate::mesh::MeshHandle;
use adapters::contract::{LogStream, RunKey};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::negotiation::{DOCUMENT_BYTES_MAX, FileRef, Need, PlanRequest, Submission, Wishes};
use consensus::time::Timestamp;
use cpi::dictionary::Dictionary;
use cpi::filter::FilterError;
use cpi::ids::{ContentDigest, MemberId, PlanId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::task::{FieldError, TaskSpec, validate};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{Mutex, broadcast};

/// Submissions with keys are taken one at a time per stripe, so that two with one key never race.
const STRIPES: usize = 256;
/// Tasks looked at for one page at most, where a filter leaves most of them out.
const LOOKED_AT_MAX: usize = 20_000;
/// Attempts shown by `explain`.
const ATTEMPTS_SHOWN: usize = 10;
/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Why a verb on tasks failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// There is no such task at this node.
    #[error("there is no task {id} at this node; ask the region that accepted it")]
    NotFound {
        /// The id asked for.
        id: TaskId,
    },
    /// Fields of the document are wrong.
    #[error("the task document is not valid: {}", .0.first().map_or_else(String::new, ToString::to_string))]
    Invalid(Vec<FieldError>),
    /// The document is too long.
    #[error(
        "the task document has {bytes} bytes, at most {DOCUMENT_BYTES_MAX} are allowed: put large content into inputs"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A filter of the placement is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An input is not in this node's artifact store.
    #[error("the content of input {path} is not here: upload {digest} first")]
    InputMissing {
        /// The input's path.
        path: String,
        /// Its digest, as the document says.
        digest: String,
    },
    /// The idempotency key was used for another document.
    #[error("the idempotency key was used for task {task} with another document")]
    KeyReused {
        /// The earlier task.
        task: TaskId,
    },
    /// The idempotency key is too long or empty.
    #[error("an idempotency key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// Refused with a reason of the taxonomy.
    #[error("{0}")]
    Refused(Reason),
    /// The page token is not one of this list.
    #[error("the page token was not given by this list")]
    PageToken,
    /// The events asked for are no longer kept.
    #[error("the events asked for are no longer kept: list again, then watch from now")]
    Gone,
    /// The driver cannot answer.
    #[error(transparent)]
    Driver(#[from] HandleError),
    /// The node's rows cannot be read.
    #[error(transparent)]
    Records(#[from] TaskRecordsError),
    /// A log cannot be read.
    #[error("the log cannot be read now")]
    Log(#[from] ReadLogError),
    /// The disk failed.
    #[error("the node's disk cannot be used")]
    Disk(#[from] std::io::Error),
}

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
}

/// Tasks of this origin. Cheap to share behind an `Arc`.
pub struct TaskService {
    parts: TaskParts,
    stripes: Vec<Mutex<()>>,
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
        Self { parts, stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
    }

    fn board(&self) -> &TaskBoard {
        self.parts.negotiation.board()
    }

    /// Takes a task in; returns once it is on disk. With a plan it is placed exactly so, or the answer is
    /// `plan_changed` with the difference.
    ///
    /// # Errors
    /// [`TaskError`].
    pub async fn submit(
        &self,
        principal: &str,
        idempotency_key: Option<String>,
        spec: TaskSpec,
        plan: Option<PlanId>,
    ) -> Result<Submitted, TaskError> {
        let Some(key) = idempotency_key else {
            return self.submit_new(principal, None, spec, plan).await;
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(TaskError::Key);
        }
        let row = idempotency_row(principal, &key);
        let _turn = self.stripes[usize::from(row[0]) % STRIPES].lock().await;
        if let Some(before) = self.board().records().repeated(&row)? {
            let fresh = now_ms().saturating_sub(before.at.0) < self.parts.idempotency_ttl_ms;
            if fresh && let Some(task) = self.board().task(before.task)? {
                let same = document_of(&spec)?;
                if ContentDigest::of(&same) != before.document {
                    return Err(TaskError::KeyReused { task: before.task });
                }
                return Ok(Submitted { task: self.view(&task), created: false });
            }
        }
        self.submit_new(principal, Some(key), spec, plan).await
    }

    async fn submit_new(
        &self,
        principal: &str,
        idempotency_key: Option<String>,
        spec: TaskSpec,
        plan: Option<PlanId>,
    ) -> Result<Submitted, TaskError> {
        let (document, need, wishes) = self.read(&spec, true)?;
        let task = TaskId(plan.map_or_else(new_id, |plan| plan.0));
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
        let mut watch = plan.is_some().then(|| self.board().watch());
        match self.parts.negotiation.submit(submission).await {
            Ok(()) => {}
            Err(error) => {
                self.forget_inputs(task, &spec).await;
                return Err(match error {
                    SubmitError::Handle(error) => error.into(),
                    SubmitError::Refused(reason) => TaskError::Refused(reason),
                });
            }
        }
        if let Some(watch) = &mut watch {
            self.await_plan(task, watch).await?;
        }
        let task = self.board().task(task)?.ok_or(TaskError::NotFound { id: task })?;
        Ok(Submitted { task: self.view(&task), created: true })
    }

    /// Waits until a planned task is bound or ended: "exactly that placement, or the difference".
    async fn await_plan(
        &self,
        id: TaskId,
        watch: &mut broadcast::Receiver<(u64, Arc<consensus::negotiation::TaskEvent>)>,
    ) -> Result<(), TaskError> {
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

    fn view(&self, task: &BoardTask) -> TaskView {
        task_view(task, &self.parts.members, self.parts.mesh.me())
    }

    fn find(&self, id: TaskId) -> Result<BoardTask, TaskError> {
        self.board().task(id)?.ok_or(TaskError::NotFound { id })
    }

    /// A task.
    ///
    /// # Errors
    /// [`TaskError::NotFound`].
    pub fn get(&self, id: TaskId) -> Result<TaskView, TaskError> {
        Ok(self.view(&self.find(id)?))
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// [`TaskError::PageToken`].
    pub fn list(&self, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        let limit = query.limit.unwrap_or(50).clamp(1, 1000) as usize;
        let token = query.page_token.as_deref().map(str::parse::<TaskId>).transpose();
        let mut before = token.map_err(|_| TaskError::PageToken)?;
        let mut page = TaskPage { tasks: Vec::new(), total: 0, next_page_token: None };
        let mut looked_at = 0;
        loop {
            let tasks = self.board().tasks_before(before, 500)?;
            let last = tasks.last().map(|t| t.record.task);
            let full = tasks.len() == 500;
            looked_at += tasks.len();
            for task in tasks {
                let view = self.view(&task);
                if !matches(query, &view) {
                    continue;
                }
                page.total += 1;
                if page.tasks.len() < limit {
                    page.tasks.push(view);
                } else if page.next_page_token.is_none() {
                    page.next_page_token = page.tasks.last().map(|t| t.id.clone());
                }
            }
            if !full || looked_at >= LOOKED_AT_MAX {
                return Ok(page);
            }
            before = last;
        }
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
        // The wish is on disk before it is answered.
        loop {
            let task = self.find(id)?;
            if task.custody.end.is_some() || task.custody.cancel.is_some() {
                return Ok(self.view(&task));
            }
            match watch.recv().await {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(HandleError::Stopped.into()),
            }
        }
    }

    /// A piece of a log: from the region while the program runs, from here afterwards.
    ///
    /// # Errors
    /// [`TaskError`].
    pub async fn logs(
        &self,
        id: TaskId,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogPiece, TaskError> {
        let task = self.find(id)?;
        let me = self.parts.mesh.me();
        if let Some(end) = &task.custody.end {
            let name = match stream {
                LogStream::Stdout => "stdout",
                LogStream::Stderr => "stderr",
            };
            let file = end.outcome.as_ref().and_then(|o| o.logs.iter().find(|f| f.path == name));
            let region = self.parts.members.region(me);
            let Some(file) = file.filter(|f| offset < f.size_bytes) else {
                return Ok(LogPiece { offset, bytes: Bytes::new(), end: true, region });
            };
            let bytes = self.read_file(file, offset, bytes_max).await?;
            let end = offset + bytes.len() as u64 >= file.size_bytes;
            return Ok(LogPiece { offset, bytes, end, region });
        }
        let Some(binding) = &task.custody.binding else {
            let region = self.parts.members.region(me);
            return Ok(LogPiece { offset, bytes: Bytes::new(), end: false, region });
        };
        let key = RunKey { task: id, fence: binding.fence };
        let region = self.parts.members.region(binding.provider);
        let read = self.parts.logs.read(&self.parts.mesh, binding.provider, key, stream, offset, bytes_max, 0).await;
        match read {
            // The end of the log is not the end of the task: its record is, and then the log is read here.
            Ok(chunk) => Ok(LogPiece { offset: chunk.offset, bytes: chunk.bytes.into(), end: false, region }),
            // Bound, but the region does not know of the run yet.
            Err(ReadLogError::Refused(_)) => Ok(LogPiece { offset, bytes: Bytes::new(), end: false, region }),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_file(&self, file: &FileRef, offset: u64, bytes_max: usize) -> Result<Bytes, TaskError> {
        let Some(mut content) = self.parts.store.open_content(&file.digest).await? else {
            let detail = format!("{} is no longer kept", file.path);
            return Err(TaskError::Refused(Reason::new(ReasonCode::InputLost, detail)));
        };
        content.seek(std::io::SeekFrom::Start(offset)).await?;
        let mut bytes = Vec::new();
        content.take(bytes_max.clamp(1, 4 << 20) as u64).read_to_end(&mut bytes).await?;
        Ok(bytes.into())
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

fn matches(query: &TaskQuery, task: &TaskView) -> bool {
    let ended = matches!(task.state.as_str(), "succeeded" | "failed" | "cancelled");
    let state = query.state.as_deref().is_none_or(|state| match state {
        "open" => !ended,
        "ended" => ended,
        state => task.state == state,
    });
    state
        && query.principal.as_ref().is_none_or(|p| *p == task.principal)
        && query.name.as_ref().is_none_or(|n| task.name.starts_with(n.as_str()))
        && query.region.as_ref().is_none_or(|r| task.place.as_ref().is_some_and(|p| p.region == *r))
}

/// RFC 3339 in UTC.
pub(super) fn rfc3339(at: Timestamp) -> String {
    super::registry::rfc3339(at)
}

/// Brings results here and keeps them for their task.
#[async_trait]
impl ResultFetcher for ArtifactFetcher {
    async fn fetch_results(&self, task: TaskId, from: MemberId, files: Vec<FileRef>) -> Result<(), Reason> {
        for file in &files {
            self.fetch(from, task, file.digest).await.map_err(|error| why_not_fetched(&error, &file.path))?;
        }
        let store = self.store().clone();
        let digests: Vec<ContentDigest> = files.iter().map(|f| f.digest).collect();
        let pinned = tokio::task::spawn_blocking(move || store.pin(PinOwner::Task(task), digests, []));
        match pinned.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Reason::new(ReasonCode::DiskFull, error.to_string())),
            Err(error) => Err(Reason::new(ReasonCode::Internal, error.to_string())),
        }
    }
}

fn why_not_fetched(error: &FetchError, path: &str) -> Reason {
    let code = match error {
        // The run's own region has not got its result: only another run can make it again.
        FetchError::Missing { .. } | FetchError::Denied { .. } => ReasonCode::RunLost,
        FetchError::Corrupt { .. } => ReasonCode::InputCorrupt,
        FetchError::Unreachable { .. } => ReasonCode::PeerUnreachable,
        FetchError::Store(PutError::DiskFull { .. } | PutError::Disk(_)) => ReasonCode::DiskFull,
        FetchError::Store(_) => ReasonCode::Internal,
    };
    Reason::new(code, format!("{path}: {error}"))
}
