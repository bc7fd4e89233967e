//! openraft's network over the transport: one client per replica and purpose, so that heartbeats never wait for appends.

use super::snapshots;
use super::transport::{RaftClass, RaftTransport, TransportError};
use super::types::{Peer, SnapshotMeta, Types, Vote};
use super::wire::{self, Answer, Question};
use crate::store::Checkpoint;
use cpi::ids::MemberId;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, alias};
use std::sync::Arc;
use std::time::Duration;

/// How long a replica that could not be reached is left alone.
const BACKOFF: Duration = Duration::from_millis(200);

/// Makes clients.
#[derive(Clone)]
pub struct Network {
    pub transport: Arc<dyn RaftTransport>,
}

/// Talks to one replica.
pub struct Client {
    transport: Arc<dyn RaftTransport>,
    to: MemberId,
    class: RaftClass,
}

impl Network {
    fn client(&self, peer: &Peer, class: RaftClass) -> Client {
        Client { transport: Arc::clone(&self.transport), to: MemberId(peer.member), class }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, _target: u64, node: &Peer) -> Client {
        self.client(node, RaftClass::Log)
    }

    async fn new_heartbeat_client(&mut self, _target: u64, node: &Peer) -> Client {
        self.client(node, RaftClass::Control)
    }

    async fn new_snapshot_client(&mut self, _target: u64, node: &Peer) -> Client {
        self.client(node, RaftClass::Snapshot)
    }
}

fn rpc_error(error: &TransportError) -> RPCError<Types> {
    match error {
        TransportError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(error)),
        TransportError::Timeout(_) | TransportError::Refused { .. } => RPCError::Network(NetworkError::new(error)),
    }
}

impl Client {
    async fn ask(&self, class: RaftClass, question: &Question, deadline: Duration) -> Result<Answer, RPCError<Types>> {
        let frame = wire::encode(question).into();
        let bytes = self.transport.call(self.to, class, frame, deadline).await.map_err(|error| rpc_error(&error))?;
        match wire::decode(&bytes) {
            Ok(Answer::Failed(message)) => Err(RPCError::Network(NetworkError::from_string(message))),
            Ok(answer) => Ok(answer),
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }

    async fn ask_vote(&self, question: Question, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RaftClass::Control, &question, option.hard_ttl()).await? {
            Answer::Vote { vote, granted, last } => Ok(wire::vote_response(vote, granted, last)),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("an unexpected kind of answer"))
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Checkpoint;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.ask(self.class, &wire::append_question(rpc), option.hard_ttl()).await? {
            Answer::Append(append) => Ok(append.into()),
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(wire::vote_question(&rpc, false), option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(wire::vote_question(&rpc, true), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<alias::CommittedLeaderIdOf<Types>, u64, Peer, Checkpoint>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let meta: SnapshotMeta = snapshot.meta;
        let sending = snapshots::send(&*self.transport, self.to, vote.into(), &meta, &snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote.into())),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}
