//! A custodian's disk: the rows of tasks, custody, history and leases in the node's records, and how they are read back.
//!
//! Every row has a format version in front. Rows of one persist become durable together; the negotiation driver speaks
//! only afterwards. A task that is not closed has an open row, whether this node decides for it or follows.

use consensus::codec::{self, CodecError, FRAME_BYTES_MAX};
use consensus::custody::{CustodyRecord, Found};
use consensus::negotiation::{
    Attempt, Decision, LeaseRecord, Record, Restored, RestoredTask, TaskEvent, TaskRecord, TaskState,
};
use consensus::store::{RecordBatch, Records, StoreError, Table};
use consensus::time::Timestamp;
use cpi::ids::{ContentDigest, TaskId};
use cpi::reason::Reason;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Digest as _;
use std::collections::BTreeMap;

const TASK: Table = Table(b'T');
const CUSTODY: Table = Table(b'C');
const EVENT: Table = Table(b'E');
const DECISION: Table = Table(b'D');
const SUMMARY: Table = Table(b'S');
const LEASE: Table = Table(b'L');
const IDEMPOTENCY: Table = Table(b'K');
const OPEN: Table = Table(b'O');
/// Idempotency keys that outlive their task, by the time of their submission.
const LEFT_KEY: Table = Table(b'X');
const NODE: Table = Table(b'N');
/// Tasks of other origins that this node keeps.
const KEPT: Table = Table(b'F');
/// What stays of a task that several members kept, for [`GONE_MS`] after its submission.
const GONE: Table = Table(b'G');
/// How long a custodian may have been away and still learn that a task ended, in ms: 400 days.
const GONE_MS: u64 = 400 * 24 * 3_600_000;
const VERSION: u8 = 3;
const INCARNATION: &[u8] = b"incarnation";
const DRAINING: &[u8] = b"draining";
/// In front of a pool's name.
const CORDON: &[u8] = b"cordon/";
/// Pools whose switch is kept, at most.
const SWITCHES_MAX: usize = 4096;
/// Rows read at once.
const PAGE: usize = 1024;

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TaskRecordsError {
    /// The store refused.
    #[error("the node's records cannot be used")]
    Store(#[from] StoreError),
    /// A row is not what it should be.
    #[error("a row of table {table} is damaged")]
    Row {
        /// The table's letter.
        table: char,
        /// What the decoder says.
        #[source]
        source: CodecError,
    },
}

/// A task's newest standing, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Where it stands.
    pub state: TaskState,
    /// Why.
    pub reason: Option<Reason>,
    /// Events so far.
    pub events: u32,
    /// When it was handed in.
    pub submitted: Timestamp,
    /// When its program was first seen running.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// From submission to the first acceptance.
    pub decided_ms: Option<u64>,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            state: TaskState::Pending,
            reason: None,
            events: 0,
            submitted: Timestamp(0),
            started: None,
            ended: None,
            decided_ms: None,
        }
    }
}

/// A pool's switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cordon {
    /// Whether the pool takes no new work.
    on: bool,
    /// What the configuration said when it was switched.
    configured: bool,
}

/// An earlier submission under the same idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// Its task.
    pub task: TaskId,
    /// Digest of its document.
    pub document: ContentDigest,
    /// When.
    pub at: Timestamp,
}

/// The rows of tasks and leases.
#[derive(Clone)]
pub struct TaskRecords {
    records: Records,
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(VERSION, value).expect("records have only plain fields")
}

fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, TaskRecordsError> {
    codec::decode(VERSION, bytes, FRAME_BYTES_MAX)
        .map_err(|source| TaskRecordsError::Row { table: char::from(table.0), source })
}

