//! Our own bytes for what Raft stores and sends, so that a new openraft release changes neither disk nor wire.

use super::types::{Entry, LogId, Peer, Proposal, SnapshotMeta, StoredMembership, Types, Vote};
use crate::codec::{self, CodecError};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::Membership;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};

/// Format version of what is stored.
const VERSION: u8 = 1;
/// Format version of questions and answers.
const FRAME_VERSION: u8 = 3;

/// Term and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireLogId(u64, u64);

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        Self(id.committed_leader_id().term, id.index())
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        LogId::new_term_index(id.0, id.1)
    }
}

/// Term, candidate or leader, and whether a quorum granted it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct WireVote(u64, u64, bool);

impl WireVote {
    /// The Raft id that the vote is for.
    pub fn id(self) -> u64 {
        self.1
    }
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        Self(vote.leader_id().term, vote.leader_id().voted_for, vote.is_committed())
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        if vote.2 { Self::new_committed(vote.0, vote.1) } else { Self::new(vote.0, vote.1) }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireMembership {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, u64>,
}

impl From<&Membership<u64, Peer>> for WireMembership {
    fn from(membership: &Membership<u64, Peer>) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.member)).collect(),
        }
    }
}

impl TryFrom<WireMembership> for Membership<u64, Peer> {
    type Error = String;
    fn try_from(wire: WireMembership) -> Result<Self, String> {
        let nodes: BTreeMap<u64, Peer> = wire.nodes.into_iter().map(|(id, member)| (id, Peer { member })).collect();
        Membership::new(wire.configs, nodes).map_err(|error| error.to_string())
    }
}

#[derive(Serialize, Deserialize)]
enum WirePayload {
    Blank,
    Normal(Bytes),
    Membership(WireMembership),
}

#[derive(Serialize, Deserialize)]
struct WireEntry {
    id: WireLogId,
    payload: WirePayload,
}

fn wire_entry(entry: Entry) -> WireEntry {
    let payload = match entry.payload {
        EntryPayload::Blank => WirePayload::Blank,
        EntryPayload::Normal(proposal) => WirePayload::Normal(proposal.0),
        EntryPayload::Membership(membership) => WirePayload::Membership((&membership).into()),
    };
    WireEntry { id: entry.log_id.into(), payload }
}

fn entry_of(wire: WireEntry) -> Result<Entry, String> {
    let payload = match wire.payload {
        WirePayload::Blank => EntryPayload::Blank,
        WirePayload::Normal(bytes) => EntryPayload::Normal(Proposal(bytes)),
        WirePayload::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
    };
    Ok(Entry { log_id: wire.id.into(), payload })
}

/// Bytes of a stored entry.
pub fn entry_bytes(entry: Entry) -> Vec<u8> {
    encode(&wire_entry(entry))
}

/// Reads a stored entry.
pub fn entry_from(bytes: &[u8]) -> std::io::Result<Entry> {
    entry_of(decode(bytes)?).map_err(std::io::Error::other)
}

/// Encodes any of the plain types of this file.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(VERSION, value).expect("wire types have plain fields")
}

/// Decodes any of the plain types of this file.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> std::io::Result<T> {
    codec::decode(VERSION, bytes, codec::FRAME_BYTES_MAX)
        .map_err(|error: CodecError| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// Encodes a question or an answer.
pub fn encode_frame<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(FRAME_VERSION, value).expect("wire types have plain fields")
}

