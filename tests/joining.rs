//! Getting in where more than one member must approve, with real processes.

use e2e::ring::{PATIENCE, Ring, RingOptions, binary, causeway, enterprise, items, until};
use node::cli::Client;
use node::lab::process::NodeProcess;
use serde_json::{Value, json};
use std::process::{Child, Stdio};

/// A node that is no member yet, with a configuration like that of another.
fn newcomer(ring: &Ring, at: usize) -> NodeProcess {
    let like = &ring.nodes[at - 1];
    let text = std::fs::read_to_string(&like.config).expect("reads");
    let port = text.split_once("/udp/").and_then(|(_, rest)| rest.split_once('/')).expect("a port").0;
    let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
    let dir = ring.folder().join(format!("r{at}"));
    let text = text
        .replace(&like.data_dir.display().to_string(), &dir.display().to_string())
        .replace(&format!("name = \"r{}\"", at - 1), &format!("name = \"r{at}\""))
        .replace(&format!("/{port}"), &format!("/{free}"));
    let config = dir.with_extension("toml");
    std::fs::write(&config, text).expect("writes");
    NodeProcess::new(&binary("causeway").expect("built"), &format!("r{at}"), &dir, &config)
}

fn ended(child: &mut Child) -> bool {
    child.try_wait().expect("a child").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_must_approve_and_each_does_so_at_its_own_node() {
    let ring = Ring::start(RingOptions { nodes: 2, ..RingOptions::default() }).await.expect("starts");
    let (first, second) = (ring.client(0).expect("runs"), ring.client(1).expect("runs"));
    let set = causeway(&ring.nodes[0].data_dir, &["member", "policy", "--admission-approvals", "2"]).expect("starts");
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    until(PATIENCE, || async {
        second.get("/v1/policy", vec![]).await.is_ok_and(|policy| policy["admission_approvals"] == 2)
    })
    .await
    .expect("all members see the policy");

    let invited = first.post("/v1/members/invitations", json!({ "region": "r2", "enterprises": [enterprise(2)] }));
    let invited = invited.await.expect("invites");
    let node = newcomer(&ring, 2);
    let config = node.config.display().to_string();
    let mut joining = node
        .command(&["member", "join", invited["token"].as_str().expect("a token"), "--config", &config])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");

    // the member that was not asked sees who waits, and what it would get
    let waiting = vec![("state", Some("waiting".to_owned()))];
    let seen = async || items(&second.get("/v1/members", waiting.clone()).await.unwrap_or_default());
    until(PATIENCE, || async { !seen().await.is_empty() }).await.expect("the other member is told");
    let view: Value = seen().await.remove(0);
    assert_eq!(view["region"], "r2", "{view}");
    assert_eq!(view["approvals"], json!({ "have": 1, "need": 2 }), "{view}");
    assert_eq!(view["enterprise_codes"], json!([enterprise(2)]), "{view}");
    let listed = causeway(&ring.nodes[1].data_dir, &["member", "list", "--pending", "-o", "name"]).expect("starts");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));

    // the inviter's own approval is the invitation: it counts once
    let approve = |at: usize| causeway(&ring.nodes[at].data_dir, &["member", "approve", "r2"]).expect("starts");
    let again = approve(0);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("r2: 1 of 2 members agreed; 1 is missing"), "{said}");
    assert!(!ended(&mut joining), "one of two is not enough");
    // an approval is of one request, not of a name
    let other = json!({ "request": "00".repeat(32) });
    let wrong = second.post("/v1/members/r2/approve", other).await.expect_err("another request");
    assert_eq!(wrong.exit() as u8, 3, "{wrong}");
    let request = json!({ "request": view["request"] });
    let approved = second.post("/v1/members/r2/approve", request).await.expect("approves");
    assert_eq!(approved["state"], "active", "the second approval admits: {approved}");
    until(PATIENCE, || {
        let over = ended(&mut joining);
        async move { over }
    })
    .await
    .expect("the joiner is told");
    assert!(joining.wait().expect("ended").success());
    let members = first.get("/v1/members", vec![]).await.expect("answers");
    assert!(items(&members).iter().any(|member| member["region"] == "r2" && member["state"] == "active"), "{members}");
    until(PATIENCE, || async { seen().await.is_empty() }).await.expect("nobody waits any more");

    let unknown = causeway(&ring.nodes[1].data_dir, &["member", "approve", "r9"]).expect("starts");
    assert_eq!(unknown.status.code(), Some(3), "nobody of that name: {}", String::from_utf8_lossy(&unknown.stderr));
}

