//! Stories of the store and of transfers between two of them.

use super::protocol::{Answer, Ask};
use super::*;
use async_trait::async_trait;
use bytes::Bytes;
use cpi::ids::{ContentDigest, MemberId, TaskId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt as _;

const TASK: TaskId = TaskId([7; 16]);
const HERE: MemberId = MemberId(1);
const THERE: MemberId = MemberId(2);

fn content(length: usize) -> Bytes {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

fn store(dir: &tempfile::TempDir, name: &str) -> ArtifactStore {
    ArtifactStore::open(dir.path().join(name), 0).unwrap()
}

fn files(dir: &tempfile::TempDir, name: &str) -> usize {
    std::fs::read_dir(dir.path().join(name).join("partial")).unwrap().count()
}

/// A member that serves its store over a pipe, and breaks off or lies on the first streams.
struct Peer {
    server: ArtifactServer,
    streams: AtomicUsize,
    break_after: Option<usize>,
    lie: bool,
}

#[async_trait]
impl StreamOpener for Peer {
    async fn open_stream(&self, _: MemberId, header: Bytes) -> io::Result<Box<dyn ByteStream>> {
        let number = self.streams.fetch_add(1, Ordering::SeqCst);
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let server = self.server.clone();
        if self.lie {
            tokio::spawn(async move {
                let _ = Answer::Here { size_bytes: 5 }.write(&mut theirs).await;
                let _ = theirs.write_all(b"wrong").await;
            });
        } else if let (Some(bytes), true) = (self.break_after, number < 3) {
            tokio::spawn(async move {
                let (near, mut far) = tokio::io::duplex(4096);
                let serving = tokio::spawn(async move { server.serve(HERE, &header, near).await });
                let mut few = tokio::io::AsyncReadExt::take(&mut far, bytes as u64);
                let _ = tokio::io::copy(&mut few, &mut theirs).await;
                serving.abort();
            });
        } else {
            tokio::spawn(async move { server.serve(HERE, &header, theirs).await });
        }
        Ok(Box::new(ours))
    }
}

fn peer(store: &ArtifactStore, break_after: Option<usize>, lie: bool) -> Arc<Peer> {
    let server = ArtifactServer::new(store.clone(), |member, task| member == MemberId(9) && task == TASK);
    Arc::new(Peer { server, streams: AtomicUsize::new(0), break_after, lie })
}

#[tokio::test]
async fn what_has_a_name_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let kept = store(&dir, "a");
    let bytes = content(300_000);
    let stored = kept.put_bytes(bytes.clone()).await.unwrap();
    assert_eq!(stored, Stored { digest: ContentDigest::of(&bytes), size_bytes: 300_000 });
    assert_eq!(kept.size(&stored.digest), Some(300_000));
    assert_eq!(std::fs::read(kept.path(&stored.digest)).unwrap(), bytes);
    // twice is once; another content than announced, a broken sender and an overlong one leave nothing
    kept.put_bytes(bytes.clone()).await.unwrap();
    let chunks = |end: Result<Bytes, io::Error>| futures::stream::iter([Ok(Bytes::from_static(b"abc")), end]);
    let whole = kept.put(chunks(Ok(bytes.clone())), Some(stored.digest), 1 << 20).await;
    assert!(matches!(whole, Err(PutError::Mismatch { .. })), "{whole:?}");
    let broken = kept.put(chunks(Err(io::ErrorKind::BrokenPipe.into())), None, 1 << 20).await;
    assert!(matches!(broken, Err(PutError::Source(_))), "{broken:?}");
    let long = kept.put(chunks(Ok(bytes)), None, 1000).await;
    assert!(matches!(long, Err(PutError::TooLarge { bytes_max: 1000 })), "{long:?}");
    assert_eq!((kept.stats().count, kept.stats().bytes, files(&dir, "a")), (1, 300_000, 0));
    assert_eq!(store(&dir, "a").stats(), kept.stats(), "counted anew at the start");
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let full = ArtifactStore::open(dir.path().join("a"), u64::MAX).unwrap();
    let refused = full.put_bytes(content(10)).await;
    assert!(matches!(refused, Err(PutError::DiskFull { .. })), "{refused:?}");
    assert_eq!((full.stats().count, files(&dir, "a")), (0, 0));
    std::fs::write(dir.path().join("plain"), "").unwrap();
    assert!(ArtifactStore::open(dir.path().join("plain"), 0).is_err());
}

#[tokio::test]
async fn pins_keep_contents_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let kept = store(&dir, "a");
    let (one, two) =
        (kept.put_bytes(content(1)).await.unwrap().digest, kept.put_bytes(content(2)).await.unwrap().digest);
    kept.pin(PinOwner::Task(TASK), [one], [THERE]).unwrap();
    drop(kept);
    let kept = store(&dir, "a");
    assert!(kept.may_read(THERE, TASK, &one) && !kept.may_read(THERE, TASK, &two) && !kept.may_read(HERE, TASK, &one));
    let tomorrow = SystemTime::now() + Duration::from_secs(25 * 3600);
    assert_eq!(kept.collect(SystemTime::now(), Retention::default()).unwrap(), 0);
    assert_eq!(kept.collect(tomorrow, Retention::default()).unwrap(), 1);
    assert!(kept.has(&one) && !kept.has(&two));
    kept.unpin(PinOwner::Task(TASK)).unwrap();
    assert_eq!(kept.collect(tomorrow, Retention::default()).unwrap(), 1);
    assert!(!kept.has(&one) && !kept.may_read(THERE, TASK, &one));
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_broke_off() {
    let dir = tempfile::tempdir().unwrap();
    let (there, here) = (store(&dir, "there"), store(&dir, "here"));
    let bytes = content(1_000_000);
    let digest = there.put_bytes(bytes.clone()).await.unwrap().digest;
    there.pin(PinOwner::Task(TASK), [digest], [HERE]).unwrap();
    let peer = peer(&there, Some(200_009), false);
    let fetcher = ArtifactFetcher::new(HERE, here.clone(), Arc::clone(&peer) as Arc<dyn StreamOpener>);
    // two who want the same thing make one transfer
    let (one, two) = tokio::join!(fetcher.fetch(THERE, TASK, digest), fetcher.fetch(THERE, TASK, digest));
    one.unwrap();
    two.unwrap();
    assert_eq!(peer.streams.load(Ordering::SeqCst), 4, "three broken streams of 200,000 bytes and the rest");
    assert_eq!(std::fs::read(here.path(&digest)).unwrap(), bytes);
    assert_eq!(files(&dir, "here"), 0);
}

#[tokio::test]
async fn only_members_of_the_task_get_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let (there, here) = (store(&dir, "there"), store(&dir, "here"));
    let digest = there.put_bytes(content(10)).await.unwrap().digest;
    let fetcher = ArtifactFetcher::new(HERE, here.clone(), peer(&there, None, false));
    let denied = fetcher.fetch(THERE, TASK, digest).await;
    assert!(matches!(denied, Err(FetchError::Denied { .. })), "{denied:?}");
    there.pin(PinOwner::Task(TASK), [digest], [MemberId(3)]).unwrap();
    assert!(matches!(fetcher.fetch(THERE, TASK, digest).await, Err(FetchError::Denied { .. })));
    assert!(matches!(fetcher.fetch(THERE, TaskId([8; 16]), digest).await, Err(FetchError::Denied { .. })));
    there.pin(PinOwner::Task(TASK), [digest], [HERE]).unwrap();
    fetcher.fetch(THERE, TASK, digest).await.unwrap();
    let gone = ContentDigest::of(b"gone");
    there.pin(PinOwner::Task(TASK), [gone], []).unwrap();
    assert!(matches!(fetcher.fetch(THERE, TASK, gone).await, Err(FetchError::Missing { .. })));
}

#[tokio::test]
async fn a_lying_peer_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (there, here) = (store(&dir, "there"), store(&dir, "here"));
    let fetcher = ArtifactFetcher::new(HERE, here.clone(), peer(&there, None, true));
    let corrupt = fetcher.fetch(THERE, TASK, ContentDigest::of(b"right")).await;
    assert!(matches!(corrupt, Err(FetchError::Corrupt { .. })), "{corrupt:?}");
    assert_eq!((here.stats().count, files(&dir, "here")), (0, 0));
}

#[test]
fn headers_of_others_are_refused() {
    let header = Ask { task: TASK, digest: ContentDigest::of(b""), offset: 5 }.to_header();
    assert!(is_artifact_header(&header));
    assert!(Ask::from_header(&header).is_ok());
    for cut in 0..header.len() {
        assert!(Ask::from_header(&header[..cut]).is_err(), "{cut}");
    }
    assert!(!is_artifact_header(b"snapshot"));
}