/// Decodes a question or an answer.
pub fn decode_frame<T: DeserializeOwned>(bytes: &[u8]) -> std::io::Result<T> {
    codec::decode(FRAME_VERSION, bytes, codec::FRAME_BYTES_MAX)
        .map_err(|error: CodecError| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// Applied log id and membership, as the state keeps them beside the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireProgress {
    applied: Option<WireLogId>,
    membership_id: Option<WireLogId>,
    membership: WireMembership,
}

impl WireProgress {
    pub fn new(applied: Option<LogId>, membership: &StoredMembership) -> Self {
        Self {
            applied: applied.map(Into::into),
            membership_id: membership.log_id().map(Into::into),
            membership: membership.membership().into(),
        }
    }

    pub fn read(self) -> std::io::Result<(Option<LogId>, StoredMembership)> {
        let membership = if self.membership.configs.is_empty() {
            Membership::default()
        } else {
            self.membership.try_into().map_err(std::io::Error::other)?
        };
        Ok((self.applied.map(Into::into), StoredMembership::new(self.membership_id.map(Into::into), membership)))
    }

    pub fn of(meta: &SnapshotMeta) -> Self {
        Self::new(meta.last_log_id, &meta.last_membership)
    }

    pub fn meta(self) -> std::io::Result<SnapshotMeta> {
        let (last_log_id, last_membership) = self.read()?;
        Ok(SnapshotMeta { last_log_id, last_membership })
    }
}

/// A question between replicas. What Raft itself asks names the Raft id that it is meant for: a member that lost its log
/// has another one, and must not answer in the lost one's name.
#[derive(Serialize, Deserialize)]
pub enum Question {
    Append {
        to: u64,
        vote: WireVote,
        prev: Option<WireLogId>,
        entries: Vec<Bytes>,
        commit: Option<WireLogId>,
    },
    Vote {
        to: u64,
        vote: WireVote,
        last: Option<WireLogId>,
        transfer: bool,
        pre: bool,
    },
    Transfer {
        to: u64,
        vote: WireVote,
        heir: u64,
        last: Option<WireLogId>,
    },
    SnapshotBegin {
        to: u64,
        vote: WireVote,
        progress: WireProgress,
        files: Vec<(String, u64)>,
    },
    SnapshotChunk {
        file: u32,
        offset: u64,
        bytes: Bytes,
    },
    SnapshotEnd,
    Propose {
        envelope: Bytes,
        hops: u8,
    },
    ReadIndex,
    Beacon {
        envelope: Bytes,
    },
    /// What is committed after this, for a replica without a seat.
    Pull {
        after: Option<WireLogId>,
        wait_ms: u32,
    },
    PullSnapshot,
    PullPiece {
        snapshot: String,
        file: u32,
        offset: u64,
    },
}

/// An answer between replicas.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    Append(WireAppend),
    Vote {
        vote: WireVote,
        granted: bool,
        last: Option<WireLogId>,
    },
    Snapshot {
        vote: WireVote,
    },
    Taken,
    Committed {
        index: u64,
        response: crate::registry::Response,
    },
    NotLeader {
        leader: Option<u64>,
    },
    Index(u64),
    Failed(String),
    /// Committed entries after `prev`, and the newest beacon with how long ago it was heard.
    Pulled {
        prev: Option<WireLogId>,
        entries: Vec<Bytes>,
        beacon: Bytes,
        age_ms: u64,
    },
    /// The entries are purged here: only a snapshot has them.
    Purged,
    /// Enough others are served: ask another replica.
    Full,
    Offered {
        name: String,
        progress: WireProgress,
        files: Vec<(String, u64)>,
        beacon: Bytes,
    },
    Piece(Bytes),
}

#[derive(Serialize, Deserialize)]
pub enum WireAppend {
    Success,
    Partial(Option<WireLogId>),
    Conflict,
    HigherVote(WireVote),
}

impl From<AppendEntriesResponse<Types>> for WireAppend {
    fn from(response: AppendEntriesResponse<Types>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(id) => Self::Partial(id.map(Into::into)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<WireAppend> for AppendEntriesResponse<Types> {
    fn from(wire: WireAppend) -> Self {
        match wire {
            WireAppend::Success => Self::Success,
            WireAppend::Partial(id) => Self::PartialSuccess(id.map(Into::into)),
            WireAppend::Conflict => Self::Conflict,
            WireAppend::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

pub fn append_question(to: u64, request: AppendEntriesRequest<Types>) -> Question {
    Question::Append {
        to,
        vote: request.vote.into(),
        prev: request.prev_log_id.map(Into::into),
        entries: request.entries.into_iter().map(|entry| entry_bytes(entry).into()).collect(),
        commit: request.leader_commit.map(Into::into),
    }
}

pub fn append_request(
    vote: WireVote,
    prev: Option<WireLogId>,
    entries: &[Bytes],
    commit: Option<WireLogId>,
) -> std::io::Result<AppendEntriesRequest<Types>> {
    Ok(AppendEntriesRequest {
        vote: vote.into(),
        prev_log_id: prev.map(Into::into),
        entries: entries.iter().map(|bytes| entry_from(bytes)).collect::<Result<_, _>>()?,
        leader_commit: commit.map(Into::into),
    })
}

pub fn vote_question(to: u64, request: &VoteRequest<Types>, pre: bool) -> Question {
    Question::Vote {
        to,
        vote: request.vote.into(),
        last: request.last_log_id.map(Into::into),
        transfer: request.leadership_transfer,
        pre,
    }
}

pub fn vote_request(vote: WireVote, last: Option<WireLogId>, transfer: bool) -> VoteRequest<Types> {
    let mut request = VoteRequest::new(vote.into(), last.map(Into::into));
    request.leadership_transfer = transfer;
    request
}

pub fn vote_answer(response: &VoteResponse<Types>) -> Answer {
    Answer::Vote {
        vote: response.vote.into(),
        granted: response.vote_granted,
        last: response.last_log_id.map(Into::into),
    }
}

pub fn vote_response(vote: WireVote, granted: bool, last: Option<WireLogId>) -> VoteResponse<Types> {
    VoteResponse::new(Vote::from(vote), last.map(Into::into), granted)
}

pub fn transfer_question(to: u64, request: &TransferLeaderRequest<Types>) -> Question {
    Question::Transfer {
        to,
        vote: (*request.from_leader()).into(),
        heir: *request.to_node_id(),
        last: request.last_log_id().copied().map(Into::into),
    }
}

pub fn transfer_request(vote: WireVote, heir: u64, last: Option<WireLogId>) -> TransferLeaderRequest<Types> {
    TransferLeaderRequest::new(vote.into(), heir, last.map(Into::into))
}
