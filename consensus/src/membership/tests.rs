//! Stories of votes, over a registry in memory.

use super::*;
use crate::envelope::{Envelope, StatementKind};
use crate::registry::tests::World;
use crate::registry::{FederationPolicy, Motion, SignedVote, Standing, Vote};
use crate::time::{Monotonic, Now, Timestamp};
use cpi::ids::MemberId;
use ed25519_dalek::SigningKey;

const WEEK: u64 = 7 * 24 * 3_600 * 1_000;

fn at(ms: u64) -> Now {
    Now { mono: Monotonic(ms), wall: Timestamp(1_000_000 + ms) }
}

fn expel(member: u64) -> Motion {
    Motion::Standing { member: MemberId(member), changes: 0, standing: Standing::Expelled }
}

struct Story {
    world: World,
    keys: Vec<SigningKey>,
    table: VoteTable,
}

impl Story {
    /// Four members, two of which must agree.
    fn new() -> Self {
        let mut world = World::new();
        let mut keys = vec![world.founder.clone()];
        keys.extend(
            ["dalian", "jinhua", "harbin"].into_iter().zip(2..).map(|(region, n)| world.admit(region, n, &[]).0),
        );
        let policy = FederationPolicy { admission_approvals: 2, ..FederationPolicy::default() };
        world.decide(&[&keys[0]], &Motion::Policy { expected_revision: 0, policy });
        Self { world, keys, table: VoteTable::default() }
    }

    fn vote(&self, by: usize, motion: &Motion, until: u64) -> SignedVote {
        let vote = Vote { motion: motion.clone(), reason: format!("says {by}"), until: at(until).wall };
        let envelope = Envelope::seal(StatementKind::Vote, self.world.federation, &self.keys[by], 0, vote.to_bytes());
        SignedVote::open(envelope.to_bytes(), &self.world.federation).unwrap()
    }

    fn offer(&mut self, now: u64, vote: SignedVote) -> Result<VoteTaken, VoteRefused> {
        self.table.offer(at(now), vote, at(now).wall, &self.world.reader())
    }

    fn actions(&mut self) -> Vec<VoteAction> {
        std::iter::from_fn(|| self.table.poll_action()).collect()
    }
}

