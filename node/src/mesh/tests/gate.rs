//! Who gets in: strangers to the join protocol, members to all, the expelled to nothing.

use super::*;
use std::time::Duration;

async fn join(seed_of: u64, node: &Node, frame: &'static [u8]) -> Result<Bytes, AskError> {
    let key = transport_key(node.mesh.me().0);
    within(super::super::ask(&seed(seed_of), &key, &node.mesh.listening(), Bytes::from_static(frame), PATIENCE)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_speaks_the_join_protocol_and_nothing_else() {
    for listen in [QUIC, TCP] {
        let member = start(1, listen).await;
        let stranger = start(2, listen).await;
        member.mesh.set_roster(vec![entry(1, &member)]);
        let answer = join(2, &member, b"may I").await.expect("answered");
        assert_eq!(&answer[..], [&transport_key(2)[..], b"may I"].concat(), "its key is proven by the connection");
        let refused = join(2, &member, b"no").await;
        assert!(matches!(&refused, Err(AskError::Answered(text)) if text == "not invited"), "{refused:?}");

        // The stranger believes to be a member and tries its streams and gossip.
        stranger.mesh.set_roster(vec![entry(1, &member), entry(2, &stranger)]);
        within(stranger.mesh.connected(MemberId(1))).await.expect("in its own roster");
        until("counted", || member.mesh.stats().refused >= 5).await;
        let nothing = stranger.mesh.request(MemberId(1), StreamClass::Registry, Bytes::from_static(b"who"), PATIENCE);
        assert!(within(nothing).await.is_err());
        stranger.mesh.publish(Topic::Digests, Bytes::from_static(b"digest")).expect("queued");
        assert!(!member.mesh.is_connected(MemberId(2)));
        assert_eq!(member.mesh.stats().gossip_in, 0);

        // Admitted, it gets in without a restart of anything.
        let everyone = vec![entry(1, &member), entry(2, &stranger)];
        member.mesh.set_roster(everyone);
        within(member.mesh.connected(MemberId(2))).await.expect("admitted");
        assert_eq!(ask(&stranger, 1, StreamClass::Registry, b"who").await, Ok(Bytes::from("m2")));
        assert_eq!(ask(&member, 2, StreamClass::Registry, b"who").await, Ok(Bytes::from("m1")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expelled_member_is_cut_off_at_once() {
    for listen in [QUIC, TCP] {
        let mut nodes = ring(3, listen).await;
        ask(&nodes[2], 1, StreamClass::Registry, b"who").await.expect("a member yet");
        let mut events = nodes[0].mesh.events();
        let remaining = roster(&nodes[..2]);
        nodes[0].mesh.set_roster_and_expelled(remaining.clone(), vec![transport_key(3)]);
        assert_eq!(
            nodes[0].mesh.send(MemberId(3), StreamClass::Registry, Bytes::new()),
            Err(MeshError::Unknown { member: MemberId(3) })
        );
        until("disconnected there", || !nodes[2].mesh.is_connected(MemberId(1))).await;
        assert!(join(3, &nodes[0], b"may I").await.is_err(), "not even the join protocol");
        // It dials again and again, and gets nothing in.
        let before = nodes[0].mesh.stats().refused;
        until("it tried again", || nodes[0].mesh.stats().refused > before).await;
        while nodes[0].frames.try_recv().is_ok() {}
        let _ = nodes[2].mesh.send(MemberId(1), StreamClass::Negotiation, Bytes::from_static(b"let me in"));
        let asked = nodes[2].mesh.request(MemberId(1), StreamClass::Registry, Bytes::new(), Duration::from_secs(1));
        assert!(asked.await.is_err());
        assert!(nodes[0].frames.try_recv().is_err(), "nothing of it came in");
        ask(&nodes[1], 1, StreamClass::Registry, b"who").await.expect("the others go on");
        assert!(events.try_recv().is_err(), "an expelled peer is no peer, and no news of one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_federation_and_an_older_epoch_are_refused() {
    let here = start_at(1, &[QUIC], Federation { id: [1; 32], epoch: 2 }).await;
    let other = start_at(2, &[QUIC], Federation { id: [2; 32], epoch: 2 }).await;
    let older = start_at(3, &[QUIC], Federation { id: [1; 32], epoch: 1 }).await;
    let everyone = vec![entry(1, &here), entry(2, &other), entry(3, &older)];
    for node in [&here, &other, &older] {
        node.mesh.set_roster(everyone.clone());
    }
    for (node, words) in [(&other, "another federation"), (&older, "epoch is older")] {
        within(node.mesh.connected(MemberId(1))).await.expect("in its roster");
        let refused = within(async {
            loop {
                let asked = node.mesh.request(MemberId(1), StreamClass::Registry, Bytes::new(), PATIENCE).await;
                match asked {
                    Err(MeshError::Refused { reason, .. }) => return reason,
                    Err(_) => tokio::task::yield_now().await,
                    Ok(_) => panic!("answered"),
                }
            }
        })
        .await;
        assert!(refused.contains(words), "{refused}");
    }
    assert!(here.mesh.stats().refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_another_key_is_not_the_member() {
    let here = start(1, QUIC).await;
    let impostor = start(2, QUIC).await;
    let mut claimed = entry(2, &impostor);
    claimed.transport_keys = vec![transport_key(77)];
    here.mesh.set_roster(vec![entry(1, &here), claimed]);
    until("dialled in vain", || here.mesh.stats().dials_failed > 0).await;
    assert!(!here.mesh.is_connected(MemberId(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_map_overrides_the_roster() {
    let one = start(1, TCP).await;
    let two = start(2, TCP).await;
    let mut hidden = entry(2, &two);
    hidden.addresses = vec!["/ip4/127.0.0.1/tcp/9".to_owned()];
    let (frames, _frames_in) = mpsc::unbounded_channel();
    let (gossip, _gossip_in) = mpsc::unbounded_channel();
    let recorder = Arc::new(Recorder { frames, gossip, release: Arc::default() });
    let mut settings = MeshSettings { listen: vec![TCP.to_owned()], ..MeshSettings::default() };
    settings.dial_map.insert(region(2), two.mesh.listening()[0].clone());
    let config = MeshConfig { me: MemberId(3), federation: Federation { id: [1; 32], epoch: 1 }, settings };
    let mut handlers = Handlers::default();
    handlers.frames.insert(StreamClass::Registry, recorder);
    let three = Mesh::start(&seed(3), config, handlers).await.expect("it starts");
    let mut third = entry(2, &two);
    third.member = MemberId(3);
    third.transport_keys = vec![transport_key(3)];
    third.addresses = Vec::new();
    two.mesh.set_roster(vec![entry(2, &two), third]);
    three.set_roster(vec![entry(1, &one), hidden]);
    within(three.connected(MemberId(2))).await.expect("dialled by the map");
}
