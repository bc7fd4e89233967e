//! The Raft log: entries by index, the vote, and how far is committed. Knows bytes only; `raft` knows what they mean.

use super::sync::Syncer;
use super::{StoreError, options};
use rocksdb::{DB, Direction, IteratorMode, WriteBatch, WriteOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries lie under `e` and their index in big-endian.
const ENTRY: u8 = b'e';
/// Marks lie under `m` and their name.
const MARK: u8 = b'm';

/// An entry's index and bytes.
type IndexedBytes = (u64, Box<[u8]>);

/// A single value beside the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMark {
    /// The vote. Durable before `put_mark` returns.
    Vote,
    /// How far is committed; a hint, so it is not waited for.
    Committed,
    /// The last entry that was purged.
    Purged,
}

impl LogMark {
    fn key(self) -> [u8; 2] {
        [MARK, self as u8]
    }
}

/// The log's database.
#[derive(Clone)]
pub struct LogDb {
    inner: Arc<Inner>,
}

struct Inner {
    // before the database, so that the thread ends first
    syncer: Syncer,
    db: Arc<DB>,
    path: PathBuf,
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn unsynced() -> WriteOptions {
    WriteOptions::default()
}

impl LogDb {
    /// Opens or makes the log in `path`.
    ///
    /// # Errors
    /// [`StoreError`]: an unwritable folder, a full disk, damage beyond a torn tail.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = Arc::new(options::open(path, &options::log())?);
        let syncer = Syncer::start("raft-log-sync", db.clone(), path.to_owned())?;
        Ok(Self { inner: Arc::new(Inner { syncer, db, path: path.to_owned() }) })
    }

    fn failed(&self, error: &rocksdb::Error) -> StoreError {
        StoreError::rocks(&self.inner.path, error)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        if self.inner.syncer.has_failed() {
            return Err(StoreError::Stopped);
        }
        self.inner.db.write_opt(batch, &unsynced()).map_err(|error| self.failed(&error))
    }

    /// Appends entries; they can be read at once, and `flushed` is called once they are on disk.
    ///
    /// # Errors
    /// [`StoreError`] where the write itself failed; `flushed` is not called then.
    pub fn append(
        &self,
        entries: impl IntoIterator<Item = (u64, Vec<u8>)>,
        flushed: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (index, bytes) in entries {
            batch.put(entry_key(index), bytes);
        }
        self.write(batch)?;
        self.inner.syncer.after_sync(flushed);
        Ok(())
    }

    /// Removes all entries after `index`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn truncate_from(&self, index: u64) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_range(entry_key(index), entry_key(u64::MAX));
        self.write(batch)?;
        self.inner.syncer.wait()
    }

    /// Removes all entries up to and including `index` and writes the mark.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn purge_to(&self, index: u64, mark: &[u8]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put(LogMark::Purged.key(), mark);
        batch.delete_range(entry_key(0), entry_key(index.saturating_add(1)));
        self.write(batch)
    }

    /// Entries with `from <= index < until`, in order, until their bytes exceed `bytes_max` (at least one is given).
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn entries(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<IndexedBytes>, StoreError> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let start = entry_key(from);
        for item in self.inner.db.iterator(IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = item.map_err(|error| self.failed(&error))?;
            let Some(index) = index_of(&key).filter(|index| *index < until) else { break };
            bytes += value.len();
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push((index, value));
        }
        Ok(out)
    }

    /// Bytes of all entries from `index` on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bytes_from(&self, index: u64) -> Result<u64, StoreError> {
        let start = entry_key(index);
        let mut bytes = 0;
        for item in self.inner.db.iterator(IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = item.map_err(|error| self.failed(&error))?;
            if index_of(&key).is_none() {
                break;
            }
            bytes += value.len() as u64;
        }
        Ok(bytes)
    }

    /// Blocks until all that was written is on disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn synced(&self) -> Result<(), StoreError> {
        self.inner.syncer.wait()
    }

    /// The last entry.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last(&self) -> Result<Option<IndexedBytes>, StoreError> {
        let end = entry_key(u64::MAX);
        match self.inner.db.iterator(IteratorMode::From(&end, Direction::Reverse)).next() {
            None => Ok(None),
            Some(item) => {
                let (key, value) = item.map_err(|error| self.failed(&error))?;
                Ok(index_of(&key).map(|index| (index, value)))
            }
        }
    }

    /// Writes a mark; a vote is on disk before this returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn put_mark(&self, mark: LogMark, bytes: &[u8]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put(mark.key(), bytes);
        self.write(batch)?;
        if mark == LogMark::Vote { self.inner.syncer.wait() } else { Ok(()) }
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn mark(&self, mark: LogMark) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.get(mark.key()).map_err(|error| self.failed(&error))
    }
}

fn index_of(key: &[u8]) -> Option<u64> {
    let (&table, index) = key.split_first()?;
    (table == ENTRY).then(|| index.try_into().ok().map(u64::from_be_bytes)).flatten()
}