fn event_key(task: TaskId, seq: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&task.0);
    key[16..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn lease_key(attempt: &Attempt) -> [u8; 36] {
    let mut key = [0; 36];
    key[..16].copy_from_slice(&attempt.task.0);
    key[16..24].copy_from_slice(&attempt.fence.epoch.counter.to_be_bytes());
    key[24..32].copy_from_slice(&attempt.fence.epoch.member.0.to_be_bytes());
    key[32..].copy_from_slice(&attempt.fence.attempt.to_be_bytes());
    key
}

fn left_key(at: Timestamp, row: &[u8; 32]) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&at.0.to_be_bytes());
    key[8..].copy_from_slice(row);
    key
}

/// The key of an idempotency row: the key's scope is the principal.
pub fn idempotency_row(principal: &str, key: &str) -> [u8; 32] {
    let mut hash = sha2::Sha256::new();
    hash.update((principal.len() as u64).to_be_bytes());
    hash.update(principal.as_bytes());
    hash.update(key.as_bytes());
    hash.finalize().into()
}

impl TaskRecords {
    /// The rows in `records`.
    pub fn new(records: Records) -> Self {
        Self { records }
    }

    /// The records below.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Adds one record to a batch.
    pub fn put(batch: &mut RecordBatch, record: &Record) {
        match record {
            Record::Task(task) => {
                batch.put(TASK, &task.task.0, &encode(task));
                batch.put(OPEN, &task.task.0, &[]);
                if let Some(key) = &task.idempotency_key {
                    let document = ContentDigest::of(&task.document);
                    let row = Repeated { task: task.task, document, at: task.submitted };
                    batch.put(IDEMPOTENCY, &idempotency_row(&task.principal, key), &encode(&row));
                }
            }
            Record::Kept(task) => {
                batch.put(KEPT, &task.task.0, &[]);
                batch.put(TASK, &task.task.0, &encode(task));
                batch.put(OPEN, &task.task.0, &[]);
            }
            Record::Custody(custody) => {
                batch.put(CUSTODY, &custody.task.0, &encode(custody));
                if custody.closed {
                    batch.delete(OPEN, &custody.task.0);
                }
            }
            Record::Event(event) => batch.put(EVENT, &event_key(event.task, event.seq), &encode(event)),
            Record::Decision(decision) => {
                let key = Attempt { task: decision.task, fence: decision.fence };
                batch.put(DECISION, &lease_key(&key), &encode(decision));
            }
            Record::Lease(lease) => batch.put(LEASE, &lease_key(&lease.attempt), &encode(lease)),
            Record::LeaseSettled(attempt) => batch.delete(LEASE, &lease_key(attempt)),
        }
    }

    /// Adds a task's summary to a batch.
    pub fn put_summary(batch: &mut RecordBatch, task: TaskId, summary: &Summary) {
        batch.put(SUMMARY, &task.0, &encode(summary));
    }

