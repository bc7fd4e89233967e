//! Gossip: delivered to all, judged before it is forwarded, nobody speaks for another.

use super::*;

async fn publish(node: &Node, payload: &'static [u8]) {
    node.mesh.publish(Topic::Registrations, Bytes::from_static(payload)).expect("queued");
}

/// Publishes until a neighbour hears it: right after a connection, subscriptions are still on their way.
async fn heard(nodes: &mut [Node], from: usize, at: usize, payload: &'static [u8]) {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    within(async {
        loop {
            tokio::select! {
                _ = tick.tick() => publish(&nodes[from], payload).await,
                heard = nodes[at].gossip.recv() => {
                    if heard.expect("the node runs").2 == payload {
                        return;
                    }
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_hear_what_one_says() {
    let mut nodes = ring(5, QUIC).await;
    for at in 1..5 {
        heard(&mut nodes, 0, at, b"first").await;
    }
    publish(&nodes[0], b"second").await;
    for node in &mut nodes[1..] {
        let (author, topic, payload) = within(async {
            loop {
                let heard = node.gossip.recv().await.expect("the node runs");
                if heard.2 != "first" {
                    return heard;
                }
            }
        })
        .await;
        assert_eq!((author, topic, &payload[..]), (MemberId(1), Topic::Registrations, &b"second"[..]));
    }
}

/// 1 - 2 - 3 in a line: 3 knows 1 as a member, but only 2 is connected with both.
async fn line() -> Vec<Node> {
    let mut nodes = Vec::new();
    for member in 1..=3 {
        nodes.push(start(member, QUIC).await);
    }
    let everyone = roster(&nodes);
    let unreachable = |member: u64| {
        let mut roster = everyone.clone();
        roster[member as usize - 1].addresses = Vec::new();
        roster
    };
    nodes[0].mesh.set_roster(unreachable(3));
    nodes[1].mesh.set_roster(everyone.clone());
    nodes[2].mesh.set_roster(unreachable(1));
    for (at, to) in [(0, 2), (1, 1), (1, 3), (2, 2)] {
        within(nodes[at].mesh.connected(MemberId(to))).await.expect("in the roster");
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_is_judged_before_it_is_forwarded() {
    let mut nodes = line().await;
    heard(&mut nodes, 0, 1, b"warm").await;
    heard(&mut nodes, 0, 2, b"passes").await;
    assert!(!nodes[2].mesh.is_connected(MemberId(1)), "it came by way of 2");
    // What 2 ignores or rejects never reaches 3; what follows does.
    publish(&nodes[0], b"?depends on state").await;
    publish(&nodes[0], b"!wrong").await;
    publish(&nodes[0], b"marker").await;
    within(async {
        loop {
            let (author, _, payload) = nodes[2].gossip.recv().await.expect("the node runs");
            assert_eq!(author, MemberId(1));
            assert!(!payload.starts_with(b"?") && !payload.starts_with(b"!"), "it was not to be forwarded");
            if payload == "marker" {
                return;
            }
        }
    })
    .await;
    let judged = nodes[1].mesh.stats();
    assert_eq!((judged.gossip_ignored, judged.gossip_rejected), (1, 1));
    let score = || nodes[1].mesh.peers().iter().find(|peer| peer.member == MemberId(1)).map(|peer| peer.score);
    until("who sent it loses score", || score() < Some(-5.0)).await;
    assert_eq!(nodes[2].mesh.stats().gossip_rejected, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_author_cannot_flood() {
    let mut nodes = ring(2, QUIC).await;
    heard(&mut nodes, 0, 1, b"warm").await;
    let (_, burst) = Topic::Registrations.author_budget();
    for n in 0..2 * burst {
        let payload = Bytes::copy_from_slice(&n.to_be_bytes());
        nodes[0].mesh.publish(Topic::Registrations, payload).expect("queued");
    }
    until("the surplus is dropped", || nodes[1].mesh.stats().gossip_over_budget > 0).await;
    let large = Bytes::from(vec![0; Topic::Digests.bytes_max() + 1]);
    let refused = nodes[0].mesh.publish(Topic::Digests, large);
    assert!(matches!(refused, Err(MeshError::Publish { .. })), "{refused:?}");
}

/// Starts a member in a runtime of its own, so that it can end as `kill -9` ends a node: without a goodbye.
fn start_apart(member: u64, listen: &str) -> (tokio::runtime::Runtime, Node) {
    let apart = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let listen = listen.to_owned();
    let started = apart.spawn(async move { start(member, &listen).await });
    let node = futures::executor::block_on(started).expect("no panic");
    (apart, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_killed_and_started_again_hears_and_is_heard() {
    for listen in [QUIC, TCP] {
        let (mut apart, second) = start_apart(2, listen);
        let mut nodes = vec![start(1, listen).await, second];
        let everyone = roster(&nodes);
        for node in &nodes {
            node.mesh.set_roster(everyone.clone());
        }
        for _ in 0..3 {
            heard(&mut nodes, 0, 1, b"to the second").await;
            heard(&mut nodes, 1, 0, b"to the first").await;
            let mut events = nodes[0].mesh.events();
            apart.shutdown_background();
            drop(nodes.pop());
            // at another port: the old one is not given back by a runtime that ends so
            let (again, second) = start_apart(2, listen);
            second.mesh.set_roster(everyone.clone());
            apart = again;
            nodes.push(second);
            let news = within(async {
                loop {
                    if let Ok(PeerEvent::Connected(member)) = events.recv().await {
                        return member;
                    }
                }
            });
            assert_eq!(news.await, MemberId(2), "whoever listens learns that what was said may be lost");
            ask(&nodes[0], 2, StreamClass::Registry, b"who").await.expect("answered");
            ask(&nodes[1], 1, StreamClass::Registry, b"who").await.expect("answered");
        }
        apart.shutdown_background();
    }
}

/// A member whose gossip is made by hand, so that it can lie.
mod liar {
    use super::*;
    use futures::{AsyncWriteExt as _, StreamExt as _};
    use libp2p::swarm::NetworkBehaviour;
    use libp2p::{PeerId, identity, ping};

    #[derive(NetworkBehaviour)]
    struct Speaker {
        streams: libp2p_stream::Behaviour,
        ping: ping::Behaviour,
    }

    pub struct Liar {
        pub key: identity::Keypair,
        stream: libp2p::Stream,
        swarm: tokio::task::JoinHandle<()>,
    }

    impl Drop for Liar {
        fn drop(&mut self) {
            self.swarm.abort();
        }
    }

    pub fn key(member: u64) -> identity::Keypair {
        identity::Keypair::ed25519_from_bytes(seed(member)).expect("32 bytes")
    }

    impl Liar {
        pub async fn connect(member: u64, to: &Node) -> Self {
            let key = key(member);
            let speaker = Speaker { streams: libp2p_stream::Behaviour::new(), ping: ping::Behaviour::default() };
            let mut swarm = behaviour::swarm_of(key.clone(), PATIENCE, speaker).expect("transports");
            let mut control = swarm.behaviour().streams.new_control();
            let peer = self::key(to.mesh.me().0).public().to_peer_id();
            let address: libp2p::Multiaddr = to.mesh.listening()[0].parse().expect("an address");
            let dial = libp2p::swarm::dial_opts::DialOpts::peer_id(peer).addresses(vec![address]).build();
            swarm.dial(dial).expect("begun");
            // Who takes no gossip stream counts as one that speaks no gossip, and is not heard either.
            let protocol = libp2p::StreamProtocol::new(crate::mesh::gate::GOSSIP_PROTOCOL);
            let mut incoming = control.accept(protocol.clone()).expect("registered once");
            let swarm = tokio::spawn(async move {
                let mut unread = Vec::new();
                loop {
                    tokio::select! {
                        _ = swarm.select_next_some() => {}
                        Some(stream) = incoming.next() => unread.push(stream),
                    }
                }
            });
            let stream = within(control.open_stream(peer, protocol)).await.expect("a member's stream");
            Self { key, stream, swarm }
        }

        /// Sends a message of gossipsub. See its `rpc.proto`: from 1, data 2, seqno 3, topic 4, signature 5, key 6.
        pub async fn say(&mut self, from: PeerId, data: &[u8], sequence: u64, signed: Option<&[u8]>) {
            let message = |data: &[u8]| {
                let mut out = Vec::new();
                field(&mut out, 1, &from.to_bytes());
                field(&mut out, 2, data);
                field(&mut out, 3, &sequence.to_be_bytes());
                field(&mut out, 4, Topic::Registrations.name().as_bytes());
                out
            };
            let mut said = message(data);
            if let Some(signed) = signed {
                let bytes = [b"libp2p-pubsub:".as_slice(), &message(signed)].concat();
                field(&mut said, 5, &self.key.sign(&bytes).expect("ed25519"));
                field(&mut said, 6, &self.key.public().encode_protobuf());
            }
            let mut rpc = Vec::new();
            field(&mut rpc, 2, &said);
            let mut frame = Vec::new();
            varint(&mut frame, rpc.len());
            frame.extend(rpc);
            self.stream.write_all(&frame).await.expect("sent");
            self.stream.flush().await.expect("sent");
        }
    }

    fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
        out.push(number << 3 | 2);
        varint(out, bytes.len());
        out.extend(bytes);
    }

    fn varint(out: &mut Vec<u8>, mut value: usize) {
        while value >= 0x80 {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lies_about_the_author_is_not_forwarded_and_loses_score() {
    let mut nodes = vec![start(2, QUIC).await, start(3, QUIC).await];
    let mut everyone = roster(&nodes);
    let liar = RosterEntry { member: MemberId(1), region: region(1), addresses: Vec::new(), ..everyone[0].clone() };
    everyone.push(RosterEntry { transport_keys: vec![transport_key(1)], ..liar });
    for node in &nodes {
        node.mesh.set_roster(everyone.clone());
    }
    heard(&mut nodes, 0, 1, b"warm").await;
    let mut liar = liar::Liar::connect(1, &nodes[0]).await;
    let score = |nodes: &[Node]| nodes[0].mesh.peers().iter().find(|p| p.member == MemberId(1)).map(|p| p.score);
    let (own, other) = (liar.key.public().to_peer_id(), liar::key(3).public().to_peer_id());

    // What it says of itself passes, so what does not pass below is not refused for its form.
    liar.say(own, b"honest", 1, Some(b"honest")).await;
    let passed = async {
        loop {
            let (author, _, payload) = nodes[1].gossip.recv().await.expect("the node runs");
            if payload == "honest" {
                return author;
            }
        }
    };
    assert_eq!(within(passed).await, MemberId(1));
    let before = score(&nodes).expect("a member");

    liar.say(other, b"lie: another's name, own signature", 2, Some(b"lie: another's name, own signature")).await;
    liar.say(other, b"lie: another's name, no signature", 3, None).await;
    liar.say(own, b"lie: changed on the way", 4, Some(b"as it was signed")).await;
    until("its score falls", || score(&nodes) < Some(before - 5.0)).await;
    assert!(nodes[1].mesh.is_connected(MemberId(2)));
    publish(&nodes[0], b"marker").await;
    for node in &mut nodes[1..] {
        within(async {
            loop {
                let (_, _, payload) = node.gossip.recv().await.expect("the node runs");
                assert!(!payload.starts_with(b"lie"), "{payload:?} was forwarded");
                if payload == "marker" {
                    return;
                }
            }
        })
        .await;
    }
    while let Ok((_, _, payload)) = nodes[0].gossip.try_recv() {
        assert!(!payload.starts_with(b"lie"), "{payload:?} came in");
    }
}
