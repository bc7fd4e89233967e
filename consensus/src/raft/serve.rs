//! Answers to other replicas, by the class of stream that a question came on.

use super::beacon::Beacon;
use super::handle::RegistryHandle;
use super::snapshots::Incoming;
use super::status::{Committed, ProposeError};
use super::transport::RaftClass;
use super::types::Types;
use super::wire::{self, Answer, Question};
use crate::registry::{Entry, EntryBody};
use bytes::Bytes;
use cpi::ids::MemberId;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, ReadPolicy};
use openraft::storage::Snapshot;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl RegistryHandle {
    /// Answers another replica.
    ///
    /// # Errors
    /// A sentence for the asker, where the frame is no question.
    pub async fn serve(&self, from: MemberId, class: RaftClass, frame: Bytes) -> Result<Bytes, String> {
        let question: Question = wire::decode_frame(&frame).map_err(|error| error.to_string())?;
        let answer = match self.answer(from, class, question).await {
            Ok(answer) => answer,
            Err(message) => Answer::Failed(message),
        };
        Ok(wire::encode_frame(&answer).into())
    }

    async fn answer(&self, from: MemberId, class: RaftClass, question: Question) -> Result<Answer, String> {
        let raft = &self.inner.raft();
        let text = |error: &dyn std::fmt::Display| error.to_string();
        self.admit(from, class, &question)?;
        match question {
            Question::Append { to, .. }
            | Question::Vote { to, .. }
            | Question::Transfer { to, .. }
            | Question::SnapshotBegin { to, .. }
                if to != self.inner.raft_id =>
            {
                Err(format!("Raft id {to} is no more: this replica has id {}", self.inner.raft_id))
            }
            Question::Append { vote, prev, entries, commit, .. } => {
                let request = wire::append_request(vote, prev, &entries, commit).map_err(|error| text(&error))?;
                self.verify_ahead(&request);
                let response = raft.append_entries(request).await.map_err(|error| text(&error))?;
                Ok(Answer::Append(response.into()))
            }
            Question::Vote { vote, last, transfer, pre, .. } => {
                let request = wire::vote_request(vote, last, transfer);
                let response = if pre { raft.pre_vote(request).await } else { raft.vote(request).await };
                Ok(wire::vote_answer(&response.map_err(|error| text(&error))?))
            }
            Question::Transfer { vote, heir, last, .. } => {
                let request = wire::transfer_request(vote, heir, last);
                let taken = raft.handle_transfer_leader(request).await.map_err(|error| text(&error))?;
                taken.map(|()| Answer::Taken).map_err(|error| text(&error))
            }
            Question::SnapshotBegin { vote, progress, files, .. } => {
                let mut incoming = self.inner.incoming.lock().await;
                *incoming = None;
                let begun = Incoming::begin(&self.inner.state, from, vote, progress, files);
                *incoming = Some(begun.map_err(|error| text(&error))?);
                Ok(Answer::Taken)
            }
            Question::SnapshotChunk { file, offset, bytes } => {
                let mut incoming = self.inner.incoming.lock().await;
                let current = incoming.as_mut().filter(|current| current.from == from);
                let current = current.ok_or("no snapshot of yours is coming in")?;
                current.write(file, offset, &bytes).map_err(|error| text(&error))?;
                Ok(Answer::Taken)
            }
            Question::SnapshotEnd => {
                let mut incoming = self.inner.incoming.lock().await;
                if incoming.as_ref().is_none_or(|current| current.from != from) {
                    return Err("no snapshot of yours is coming in".to_owned());
                }
                let current = incoming.take().ok_or("no snapshot is coming in")?;
                let vote = current.vote;
                let (meta, snapshot) = current.finish().map_err(|error| text(&error))?;
                let installed = raft.install_full_snapshot(vote.into(), Snapshot { meta, snapshot }).await;
                Ok(Answer::Snapshot { vote: installed.map_err(|error| text(&error))?.vote.into() })
            }
            Question::Propose { envelope, hops } if class == RaftClass::Forward => {
                let statement = self.opened(from, &envelope)?;
                if let Some((index, response)) = self.replayed(from, &statement) {
                    return Ok(Answer::Committed { index, response });
                }
                let until = Instant::now() + Duration::from_secs(5);
                match self.propose_until(envelope, statement.digest, until, hops).await {
                    Ok(Committed { index, response }) => {
                        self.tell_refusals(from, &response);
                        Ok(Answer::Committed { index, response })
                    }
                    Err(ProposeError::Rejected(message)) => Err(message),
                    Err(_) => Ok(Answer::NotLeader { leader: raft.current_leader().await }),
                }
            }
            Question::ReadIndex if class == RaftClass::Forward => {
                let asked = raft.get_read_log_id(ReadPolicy::ReadIndex).await;
                Ok(Answer::Index(asked.map_err(|error| text(&error))?.0.index()))
            }
            Question::Beacon { envelope } if class == RaftClass::Forward => self.heard(from, envelope),
            Question::Pull { after, wait_ms } => {
                self.pulled(from, after.map(Into::into), Duration::from_millis(u64::from(wait_ms))).await
            }
            Question::PullSnapshot => self.offered(from).await,
            Question::PullPiece { snapshot, file, offset } => self.piece(&snapshot, file, offset),
            _ => Err("this question does not belong on this stream".to_owned()),
        }
    }

    /// Has the signatures of new entries verified while they are written to disk and wait for their commit, so that
    /// `apply` need not. An entry that does not hold is left to `apply`, which refuses it like every other replica.
    pub(super) fn verify_ahead(&self, request: &AppendEntriesRequest<Types>) {
        let normal = |entry: &super::types::Entry| match &entry.payload {
            EntryPayload::Normal(proposal) => Some(proposal.0.clone()),
            _ => None,
        };
        let entries: Vec<Bytes> = request.entries.iter().filter_map(normal).collect();
        if entries.is_empty() {
            return;
        }
        let (shared, federation) = (Arc::clone(&self.inner.shared), self.federation());
        tokio::task::spawn_blocking(move || {
            for bytes in entries {
                if let Ok(entry) = Entry::open_known(&bytes, &federation, |digest| shared.is_known(digest))
                    && let EntryBody::Statement(statement) = entry.body
                {
                    shared.known_to_hold(statement.digest);
                }
            }
        });
    }

    fn heard(&self, from: MemberId, envelope: Bytes) -> Result<Answer, String> {
        let (beacon, key) = Beacon::open(&envelope, &self.federation()).ok_or("the beacon does not hold")?;
        let signer = self.reader().member_of_key(&key);
        // a replica that knows no members yet learns them from the log, not from beacons; and only the leader that it
        // follows, in its term, is believed
        if signer.is_some_and(|signer| signer.member == from) && self.follows(from, &beacon) {
            self.believe(envelope, beacon, Instant::now());
        }
        Ok(Answer::Taken)
    }

    /// Takes a beacon that is proven, and was heard by somebody at `heard`.
    pub(super) fn believe(&self, envelope: Bytes, beacon: Beacon, heard: Instant) {
        self.inner.proof.lock().expect("never poisoned").take(beacon, heard);
        let mut newest = self.inner.beacon.lock().expect("never poisoned");
        if newest.as_ref().is_none_or(|(_, before)| *before < heard) {
            *newest = Some((envelope, heard));
        }
        drop(newest);
        self.advance_proof();
    }

    /// The newest beacon that was sealed or heard here, and when.
    pub(super) fn newest_beacon(&self) -> Option<(Bytes, Instant)> {
        self.inner.beacon.lock().expect("never poisoned").clone()
    }

    pub(super) fn advance_proof(&self) {
        let applied = *self.inner.shared.applied.borrow();
        let hashes = self.inner.shared.hashes.lock().expect("never poisoned");
        let hash_at = |index| hashes.binary_search_by_key(&index, |(at, _)| *at).ok().map(|at| hashes[at].1);
        self.inner.proof.lock().expect("never poisoned").advance(applied, hash_at);
    }
}
