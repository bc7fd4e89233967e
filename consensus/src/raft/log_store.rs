//! openraft's log over [`LogDb`].

use super::types::{Entry, LogId, Types, Vote};
use super::wire::{self, WireLogId, WireVote};
use crate::store::{LogDb, LogMark};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of one append, so that one large entry never stops replication.
const APPEND_BYTES_MAX: usize = 1 << 20;

/// Bytes of the newest entries that are kept in memory: they are read again at once, for each replica and by `apply`.
const RECENT_BYTES_MAX: usize = 8 << 20;
/// What an entry takes beside its content.
const ENTRY_BYTES: usize = 64;

/// The newest entries, without a hole.
#[derive(Default)]
struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

fn bytes_of(entry: &Entry) -> usize {
    ENTRY_BYTES + if let EntryPayload::Normal(proposal) = &entry.payload { proposal.0.len() } else { 0 }
}

impl Recent {
    fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|last| last.log_id.index() + 1 != entry.log_id.index()) {
            *self = Self::default();
        }
        self.bytes += bytes_of(&entry);
        self.entries.push_back(entry);
        while self.bytes > RECENT_BYTES_MAX
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= bytes_of(&oldest);
        }
    }

    fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|last| last.log_id.index() >= index)
            && let Some(last) = self.entries.pop_back()
        {
            self.bytes -= bytes_of(&last);
        }
    }

    /// `from <= index < until`, up to `bytes_max` but one at least; `None` where not all of them are here.
    fn read(&self, from: u64, until: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id.index();
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        if until > first + self.entries.len() as u64 {
            return None;
        }
        let (mut out, mut bytes) = (Vec::new(), 0usize);
        for entry in self.entries.iter().skip(skip).take_while(|entry| entry.log_id.index() < until) {
            bytes = bytes.saturating_add(bytes_of(entry));
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Some(out)
    }
}

/// The log of one replica; readers are clones.
#[derive(Clone)]
pub struct LogStore {
    db: LogDb,
    recent: Arc<Mutex<Recent>>,
    seat: Arc<Seat>,
    /// Bytes appended since the newest snapshot.
    appended: Arc<AtomicU64>,
}

/// The mark outside the log that this replica has begun to vote and to acknowledge: on disk before the first vote or entry,
/// so that a log which is lost later is missed.
pub struct Seat {
    path: PathBuf,
    raft_id: u64,
    marked: AtomicBool,
}

impl Seat {
    pub fn new(path: PathBuf, raft_id: u64) -> Self {
        Self { path, raft_id, marked: AtomicBool::new(false) }
    }

    /// The Raft id whose log was begun here, if any was.
    pub fn read(&self) -> io::Result<Option<u64>> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => {
                let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the mark of the Raft id holds no number");
                text.trim().parse().map(Some).map_err(|_| wrong())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn mark(&self) -> io::Result<()> {
        if self.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        writeln!(file, "{}", self.raft_id)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.marked.store(true, Ordering::Release);
        Ok(())
    }
}

impl LogStore {
    pub fn new(db: LogDb, seat: Seat) -> Self {
        Self { db, recent: Arc::default(), seat: Arc::new(seat), appended: Arc::default() }
    }

