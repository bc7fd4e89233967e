//! The registry's state on disk: one generation in use, named by a pointer file; a snapshot is a checkpoint of it, and an
//! installed snapshot is a new generation.
//!
//! Writes are atomic and go to memory only: the applied index is inside, and what a crash takes back is applied again from
//! the log. A checkpoint flushes first, so that the log may be purged up to it.

use super::{StoreError, options};
use crate::registry::kv::KvRead;
use rocksdb::checkpoint::Checkpoint as RocksCheckpoint;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

const POINTER: &str = "CURRENT_GENERATION";
const SNAPSHOTS: &str = "snapshots";
const INCOMING: &str = "incoming";

/// The state's database, whichever generation is in use. Cheap to clone.
#[derive(Clone)]
pub struct StateDb {
    root: Arc<PathBuf>,
    current: Arc<RwLock<StateReader>>,
    cache_bytes: usize,
    /// One checkpoint is made at a time: a new one removes the older.
    making: Arc<Mutex<()>>,
}

/// Reads of one generation. A reader stays valid while a newer generation takes over.
#[derive(Clone)]
pub struct StateReader {
    db: Arc<DB>,
    generation: u64,
}

/// A snapshot in a folder of its own.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Where its files lie.
    pub path: PathBuf,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Its name in the folder.
    pub name: String,
    /// Its length.
    pub size_bytes: u64,
}

fn generation_path(root: &Path, generation: u64) -> PathBuf {
    root.join(format!("{generation:08}"))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_pointer(root: &Path, generation: u64) -> io::Result<()> {
    let temporary = root.join(format!("{POINTER}.new"));
    let mut file = File::create(&temporary)?;
    writeln!(file, "{generation}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, root.join(POINTER))?;
    sync_folder(root)
}

impl StateDb {
    /// Opens the generation in use under `root`, or makes the first. Removes what an interrupted install left. Up to
    /// `cache_bytes` of it are kept in memory.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(root: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let folder = |error: &io::Error| StoreError::folder(root, error);
        std::fs::create_dir_all(root).map_err(|error| folder(&error))?;
        let generation = match std::fs::read_to_string(root.join(POINTER)) {
            Ok(text) => text.trim().parse().map_err(|_| StoreError::Damaged {
                path: root.join(POINTER),
                cause: "a generation number was expected".to_owned(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_pointer(root, 1).map_err(|error| folder(&error))?;
                1
            }
            Err(error) => return Err(folder(&error)),
        };
        for entry in std::fs::read_dir(root).map_err(|error| folder(&error))?.flatten() {
            let name = entry.file_name();
            let stale =
                name == INCOMING || name.to_str().and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n != generation);
            if stale {
                std::fs::remove_dir_all(entry.path()).map_err(|error| folder(&error))?;
            }
        }
        let reader = open_generation(root, generation, cache_bytes)?;
        let (root, current) = (Arc::new(root.to_owned()), Arc::new(RwLock::new(reader)));
        Ok(Self { root, current, cache_bytes, making: Arc::default() })
    }

    /// Reads of the generation in use.
    pub fn reader(&self) -> StateReader {
        self.current.read().expect("no writer panics while it holds the lock").clone()
    }

    /// Writes `changes` (`None` removes) together or not at all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(&self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let reader = self.reader();
        let mut memory_only = WriteOptions::default();
        memory_only.disable_wal(true);
        reader
            .db
            .write_opt(batch, &memory_only)
            .map_err(|error| StoreError::rocks(&generation_path(&self.root, reader.generation), &error))
    }

    /// Makes a snapshot of `reader`'s generation under `name`, replacing older ones. Takes hard links, not copies.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn checkpoint(&self, name: &str) -> Result<Checkpoint, StoreError> {
        let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshots = self.root.join(SNAPSHOTS);
        let path = snapshots.join(name);
        let folder = |error: io::Error| StoreError::folder(&path, &error);
        std::fs::create_dir_all(&snapshots).map_err(folder)?;
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(folder)?;
        }
        let reader = self.reader();
        RocksCheckpoint::new(&reader.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(&path))
            .map_err(|error| StoreError::rocks(&path, &error))?;
        sync_folder(&snapshots).map_err(folder)?;
        for old in self.checkpoints()? {
            if old.path != path {
                // a sender may still read it: its open files live on
                let _ = std::fs::remove_dir_all(&old.path);
            }
        }
        Ok(Checkpoint { path })
    }

    /// Snapshots that are there, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let path = self.root.join(SNAPSHOTS);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::folder(&path, &error)),
        };
        let mut found: Vec<_> = entries.flatten().map(|entry| Checkpoint { path: entry.path() }).collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// An empty folder for a snapshot that comes in.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin_incoming(&self) -> Result<PathBuf, StoreError> {
        let path = self.root.join(INCOMING);
        let folder = |error: io::Error| StoreError::folder(&path, &error);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(folder)?;
        }
        std::fs::create_dir_all(&path).map_err(folder)?;
        Ok(path)
    }

    /// Takes the files in `incoming` as the new generation: opened and read before the pointer moves, so that a damaged
    /// snapshot changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]; the old generation is in use then.
    pub fn install(&self, incoming: &Path) -> Result<(), StoreError> {
        let folder = |error: io::Error| StoreError::folder(incoming, &error);
        let old = self.reader();
        let generation = old.generation + 1;
        let path = generation_path(&self.root, generation);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(folder)?;
        }
        for entry in std::fs::read_dir(incoming).map_err(folder)?.flatten() {
            File::open(entry.path()).and_then(|file| file.sync_all()).map_err(folder)?;
        }
        std::fs::rename(incoming, &path).map_err(folder)?;
        let reader = open_generation(&self.root, generation, self.cache_bytes)?;
        write_pointer(&self.root, generation).map_err(folder)?;
        *self.current.write().expect("no writer panics while it holds the lock") = reader;
        let _ = std::fs::remove_dir_all(generation_path(&self.root, old.generation));
        Ok(())
    }
}