#[test]
fn enough_votes_are_in_force_without_the_registry_and_the_leader_proposes_them() {
    let mut story = Story::new();
    let motion = expel(4);
    let (first, second) = (story.vote(0, &motion, WEEK), story.vote(1, &motion, WEEK));
    assert_eq!(story.offer(0, first.clone()), Ok(VoteTaken::New));
    assert_eq!(story.offer(0, first.clone()), Ok(VoteTaken::Known));
    // the one it is about cannot save nor damn itself with others' help
    let own = story.vote(3, &Motion::Standing { member: MemberId(4), changes: 0, standing: Standing::Active }, WEEK);
    assert_eq!(story.offer(0, own), Ok(VoteTaken::New));
    assert!(story.table.in_force(&story.world.reader()).is_empty());
    let view = story.table.views(&story.world.reader()).into_iter().find(|view| view.motion == motion).unwrap();
    assert_eq!((view.tally.have(), view.tally.need, view.tally.missing()), (1, 2, 1));
    assert_eq!(view.reason, "says 0");

    assert_eq!(story.offer(5, second.clone()), Ok(VoteTaken::New));
    let in_force = story.table.in_force(&story.world.reader());
    assert_eq!(in_force.into_iter().collect::<Vec<_>>(), [(MemberId(4), Standing::Expelled)]);
    story.actions();
    for (now, leads) in [(5, true), (1_000, true), (2_100, false)] {
        story.table.handle_timeout(at(now), leads, &story.world.reader());
        assert!(story.actions().is_empty(), "its gatherer is given time, and only a leader steps in");
    }
    story.table.handle_timeout(at(2_200), true, &story.world.reader());
    let actions = story.actions();
    let [VoteAction::Propose { motion: proposed, votes }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((proposed, votes.len()), (&motion.digest(), 2));
    story.table.handle_timeout(at(9_000), true, &story.world.reader());
    assert!(story.actions().is_empty(), "it is in flight");
    story.table.returned(at(9_000), &motion.digest());
    story.table.handle_timeout(at(13_100), true, &story.world.reader());
    assert_eq!(story.actions().len(), 1, "again, later");

    let (a, b) = (story.keys[0].clone(), story.keys[1].clone());
    assert!(story.world.decide(&[&a, &b], &motion).refusal().is_none());
    story.table.settle(at(13_200), &story.world.reader());
    assert!(story.table.is_empty(), "the registry knows");
    assert_eq!(story.offer(13_300, first), Err(VoteRefused::Settled));
}

#[test]
fn votes_wait_a_week_and_what_was_decided_in_time_stays_in_force() {
    let mut story = Story::new();
    let (waiting, decided) = (expel(3), expel(4));
    for vote in [story.vote(0, &waiting, WEEK), story.vote(0, &decided, WEEK), story.vote(1, &decided, WEEK)] {
        assert_eq!(story.offer(0, vote), Ok(VoteTaken::New));
    }
    story.table.settle(at(WEEK + 1), &story.world.reader());
    assert_eq!(story.table.len(), 2, "one vote of two is out of date");
    assert!(story.table.in_force(&story.world.reader()).contains_key(&MemberId(4)), "no quorum for a week");
    let late = story.vote(1, &waiting, WEEK);
    assert_eq!(story.offer(WEEK + 1, late), Err(VoteRefused::Expired));
    let for_ever = story.vote(1, &waiting, 20 * WEEK);
    assert_eq!(story.offer(WEEK + 1, for_ever), Err(VoteRefused::Expired));
    // who votes again is counted once, by the later vote
    story.actions();
    let again = story.vote(0, &decided, 2 * WEEK);
    assert_eq!(story.offer(WEEK + 1, again), Ok(VoteTaken::New));
    assert_eq!(story.table.len(), 2);
    assert!(matches!(story.actions().as_slice(), [VoteAction::Drop { .. }, VoteAction::Keep { .. }]));
}

#[test]
fn strangers_do_not_vote_and_one_member_fills_only_its_share() {
    let mut story = Story::new();
    story.keys.push(SigningKey::from_bytes(&[99; 32]));
    let stranger = story.vote(4, &expel(2), WEEK);
    assert_eq!(story.offer(0, stranger), Err(VoteRefused::UnknownSigner));
    for changes in 0..64 {
        let motion = Motion::Standing { member: MemberId(2), changes, standing: Standing::Expelled };
        let vote = story.vote(0, &motion, WEEK);
        assert_eq!(story.offer(0, vote), Ok(VoteTaken::New));
    }
    let more = story.vote(0, &expel(3), WEEK);
    assert_eq!(story.offer(0, more), Err(VoteRefused::Full));
    let other = story.vote(1, &expel(3), WEEK);
    assert_eq!(story.offer(0, other), Ok(VoteTaken::New));
    // a member that is out has no say
    let (a, b) = (story.keys[1].clone(), story.keys[2].clone());
    assert!(story.world.decide(&[&a, &b], &expel(1)).refusal().is_none());
    story.table.settle(at(1), &story.world.reader());
    assert_eq!(story.table.len(), 1);
}

#[test]
fn two_members_have_the_same_votes_after_a_repair_and_the_disk_gives_them_back() {
    let mut here = Story::new();
    let mut there = Story::new();
    for (by, about) in [(0, 3), (1, 3), (0, 4)] {
        let vote = here.vote(by, &expel(about), WEEK);
        here.offer(0, vote).unwrap();
    }
    let vote = there.vote(2, &expel(4), WEEK);
    there.offer(0, vote).unwrap();
    let ids = here.table.ids().collect::<Vec<_>>();
    let question = VoteQuestion::from_bytes(&VoteQuestion::Have { ids }.to_bytes()).unwrap();
    let VoteQuestion::Have { ids } = question else { panic!("{question:?}") };
    let VoteAnswer::Missing { items, wanted } = there.table.missing(&ids) else { panic!("an answer") };
    assert_eq!((items.len(), wanted.len()), (1, 3));
    for (story, envelopes) in [(&mut there, here.table.items(&wanted)), (&mut here, items)] {
        for envelope in envelopes {
            let vote = SignedVote::open(envelope, &story.world.federation).unwrap();
            assert_eq!(story.offer(1, vote), Ok(VoteTaken::New));
        }
    }
    assert!(here.table.ids().eq(there.table.ids()));
    assert_eq!(here.table.in_force(&here.world.reader()).len(), 2);

    let kept: Vec<KeptVote> = here
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            VoteAction::Keep { kept, .. } => Some(kept),
            _ => None,
        })
        .collect();
    let mut again = VoteTable::default();
    for KeptVote { since, envelope } in kept {
        let vote = SignedVote::open(envelope, &here.world.federation).unwrap();
        again.restore(at(2 * WEEK), vote, since, &here.world.reader());
    }
    assert_eq!(again.in_force(&here.world.reader()).len(), 2, "also after a restart");
    assert!(again.poll_action().is_none());
}

#[test]
fn wrong_frames_are_refused() {
    let many = VoteQuestion::Give { items: vec![vec![1]; 257] }.to_bytes();
    assert!(VoteQuestion::from_bytes(&many).is_err());
    let ids = VoteQuestion::Have { ids: vec![VoteId([0; 16]); 4_097] }.to_bytes();
    assert!(VoteQuestion::from_bytes(&ids).is_err());
    assert!(VoteQuestion::from_bytes(b"nonsense").is_err());
    let story = Story::new();
    let body = Vote { motion: expel(2), reason: "x".repeat(401), until: at(5).wall };
    let long = Envelope::seal(StatementKind::Vote, story.world.federation, &story.keys[0], 0, body.to_bytes());
    let refused = SignedVote::open(long.to_bytes(), &story.world.federation).unwrap_err();
    assert!(VoteRefused::from(&refused).is_wrong_by_itself());
}
