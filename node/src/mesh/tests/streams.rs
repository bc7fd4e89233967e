//! Requests, frames, bulk, bounds, and coming back after a break.

use super::*;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_over_quic_and_over_tcp() {
    for listen in [QUIC, TCP] {
        let nodes = ring(2, listen).await;
        assert_eq!(ask(&nodes[0], 2, StreamClass::Registry, b"who").await, Ok(Bytes::from("m1")));
        assert_eq!(ask(&nodes[1], 1, StreamClass::RaftControl, b"who").await, Ok(Bytes::from("m2")));
        let failed = ask(&nodes[0], 2, StreamClass::Registry, b"fail").await;
        assert_eq!(failed, Err(MeshError::Remote { member: MemberId(2), message: "as asked".into() }));
        let many = (0..1_000u32).map(|n| {
            let frame = Bytes::copy_from_slice(&n.to_be_bytes());
            nodes[0].mesh.request(MemberId(2), StreamClass::Negotiation, frame, PATIENCE)
        });
        for (n, answer) in within(futures::future::join_all(many)).await.into_iter().enumerate() {
            assert_eq!(answer.expect("answered"), (n as u32).to_be_bytes()[..], "answers find their requests");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_keep_their_order_and_their_trace() {
    let mut nodes = ring(2, QUIC).await;
    ask(&nodes[0], 2, StreamClass::RunEvents, b"warm").await.expect("answered");
    for n in 0..2_000u32 {
        let frame = Bytes::copy_from_slice(&n.to_be_bytes());
        nodes[0].mesh.send(MemberId(2), StreamClass::RunEvents, frame).expect("room for it");
    }
    for n in 0..2_000u32 {
        let (from, class, frame) = within(nodes[1].frames.recv()).await.expect("delivered");
        assert_eq!((from, class, &frame[..]), (MemberId(1), StreamClass::RunEvents, &n.to_be_bytes()[..]));
    }
    let trace = TraceId([5; 16]);
    let seen = trace.scope(ask(&nodes[0], 2, StreamClass::RunEvents, b"trace")).await;
    assert_eq!(seen, Ok(Bytes::from(trace.to_string())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_speaks_to_itself_without_the_network() {
    let mut node = start(1, QUIC).await;
    node.mesh.send(MemberId(1), StreamClass::Negotiation, Bytes::from_static(b"note")).expect("room for it");
    let (from, _, frame) = within(node.frames.recv()).await.expect("delivered");
    assert_eq!((from, &frame[..]), (MemberId(1), &b"note"[..]));
    assert_eq!(ask(&node, 1, StreamClass::Registry, b"who").await, Ok(Bytes::from("m1")));
    assert_eq!(node.mesh.rtt(MemberId(1)), Some(Duration::ZERO));
    let mut bulk = node.mesh.open_bulk(MemberId(1), Bytes::from_static(b"h:")).await.expect("served");
    bulk.write_all(b"abc").await.expect("read");
    bulk.shutdown().await.expect("read");
    let mut back = Vec::new();
    within(bulk.read_to_end(&mut back)).await.expect("written");
    assert_eq!(back, b"h:abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_moves_megabytes_and_is_bounded_per_peer() {
    for listen in [QUIC, TCP] {
        let nodes = ring(2, listen).await;
        let content: Vec<u8> = (0..6u32 << 20).map(|n| (n % 251) as u8).collect();
        let mut bulk = nodes[0].mesh.open_bulk(MemberId(2), Bytes::from_static(b"head")).await.expect("served");
        bulk.write_all(&content).await.expect("read");
        bulk.shutdown().await.expect("read");
        let mut back = Vec::new();
        within(bulk.read_to_end(&mut back)).await.expect("written");
        assert!(back.starts_with(b"head") && back[4..] == content, "all of it came back");
        let mut held = Vec::new();
        let refused = loop {
            match nodes[0].mesh.open_bulk(MemberId(2), Bytes::from_static(b"hold")).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, MeshError::Busy { member: MemberId(2), class: StreamClass::Bulk });
        assert_eq!(held.len(), StreamClass::Bulk.limits().serving_max);
        // Neither they nor megabytes in flight keep a request waiting.
        ask(&nodes[0], 2, StreamClass::RaftControl, b"beat").await.expect("answered");
        nodes[1].release.notify_waiters();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_full_or_too_large_is_refused_at_once() {
    let mut nodes = ring(2, QUIC).await;
    let class = StreamClass::Logs;
    let limits = class.limits();
    let large = Bytes::from(vec![0; limits.frame_bytes_max + 1]);
    let refused = nodes[0].mesh.send(MemberId(2), class, large);
    assert!(matches!(refused, Err(MeshError::TooLarge { .. })), "{refused:?}");
    let nobody = nodes[0].mesh.send(MemberId(9), class, Bytes::new());
    assert_eq!(nobody, Err(MeshError::Unknown { member: MemberId(9) }));

    // The peer serves as many as it may; the next one is Busy.
    ask(&nodes[0], 2, class, b"warm").await.expect("answered");
    let mut hanging = Vec::new();
    for _ in 0..limits.serving_max {
        let mesh = nodes[0].mesh.clone();
        hanging.push(tokio::spawn(async move {
            mesh.request(MemberId(2), class, Bytes::from_static(b"hang"), PATIENCE).await
        }));
    }
    for _ in 0..limits.serving_max {
        within(nodes[1].frames.recv()).await.expect("they hang");
    }
    let one_more = within(nodes[0].mesh.request(MemberId(2), class, Bytes::new(), PATIENCE)).await;
    assert_eq!(one_more, Err(MeshError::Busy { member: MemberId(2), class }));
    nodes[1].release.notify_waiters();
    for hung in hanging {
        within(hung).await.expect("no panic").expect("answered after all");
    }

    // The queue here fills up when the writer cannot follow.
    let frame = Bytes::from(vec![0; limits.frame_bytes_max]);
    let full = (0..100_000).find_map(|_| nodes[0].mesh.send(MemberId(2), class, frame.clone()).err());
    assert_eq!(full, Some(MeshError::Busy { member: MemberId(2), class }));
    assert!(nodes[0].mesh.stats().classes[class.index()].busy >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_with_its_deadline() {
    let mut nodes = ring(2, QUIC).await;
    ask(&nodes[0], 2, StreamClass::Registry, b"warm").await.expect("answered");
    let short = Duration::from_millis(30);
    let late = nodes[0].mesh.request(MemberId(2), StreamClass::Registry, Bytes::from_static(b"hang"), short).await;
    assert!(matches!(late, Err(MeshError::Deadline { deadline_ms: 30, .. })), "{late:?}");
    within(nodes[1].frames.recv()).await.expect("it was served");
    ask(&nodes[0], 2, StreamClass::Registry, b"next").await.expect("the stream goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_is_found_again() {
    for listen in [QUIC, TCP] {
        let mut nodes = ring(2, listen).await;
        ask(&nodes[0], 2, StreamClass::Registry, b"before").await.expect("answered");
        let mut events = nodes[0].mesh.events();
        let second = nodes.pop().expect("two of them");
        let everyone = vec![entry(1, &nodes[0]), entry(2, &second)];
        let at = second.mesh.listening();
        within(second.mesh.stop()).await;
        assert_eq!(within(events.recv()).await, Ok(PeerEvent::Disconnected(MemberId(2))));
        let refused = nodes[0].mesh.send(MemberId(2), StreamClass::Registry, Bytes::new());
        assert_eq!(refused, Err(MeshError::Unreachable { member: MemberId(2) }));
        let again = start_at(2, &[at[0].as_str()], Federation { id: [1; 32], epoch: 1 }).await;
        again.mesh.set_roster(everyone);
        assert_eq!(within(events.recv()).await, Ok(PeerEvent::Connected(MemberId(2))));
        assert_eq!(ask(&nodes[0], 2, StreamClass::Registry, b"who").await, Ok(Bytes::from("m1")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trips_are_measured() {
    let nodes = ring(3, QUIC).await;
    for node in &nodes {
        until("round trips to all", || node.mesh.peers().iter().all(|peer| peer.rtt_ms.is_some())).await;
        for peer in node.mesh.peers() {
            assert!(peer.connected && peer.rtt_ms < Some(1_000.0) && peer.rtt_p99_ms >= Some(0.0), "{peer:?}");
            assert!(peer.address.is_some() && peer.last_seen_ms.is_some(), "{peer:?}");
        }
    }
    until("the peer's release", || nodes[0].mesh.peers().iter().all(|peer| peer.agent.is_some())).await;
}

/// Opens a raw stream of a member's class, past the lane.
async fn raw(node: &Node, to: &Node, class: StreamClass) -> Result<libp2p::Stream, MeshError> {
    let link = node.mesh.core.link(to.mesh.me()).expect("in the roster");
    within(lane::open_stream(&node.mesh.core, link.member, link.peer, class, &[])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_and_truncated_frames_close_the_stream_and_cost_score() {
    let nodes = ring(2, QUIC).await;
    let oversized = u32::MAX.to_be_bytes().to_vec();
    let mut truncated = 100u32.to_be_bytes().to_vec();
    truncated.extend_from_slice(b"not a hundred bytes");
    let mut unknown = 29u32.to_be_bytes().to_vec();
    unknown.extend_from_slice(&[99; 29]);
    for (count, bytes) in [oversized, truncated, unknown].into_iter().enumerate() {
        let counted = || nodes[1].mesh.stats().bad_frames > count as u64;
        let mut rest = Vec::new();
        // A stream of the class replaces the one before it, so the node's own lane may take the place of this one before it
        // was read: then it is said again.
        within(async {
            while !counted() {
                if let Ok(mut stream) = raw(&nodes[0], &nodes[1], StreamClass::Logs).await
                    && stream.write_all(&bytes).await.is_ok()
                {
                    let _ = futures::AsyncWriteExt::close(&mut stream).await;
                    let _ = stream.read_to_end(&mut rest).await;
                }
                tokio::time::timeout(Duration::from_millis(200), async {
                    let mut tick = tokio::time::interval(Duration::from_millis(5));
                    while !counted() {
                        tick.tick().await;
                    }
                })
                .await
                .ok();
            }
        })
        .await;
        assert!(rest.is_empty(), "nothing but the end comes back");
        until("the score falls", || nodes[1].mesh.peers()[0].score < -9.0 * (count as f64 + 1.0)).await;
    }
    let mut events = nodes[1].mesh.events();
    assert!(nodes[1].mesh.is_connected(MemberId(1)), "three are forgiven");
    let link = nodes[0].mesh.core.link(MemberId(2)).expect("in the roster");
    for _ in 0..100 {
        if events.try_recv() == Ok(PeerEvent::Disconnected(MemberId(1))) {
            return;
        }
        let opening = lane::open_stream(&nodes[0].mesh.core, link.member, link.peer, StreamClass::Logs, &[]);
        if let Ok(mut stream) = within(opening).await {
            let _ = stream.write_all(&u32::MAX.to_be_bytes()).await;
            let _ = within(stream.read_to_end(&mut Vec::new())).await;
        }
    }
    panic!("a hundred are not forgiven");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_cannot_be_used_are_named() {
    let settings = |listen: &str| MeshSettings { listen: vec![listen.to_owned()], ..MeshSettings::default() };
    let start = |listen: &str| {
        let config = MeshConfig {
            me: MemberId(1),
            federation: Federation { id: [1; 32], epoch: 1 },
            settings: settings(listen),
        };
        Mesh::start(&[1; 32], config, Handlers::default())
    };
    let wrong = start("127.0.0.1:1").await.err().expect("refused").to_string();
    assert!(wrong.contains("mesh.listen") && wrong.contains("127.0.0.1:1"), "{wrong}");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().expect("bound").port());
    let taken = start(&address).await.err().expect("refused").to_string();
    assert!(taken.contains(&address), "{taken}");
}

/// Not a story but a figure: run with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn requests_per_second() {
    for listen in [QUIC, TCP] {
        let nodes = ring(2, listen).await;
        ask(&nodes[0], 2, StreamClass::Negotiation, b"warm").await.expect("answered");
        let (count, width) = (200_000u64, 256);
        let began = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..width {
            let mesh = nodes[0].mesh.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..count / width {
                    let frame = Bytes::from_static(&[1; 300]);
                    mesh.request(MemberId(2), StreamClass::Negotiation, frame, PATIENCE).await.expect("answered");
                }
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        let rate = count as f64 / began.elapsed().as_secs_f64();
        let began = Instant::now();
        for _ in 0..2_000 {
            nodes[0]
                .mesh
                .request(MemberId(2), StreamClass::Negotiation, Bytes::new(), PATIENCE)
                .await
                .expect("answered");
        }
        println!("{listen}: {rate:.0} requests/s at width {width}; one at a time {:?}", began.elapsed() / 2_000);
    }
}