    /// Bytes appended since [`LogStore::begin_count`].
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Counts appended bytes from `bytes` on.
    pub fn begin_count(&self, bytes: u64) {
        self.appended.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of the entries after `index`.
    pub fn bytes_after(&self, index: u64) -> io::Result<u64> {
        Ok(self.db.bytes_from(index + 1)?)
    }

    /// Blocks until all that was written is on disk.
    pub fn synced(&self) -> io::Result<()> {
        Ok(self.db.synced()?)
    }

    /// Whether anything was ever written.
    pub fn is_pristine(&self) -> io::Result<bool> {
        Ok(self.db.mark(LogMark::Vote)?.is_none() && self.db.last()?.is_none())
    }

    fn mark<T: serde::de::DeserializeOwned>(&self, mark: LogMark) -> io::Result<Option<T>> {
        self.db.mark(mark)?.map(|bytes| wire::decode(&bytes)).transpose()
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, from: u64, until: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.recent().read(from, until, bytes_max) {
            return Ok(entries);
        }
        self.db.entries(from, until, bytes_max)?.iter().map(|(_, bytes)| wire::entry_from(bytes)).collect()
    }

    /// Entries `from <= index < until`, up to `bytes_max` but one at least, with the id before them; `None` where they are
    /// purged.
    pub fn since(&self, from: u64, until: u64, bytes_max: usize) -> io::Result<Option<(Option<LogId>, Vec<Entry>)>> {
        let purged: Option<LogId> = self.mark::<WireLogId>(LogMark::Purged)?.map(Into::into);
        let prev = match (from.checked_sub(1), purged) {
            (None, None) => None,
            (None, Some(_)) => return Ok(None),
            (Some(before), Some(purged)) if before < purged.index() => return Ok(None),
            (Some(before), Some(purged)) if before == purged.index() => Some(purged),
            (Some(before), _) => match self.read(before, from, usize::MAX)?.pop() {
                Some(entry) if entry.log_id.index() == before => Some(entry.log_id),
                _ => return Ok(None),
            },
        };
        if until <= from {
            return Ok(Some((prev, Vec::new())));
        }
        let entries = self.read(from, until, bytes_max)?;
        let whole = entries.first().is_some_and(|first| first.log_id.index() == from);
        Ok(whole.then_some((prev, entries)))
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
        let seat = Arc::clone(&self.seat);
        tokio::task::spawn_blocking(move || seat.mark()).await.map_err(io::Error::other)??;
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
        self.seat.mark()?;
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut bytes = Vec::with_capacity(entries.len());
        for entry in &entries {
            let one = wire::entry_bytes(entry.clone());
            self.appended.fetch_add(one.len() as u64, Ordering::Relaxed);
            bytes.push((entry.log_id.index(), one));
        }
        self.db.append(bytes, move |result| callback.io_completed(result.map_err(io::Error::from)))?;
        let mut recent = self.recent();
        entries.into_iter().for_each(|entry| recent.push(entry));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index() + 1);
        self.recent().truncate_from(from);
        self.off_runtime(move |db| db.truncate_from(from)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // a purged entry that is still in memory is as good as ever; one beyond the end would leave a hole
        if self.recent().entries.back().is_some_and(|last| last.log_id.index() < log_id.index()) {
            *self.recent() = Recent::default();
        }
        Ok(self.db.purge_to(log_id.index(), &wire::encode(&WireLogId::from(log_id)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::Proposal;

    fn entry(term: u64, index: u64, bytes: usize) -> Entry {
        Entry {
            log_id: LogId::new_term_index(term, index),
            payload: EntryPayload::Normal(Proposal(vec![7; bytes].into())),
        }
    }

    fn indexes(read: Option<Vec<Entry>>) -> Option<Vec<u64>> {
        read.map(|entries| entries.iter().map(|entry| entry.log_id.index()).collect())
    }

    #[test]
    fn recent_entries_are_given_whole_or_not_at_all() {
        let mut recent = Recent::default();
        assert_eq!(recent.read(1, 2, 100).map(|_| ()), None);
        (5..10).for_each(|index| recent.push(entry(1, index, 10)));
        assert_eq!(indexes(recent.read(6, 8, usize::MAX)), Some(vec![6, 7]));
        assert_eq!(indexes(recent.read(6, 10, 2 * (ENTRY_BYTES + 10))), Some(vec![6, 7]));
        assert_eq!(indexes(recent.read(6, 10, 1)), Some(vec![6]), "one at least");
        assert_eq!(indexes(recent.read(4, 8, usize::MAX)), None, "the disk has it");
        assert_eq!(indexes(recent.read(8, 11, usize::MAX)), None);
        recent.truncate_from(7);
        recent.push(entry(2, 7, 10));
        assert_eq!(recent.read(7, 8, usize::MAX).map(|read| read[0].log_id), Some(LogId::new_term_index(2, 7)));
        assert_eq!(recent.bytes, 3 * (ENTRY_BYTES + 10));
        recent.push(entry(2, 9, 10));
        assert_eq!(indexes(recent.read(9, 10, usize::MAX)), Some(vec![9]), "a hole begins anew");
        assert_eq!(indexes(recent.read(7, 8, usize::MAX)), None);
        recent.push(entry(2, 10, RECENT_BYTES_MAX));
        assert_eq!(recent.entries.len(), 0, "what is larger than the memory is not kept");
        assert_eq!(recent.bytes, 0);
    }
}
