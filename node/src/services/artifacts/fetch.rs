//! The taking side: fetches a content from another member, goes on where it broke off, and keeps only what is right.

use super::draft::PutError;
use super::protocol::{Answer, Ask};
use super::store::ArtifactStore;
use async_trait::async_trait;
use bytes::Bytes;
use cpi::ids::{ContentDigest, MemberId, TaskId};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;

/// Transfers at once, over all members: each has its own window, and a member serves few at once.
const FETCHES_MAX: usize = 8;
/// A stream that brings nothing for so long is given up and opened again.
const STALL: Duration = Duration::from_secs(20);
/// How often a transfer is begun again without having come further.
const TRIES: u32 = 6;
/// The wait before the first new try; it doubles, to 5 s.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Both directions of a stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What opens streams to members: the mesh.
#[async_trait]
pub trait StreamOpener: Send + Sync {
    /// Opens a bulk stream to `to`; `header` says what for.
    async fn open_stream(&self, to: MemberId, header: Bytes) -> io::Result<Box<dyn ByteStream>>;
}

#[async_trait]
impl StreamOpener for crate::mesh::MeshHandle {
    async fn open_stream(&self, to: MemberId, header: Bytes) -> io::Result<Box<dyn ByteStream>> {
        Ok(Box::new(self.open_bulk(to, header).await.map_err(io::Error::other)?))
    }
}

/// Why a content could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The member has not got it.
    #[error("{member} does not have {digest}")]
    Missing {
        /// Who was asked.
        member: MemberId,
        /// For what.
        digest: ContentDigest,
    },
    /// The member does not let this node have it.
    #[error("{member} does not give {digest} to this region")]
    Denied {
        /// Who was asked.
        member: MemberId,
        /// For what.
        digest: ContentDigest,
    },
    /// What came is something else, twice.
    #[error("{member} sent another content for {digest}")]
    Corrupt {
        /// Who sent it.
        member: MemberId,
        /// What was asked for.
        digest: ContentDigest,
    },
    /// The stream broke off too often.
    #[error("{member} cannot be reached for {digest}")]
    Unreachable {
        /// Who.
        member: MemberId,
        /// What was asked for.
        digest: ContentDigest,
        /// The last failure.
        #[source]
        source: io::Error,
    },
    /// It cannot be kept here.
    #[error("the content cannot be stored")]
    Store(#[from] PutError),
}

/// Fetches contents into the store of this node.
#[derive(Clone)]
pub struct ArtifactFetcher {
    me: MemberId,
    store: ArtifactStore,
    opener: Arc<dyn StreamOpener>,
    slots: Arc<Semaphore>,
    /// One transfer per content: others wait for it and then find it here.
    running: Arc<Mutex<BTreeMap<ContentDigest, Arc<tokio::sync::Mutex<()>>>>>,
}

enum Step {
    Done,
    Broke { came_bytes: u64, error: io::Error },
    Corrupt,
}

impl ArtifactFetcher {
    /// A fetcher into `store` by streams of `opener`; `me` is this node's member.
    pub fn new(me: MemberId, store: ArtifactStore, opener: Arc<dyn StreamOpener>) -> Self {
        Self { me, store, opener, slots: Arc::new(Semaphore::new(FETCHES_MAX)), running: Arc::default() }
    }

    /// The store that it fetches into.
    pub fn store(&self) -> &ArtifactStore {
        &self.store
    }

    /// Brings `digest`, which `task` names, from `member` unless it is here. Verified and on disk when it returns.
    ///
    /// # Errors
    /// [`FetchError`]. What came of an interrupted transfer is kept and gone on with by the next call.
    pub async fn fetch(&self, member: MemberId, task: TaskId, digest: ContentDigest) -> Result<(), FetchError> {
        if self.store.has(&digest) {
            return Ok(());
        }
        if member == self.me {
            return Err(FetchError::Missing { member, digest });
        }
        let turn = self.turn(digest);
        let held = turn.lock().await;
        let fetched = self.fetch_alone(member, task, digest).await;
        drop(held);
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if Arc::strong_count(&turn) <= 2 {
            running.remove(&digest);
        }
        fetched
    }

