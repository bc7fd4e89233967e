//! The node's own durable records: tasks, binds, leases, idempotency keys, sequences, events. Bytes by table and key.

use super::sync::Syncer;
use super::{StoreError, options};
use rocksdb::{DB, Direction, IteratorMode, WriteBatch};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A table: one byte in front of every key of it. Never give a byte to another table once it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub u8);

/// A key without its table's byte, and its value.
pub type KeyAndValue = (Vec<u8>, Vec<u8>);

/// Changes that become durable together or not at all.
#[derive(Default)]
pub struct RecordBatch {
    batch: WriteBatch,
}

impl RecordBatch {
    /// Sets `key` of `table`.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.batch.put(full_key(table, key), value);
    }

    /// Removes `key` of `table`, if it is there.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.batch.delete(full_key(table, key));
    }

    /// Removes all keys of `table` from `from` up to but without `until`.
    pub fn delete_range(&mut self, table: Table, from: &[u8], until: &[u8]) {
        self.batch.delete_range(full_key(table, from), full_key(table, until));
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(table.0);
    full.extend_from_slice(key);
    full
}

/// The records' database. Cheap to clone.
#[derive(Clone)]
pub struct Records {
    inner: Arc<Inner>,
}

struct Inner {
    // before the database, so that the thread ends first
    syncer: Syncer,
    db: Arc<DB>,
    path: PathBuf,
}

impl Records {
    /// Opens or makes the records in `path`.
    ///
    /// # Errors
    /// [`StoreError`]: an unwritable folder, a full disk, damage beyond a torn tail, another process.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = Arc::new(options::open(path, &options::options())?);
        let syncer = Syncer::start("records-sync", db.clone(), path.to_owned())?;
        Ok(Self { inner: Arc::new(Inner { syncer, db, path: path.to_owned() }) })
    }

    /// Writes `batch`: readable at once; the answer comes once it is on disk. Batches become durable in the order of
    /// their calls, and one sync serves all that wait.
    pub fn write(&self, batch: RecordBatch) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, waiting) = oneshot::channel();
        self.write_then(batch, move |result| {
            let _ = done.send(result);
        });
        waiting
    }

    /// As [`Records::write`], with a call from the sync thread instead of a channel; `durable` must not block.
    pub fn write_then(&self, batch: RecordBatch, durable: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        if self.inner.syncer.has_failed() {
            return durable(Err(StoreError::Stopped));
        }
        match self.inner.db.write(batch.batch) {
            Ok(()) => self.inner.syncer.after_sync(durable),
            Err(error) => durable(Err(self.failed(&error))),
        }
    }

    /// Writes `batch` and blocks until it is on disk. For start-up and tests.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write_blocking(&self, batch: RecordBatch) -> Result<(), StoreError> {
        if self.inner.syncer.has_failed() {
            return Err(StoreError::Stopped);
        }
        self.inner.db.write(batch.batch).map_err(|error| self.failed(&error))?;
        self.inner.syncer.wait()
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.get(full_key(table, key)).map_err(|error| self.failed(&error))
    }

    /// Up to `limit` keys (without the table's byte) and values with `from <= key`, and `key < until` where given,
    /// in the order of the keys.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn scan(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<KeyAndValue>, StoreError> {
        let start = full_key(table, from);
        self.walk(table, IteratorMode::From(&start, Direction::Forward), limit, |key| {
            until.is_none_or(|until| key < until)
        })
    }

    /// Up to `limit` keys and values with `key <= from`, last first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn scan_back(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<KeyAndValue>, StoreError> {
        let start = full_key(table, from);
        self.walk(table, IteratorMode::From(&start, Direction::Reverse), limit, |_| true)
    }

    fn walk(
        &self,
        table: Table,
        mode: IteratorMode<'_>,
        limit: usize,
        within: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<KeyAndValue>, StoreError> {
        let mut out = Vec::new();
        for item in self.inner.db.iterator(mode) {
            if out.len() == limit {
                break;
            }
            let (key, value) = item.map_err(|error| self.failed(&error))?;
            match key.split_first() {
                Some((&byte, key)) if byte == table.0 && within(key) => out.push((key.to_vec(), value.into_vec())),
                _ => break,
            }
        }
        Ok(out)
    }

    fn failed(&self, error: &rocksdb::Error) -> StoreError {
        StoreError::rocks(&self.inner.path, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: Table = Table(b't');
    const BINDS: Table = Table(b'u');

    #[test]
    fn what_was_acknowledged_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let mut batch = RecordBatch::default();
        batch.put(TASKS, b"b", b"2");
        batch.put(TASKS, b"a", b"1");
        batch.put(BINDS, b"a", b"other");
        assert!(records.write(batch).blocking_recv().unwrap().is_ok());
        drop(records);
        let records = Records::open(dir.path()).unwrap();
        let keys = |found: Vec<(Vec<u8>, Vec<u8>)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(records.scan(TASKS, b"", None, 10).unwrap()), [b"a", b"b"]);
        assert_eq!(keys(records.scan(TASKS, b"", Some(b"b"), 10).unwrap()), [b"a"]);
        assert_eq!(keys(records.scan_back(TASKS, b"z", 10).unwrap()), [b"b", b"a"]);
        assert_eq!(records.get(BINDS, b"a").unwrap().as_deref(), Some(&b"other"[..]));
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _records = Records::open(dir.path()).unwrap();
        assert!(Records::open(dir.path()).is_err());
    }
}