fn open_generation(root: &Path, generation: u64, cache_bytes: usize) -> Result<StateReader, StoreError> {
    let db = options::open(&generation_path(root, generation), &options::with_cache(cache_bytes))?;
    Ok(StateReader { db: Arc::new(db), generation })
}

impl Checkpoint {
    /// Its files, by name.
    ///
    /// # Errors
    /// Of the file system.
    pub fn files(&self) -> io::Result<Vec<CheckpointFile>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            files.push(CheckpointFile { name, size_bytes: entry.metadata()?.len() });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Opens it for reads, in a copy-free way: only to inspect it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read(&self) -> Result<StateReader, StoreError> {
        let db = DB::open_for_read_only(&options::options(), &self.path, false)
            .map_err(|error| StoreError::rocks(&self.path, &error))?;
        Ok(StateReader { db: Arc::new(db), generation: 0 })
    }
}

impl KvRead for StateReader {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.db.get(key).unwrap_or_else(|error| stop(&error))
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if from >= until {
            return;
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(until.to_vec());
        for item in self.db.iterator_opt(IteratorMode::From(from, Direction::Forward), options) {
            let (key, value) = item.unwrap_or_else(|error| stop(&error));
            if !visit(&key, &value) {
                return;
            }
        }
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        if from >= until {
            return None;
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(until.to_vec());
        options.set_iterate_lower_bound(from.to_vec());
        let (key, value) =
            self.db.iterator_opt(IteratorMode::End, options).next()?.unwrap_or_else(|error| stop(&error));
        Some((key.into_vec(), value.into_vec()))
    }
}

/// A replica that cannot read its own state must not answer from it.
fn stop(error: &rocksdb::Error) -> ! {
    tracing::error!(%error, "the registry's state cannot be read; the node stops");
    panic!("the registry's state cannot be read: {error}");
}
