//! openraft's log over [`LogDb`].

use super::types::{Entry, LogId, Types, Vote};
use super::wire::{self, WireLogId, WireVote};
use crate::store::{LogDb, LogMark};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

/// Bytes of one append, so that one large entry never stops replication.
const APPEND_BYTES_MAX: usize = 1 << 20;

/// The log of one replica; readers are clones.
#[derive(Clone)]
pub struct LogStore {
    db: LogDb,
}

impl LogStore {
    pub fn new(db: LogDb) -> Self {
        Self { db }
    }

    /// Whether anything was ever written.
    pub fn is_pristine(&self) -> io::Result<bool> {
        Ok(self.db.mark(LogMark::Vote)?.is_none() && self.db.last()?.is_none())
    }

    fn mark<T: serde::de::DeserializeOwned>(&self, mark: LogMark) -> io::Result<Option<T>> {
        self.db.mark(mark)?.map(|bytes| wire::decode(&bytes)).transpose()
    }

    fn read(&self, from: u64, until: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.db.entries(from, until, bytes_max)?.iter().map(|(_, bytes)| wire::entry_from(bytes)).collect()
    }

    /// Runs what waits for a sync off the runtime's threads.
    async fn off_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(LogDb) -> Result<T, crate::store::StoreError> + Send + 'static,
    ) -> io::Result<T> {
        let db = self.db.clone();
        Ok(tokio::task::spawn_blocking(move || work(db)).await.map_err(io::Error::other)??)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let until = match range.end_bound() {
        Bound::Included(index) => index + 1,
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, until)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, until) = bounds(&range);
        self.read(from, until, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.mark::<WireVote>(LogMark::Vote)?.map(Into::into))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, APPEND_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last_purged_log_id: Option<LogId> = self.mark::<WireLogId>(LogMark::Purged)?.map(Into::into);
        let last = self.db.last()?.map(|(_, bytes)| wire::entry_from(&bytes)).transpose()?.map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = wire::encode(&WireVote::from(*vote));
        self.off_runtime(move |db| db.put_mark(LogMark::Vote, &bytes)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let bytes = wire::encode(&committed.map(WireLogId::from));
        Ok(self.db.put_mark(LogMark::Committed, &bytes)?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.mark::<Option<WireLogId>>(LogMark::Committed)?.flatten().map(Into::into))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| (entry.log_id.index(), wire::entry_bytes(entry)));
        self.db.append(entries, move |result| callback.io_completed(result.map_err(io::Error::from)))?;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index() + 1);
        self.off_runtime(move |db| db.truncate_from(from)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.db.purge_to(log_id.index(), &wire::encode(&WireLogId::from(log_id)))?)
    }
}
