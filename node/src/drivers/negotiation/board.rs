//! Tasks of this origin as they stand, for readers: what is on disk, never ahead of it.
//!
//! Open tasks and the newest ended ones are in memory, all others are read from their rows. Events of all tasks go into
//! one numbered stream; the numbers begin with the clock, so that they still rise after a restart.

use super::index::TaskIndex;
use crate::drivers::custody::{Summary, TaskRecords, TaskRecordsError};
use consensus::custody::{CustodyRecord, Durability};
use consensus::negotiation::{Decision, EventKind, Record, TaskEvent, TaskRecord, TaskState};
use consensus::store::RecordBatch;
use consensus::time::Timestamp;
use cpi::ids::{MemberId, TaskId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast;

/// Ended tasks kept in memory.
const ENDED_KEPT: usize = 4_096;
/// Events kept for watchers that resume.
const EVENTS_KEPT: usize = 65_536;
/// Events that a slow watcher may lag behind before it has to resume.
const WATCHERS_LAG_MAX: usize = 8_192;

/// One task as it stands.
#[derive(Debug, Clone)]
pub struct BoardTask {
    /// As it was handed in.
    pub record: Arc<TaskRecord>,
    /// Its custody record.
    pub custody: Arc<CustodyRecord>,
    /// Its newest standing.
    pub summary: Summary,
    /// What its acknowledgement is worth now.
    pub durability: Durability,
}

#[derive(Default)]
struct Inner {
    tasks: BTreeMap<TaskId, BoardTask>,
    index: TaskIndex,
    /// Tasks of other origins that this node keeps: they are asked for by their id, and never listed.
    kept: BTreeSet<TaskId>,
    kept_index: TaskIndex,
    ended: VecDeque<TaskId>,
    events: VecDeque<(u64, Arc<TaskEvent>)>,
    next_index: u64,
    summaries: BTreeMap<TaskId, Summary>,
    asked: BTreeMap<TaskId, BTreeSet<MemberId>>,
}

impl Inner {
    fn place(&mut self, id: TaskId, before: Option<TaskState>, state: TaskState) {
        let index = if self.kept.contains(&id) { &mut self.kept_index } else { &mut self.index };
        index.place(id, before, state);
    }

    /// A task that was handed in, before anything else is known of it.
    fn begin(&mut self, record: TaskRecord) {
        let id = record.task;
        let custody = Arc::new(CustodyRecord::submitted(id, Vec::new(), MemberId(0)));
        let summary = Summary { submitted: record.submitted, ..Summary::default() };
        let task = BoardTask { record: Arc::new(record), custody, summary, durability: Durability::Local };
        self.tasks.insert(id, task);
        self.place(id, None, TaskState::Pending);
    }
}

/// Tasks of this origin.
pub struct TaskBoard {
    inner: RwLock<Inner>,
    records: TaskRecords,
    watchers: broadcast::Sender<(u64, Arc<TaskEvent>)>,
}

impl TaskBoard {
    /// A board over the rows.
    pub fn new(records: TaskRecords) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        let inner = Inner { next_index: started, ..Inner::default() };
        Self { inner: RwLock::new(inner), records, watchers: broadcast::channel(WATCHERS_LAG_MAX).0 }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows below.
    pub fn records(&self) -> &TaskRecords {
        &self.records
    }

    /// Reads which tasks are kept, once at the start. Blocking.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn restore_index(&self) -> Result<(), TaskRecordsError> {
        let inner = &mut *self.write();
        self.records.each_kept(|id| {
            inner.kept.insert(id);
        })?;
        self.records.each_summary(|id, summary| inner.place(id, None, summary.state))
    }

    /// Puts an open task on the board, as read from disk.
    pub fn restore(&self, record: &TaskRecord, custody: &CustodyRecord) -> Result<(), TaskRecordsError> {
        let summary = self.records.summary(record.task)?.unwrap_or_default();
        let mut inner = self.write();
        inner.summaries.insert(record.task, summary.clone());
        inner.place(record.task, None, summary.state);
        let durability = custody.quorum().durability();
        let task =
            BoardTask { record: Arc::new(record.clone()), custody: Arc::new(custody.clone()), summary, durability };
        if let Some(binding) = &custody.binding {
            inner.asked.entry(record.task).or_default().insert(binding.provider);
        }
        inner.tasks.insert(record.task, task);
        Ok(())
    }

    /// Before a write: works out the summaries that go with `records` and adds them to the batch.
    pub fn summarise(&self, batch: &mut RecordBatch, records: &[Record]) {
        let mut inner = self.write();
        let mut touched = BTreeSet::new();
        for record in records {
            match record {
                Record::Task(task) | Record::Kept(task) => {
                    let summary = Summary { submitted: task.submitted, ..Summary::default() };
                    inner.summaries.insert(task.task, summary);
                }
                Record::Event(event) => {
                    let summary = inner.summaries.entry(event.task).or_default();
                    advance(summary, event);
                    touched.insert(event.task);
                }
                Record::Custody(custody) => {
                    // History of a task that another decides for may have gaps; its standing has none.
                    let summary = inner.summaries.entry(custody.task).or_default();
                    if custody.events >= summary.events && summary.state != custody.state {
                        summary.state = custody.state;
                        touched.insert(custody.task);
                    }
                }
                _ => {}
            }
        }
        for task in touched {
            if let Some(summary) = inner.summaries.get(&task) {
                TaskRecords::put_summary(batch, task, summary);
            }
        }
    }

    /// After the sync: shows what is on disk now.
    pub fn show(&self, records: Vec<Record>) {
        let mut inner = self.write();
        for record in records {
            match record {
                Record::Task(record) => inner.begin(*record),
                Record::Kept(record) => {
                    inner.kept.insert(record.task);
                    inner.begin(*record);
                }
                Record::Custody(custody) => {
                    let id = custody.task;
                    let ended = custody.closed;
                    let Inner { tasks, index, kept, kept_index, .. } = &mut *inner;
                    if let Some(task) = tasks.get_mut(&id) {
                        if custody.events >= task.summary.events && task.summary.state != custody.state {
                            let before = std::mem::replace(&mut task.summary.state, custody.state);
                            let index = if kept.contains(&id) { kept_index } else { index };
                            index.place(id, Some(before), custody.state);
                        }
                        if custody.promised.counter > 1 || kept.contains(&id) {
                            // Adopted, claimed or kept for another: two disks have it.
                            task.durability = custody.quorum().durability();
                        }
                        task.custody = Arc::from(custody);
                    }
                    if ended {
                        inner.asked.remove(&id);
                        inner.ended.push_back(id);
                        if inner.ended.len() > ENDED_KEPT
                            && let Some(oldest) = inner.ended.pop_front()
                        {
                            inner.tasks.remove(&oldest);
                            inner.summaries.remove(&oldest);
                        }
                    }
                }
                Record::Event(event) => {
                    let Inner { tasks, index, kept, kept_index, .. } = &mut *inner;
                    if let Some(task) = tasks.get_mut(&event.task) {
                        let before = task.summary.state;
                        advance(&mut task.summary, &event);
                        let index = if kept.contains(&event.task) { kept_index } else { index };
                        index.place(event.task, Some(before), task.summary.state);
                    }
                    let index = inner.next_index;
                    inner.next_index += 1;
                    let event = Arc::new(event);
                    inner.events.push_back((index, Arc::clone(&event)));
                    if inner.events.len() > EVENTS_KEPT {
                        inner.events.pop_front();
                    }
                    // Nobody may be watching.
                    let _ = self.watchers.send((index, event));
                }
                Record::Decision(_) | Record::Lease(_) | Record::LeaseSettled(_) => {}
            }
        }
    }

    /// Notes what the acknowledgement of a task is worth.
    pub fn note_durable(&self, task: TaskId, durability: Durability) {
        if let Some(task) = self.write().tasks.get_mut(&task) {
            task.durability = durability;
        }
    }

    /// Notes that a member was asked to commit, or was awarded: it may fetch the task's inputs.
    pub fn note_asked(&self, task: TaskId, member: MemberId) {
        self.write().asked.entry(task).or_default().insert(member);
    }

    /// Forgets who was asked for a task that never was.
    pub fn forget_asked(&self, task: TaskId) {
        self.write().asked.remove(&task);
    }

    /// Whether a member keeps a task, runs it, or was asked to commit to it.
    pub fn takes_part(&self, member: MemberId, task: TaskId) -> bool {
        if self.read().asked.get(&task).is_some_and(|members| members.contains(&member)) {
            return true;
        }
        let kept = self.task(task).ok().flatten();
        kept.is_some_and(|t| {
            t.custody.is_seated(member) || t.custody.binding.as_ref().is_some_and(|b| b.provider == member)
        })
    }

    /// A task as it stands.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn task(&self, id: TaskId) -> Result<Option<BoardTask>, TaskRecordsError> {
        if let Some(task) = self.read().tasks.get(&id) {
            return Ok(Some(task.clone()));
        }
        self.read_rows(id)
    }

    fn read_rows(&self, id: TaskId) -> Result<Option<BoardTask>, TaskRecordsError> {
        let (Some(record), Some(custody)) = (self.records.task(id)?, self.records.custody(id)?) else {
            return Ok(None);
        };
        let summary = self.records.summary(id)?.unwrap_or_default();
        let durability = custody.quorum().durability();
        Ok(Some(BoardTask { record: Arc::new(record), custody: Arc::new(custody), summary, durability }))
    }

    /// Tasks older than `before` in states that are `wanted`, newest first.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn tasks_before(
        &self,
        wanted: impl Fn(TaskState) -> bool,
        before: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<BoardTask>, TaskRecordsError> {
        let ids = self.read().index.page(wanted, before, limit);
        let mut tasks = Vec::with_capacity(ids.len());
        for id in ids {
            // removed meanwhile
            if let Some(task) = self.task(id)? {
                tasks.push(task);
            }
        }
        Ok(tasks)
    }

    /// How many tasks are kept in states that are `wanted`.
    pub fn count(&self, wanted: impl Fn(TaskState) -> bool) -> usize {
        self.read().index.count(wanted)
    }

    /// The oldest tasks younger than `after` that have ended, oldest first.
    pub fn oldest_ended(&self, after: Option<TaskId>, limit: usize) -> Vec<TaskId> {
        let inner = self.read();
        let mut oldest = inner.index.oldest_ended(after, limit);
        oldest.extend(inner.kept_index.oldest_ended(after, limit));
        oldest.sort_unstable();
        oldest.truncate(limit);
        oldest
    }

    /// Removes ended tasks with all their rows, on disk when it returns. Idempotency keys that were first used after
    /// `keys_before` stay. Blocking.
    ///
    /// # Errors
    /// [`TaskRecordsError`]; then they are all kept.
    pub fn forget(&self, ended: &[BoardTask], keys_before: Timestamp) -> Result<(), TaskRecordsError> {
        let mut batch = RecordBatch::default();
        for task in ended {
            self.records.remove(&mut batch, (&task.record, &task.custody), keys_before)?;
        }
        self.records.records().write_blocking(batch)?;
        let mut inner = self.write();
        for task in ended {
            let id = task.record.task;
            inner.tasks.remove(&id);
            inner.summaries.remove(&id);
            inner.index.remove(id, task.summary.state);
            inner.kept_index.remove(id, task.summary.state);
            inner.kept.remove(&id);
        }
        Ok(())
    }

    /// When the oldest task without a place was handed in, in ms of the wall clock.
    pub fn oldest_pending(&self) -> Option<u64> {
        let inner = self.read();
        let mut pending = inner.tasks.values().filter(|t| t.summary.state == TaskState::Pending);
        pending.next().map(|first| pending.map(|t| t.summary.submitted.0).fold(first.summary.submitted.0, u64::min))
    }

    /// How many tasks of each state are open, by name.
    pub fn open_states(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        let inner = self.read();
        let own = inner.tasks.values().filter(|t| !inner.kept.contains(&t.record.task));
        for task in own.filter(|t| !t.summary.state.is_ended()) {
            *counts.entry(task.summary.state.as_str()).or_default() += 1;
        }
        counts
    }

    /// Events of a task after `seq`.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn events(&self, task: TaskId, after: u32, limit: usize) -> Result<Vec<TaskEvent>, TaskRecordsError> {
        let known = self.read().tasks.get(&task).map(|t| t.summary.events);
        let events = self.records.events(task, after, limit)?;
        // Rows are readable before they are on disk: what is not yet is not shown.
        Ok(events.into_iter().filter(|e| known.is_none_or(|k| e.seq <= k)).collect())
    }

    /// Decisions of a task, newest first.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn decisions(&self, task: TaskId, limit: usize) -> Result<Vec<Decision>, TaskRecordsError> {
        self.records.decisions(task, limit)
    }

    /// Events of all tasks after `index`; `None` if some of them are no longer kept.
    pub fn events_from(&self, index: u64, limit: usize) -> Option<Vec<(u64, Arc<TaskEvent>)>> {
        let inner = self.read();
        let first = inner.events.front().map_or(inner.next_index, |(index, _)| *index);
        if index + 1 < first && index != 0 {
            return None;
        }
        let skip = (index + 1).saturating_sub(first) as usize;
        Some(inner.events.iter().skip(skip).take(limit).cloned().collect())
    }

    /// New events of all tasks.
    pub fn watch(&self) -> broadcast::Receiver<(u64, Arc<TaskEvent>)> {
        self.watchers.subscribe()
    }
}

/// Moves a summary on by one event.
fn advance(summary: &mut Summary, event: &TaskEvent) {
    summary.state = event.state;
    summary.events = summary.events.max(event.seq);
    match event.kind {
        EventKind::Started => {
            summary.started.get_or_insert(event.at);
            summary.reason = None;
        }
        EventKind::Accepted => {
            summary.reason = None;
            summary.decided_ms.get_or_insert(event.at.0.saturating_sub(summary.submitted.0));
        }
        EventKind::Ended => {
            summary.ended = Some(event.at);
            summary.reason.clone_from(&event.reason);
        }
        EventKind::Waiting | EventKind::AttemptEnded | EventKind::CancelRequested | EventKind::Frozen => {
            summary.reason.clone_from(&event.reason);
        }
        _ => {}
    }
}
