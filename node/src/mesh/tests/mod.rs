//! Stories of meshes on 127.0.0.1: real sockets, port 0, no sleeps.

mod gate;
mod gossip;
mod streams;

use super::*;
use crate::trace::TraceId;
use async_trait::async_trait;
use bytes::Bytes;
use consensus::envelope::Federation;
use cpi::ids::{MemberId, RegionName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers requests with what they said, or as they ask; notes frames, gossip and bulk.
struct Recorder {
    frames: mpsc::UnboundedSender<(MemberId, StreamClass, Bytes)>,
    gossip: mpsc::UnboundedSender<(MemberId, Topic, Bytes)>,
    release: Arc<Notify>,
}

#[async_trait]
impl FrameHandler for Recorder {
    async fn on_request(&self, from: MemberId, _: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        match &frame[..] {
            b"who" => Ok(Bytes::from(from.to_string())),
            b"fail" => Err("as asked".into()),
            b"trace" => Ok(Bytes::from(TraceId::current().to_string())),
            b"hang" => {
                let _ = self.frames.send((from, StreamClass::Logs, Bytes::from_static(b"hanging")));
                self.release.notified().await;
                Ok(frame)
            }
            _ => Ok(frame),
        }
    }

    fn on_frame(&self, from: MemberId, class: StreamClass, frame: Bytes) {
        let _ = self.frames.send((from, class, frame));
    }
}

impl GossipHandler for Recorder {
    fn on_gossip(&self, author: MemberId, topic: Topic, payload: Bytes) -> GossipVerdict {
        let verdict = match payload.first() {
            Some(b'!') => GossipVerdict::Reject,
            Some(b'?') => GossipVerdict::Ignore,
            _ => GossipVerdict::Accept,
        };
        let _ = self.gossip.send((author, topic, payload));
        verdict
    }
}

#[async_trait]
impl BulkHandler for Recorder {
    async fn on_bulk(&self, _: MemberId, header: Bytes, mut stream: BulkStream) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        if header == "hold" {
            return self.release.notified().await;
        }
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("the test sends it whole");
        stream.write_all(&header).await.expect("the test reads it");
        stream.write_all(&all).await.expect("the test reads it");
        stream.shutdown().await.expect("the test reads it");
    }
}

#[async_trait]
impl JoinHandler for Recorder {
    async fn on_join(&self, peer: JoinPeer, frame: Bytes) -> Result<Bytes, String> {
        if frame == "no" {
            return Err("not invited".into());
        }
        Ok([&peer.transport_key[..], &frame].concat().into())
    }
}

struct Node {
    mesh: MeshHandle,
    frames: mpsc::UnboundedReceiver<(MemberId, StreamClass, Bytes)>,
    gossip: mpsc::UnboundedReceiver<(MemberId, Topic, Bytes)>,
    release: Arc<Notify>,
}

fn seed(member: u64) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&member.to_be_bytes());
    seed
}

fn transport_key(member: u64) -> [u8; 32] {
    ed25519_dalek::SigningKey::from_bytes(&seed(member)).verifying_key().to_bytes()
}

fn region(member: u64) -> RegionName {
    format!("region-{member}").parse().expect("a region name")
}

const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

async fn start_at(member: u64, listen: &[&str], federation: Federation) -> Node {
    // A port that the test just gave back is free as soon as the old endpoint has said its goodbyes.
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    within(async {
        loop {
            tick.tick().await;
            match try_start_at(member, listen, federation).await {
                Err(StartMeshError::Listen { .. }) => {}
                started => return started.expect("the mesh starts"),
            }
        }
    })
    .await
}

async fn try_start_at(member: u64, listen: &[&str], federation: Federation) -> Result<Node, StartMeshError> {
    let (frames, frames_in) = mpsc::unbounded_channel();
    let (gossip, gossip_in) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let recorder = Arc::new(Recorder { frames, gossip, release: Arc::clone(&release) });
    let mut served: BTreeMap<StreamClass, Arc<dyn FrameHandler>> = BTreeMap::new();
    for class in StreamClass::FRAMED {
        served.insert(class, recorder.clone());
    }
    let handlers =
        Handlers { frames: served, bulk: Some(recorder.clone()), gossip: Some(recorder.clone()), join: Some(recorder) };
    let settings = MeshSettings {
        listen: listen.iter().map(ToString::to_string).collect(),
        ping_interval: Duration::from_millis(200),
        ..MeshSettings::default()
    };
    let config = MeshConfig { me: MemberId(member), federation, settings };
    let mesh = Mesh::start(&seed(member), config, handlers).await?;
    Ok(Node { mesh, frames: frames_in, gossip: gossip_in, release })
}

async fn start(member: u64, listen: &str) -> Node {
    start_at(member, &[listen], Federation { id: [1; 32], epoch: 1 }).await
}

fn entry(member: u64, node: &Node) -> RosterEntry {
    RosterEntry {
        member: MemberId(member),
        region: region(member),
        transport_keys: vec![transport_key(member)],
        addresses: node.mesh.listening(),
    }
}

fn roster(nodes: &[Node]) -> Vec<RosterEntry> {
    nodes.iter().map(|node| entry(node.mesh.me().0, node)).collect()
}

/// Members 1 to `count`, all connected with one another.
async fn ring(count: u64, listen: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    for member in 1..=count {
        nodes.push(start(member, listen).await);
    }
    let everyone = roster(&nodes);
    for node in &nodes {
        node.mesh.set_roster(everyone.clone());
    }
    for node in &nodes {
        for other in 1..=count {
            within(node.mesh.connected(MemberId(other))).await.expect("in the roster");
        }
    }
    nodes
}

async fn within<F: std::future::Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing here takes that long")
}

/// Waits until `condition` holds, looking again whenever the scheduler lets it.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tick.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

/// Asks until the stream stands: right after a connection the first request may find it still being opened or replaced.
async fn ask(node: &Node, to: u64, class: StreamClass, frame: &'static [u8]) -> Result<Bytes, MeshError> {
    within(async {
        loop {
            let answer = node.mesh.request(MemberId(to), class, Bytes::from_static(frame), PATIENCE).await;
            match answer {
                Err(MeshError::Disconnected { .. } | MeshError::Unreachable { .. } | MeshError::Refused { .. }) => {
                    tokio::task::yield_now().await;
                }
                other => return other,
            }
        }
    })
    .await
}
