//! Registrations without a quorum, with real processes: seen by others at once, carried on when their owner is gone, and
//! committed once a partition heals.

use bytes::Bytes;
use cpi::identifier::Cpi;
use cpi::ids::StableKey;
use e2e::ring::{PATIENCE, Ring, RingOptions, causeway, identifier, items, until};
use futures::TryStreamExt as _;
use node::cli::{Client, Extra};
use node::relay::{LineSettings, Relay, Route};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A partition that healed is repaired within this.
const HEALED: Duration = Duration::from_secs(60);

fn key_of(text: &str) -> StableKey {
    Cpi::parse(text).expect("valid").stable_key()
}

/// What a node says of a key, with what is pending on it.
async fn seen(client: &Client, key: StableKey) -> Option<Value> {
    client.get(&format!("/v1/identifiers/{key}"), vec![("pending", Some("true".to_owned()))]).await.ok()
}

async fn is(client: &Client, key: StableKey, state: &str) -> bool {
    seen(client, key).await.is_some_and(|view| view["state"] == state)
}

/// Registers where no quorum can be had.
async fn register_alone(client: &Client, text: &str) -> Value {
    let answer = client.post("/v1/identifiers", json!({ "cpi": text })).await.expect("durable here");
    assert_eq!((&answer["state"], &answer["pending"]["change"]), (&json!("pending"), &json!("register")), "{answer}");
    answer
}

/// Places in the ring whose members vote. Members are numbered in the order they joined.
async fn voters(ring: &Ring, at: usize) -> Vec<usize> {
    let status = ring.client(at).expect("runs").get("/v1/registry", vec![]).await.unwrap_or_default();
    let ids = status["voters"].as_array().cloned().unwrap_or_default();
    let place = |id: &Value| id.as_str()?.trim_start_matches('m').parse::<usize>().ok()?.checked_sub(1);
    ids.iter().filter_map(place).collect()
}

