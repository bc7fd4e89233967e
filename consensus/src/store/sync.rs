//! One thread per database that makes what was written durable: one sync for all that waited meanwhile.

use super::StoreError;
use rocksdb::DB;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Waiters that may queue for the next sync; beyond it `after_sync` blocks its caller, which is the back-pressure.
const WAITING_MAX: usize = 65_536;

type Waiter = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Hands waiters to the sync thread; dropped last, it joins it.
pub(super) struct Syncer {
    waiters: Option<SyncSender<Waiter>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

impl Syncer {
    /// Starts the thread for `db`, whose folder is `path`.
    pub fn start(name: &str, db: Arc<DB>, path: PathBuf) -> Result<Self, StoreError> {
        let (waiters, inbox) = sync_channel::<Waiter>(WAITING_MAX);
        let failed = Arc::new(AtomicBool::new(false));
        let flag = failed.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn({
                let path = path.clone();
                move || run(&db, &path, &inbox, &flag)
            })
            .map_err(|error| StoreError::folder(&path, &error))?;
        Ok(Self { waiters: Some(waiters), thread: Some(thread), failed })
    }

    /// Whether a sync failed; nothing may be written after that.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Calls `waiter` once everything that was written before this call is on disk.
    pub fn after_sync(&self, waiter: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        let sender = self.waiters.as_ref().expect("taken by drop only");
        if let Err(refused) = sender.send(Box::new(waiter)) {
            (refused.0)(Err(StoreError::Stopped));
        }
    }

    /// Blocks until everything that was written before this call is on disk.
    pub fn wait(&self) -> Result<(), StoreError> {
        let (done, waiting) = sync_channel(1);
        self.after_sync(move |result| {
            let _ = done.send(result);
        });
        waiting.recv().unwrap_or(Err(StoreError::Stopped))
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.waiters = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(db: &DB, path: &std::path::Path, inbox: &Receiver<Waiter>, failed: &AtomicBool) {
    while let Ok(first) = inbox.recv() {
        let mut waiting = vec![first];
        waiting.extend(inbox.try_iter());
        let result = if failed.load(Ordering::Acquire) {
            Err(StoreError::Stopped)
        } else {
            db.flush_wal(true).map_err(|error| {
                // a second fsync after a failed one may report success for pages that were dropped
                failed.store(true, Ordering::Release);
                tracing::error!(path = %path.display(), %error, "sync failed; nothing more is written");
                StoreError::rocks(path, &error)
            })
        };
        for waiter in waiting {
            waiter(result.clone());
        }
    }
}