/// What a node says of a member.
async fn member(client: &Client, region: &str) -> Value {
    client.get(&format!("/v1/members/{region}"), vec![]).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expulsion_takes_two_members_and_holds_where_the_registry_cannot_be_reached() {
    let mut ring = Ring::start(RingOptions { nodes: 4, ..RingOptions::default() }).await.expect("starts");
    let policy = |ring: &Ring, at: usize, n: &str| {
        causeway(&ring.nodes[at].data_dir, &["member", "policy", "--admission-approvals", n]).expect("starts")
    };
    assert!(policy(&ring, 0, "2").status.success());
    for at in 1..4 {
        let client = ring.client(at).expect("runs");
        until(PATIENCE, || async {
            client.get("/v1/policy", vec![]).await.is_ok_and(|policy| policy["admission_approvals"] == 2)
        })
        .await
        .expect("all members see the policy");
    }
    // who voted for it is not enough to take it back
    let alone = policy(&ring, 0, "1");
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(said.contains("1 of 2 members agreed; 1 is missing"), "{said}");

    // three vote; the one that does not is put out, by one voter that lives on and one that dies
    let voters: Vec<usize> = {
        let client = ring.client(0).expect("runs");
        until(PATIENCE, || async {
            client.get("/v1/registry", vec![]).await.is_ok_and(|r| r["voters"].as_array().is_some_and(|v| v.len() == 3))
        })
        .await
        .expect("three vote");
        let status = client.get("/v1/registry", vec![]).await.expect("answers");
        let place = |id: &Value| id.as_str()?.trim_start_matches('m').parse::<usize>().ok()?.checked_sub(1);
        status["voters"].as_array().into_iter().flatten().filter_map(place).collect()
    };
    let out = (0..4).find(|at| !voters.contains(at)).expect("one does not vote");
    let region = format!("r{out}");
    let (dying, witness, away) = (voters[0], voters[1], voters[2]);
    let expel = ["member", "expel", &region, "--reason", "lost its keys", "--yes"];
    let first = causeway(&ring.nodes[dying].data_dir, &expel).expect("starts");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(said.contains(&format!("{region} expelled: 1 of 2 members agreed; 1 is missing")), "{said}");
    let witnessing = ring.client(witness).expect("runs");
    until(PATIENCE, || async { member(&witnessing, &region).await["motions"][0]["have"] == 1 })
        .await
        .expect("gossiped");
    assert_eq!(member(&witnessing, &region).await["state"], "active", "one vote is not enough");

    // no quorum of the registry from here on
    for at in [dying, away] {
        ring.nodes[at].kill().expect("dies");
    }
    let lonely = ring.client(out).expect("runs");
    until(PATIENCE, || async { member(&lonely, &format!("r{dying}")).await["connection"] == "away" })
        .await
        .expect("gone");
    assert_eq!(member(&witnessing, &region).await["connection"], "connected");
    let second = causeway(&ring.nodes[witness].data_dir, &expel).expect("starts");
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let view = member(&witnessing, &region).await;
    assert_eq!((&view["state"], &view["motions"][0]["decided"]), (&json!("expelled"), &json!(true)), "{view}");
    until(PATIENCE, || async { member(&lonely, &format!("r{witness}")).await["connection"] == "away" })
        .await
        .expect("it gets nothing in");

    // a restart does not forget it, and those that come back hear of it and have it committed
    ring.nodes[witness].kill().expect("dies");
    ring.nodes[witness].start().expect("starts");
    let witnessing = ring.nodes[witness].wait_up(PATIENCE).await.expect("comes up");
    assert_eq!(member(&witnessing, &region).await["state"], "expelled", "also after a restart");
    for at in [dying, away] {
        ring.nodes[at].start().expect("starts");
    }
    for at in [dying, away, witness] {
        let client = ring.nodes[at].wait_up(PATIENCE).await.expect("comes up");
        until(PATIENCE, || async {
            let view = member(&client, &region).await;
            view["state"] == "expelled" && view["motions"] == json!([])
        })
        .await
        .expect("the registry has it");
    }
}
