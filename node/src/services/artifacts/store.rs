//! The store on disk. Every content is written aside, hashed, synced and then named, so that what has a name is whole.

use super::draft::{Draft, PutError, clear_drafts};
use super::pins::{Pin, PinOwner, Pins};
use bytes::Bytes;
use cpi::ids::{ContentDigest, MemberId, TaskId};
use futures::{Stream, StreamExt as _};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the artifact store {path} cannot be used")]
pub struct OpenStoreError {
    /// Where.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// How long the collector lets things be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Contents that nobody has pinned (yet: an upload comes before its task). Default one day.
    pub unpinned: Duration,
    /// Results of a run that its origin has not fetched. Default seven days.
    pub results: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { unpinned: Duration::from_secs(24 * 3600), results: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: ContentDigest,
    /// Its length.
    pub size_bytes: u64,
}

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Contents.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pins.
    pub pins: u64,
}

/// The artifact store of a node. Clones are one store.
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    pins: Mutex<Pins>,
    drafts: AtomicU64,
    /// Contents and their bytes, counted once at the start and kept up from there.
    count: AtomicU64,
    bytes: AtomicU64,
    free_bytes_min: u64,
}

impl ArtifactStore {
    /// Opens the store in `root` (made with mode 0700) and reads its pins. What would leave less than `free_bytes_min`
    /// on the disk is refused.
    ///
    /// # Errors
    /// [`OpenStoreError`] for a folder that cannot be written.
    pub fn open(root: impl Into<PathBuf>, free_bytes_min: u64) -> Result<Self, OpenStoreError> {
        let root = root.into();
        let opened = || -> io::Result<Pins> {
            for folder in ["sha256", "pins", "partial"] {
                std::fs::create_dir_all(root.join(folder))?;
            }
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700))?;
            // an unwritable folder is said now and not at the first upload
            let trial = root.join("partial/.trial");
            File::create(&trial)?;
            std::fs::remove_file(&trial)?;
            clear_drafts(&root.join("partial"))?;
            read_pins(&root.join("pins"))
        };
        let pins = opened().map_err(|source| OpenStoreError { path: root.clone(), source })?;
        let (count, bytes) = count(&root.join("sha256"));
        let inner = Inner {
            root,
            pins: Mutex::new(pins),
            drafts: 0.into(),
            count: count.into(),
            bytes: bytes.into(),
            free_bytes_min,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.inner.pins.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where a content lies, if it is here.
    pub fn path(&self, digest: &ContentDigest) -> PathBuf {
        let hex = digest.hex();
        self.inner.root.join("sha256").join(&hex[..2]).join(&hex)
    }

    pub(super) fn partial_path(&self, digest: &ContentDigest) -> PathBuf {
        self.inner.root.join("partial").join(digest.hex())
    }

    /// Whether a content is here, whole.
    pub fn has(&self, digest: &ContentDigest) -> bool {
        self.path(digest).is_file()
    }

    /// The length of a content.
    pub fn size(&self, digest: &ContentDigest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|meta| meta.len())
    }

    /// Opens a content for reading; `None` if it is not here.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn open_content(&self, digest: &ContentDigest) -> io::Result<Option<tokio::fs::File>> {
        match tokio::fs::File::open(self.path(digest)).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a stream of at most `bytes_max` bytes; with `expected`, only if it is that.
    ///
    /// # Errors
    /// [`PutError`]; nothing of the content remains then.
    pub async fn put<S, E>(
        &self,
        mut content: S,
        expected: Option<ContentDigest>,
        bytes_max: u64,
    ) -> Result<Stored, PutError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin + Send,
        E: Into<io::Error>,
    {
        // bounded: a slow disk slows the sender down
        let (chunks, mut received) = tokio::sync::mpsc::channel::<Bytes>(8);
        let store = self.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let mut draft = store.draft()?;
            while let Some(chunk) = received.blocking_recv() {
                draft.write(&chunk, bytes_max)?;
            }
            Ok::<_, PutError>(draft)
        });
        let mut broken = None;
        while let Some(chunk) = content.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    broken = Some(PutError::Source(error.into()));
                    break;
                }
            };
            // the writer stops early where it failed, and its own error says why
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
        drop(chunks);
        let draft = writer.await.map_err(|error| PutError::Disk(io::Error::other(error)))??;
        if let Some(broken) = broken {
            return Err(broken);
        }
        let store = self.clone();
        let finished = tokio::task::spawn_blocking(move || draft.finish(&store, expected));
        finished.await.map_err(|error| PutError::Disk(io::Error::other(error)))?
    }

    /// Stores bytes that are in memory.
    ///
    /// # Errors
    /// [`PutError`].
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<Stored, PutError> {
        let length = bytes.len() as u64;
        self.put(futures::stream::iter([Ok::<_, io::Error>(bytes)]), None, length).await
    }

    /// Stores a file that must be `expected`. Blocking.
    ///
    /// # Errors
    /// [`PutError`].
    pub fn put_file(&self, path: &Path, expected: ContentDigest) -> Result<Stored, PutError> {
        if let Some(size_bytes) = self.size(&expected) {
            return Ok(Stored { digest: expected, size_bytes });
        }
        let mut file = File::open(path).map_err(PutError::Source)?;
        let mut draft = self.draft()?;
        let mut chunk = vec![0; 256 << 10];
        loop {
            match file.read(&mut chunk).map_err(PutError::Source)? {
                0 => break,
                count => draft.write(&chunk[..count], u64::MAX)?,
            }
        }
        draft.finish(self, Some(expected))
    }

    fn draft(&self) -> Result<Draft, PutError> {
        self.check_space()?;
        let number = self.inner.drafts.fetch_add(1, Ordering::Relaxed);
        Draft::begin(self, self.inner.root.join("partial").join(format!(".draft-{number}")))
    }

    /// Refuses where too little would stay free.
    ///
    /// # Errors
    /// [`PutError::DiskFull`].
    pub fn check_space(&self) -> Result<(), PutError> {
        let free_bytes_min = self.inner.free_bytes_min;
        let free_bytes = nix::sys::statvfs::statvfs(&self.inner.root)
            .map_err(|error| PutError::Disk(error.into()))
            .map(|stat| stat.blocks_available() * stat.fragment_size())?;
        if free_bytes < free_bytes_min { Err(PutError::DiskFull { free_bytes, free_bytes_min }) } else { Ok(()) }
    }

    /// Gives a verified file its name. `from` lies in `partial/` and is synced already.
    pub(super) fn name(&self, from: &Path, digest: &ContentDigest) -> io::Result<()> {
        let to = self.path(digest);
        let folder = to.parent().expect("a content lies in a folder of its first digits");
        if !folder.is_dir() {
            std::fs::create_dir_all(folder)?;
            File::open(self.inner.root.join("sha256"))?.sync_all()?;
        }
        std::fs::set_permissions(from, std::fs::Permissions::from_mode(0o400))?;
        let (size, is_new) = (std::fs::metadata(from)?.len(), !to.exists());
        std::fs::rename(from, &to)?;
        if is_new {
            self.inner.count.fetch_add(1, Ordering::Relaxed);
            self.inner.bytes.fetch_add(size, Ordering::Relaxed);
        }
        File::open(folder)?.sync_all()
    }

    /// Keeps `digests` for `owner`, and lets `readers` fetch them. Adds to what the owner has pinned; on disk when it
    /// returns. Blocking.
    ///
    /// # Errors
    /// What the disk says; then nothing has changed.
    pub fn pin(
        &self,
        owner: PinOwner,
        digests: impl IntoIterator<Item = ContentDigest>,
        readers: impl IntoIterator<Item = MemberId>,
    ) -> io::Result<()> {
        let mut pins = self.pins();
        let before = pins.get(&owner).cloned();
        let mut pin = before.clone().unwrap_or_else(|| Pin {
            task: if let PinOwner::Task(task) = owner { Some(task) } else { None },
            run: if let PinOwner::Run(key) = owner { Some(key) } else { None },
            made_ms: now_ms(),
            ..Pin::default()
        });
        pin.digests.extend(digests);
        pin.readers.extend(readers);
        if before.as_ref() == Some(&pin) {
            return Ok(());
        }
        let folder = self.inner.root.join("pins");
        let name = owner.file_name();
        let draft = folder.join(format!(".{name}"));
        let bytes = serde_json::to_vec(&pin).map_err(io::Error::other)?;
        let mut file = File::create(&draft)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&draft, folder.join(name))?;
        File::open(&folder)?.sync_all()?;
        pins.insert(owner, pin);
        Ok(())
    }

    /// Lets go of what `owner` kept; the collector removes what nobody else keeps. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn unpin(&self, owner: PinOwner) -> io::Result<()> {
        let mut pins = self.pins();
        if pins.remove(&owner) {
            match std::fs::remove_file(self.inner.root.join("pins").join(owner.file_name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Tasks with pins that were made before `ms` of the wall clock.
    pub fn tasks_pinned_before(&self, ms: u64) -> Vec<TaskId> {
        self.pins().tasks_before(ms)
    }

    /// Whether a pin of `task` names `digest` and lets `member` read it.
    pub fn may_read(&self, member: MemberId, task: TaskId, digest: &ContentDigest) -> bool {
        self.pins().may_read(member, task, digest)
    }

    /// Whether a pin of `task` names `digest`.
    pub fn names(&self, task: TaskId, digest: &ContentDigest) -> bool {
        self.pins().names(task, digest)
    }

    /// Removes what nobody keeps: old contents without a pin, old partial ones, results that waited too long. Blocking.
    /// Returns how many contents went.
    ///
    /// # Errors
    /// What the disk says.
    pub fn collect(&self, now: SystemTime, retention: Retention) -> io::Result<usize> {
        let before = |kept: Duration| now.checked_sub(kept).unwrap_or(UNIX_EPOCH);
        for owner in self.pins().runs_before(ms_of(before(retention.results))) {
            self.unpin(owner)?;
        }
        let mut removed = 0;
        let limit = before(retention.unpinned);
        let old = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|at| at < limit);
        for entry in std::fs::read_dir(self.inner.root.join("partial"))? {
            let path = entry?.path();
            if old(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
        for folder in std::fs::read_dir(self.inner.root.join("sha256"))? {
            for entry in std::fs::read_dir(folder?.path())? {
                let entry = entry?;
                let Ok(digest) = format!("sha256:{}", entry.file_name().to_string_lossy()).parse() else { continue };
                // the lock is held over the removal, so that a pin made meanwhile finds its content or none
                let pins = self.pins();
                let size = entry.metadata().map_or(0, |meta| meta.len());
                if !pins.is_pinned(&digest) && old(&entry.path()) && std::fs::remove_file(entry.path()).is_ok() {
                    removed += 1;
                    self.inner.count.fetch_sub(1, Ordering::Relaxed);
                    self.inner.bytes.fetch_sub(size, Ordering::Relaxed);
                }
            }
        }
        Ok(removed)
    }

    /// How much is stored.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            count: self.inner.count.load(Ordering::Relaxed),
            bytes: self.inner.bytes.load(Ordering::Relaxed),
            pins: self.pins().len() as u64,
        }
    }
}

/// Contents under `folder` and their bytes.
fn count(folder: &Path) -> (u64, u64) {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let contents = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    contents.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.metadata().map_or(0, |meta| meta.len())))
}

fn ms_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

fn read_pins(folder: &Path) -> io::Result<Pins> {
    let mut pins = Pins::default();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            std::fs::remove_file(path)?;
            continue;
        }
        let pin: Option<Pin> = serde_json::from_slice(&std::fs::read(&path)?).ok();
        match pin.as_ref().and_then(Pin::owner) {
            Some(owner) => pins.insert(owner, pin.unwrap_or_default()),
            None => tracing::warn!(path = %path.display(), "a pin cannot be read and is passed over"),
        }
    }
    Ok(pins)
}
