//! Operations on disk: one row each, and how far a webhook heard of it.

use consensus::codec::{self, CodecError, FRAME_BYTES_MAX};
use consensus::operation::OperationRecord;
use consensus::store::{RecordBatch, Records, StoreError, Table};
use cpi::ids::TaskId;

const OPERATION: Table = Table(b'M');
/// The revision that an operation's webhook heard last.
const HEARD: Table = Table(b'W');
const VERSION: u8 = 1;
const PAGE: usize = 1024;

/// Why rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OperationRowsError {
    /// The store refused.
    #[error("the node's records cannot be used")]
    Store(#[from] StoreError),
    /// A row is not what it should be.
    #[error("a row of operations is damaged")]
    Row(#[from] CodecError),
}

/// The rows.
#[derive(Clone)]
pub struct OperationRows(Records);

impl OperationRows {
    /// The rows in `records`.
    pub fn new(records: Records) -> Self {
        Self(records)
    }

    /// An operation.
    ///
    /// # Errors
    /// [`OperationRowsError`].
    pub fn get(&self, id: TaskId) -> Result<Option<OperationRecord>, OperationRowsError> {
        let row = self.0.get(OPERATION, &id.0)?;
        Ok(row.map(|row| codec::decode(VERSION, &row, FRAME_BYTES_MAX)).transpose()?)
    }

    /// Hands each operation to `take`, in the order of their ids.
    ///
    /// # Errors
    /// [`OperationRowsError`].
    pub fn each(&self, mut take: impl FnMut(OperationRecord)) -> Result<(), OperationRowsError> {
        let mut from = Vec::new();
        loop {
            let rows = self.0.scan(OPERATION, &from, None, PAGE)?;
            let whole = rows.len() < PAGE;
            for (key, row) in rows {
                take(codec::decode(VERSION, &row, FRAME_BYTES_MAX)?);
                from = key;
                from.push(0);
            }
            if whole {
                return Ok(());
            }
        }
    }

    /// Writes an operation; `durable` is called once it is on disk.
    pub fn put(&self, record: &OperationRecord, durable: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        let mut batch = RecordBatch::default();
        let row = codec::encode(VERSION, record).expect("records have only plain fields");
        batch.put(OPERATION, &record.id.0, &row);
        self.0.write_then(batch, durable);
    }

    /// Forgets operations.
    pub fn delete(&self, ids: &[TaskId]) {
        let mut batch = RecordBatch::default();
        for id in ids {
            batch.delete(OPERATION, &id.0);
            batch.delete(HEARD, &id.0);
        }
        // one that stays is deleted at the next look
        self.0.write_then(batch, |_| {});
    }

    /// The revision that a webhook heard last.
    ///
    /// # Errors
    /// [`OperationRowsError`].
    pub fn heard(&self, id: TaskId) -> Result<u32, OperationRowsError> {
        let row = self.0.get(HEARD, &id.0)?;
        Ok(row.and_then(|row| row.as_slice().try_into().ok()).map_or(0, u32::from_be_bytes))
    }

    /// A webhook heard of this revision.
    pub async fn put_heard(&self, id: TaskId, revision: u32) -> Result<(), StoreError> {
        let mut batch = RecordBatch::default();
        batch.put(HEARD, &id.0, &revision.to_be_bytes());
        self.0.write(batch).await.unwrap_or(Err(StoreError::Stopped))
    }
}
