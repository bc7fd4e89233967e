//! A desk over a real registry of one: what its vote comes to, what it lets pass, and what the disk keeps.

use super::*;
use crate::drivers::pending::tests::Alone;
use crate::identity::Identity;
use crate::mesh::GossipVerdict;
use consensus::envelope::{Envelope, StatementKind};
use consensus::registry::{FederationPolicy, Motion, Refusal, Response, Standing, Vote};
use consensus::time::Timestamp;
use cpi::ids::MemberId;
use std::time::{SystemTime, UNIX_EPOCH};

fn desk(node: &Alone) -> MotionDesk {
    let parts = MotionParts {
        registry: node.registry.clone(),
        mesh: node.mesh.clone(),
        signer: node.signer.clone(),
        records: node.records.clone(),
        metrics: node.metrics.clone(),
    };
    MotionDesk::open(parts).expect("opens")
}

fn policy(revision: u64, admission_approvals: u32) -> Motion {
    Motion::Policy {
        expected_revision: revision,
        policy: FederationPolicy { admission_approvals, voters: 3, learners: 4 },
    }
}

fn expel(member: u64) -> Motion {
    Motion::Standing { member: MemberId(member), changes: 0, standing: Standing::Expelled }
}

fn body(motion: Motion) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    Vote { motion, reason: String::new(), until: Timestamp(now + 60_000) }.to_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_vote_of_one_is_applied_and_a_vote_for_nobody_known_waits_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Alone::start(folder.path()).await;
    let votes = desk(&node);
    // the only member: as many as the policy says, though no more than there are
    let set = votes.vote(policy(0, 5), "").await.expect("votes");
    assert_eq!(set, MotionOutcome::Applied(Response::PolicySet { revision: 1 }));
    assert_eq!(node.registry.reader().policy().admission_approvals, 5);
    assert!(votes.open_motions().is_empty(), "decided");
    let again = votes.vote(policy(0, 3), "").await.expect_err("the policy went on");
    assert!(matches!(again, MotionError::Refused(_)), "{again}");
    let last = votes.vote(expel(1), "goes").await.expect("votes");
    assert_eq!(last, MotionOutcome::Applied(Response::Refused(Refusal::LastMember)));
    assert_eq!(votes.open_motions().len(), 1);
    drop(votes);
    assert_eq!(desk(&node).open_motions().len(), 1, "the disk gives it back");
    node.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossiped_votes_are_judged_before_they_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Alone::start(folder.path()).await;
    let votes = desk(&node);
    let good = node.signer.seal(StatementKind::Vote, body(policy(0, 2))).to_bytes();
    assert_eq!(votes.on_vote(MemberId(1), &good), GossipVerdict::Accept);
    assert_eq!(votes.on_vote(MemberId(1), &good), GossipVerdict::Ignore, "once");
    let mut forged = node.signer.seal(StatementKind::Vote, body(policy(0, 3))).to_bytes();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let other_kind = node.signer.seal(StatementKind::Offer, body(policy(0, 3))).to_bytes();
    let lied = node.signer.seal(StatementKind::Vote, body(policy(0, 4))).to_bytes();
    let stranger = Identity::generate();
    let unknown = Envelope::seal(StatementKind::Vote, node.federation, stranger.signing_key(), 1, body(policy(0, 3)));
    let over = node.signer.seal(
        StatementKind::Vote,
        Vote { motion: policy(0, 3), reason: String::new(), until: Timestamp(5) }.to_bytes(),
    );
    for (payload, from, verdict, reason) in [
        (forged, 1, GossipVerdict::Reject, "signature"),
        (b"\x01nonsense".to_vec(), 1, GossipVerdict::Reject, "malformed"),
        (other_kind, 1, GossipVerdict::Reject, "malformed"),
        (lied, 7, GossipVerdict::Reject, "author"),
        (unknown.to_bytes(), 1, GossipVerdict::Ignore, "unknown_signer"),
        (over.to_bytes(), 1, GossipVerdict::Ignore, "expired"),
    ] {
        assert_eq!(votes.on_vote(MemberId(from), &payload), verdict, "{reason}");
        assert!(node.refused(reason), "{reason} is counted:\n{}", node.metrics.text());
    }
    assert_eq!(votes.open_motions().len(), 1, "nothing of it waits");
    node.registry.shutdown().await;
}
