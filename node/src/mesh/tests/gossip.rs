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