    /// The next incarnation of this node, on disk before it is returned. Blocking.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn next_incarnation(&self) -> Result<u64, TaskRecordsError> {
        let before = match self.records.get(NODE, INCARNATION)? {
            Some(bytes) => decode::<u64>(NODE, &bytes)?,
            None => 0,
        };
        let mut batch = RecordBatch::default();
        batch.put(NODE, INCARNATION, &encode(&(before + 1)));
        self.records.write_blocking(batch)?;
        Ok(before + 1)
    }

    /// Adds an operator's switch of a pool to a batch, with what the configuration says of the pool meanwhile.
    pub fn put_cordon(batch: &mut RecordBatch, pool: &str, on: bool, configured: bool) {
        batch.put(NODE, &[CORDON, pool.as_bytes()].concat(), &encode(&Cordon { on, configured }));
    }

    /// Adds an operator's switch of the whole region to a batch.
    pub fn put_draining(batch: &mut RecordBatch, on: bool) {
        batch.put(NODE, DRAINING, &encode(&on));
    }

    /// Whether the operator closed the whole region.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn draining(&self) -> Result<bool, TaskRecordsError> {
        Ok(self.row(NODE, DRAINING)?.unwrap_or(false))
    }

    /// The pools' switches as the operator left them. The last change holds: a switch counts until the configuration says
    /// something else than it did when it was switched; from then on the configuration does.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn cordons(&self, configured: &BTreeMap<String, bool>) -> Result<Vec<(String, bool)>, TaskRecordsError> {
        let mut switches = Vec::new();
        for (key, value) in self.records.scan(NODE, CORDON, None, SWITCHES_MAX)? {
            let Some(pool) = key.strip_prefix(CORDON) else { break };
            let pool = String::from_utf8_lossy(pool).into_owned();
            let switch: Cordon = decode(NODE, &value)?;
            if configured.get(&pool) == Some(&switch.configured) {
                switches.push((pool, switch.on));
            }
        }
        Ok(switches)
    }

    /// All that a restarted machine has to take up. Blocking.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn restore(&self) -> Result<Restored, TaskRecordsError> {
        let mut restored = Restored::default();
        self.each(OPEN, |key, _| {
            let Ok(id) = <[u8; 16]>::try_from(key) else { return Ok(()) };
            let id = TaskId(id);
            if let (Some(record), Some(custody)) = (self.task(id)?, self.custody(id)?) {
                let (events, state) = (custody.events, custody.state);
                restored.tasks.push(RestoredTask { record, custody, events, state });
            }
            Ok(())
        })?;
        let mut leases = Vec::new();
        self.each(LEASE, |_, value| {
            leases.push(decode::<LeaseRecord>(LEASE, value)?);
            Ok(())
        })?;
        restored.leases = leases;
        Ok(restored)
    }

    fn each(
        &self,
        table: Table,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), TaskRecordsError>,
    ) -> Result<(), TaskRecordsError> {
        let mut from = Vec::new();
        loop {
            let page = self.records.scan(table, &from, None, PAGE)?;
            for (key, value) in &page {
                visit(key, value)?;
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => {
                    from.clone_from(key);
                    from.push(0);
                }
                _ => return Ok(()),
            }
        }
    }

    fn row<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, TaskRecordsError> {
        self.records.get(table, key)?.map(|bytes| decode(table, &bytes)).transpose()
    }

    /// A task as it was handed in.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn task(&self, task: TaskId) -> Result<Option<TaskRecord>, TaskRecordsError> {
        self.row(TASK, &task.0)
    }

    /// A task's custody record.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn custody(&self, task: TaskId) -> Result<Option<CustodyRecord>, TaskRecordsError> {
        self.row(CUSTODY, &task.0)
    }

    /// A task with its custody record, as last written.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn find(&self, task: TaskId) -> Result<Option<Found>, TaskRecordsError> {
        let (Some(record), Some(custody)) = (self.task(task)?, self.custody(task)?) else {
            return Ok(self.row::<CustodyRecord>(GONE, &task.0)?.map(|custody| Found::Gone(Box::new(custody))));
        };
        let (events, state) = (custody.events, custody.state);
        Ok(Some(Found::Task(Box::new(RestoredTask { record, custody, events, state }))))
    }

    /// Removes what stayed of tasks that were submitted long ago. Blocking.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn forget_gone(&self, now_ms: u64) -> Result<(), TaskRecordsError> {
        // a task's id begins with 48 bits of time
        let before = (u128::from(now_ms.saturating_sub(GONE_MS)) << 80).to_be_bytes();
        if self.records.scan(GONE, &[], None, 1)?.first().is_some_and(|(oldest, _)| oldest[..] < before[..]) {
            let mut batch = RecordBatch::default();
            batch.delete_range(GONE, &[], &before);
            self.records.write_blocking(batch)?;
        }
        Ok(())
    }

    /// A task's summary.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn summary(&self, task: TaskId) -> Result<Option<Summary>, TaskRecordsError> {
        self.row(SUMMARY, &task.0)
    }

    /// What was submitted under an idempotency key before.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn repeated(&self, row: &[u8; 32]) -> Result<Option<Repeated>, TaskRecordsError> {
        self.row(IDEMPOTENCY, row)
    }

    /// Events of a task after `seq`, oldest first.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn events(&self, task: TaskId, after: u32, limit: usize) -> Result<Vec<TaskEvent>, TaskRecordsError> {
        let from = event_key(task, after.saturating_add(1));
        let rows = self.records.scan(EVENT, &from, None, limit)?;
        let own = rows.into_iter().take_while(|(key, _)| key.starts_with(&task.0));
        own.map(|(_, value)| decode(EVENT, &value)).collect()
    }

    /// Decisions of a task, newest first.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn decisions(&self, task: TaskId, limit: usize) -> Result<Vec<Decision>, TaskRecordsError> {
        let mut last = task.0.to_vec();
        last.extend_from_slice(&[0xff; 20]);
        let rows = self.records.scan_back(DECISION, &last, limit)?;
        let own = rows.into_iter().take_while(|(key, _)| key.starts_with(&task.0));
        own.map(|(_, value)| decode(DECISION, &value)).collect()
    }

    /// Visits the newest standing of every task that is kept.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn each_summary(&self, mut visit: impl FnMut(TaskId, &Summary)) -> Result<(), TaskRecordsError> {
        self.each(SUMMARY, |key, value| {
            if let Ok(id) = <[u8; 16]>::try_from(key) {
                visit(TaskId(id), &decode(SUMMARY, value)?);
            }
            Ok(())
        })
    }

    /// Visits the tasks of other origins that this node keeps. Blocking.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn each_kept(&self, mut visit: impl FnMut(TaskId)) -> Result<(), TaskRecordsError> {
        self.each(KEPT, |key, _| {
            if let Ok(id) = <[u8; 16]>::try_from(key) {
                visit(TaskId(id));
            }
            Ok(())
        })
    }

    /// Adds the removal of an ended task to a batch: all its rows but a mark that it ended where others kept it, too, and its idempotency key where it is still its own. A key
    /// that was first used after `keys_before` stays, for [`Self::forget_keys`] to remove later.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn remove(
        &self,
        batch: &mut RecordBatch,
        (task, custody): (&TaskRecord, &CustodyRecord),
        keys_before: Timestamp,
    ) -> Result<(), TaskRecordsError> {
        let id = task.task.0;
        if custody.seats().count() > 1 {
            batch.put(GONE, &id, &encode(&custody.tombstone()));
        }
        for table in [TASK, CUSTODY, SUMMARY, OPEN, KEPT] {
            batch.delete(table, &id);
        }
        let until = u128::from_be_bytes(id).saturating_add(1).to_be_bytes();
        for table in [EVENT, DECISION] {
            batch.delete_range(table, &id, &until);
        }
        if let Some(key) = &task.idempotency_key {
            let row = idempotency_row(&task.principal, key);
            match self.repeated(&row)?.filter(|repeated| repeated.task == task.task) {
                Some(repeated) if repeated.at > keys_before => batch.put(LEFT_KEY, &left_key(repeated.at, &row), &[]),
                Some(_) => batch.delete(IDEMPOTENCY, &row),
                None => {}
            }
        }
        Ok(())
    }

    /// Removes the idempotency keys without a task that were first used until `keys_before`. Blocking.
    ///
    /// # Errors
    /// [`TaskRecordsError`].
    pub fn forget_keys(&self, keys_before: Timestamp) -> Result<(), TaskRecordsError> {
        loop {
            let page = self.records.scan(LEFT_KEY, &[], None, PAGE)?;
            let mut batch = RecordBatch::default();
            for (key, _) in &page {
                let Some((at, row)) = key.split_first_chunk::<8>() else { continue };
                let Ok(row) = <[u8; 32]>::try_from(row) else { continue };
                let at = Timestamp(u64::from_be_bytes(*at));
                if at > keys_before {
                    break;
                }
                batch.delete(LEFT_KEY, key);
                // a key that was used again meanwhile belongs to the newer task
                if self.repeated(&row)?.is_some_and(|repeated| repeated.at == at) {
                    batch.delete(IDEMPOTENCY, &row);
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.records.write_blocking(batch)?;
        }
    }
}
