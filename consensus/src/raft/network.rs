//! openraft's network over the transport: one client per replica and purpose, so that heartbeats never wait for appends.
//! Appends are sent without waiting for the answers to those before; the transport keeps their order.

use super::snapshots;
use super::transport::{RaftClass, RaftTransport, TransportError};
use super::types::{Peer, SnapshotMeta, Types, Vote};
use super::wire::{self, Answer, Question};
use crate::store::Checkpoint;
use cpi::ids::MemberId;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, alias};
use std::sync::Arc;
use std::time::Duration;

/// How long a replica that could not be reached is left alone.
const BACKOFF: Duration = Duration::from_millis(200);
/// Appends under way to one replica.
const APPENDS_UNDER_WAY: usize = 32;
/// Heartbeat intervals that an append may take: it waits for a disk, and a slow disk is no dead replica.
const APPEND_PATIENCE: u32 = 8;

/// Makes clients.
#[derive(Clone)]
pub struct Network {
    pub transport: Arc<dyn RaftTransport>,
}

/// Talks to one replica.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn RaftTransport>,
    to: MemberId,
    raft_id: u64,
    class: RaftClass,
}

impl Network {
    fn client(&self, raft_id: u64, peer: &Peer, class: RaftClass) -> Client {
        Client { transport: Arc::clone(&self.transport), to: MemberId(peer.member), raft_id, class }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Client {
        self.client(target, node, RaftClass::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Client {
        self.client(target, node, RaftClass::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Peer) -> Client {
        self.client(target, node, RaftClass::Snapshot)
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
        let frame = wire::encode_frame(question).into();
        let bytes = self.transport.call(self.to, class, frame, deadline).await.map_err(|error| rpc_error(&error))?;
        match wire::decode_frame(&bytes) {
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

/// A stream of answers to appends, once it is open.
type Opened<'s> = Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>;

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
        let question = wire::append_question(self.raft_id, rpc);
        match self.ask(self.class, &question, option.hard_ttl()).await? {
            Answer::Append(append) => Ok(append.into()),
            _ => Err(unexpected()),
        }
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> BoxFuture<'s, Opened<'s>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let client = self.clone();
        let deadline = option.hard_ttl() * APPEND_PATIENCE;
        let answers = input
            .map(move |request| {
                let client = client.clone();
                let prev = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(prev);
                let question = wire::append_question(client.raft_id, request);
                async move {
                    match client.ask(client.class, &question, deadline).await? {
                        Answer::Append(append) => Ok((AppendEntriesResponse::from(append), prev, last)),
                        _ => Err(unexpected()),
                    }
                }
            })
            .buffered(APPENDS_UNDER_WAY);
        // what follows an answer that is not a whole success is void
        let until_one_fails = stream::unfold(Some(answers), |answers| async move {
            let mut answers = answers?;
            match answers.next().await? {
                Ok((response, prev, last)) => {
                    let whole = match &response {
                        AppendEntriesResponse::PartialSuccess(taken) => *taken == last,
                        _ => true,
                    };
                    let result = response.into_stream_result(prev, last);
                    let go_on = whole && result.is_ok();
                    Some((Ok(result), go_on.then_some(answers)))
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        Box::pin(async move { Ok(until_one_fails.boxed()) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(wire::vote_question(self.raft_id, &rpc, false), option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(wire::vote_question(self.raft_id, &rpc, true), option).await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let question = wire::transfer_question(self.raft_id, &req);
        match self.ask(RaftClass::Control, &question, option.hard_ttl()).await? {
            Answer::Taken => Ok(Ok(())),
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<alias::CommittedLeaderIdOf<Types>, u64, Peer, Checkpoint>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let meta: SnapshotMeta = snapshot.meta;
        let sending =
            snapshots::send(&*self.transport, (self.to, self.raft_id), vote.into(), &meta, &snapshot.snapshot);
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
