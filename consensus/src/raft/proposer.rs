//! The leader's queue of writes: what comes while appends are on their way goes into the log together, with one message to
//! each replica and one sync.

use super::types::{Outcome, Proposal, Raft};
use futures::StreamExt as _;
use openraft::errors::ClientWriteError;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Proposals that may wait; who comes then waits at the door.
const WAITING_MAX: usize = 1_024;
/// Proposals in one append.
const TOGETHER_MAX: usize = 64;
/// Appends under way before what comes is gathered.
const AT_ONCE: usize = 2;
/// An append that takes longer than this does not hold up the next one.
const LONG: Duration = Duration::from_millis(10);
/// Appends under way at most, for example while there is no quorum.
const UNDER_WAY_MAX: usize = 64;

/// Why a write came to nothing.
#[derive(Debug)]
pub enum WriteError {
    /// Raft ended, or this replica does not lead (any more): it is asked again elsewhere.
    Elsewhere,
    /// Raft stopped.
    Stopped,
}

type Written = Result<(u64, Outcome), WriteError>;

/// The callers' side. Cheap to clone; the task ends with the last one.
#[derive(Clone)]
pub struct Proposer(mpsc::Sender<(Proposal, oneshot::Sender<Written>)>);

impl Proposer {
    /// A queue before `raft`.
    pub fn start(raft: Raft) -> Self {
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(raft, queue));
        Self(sender)
    }

    /// Has an entry committed and applied; gives its log index and what came of it.
    pub async fn write(&self, proposal: Proposal) -> Written {
        let (answer, answered) = oneshot::channel();
        self.0.send((proposal, answer)).await.map_err(|_| WriteError::Stopped)?;
        answered.await.unwrap_or(Err(WriteError::Stopped))
    }
}

async fn run(raft: Raft, mut queue: mpsc::Receiver<(Proposal, oneshot::Sender<Written>)>) {
    let mut waiting = Vec::new();
    let mut under_way = JoinSet::new();
    let mut last = Instant::now();
    loop {
        let room = TOGETHER_MAX - waiting.len();
        tokio::select! {
            came = queue.recv_many(&mut waiting, room), if room > 0 => if came == 0 { break },
            Some(_) = under_way.join_next() => {}
            () = tokio::time::sleep_until(last + LONG), if !waiting.is_empty() && under_way.len() < UNDER_WAY_MAX => {}
        }
        let may = under_way.len() < AT_ONCE || under_way.len() < UNDER_WAY_MAX && last.elapsed() >= LONG;
        if waiting.is_empty() || !may {
            continue;
        }
        last = Instant::now();
        let (proposals, answers): (Vec<Proposal>, Vec<_>) = waiting.drain(..).unzip();
        let raft = raft.clone();
        under_way.spawn(async move {
            let Ok(mut written) = raft.client_write_many(proposals).await else { return };
            for answer in answers {
                let result = match written.next().await {
                    Some(Ok(Ok(written))) => Ok((written.log_id.index(), written.response)),
                    Some(Ok(Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_)))) => {
                        Err(WriteError::Elsewhere)
                    }
                    _ => Err(WriteError::Stopped),
                };
                let _ = answer.send(result);
            }
        });
    }
    while under_way.join_next().await.is_some() {}
}
