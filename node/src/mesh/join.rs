//! The join protocol's transport: one request and one answer per stream, open to strangers, small and few.

use super::behaviour::{keypair, swarm_of};
use super::core::{Command, Core};
use super::handlers::JoinPeer;
use super::lane::OPEN_TIMEOUT;
use super::roster::{peer_id, transport_key};
use super::{StartMeshError, addresses};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::IncomingStreams;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The protocol's name.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/causeway/join/1.0.0");
/// The largest request, in bytes: a token, keys and addresses.
const REQUEST_BYTES_MAX: usize = 32 << 10;
/// The largest answer, in bytes: the roster of a large federation.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Requests that are served at one time.
const SERVING_MAX: usize = 16;
/// A request is answered within this time or not at all.
const SERVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a question by the join protocol had no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The transport could not be built, or an address is not usable.
    #[error(transparent)]
    Start(#[from] StartMeshError),
    /// The key of the member to ask is not an ed25519 key.
    #[error("the member's transport key is not an ed25519 key")]
    Key,
    /// None of the addresses answered with the expected key.
    #[error("no address answered as the expected member: {reason}")]
    Unreachable {
        /// In words.
        reason: String,
    },
    /// The peer closed the stream without an answer.
    #[error("the member refused the question, or broke off")]
    Refused,
    /// The peer said why not.
    #[error("{0}")]
    Answered(String),
    /// No answer in time.
    #[error("no answer within the deadline")]
    Deadline,
}

/// Asks a member by the join protocol, from a process that runs no mesh.
///
/// `seed` is the asker's transport key; `member_key` the key that must answer.
///
/// # Errors
/// [`AskError`].
pub async fn ask(
    seed: &[u8; 32],
    member_key: &[u8; 32],
    member_addresses: &[String],
    request: Bytes,
    deadline: Duration,
) -> Result<Bytes, AskError> {
    let peer = peer_id(member_key).ok_or(AskError::Key)?;
    let mut parsed = Vec::new();
    for text in member_addresses {
        parsed.push(addresses::parse("the invitation's address", text)?);
    }
    tokio::time::timeout(deadline, ask_peer(seed, peer, addresses::resolve(parsed).await, request))
        .await
        .map_err(|_| AskError::Deadline)?
}

async fn ask_peer(
    seed: &[u8; 32],
    peer: PeerId,
    member_addresses: Vec<libp2p::Multiaddr>,
    request: Bytes,
) -> Result<Bytes, AskError> {
    let streams = libp2p_stream::Behaviour::new();
    let mut control = streams.new_control();
    let mut swarm = swarm_of(keypair(seed)?, OPEN_TIMEOUT * 2, streams)?;
    let unreachable = |error: &dyn std::fmt::Display| AskError::Unreachable { reason: error.to_string() };
    swarm.dial(DialOpts::peer_id(peer).addresses(member_addresses).build()).map_err(|error| unreachable(&error))?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => break,
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(unreachable(&error)),
            _ => {}
        }
    }
    let exchange = async {
        let mut stream = control.open_stream(peer, PROTOCOL).await.map_err(|error| unreachable(&error))?;
        write(&mut stream, 0, &request).await.map_err(|_| AskError::Refused)?;
        let (status, answer) = read(&mut stream, ANSWER_BYTES_MAX).await.map_err(|_| AskError::Refused)?;
        if status == 0 { Ok(answer) } else { Err(AskError::Answered(String::from_utf8_lossy(&answer).into_owned())) }
    };
    let run = async {
        loop {
            swarm.select_next_some().await;
        }
    };
    tokio::select! {
        answer = exchange => answer,
        () = run => Err(AskError::Refused),
    }
}

/// Serves the join protocol until the mesh stops.
pub(super) async fn serve(core: Arc<Core>, mut incoming: IncomingStreams) {
    let permits = Arc::new(Semaphore::new(SERVING_MAX));
    loop {
        let next = tokio::select! {
            () = core.stop.cancelled() => return,
            next = incoming.next() => next,
        };
        let Some((peer, mut stream)) = next else { return };
        let (Ok(permit), Some(handler)) = (Arc::clone(&permits).try_acquire_owned(), core.handlers.join.clone()) else {
            continue;
        };
        let Some(transport_key) = transport_key(&peer) else { continue };
        let joining = |core: &Core| core.joining.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
        if !joining(&core) {
            continue;
        }
        let core = Arc::clone(&core);
        core.tasks.clone().spawn(async move {
            let served = tokio::time::timeout(SERVE_TIMEOUT, async {
                let (_, request) = read(&mut stream, REQUEST_BYTES_MAX).await?;
                match handler.on_join(JoinPeer { transport_key }, request).await {
                    Ok(answer) => write(&mut stream, 0, &answer).await?,
                    Err(message) => write(&mut stream, 1, message.as_bytes()).await?,
                }
                // The answer may have made it a member, whose connection is made anew: not before the asker has it and closes.
                let _ = tokio::time::timeout(OPEN_TIMEOUT, stream.read(&mut [0])).await;
                Ok::<_, std::io::Error>(())
            })
            .await;
            if !matches!(served, Ok(Ok(()))) {
                tracing::debug!(%peer, "a join request was not answered");
            }
            core.joining.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
            let _ = core.commands.send(Command::Reconcile);
            drop(permit);
        });
    }
}

/// `length u32 | status u8 | payload`
async fn write(stream: &mut Stream, status: u8, payload: &[u8]) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(5 + payload.len());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.push(status);
    out.extend_from_slice(payload);
    stream.write_all(&out).await?;
    stream.flush().await
}

async fn read(stream: &mut Stream, bytes_max: usize) -> std::io::Result<(u8, Bytes)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let [a, b, c, d, status] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > bytes_max {
        return Err(std::io::Error::other(format!("{length} bytes are more than the {bytes_max} allowed")));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((status, payload.into()))
}
