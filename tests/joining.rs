//! Getting in where more than one member must approve, with real processes.

use e2e::ring::{PATIENCE, Ring, RingOptions, binary, causeway, enterprise, items, until};
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
    let again = first.post("/v1/members/r2/approve", json!({})).await.expect("answers");
    assert_eq!((&again["state"], &again["approvals"]["have"]), (&json!("waiting"), &json!(1)), "{again}");
    assert!(!ended(&mut joining), "one of two is not enough");
    let approved = second.post("/v1/members/r2/approve", json!({})).await.expect("approves");
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

    let unknown = second.post("/v1/members/r9/approve", json!({})).await.expect_err("nobody of that name");
    assert_eq!(unknown.exit() as u8, 3, "{unknown}");
}