async fn three_vote(ring: &Ring) {
    until(PATIENCE, || async { voters(ring, 0).await.len() == 3 }).await.expect("three members vote");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_outlives_its_owner_and_is_committed_by_others() {
    let mut ring = Ring::start(RingOptions { nodes: 4, ..RingOptions::default() }).await.expect("starts");
    three_vote(&ring).await;
    let voting = voters(&ring, 0).await;
    let owner = (0..4).find(|at| !voting.contains(at)).expect("one of four does not vote");
    let (witness, away) = (voting[0], [voting[1], voting[2]]);
    for at in away {
        ring.nodes[at].kill().expect("dies");
    }
    let text = identifier(owner, 900);
    let key = key_of(&text);
    let client = ring.client(owner).expect("runs");
    register_alone(&client, &text).await;
    assert!(client.get(&format!("/v1/identifiers/{key}"), vec![]).await.is_err(), "pending is not registered");
    assert!(client.post("/v1/identifiers:resolve", json!({ "key": key.to_string() })).await.is_err());

    // the other that is alive sees it, out of the default search, and keeps it over a kill
    let other = ring.client(witness).expect("runs");
    until(PATIENCE, || async { is(&other, key, "pending").await }).await.expect("it is gossiped");
    ring.nodes[owner].kill().expect("dies");
    ring.nodes[witness].kill().expect("dies");
    ring.nodes[witness].start().expect("starts");
    let other = ring.nodes[witness].wait_up(PATIENCE).await.expect("comes up");
    let view = seen(&other, key).await.expect("kept on disk");
    assert_eq!((&view["state"], &view["owner_region"]), (&json!("pending"), &json!(format!("r{owner}"))), "{view}");
    let found = async |state: Option<&str>| {
        let query = vec![("state", state.map(str::to_owned)), ("prefix", Some(text.clone()))];
        items(&other.get("/v1/identifiers", query).await.expect("answers")).len()
    };
    assert_eq!((found(None).await, found(Some("all")).await, found(Some("pending")).await), (0, 0, 1));

    // with a quorum it is committed, though its owner is gone
    for at in away {
        ring.nodes[at].start().expect("starts");
    }
    for at in [witness, away[0], away[1]] {
        let client = ring.nodes[at].wait_up(PATIENCE).await.expect("comes up");
        until(HEALED, || async { is(&client, key, "active").await }).await.expect("committed");
        until(PATIENCE, || async {
            let query = vec![("state", Some("pending".to_owned()))];
            client.get("/v1/identifiers", query).await.is_ok_and(|page| page["items"] == json!([]))
        })
        .await
        .expect("nothing is pending any more");
    }
    ring.nodes[owner].start().expect("starts");
    let client = ring.nodes[owner].wait_up(PATIENCE).await.expect("comes up");
    until(PATIENCE, || async {
        let status = client.get("/v1/registry", vec![]).await.unwrap_or_default();
        is(&client, key, "active").await && status["pending"] == 0
    })
    .await
    .expect("the owner learns the outcome and waits for nothing more");
}

/// A ring whose nodes reach one another through relays only, so that a line can be cut.
struct Relayed {
    ring: Ring,
    relay: Relay,
    routes: BTreeMap<(usize, usize), usize>,
}

impl Relayed {
    async fn start(nodes: usize) -> Self {
        let mut ring = Ring::start(RingOptions { nodes, ..RingOptions::default() }).await.expect("starts");
        three_vote(&ring).await;
        let (mut wanted, mut routes) = (Vec::new(), BTreeMap::new());
        let configs: Vec<String> =
            ring.nodes.iter().map(|node| std::fs::read_to_string(&node.config).expect("reads")).collect();
        for (from, to) in (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to))).filter(|(a, b)| a != b) {
            let port = configs[to].split_once("/udp/").and_then(|(_, rest)| rest.split_once('/')).expect("a port").0;
            let target = format!("127.0.0.1:{port}").parse().expect("an address");
            let listen = "127.0.0.1:0".parse().expect("an address");
            routes.insert((from, to), wanted.len());
            wanted.push(Route { listen, target, line: LineSettings::default() });
        }
        let relay = Relay::start(&wanted).await.expect("relays");
        let addresses = relay.addresses();
        for node in &mut ring.nodes {
            node.stop().await.expect("stops");
        }
        for (from, config) in configs.iter().enumerate() {
            let map: Vec<String> = (0..nodes)
                .filter_map(|to| Some((to, routes.get(&(from, to))?)))
                .map(|(to, at)| format!("r{to} = \"/ip4/127.0.0.1/udp/{}/quic-v1\"", addresses[*at].port()))
                .collect();
            let text = config.replace("[mesh]\n", &format!("[mesh]\ndial_map = {{ {} }}\n", map.join(", ")));
            std::fs::write(&ring.nodes[from].config, text).expect("writes");
            ring.nodes[from].start().expect("starts");
        }
        for at in 0..nodes {
            ring.ready(at).await.expect("ready through the relays");
        }
        ring.all_see_all().await.expect("connected through the relays");
        Self { ring, relay, routes }
    }

    fn cut(&self, who: usize, cut: bool) {
        for ((from, to), at) in &self.routes {
            if *from == who || *to == who {
                self.relay.set_cut(*at, cut);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_off_node_registered_is_committed_after_the_partition() {
    let world = Relayed::start(3).await;
    let leader = world.ring.leader().await.expect("somebody leads");
    let lonely = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];
    world.cut(lonely, true);
    let alone = world.ring.client(lonely).expect("runs");
    let texts: Vec<String> = (0..5).map(|n| identifier(lonely, 700 + n)).collect();
    for text in &texts {
        register_alone(&alone, text).await;
    }
    let majority = world.ring.client(leader).expect("runs");
    let answer = majority.post("/v1/identifiers", json!({ "cpi": identifier(leader, 700) })).await.expect("a quorum");
    assert_eq!(answer["state"], "active", "the majority goes on: {answer}");
    for text in &texts {
        assert!(seen(&majority, key_of(text)).await.is_none(), "the partition is one");
        assert!(is(&alone, key_of(text), "pending").await);
    }
    world.cut(lonely, false);
    let healed = Instant::now();
    for at in others {
        let client = world.ring.client(at).expect("runs");
        for text in &texts {
            until(HEALED, || async { seen(&client, key_of(text)).await.is_some() }).await.expect("visible");
        }
    }
    println!("visible on the other side {:?} after healing", healed.elapsed());
    for at in 0..3 {
        let client = world.ring.client(at).expect("runs");
        for text in &texts {
            until(HEALED, || async { is(&client, key_of(text), "active").await }).await.expect("committed");
        }
    }
    println!("committed everywhere {:?} after healing", healed.elapsed());
    assert!(healed.elapsed() < HEALED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_after_a_restart_gets_the_first_outcome_and_a_file_is_registered_at_once() {
    let mut ring = Ring::start(RingOptions { nodes: 1, ..RingOptions::default() }).await.expect("starts");
    let body = Some(json!({ "cpi": identifier(0, 1) }));
    let key = key_of(&identifier(0, 1));
    let keyed = |name: &str, more: Vec<(&'static str, String)>| {
        let mut headers = vec![("idempotency-key", name.to_owned())];
        headers.extend(more);
        Extra { body: body.clone(), headers, ..Extra::default() }
    };
    let if_match = |tag: &str| vec![("if-match", tag.to_owned())];
    let client = ring.client(0).expect("runs");
    let first = client.call(Method::POST, "/v1/identifiers", keyed("one", vec![])).await.expect("registers");
    let path = format!("/v1/identifiers/{key}");
    let revised = client.call(Method::PUT, &path, keyed("two", if_match("\"1\""))).await.expect("revises");
    assert_eq!(revised["revision"], 2, "{revised}");
    ring.kill_and_restart(0).await.expect("comes back");
    let client = ring.client(0).expect("runs");
    let again = client.call(Method::POST, "/v1/identifiers", keyed("one", vec![])).await.expect("the same call");
    assert_eq!(again, first, "the first answer, not the present state");
    let again = client.call(Method::PUT, &path, keyed("two", if_match("\"1\""))).await.expect("the same call");
    assert_eq!(again, revised);
    let present = client.get(&path, vec![]).await.expect("answers");
    assert_eq!(present["revision"], 2, "nothing happened twice: {present}");

    let file = ring.folder().join("identifiers.txt");
    let lines: Vec<String> = (10..610).map(|n| identifier(0, n)).chain([identifier(1, 1)]).collect();
    std::fs::write(&file, format!("# chips\n{}\n", lines.join("\n"))).expect("writes");
    let file = file.display().to_string();
    let out = causeway(&ring.nodes[0].data_dir, &["id", "register-all", &file, "-o", "json"]).expect("starts");
    assert_eq!(out.status.code(), Some(1), "one belongs to another: {}", String::from_utf8_lossy(&out.stderr));
    let page: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let active = items(&page).iter().filter(|item| item["identifier"]["state"] == "active").count();
    assert_eq!((active, items(&page).len()), (600, 601));
    assert_eq!(items(&page)[600]["code"], "denied", "{}", items(&page)[600]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_is_counted_and_logged_with_the_peer() {
    let ring = Ring::start(RingOptions { nodes: 2, ..RingOptions::default() }).await.expect("starts");
    let leader = ring.leader().await.expect("somebody leads");
    let other = 1 - leader;
    let client = ring.client(other).expect("runs");
    let refused = client.post("/v1/identifiers", json!({ "cpi": identifier(leader, 7) })).await.expect_err("foreign");
    assert_eq!(refused.exit() as u8, 4, "{refused}");
    let leading = ring.client(leader).expect("runs");
    let (_, pieces) = leading.bytes("/metrics", vec![]).await.expect("answers");
    let pieces: Vec<Bytes> = pieces.try_collect().await.expect("arrives");
    let metrics = String::from_utf8(pieces.concat()).expect("text");
    assert!(metrics.contains("causeway_registry_refused_total{reason=\"foreign_enterprise\"} 1"), "{metrics}");
    let log = std::fs::read_to_string(&ring.nodes[leader].log).expect("a log");
    let line = log.lines().find(|line| line.contains("foreign_enterprise")).expect("it is in the log");
    assert!(line.contains(&format!("m{}", other + 1)), "{line}");
}
