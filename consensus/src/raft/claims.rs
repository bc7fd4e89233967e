//! Who may speak for which replica: an admitted member is not yet a voter, and a frame's claim to lead proves nothing.

use super::beacon::Beacon;
use super::handle::RegistryHandle;
use super::transport::RaftClass;
use super::wire::Question;
use cpi::ids::MemberId;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// A replica that heard no voter for so long also listens to ids that do not vote as far as it knows: the voters may have
/// changed while it was away.
const SILENCE: Duration = Duration::from_secs(10);

impl RegistryHandle {
    /// Refuses questions on streams of another class, and those that claim a voter's place for another member.
    pub(super) fn admit(&self, from: MemberId, class: RaftClass, question: &Question) -> Result<(), String> {
        let (speaker, leads) = match question {
            Question::Append { vote, .. } => (Some(vote.id()), true),
            Question::Transfer { vote, .. } => (Some(vote.id()), true),
            Question::SnapshotBegin { vote, .. } => (Some(vote.id()), true),
            Question::Vote { vote, .. } => (Some(vote.id()), false),
            _ => (None, false),
        };
        let fits = match question {
            Question::Append { .. } => matches!(class, RaftClass::Log | RaftClass::Control),
            Question::Vote { .. } | Question::Transfer { .. } => {
                matches!(class, RaftClass::Log | RaftClass::Control | RaftClass::Snapshot)
            }
            Question::SnapshotBegin { .. }
            | Question::SnapshotChunk { .. }
            | Question::SnapshotEnd
            | Question::PullPiece { .. } => class == RaftClass::Snapshot,
            Question::Propose { .. }
            | Question::ReadIndex
            | Question::Beacon { .. }
            | Question::Pull { .. }
            | Question::PullSnapshot => class == RaftClass::Forward,
        };
        if !fits {
            return Err("this question does not belong on this stream".to_owned());
        }
        match speaker {
            Some(id) => self.may_speak(from, id, leads),
            None => Ok(()),
        }
    }

    /// Whether `from` may stand as replica `id`.
    fn may_speak(&self, from: MemberId, id: u64, leads: bool) -> Result<(), String> {
        let raft = self.inner.raft();
        let watched = raft.metrics();
        let metrics = watched.borrow_watched();
        let membership = metrics.membership_config.membership();
        let mut heard = self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match membership.get_node(&id) {
            Some(peer) if peer.member != from.0 => {
                tracing::warn!(%from, id, member = peer.member, "a member spoke for the replica of another: refused");
                Err(format!("replica {id} is member {}'s, not yours", peer.member))
            }
            Some(_) if membership.voter_ids().any(|voter| voter == id) => {
                if leads {
                    *heard = Instant::now();
                }
                Ok(())
            }
            // it was given nothing yet, so it knows no voters
            _ if membership.voter_ids().next().is_none() => Ok(()),
            // a leader hears no leader, and is not silent for that
            _ if metrics.state != ServerState::Leader && heard.elapsed() > SILENCE => Ok(()),
            _ => {
                tracing::warn!(%from, id, "a replica that does not vote asked as if it did: refused");
                Err(format!("replica {id} does not vote"))
            }
        }
    }

    /// Whether a beacon is of the leader that this replica follows, sent by that leader's own member.
    pub(super) fn follows(&self, from: MemberId, beacon: &Beacon) -> bool {
        let raft = self.inner.raft();
        let watched = raft.metrics();
        let metrics = watched.borrow_watched();
        let member = metrics.membership_config.membership().get_node(&beacon.leader).map(|peer| peer.member);
        metrics.current_leader == Some(beacon.leader) && metrics.current_term == beacon.term && member == Some(from.0)
    }
}