    fn turn(&self, digest: ContentDigest) -> Arc<tokio::sync::Mutex<()>> {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(running.entry(digest).or_default())
    }

    async fn fetch_alone(&self, member: MemberId, task: TaskId, digest: ContentDigest) -> Result<(), FetchError> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let (mut tries, mut wait, mut corrupt) = (0, BACK_OFF, false);
        loop {
            if self.store.has(&digest) {
                return Ok(());
            }
            match self.step(member, task, digest).await? {
                Step::Done => return Ok(()),
                Step::Corrupt if corrupt => return Err(FetchError::Corrupt { member, digest }),
                // a partial file of long ago may have been the cause: once more from the beginning
                Step::Corrupt => corrupt = true,
                Step::Broke { came_bytes, error } => {
                    if came_bytes > 0 {
                        (tries, wait) = (0, BACK_OFF);
                    }
                    tries += 1;
                    if tries >= TRIES {
                        return Err(FetchError::Unreachable { member, digest, source: error });
                    }
                    tracing::debug!(%member, %digest, came_bytes, %error, "artifact transfer broke off and goes on");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// One stream, from where the partial file ends.
    async fn step(&self, member: MemberId, task: TaskId, digest: ContentDigest) -> Result<Step, FetchError> {
        let disk = |error| FetchError::Store(PutError::Disk(error));
        self.store.check_space()?;
        let path = self.store.partial_path(&digest);
        let mut file = tokio::fs::File::options().create(true).append(true).open(&path).await.map_err(disk)?;
        let offset = file.metadata().await.map_err(disk)?.len();
        let broke = |came_bytes, error| Ok(Step::Broke { came_bytes, error });
        let header = Ask { task, digest, offset }.to_header();
        let opening = tokio::time::timeout(STALL, async {
            let mut stream = self.opener.open_stream(member, header).await?;
            let answer = Answer::read(&mut stream).await?;
            Ok::<_, io::Error>((stream, answer))
        });
        let (mut stream, answer) = match opening.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return broke(0, error),
            Err(_) => return broke(0, io::ErrorKind::TimedOut.into()),
        };
        let size_bytes = match answer {
            Answer::Here { size_bytes } => size_bytes,
            Answer::Missing => return Err(FetchError::Missing { member, digest }),
            Answer::Denied => return Err(FetchError::Denied { member, digest }),
        };
        let mut came_bytes = 0;
        let mut chunk = vec![0; 128 << 10];
        let mut look_at = 0_u64;
        while offset + came_bytes < size_bytes {
            let count = match tokio::time::timeout(STALL, stream.read(&mut chunk)).await {
                Ok(Ok(0)) => return broke(came_bytes, io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(count)) => count,
                Ok(Err(error)) => return broke(came_bytes, error),
                Err(_) => return broke(came_bytes, io::ErrorKind::TimedOut.into()),
            };
            file.write_all(&chunk[..count]).await.map_err(disk)?;
            came_bytes += count as u64;
            if came_bytes > look_at + (16 << 20) {
                look_at = came_bytes;
                self.store.check_space()?;
            }
        }
        file.flush().await.map_err(disk)?;
        file.sync_all().await.map_err(disk)?;
        drop(file);
        let store = self.store.clone();
        let named = tokio::task::spawn_blocking(move || -> io::Result<Step> {
            let found = hash_file(&path)?;
            if found == digest {
                store.name(&path, &digest)?;
                Ok(Step::Done)
            } else {
                std::fs::remove_file(&path)?;
                Ok(Step::Corrupt)
            }
        });
        named.await.map_err(|error| disk(io::Error::other(error)))?.map_err(disk)
    }
}

fn hash_file(path: &std::path::Path) -> io::Result<ContentDigest> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let mut hash = sha2::Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(ContentDigest(hash.finalize().into())),
            count => hash.update(&chunk[..count]),
        }
    }
}
