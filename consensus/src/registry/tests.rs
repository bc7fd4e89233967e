//! Stories of the registry over a state in memory.

use super::command::{JoinRequest, Registration};
use super::kv::MemoryKv;
use super::*;
use crate::envelope::{Envelope, Federation, StatementKind};
use crate::time::Timestamp;
use cpi::dictionary::Dictionary;
use cpi::filter::Filter;
use cpi::identifier::Cpi;
use cpi::ids::{ContentDigest, MemberId};
use cpi::resource::RegionPlace;
use ed25519_dalek::{Signer as _, SigningKey};
use std::sync::Arc;

pub(crate) const BEIJING: &str = "cpi:1:C91110108MA00CP019A-GI6450-G110100-A01.GC-VM-2870TF64-20P-400G-INX8480P_800.RS-INX8480P-112-1024G-15T-400~2VHNVZS";
pub(crate) const DALIAN: &str = "cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071~36GEFEP";

fn place(region: &str) -> RegionPlace {
    RegionPlace { region: region.parse().unwrap(), city: "G110100".to_owned(), country: "CN".to_owned() }
}

pub(crate) struct World {
    pub genesis: Genesis,
    pub kv: MemoryKv,
    index: u64,
    time: u64,
    pub federation: Federation,
    pub founder: SigningKey,
    sequence: u64,
}

impl World {
    pub fn new() -> Self {
        let founder = SigningKey::from_bytes(&[1; 32]);
        let genesis = Genesis {
            name: "test".to_owned(),
            founded_at: Timestamp(1000),
            nonce: [9; 16],
            place: place("beijing"),
            transport_key: SigningKey::from_bytes(&[11; 32]).verifying_key().to_bytes(),
            signing_key: founder.verifying_key().to_bytes(),
            addresses: vec!["/ip4/127.0.0.1/udp/1/quic-v1".to_owned()],
            enterprises: vec!["C91110108MA00CP019A".to_owned()],
        };
        let federation = Federation { id: genesis.federation_id(), epoch: 0 };
        let kept = genesis.clone();
        let mut world =
            Self { genesis: kept, kv: MemoryKv::default(), index: 0, time: 1000, federation, founder, sequence: 0 };
        let entry = Entry { stamp: Timestamp(1000), body: EntryBody::Genesis(Box::new(genesis)) };
        assert_eq!(world.apply(&entry), Response::Founded);
        world
    }

    fn apply(&mut self, entry: &Entry) -> Response {
        self.index += 1;
        RegistryState::apply(&mut self.kv, self.index, entry)
    }

    pub fn signed(&self, key: &SigningKey, sequence: u64, command: &Command) -> Vec<u8> {
        Envelope::seal(StatementKind::RegistryCommand, self.federation, key, sequence, command.to_bytes()).to_bytes()
    }

    pub fn submit(&mut self, envelope: Vec<u8>) -> Response {
        self.time += 1000;
        let statement = Statement::open(envelope, &self.federation).unwrap();
        self.apply(&Entry { stamp: Timestamp(self.time), body: EntryBody::Statement(Box::new(statement)) })
    }

    pub fn command(&mut self, key: &SigningKey, command: &Command) -> Response {
        self.sequence += 1;
        let envelope = self.signed(key, self.sequence, command);
        self.submit(envelope)
    }

    pub fn admit(&mut self, region: &str, seed: u8, enterprises: &[&str]) -> (SigningKey, Response) {
        let (signing, transport) = (SigningKey::from_bytes(&[seed; 32]), SigningKey::from_bytes(&[seed + 100; 32]));
        let nonce = [seed; 16];
        let request = JoinRequest {
            invitation_nonce: nonce,
            place: place(region),
            transport_key: transport.verifying_key().to_bytes(),
            addresses: Vec::new(),
            transport_proof: transport
                .sign(&JoinRequest::transport_claim(&signing.verifying_key().to_bytes(), &nonce))
                .to_bytes()
                .to_vec(),
        };
        let envelope = Envelope::seal(StatementKind::JoinRequest, self.federation, &signing, 1, request.to_bytes());
        let admission = Admission {
            invitation_nonce: nonce,
            place: request.place,
            transport_key: request.transport_key,
            signing_key: signing.verifying_key().to_bytes(),
            addresses: Vec::new(),
            enterprises: enterprises.iter().map(|code| (*code).to_owned()).collect(),
            request: envelope.to_bytes(),
            approvals: Vec::new(),
        };
        let founder = self.founder.clone();
        let response = self.command(&founder, &Command::Admit(Box::new(admission)));
        (signing, response)
    }

    pub fn register(&mut self, key: &SigningKey, text: &str) -> ItemOutcome {
        let command = Command::Register { items: vec![Registration { text: text.to_owned() }], release: 1 };
        match self.command(key, &command) {
            Response::Registered(mut items) => items.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// The vote of whoever signs with `key`, good for an hour.
    pub fn vote(&self, key: &SigningKey, motion: &Motion) -> Vec<u8> {
        let vote =
            Vote { motion: motion.clone(), reason: "because".to_owned(), until: Timestamp(self.time + 3_600_000) };
        Envelope::seal(StatementKind::Vote, self.federation, key, 0, vote.to_bytes()).to_bytes()
    }

    /// Proposes `motion` by the founder, with these members' votes.
    pub fn decide(&mut self, voters: &[&SigningKey], motion: &Motion) -> Response {
        let votes = voters.iter().map(|key| self.vote(key, motion)).collect();
        let founder = self.founder.clone();
        self.command(&founder, &Command::Decide { votes })
    }

    pub(crate) fn reader(&self) -> RegistryReader {
        RegistryReader::new(Arc::new(self.kv.clone()))
    }
}

#[test]
fn a_member_registers_under_its_own_enterprise_only() {
    let mut world = World::new();
    let founder = world.founder.clone();
    assert!(matches!(world.register(&founder, BEIJING), ItemOutcome::Registered { revision: 1, .. }));
    assert!(matches!(world.register(&founder, BEIJING), ItemOutcome::Unchanged { revision: 1, .. }));
    assert!(matches!(world.register(&founder, DALIAN), ItemOutcome::Refused(Refusal::ForeignEnterprise { .. })));
    let stranger = SigningKey::from_bytes(&[77; 32]);
    let command = Command::Register { items: vec![Registration { text: BEIJING.to_owned() }], release: 1 };
    assert_eq!(world.command(&stranger, &command), Response::Refused(Refusal::UnknownSigner));
}

#[test]
fn the_first_committed_holds_and_the_other_is_told_who() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let (other, response) = world.admit("dalian", 2, &["C91110108MA00CP019A"]);
    assert_eq!(response, Response::Admitted { member: MemberId(2), raft_id: 2 });
    world.register(&founder, BEIJING);
    match world.register(&other, BEIJING) {
        ItemOutcome::Refused(Refusal::OwnedByOther { owner, .. }) => assert_eq!(owner, MemberId(1)),
        outcome => panic!("{outcome:?}"),
    }
    let key = Cpi::parse(BEIJING).unwrap().stable_key();
    let retire = Command::Retire { key, expected_revision: 1, successor: None };
    assert!(matches!(world.command(&other, &retire), Response::Refused(Refusal::OwnedByOther { .. })));
}

#[test]
fn the_same_bytes_repeat_their_outcome_and_other_bytes_are_equivocation() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let register = Command::Register { items: vec![Registration { text: BEIJING.to_owned() }], release: 1 };
    let envelope = world.signed(&founder, 7, &register);
    let first = world.submit(envelope.clone());
    assert_eq!(world.submit(envelope), first);
    let other = world.signed(&founder, 7, &Command::RaiseRingVersion { version: 2 });
    assert_eq!(world.submit(other), Response::Refused(Refusal::Equivocation { sequence: 7 }));
    // an older sequence that arrives later is no replay
    let late = world.signed(&founder, 3, &Command::RaiseRingVersion { version: 2 });
    assert_eq!(world.submit(late), Response::RingVersion { version: 2 });
}

#[test]
fn an_invitation_is_good_for_one_and_a_region_name_is_unique() {
    let mut world = World::new();
    world.admit("dalian", 2, &[]);
    assert_eq!(world.admit("jinhua", 2, &[]).1, Response::Refused(Refusal::InvitationUsed));
    assert!(matches!(world.admit("dalian", 3, &[]).1, Response::Refused(Refusal::Taken { .. })));
}

#[test]
fn an_expelled_member_changes_nothing_and_frees_its_name() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let (dalian, _) = world.admit("dalian", 2, &["C91210231MA00CP027A"]);
    let expel = standing(2, 0, Standing::Expelled);
    let expelled = world.decide(&[&founder], &expel);
    assert!(matches!(expelled, Response::MemberChanged { revision: 2, .. }), "{expelled:?}");
    assert_eq!(world.reader().member(MemberId(2)).unwrap().standing_reason, "because");
    let command = Command::Register { items: vec![Registration { text: DALIAN.to_owned() }], release: 1 };
    assert_eq!(world.command(&dalian, &command), Response::Refused(Refusal::SignerNotActive { member: MemberId(2) }));
    assert_eq!(world.admit("dalian", 4, &[]).1, Response::Admitted { member: MemberId(3), raft_id: 3 });
    assert_eq!(world.reader().roster().len(), 2);
    world.decide(&[&founder], &standing(3, 0, Standing::Suspended));
    let own = world.decide(&[&founder], &standing(1, 0, Standing::Suspended));
    assert_eq!(own, Response::Refused(Refusal::LastMember));
}

fn standing(member: u64, changes: u64, standing: Standing) -> Motion {
    Motion::Standing { member: MemberId(member), changes, standing }
}

fn needs(have: u32, need: u32) -> Response {
    Response::Refused(Refusal::NeedsApprovals { have, need })
}

#[test]
fn a_policy_of_two_takes_two_members_to_expel_to_suspend_and_to_change_it() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let (dalian, _) = world.admit("dalian", 2, &[]);
    let (jinhua, _) = world.admit("jinhua", 3, &[]);
    let two = Motion::Policy {
        expected_revision: 0,
        policy: FederationPolicy { admission_approvals: 2, voters: 3, learners: 4 },
    };
    assert_eq!(world.decide(&[&founder], &two), Response::PolicySet { revision: 1 });
    // one member cannot take the rule back, nor make the others fewer
    let one = Motion::Policy { expected_revision: 1, policy: FederationPolicy::default() };
    assert_eq!(world.decide(&[&founder], &one), needs(1, 2));
    let suspend = standing(3, 0, Standing::Suspended);
    assert_eq!(world.decide(&[&founder], &suspend), needs(1, 2));
    assert_eq!(world.decide(&[&founder, &founder], &suspend), needs(1, 2), "one member is one");
    assert_eq!(world.decide(&[&founder, &SigningKey::from_bytes(&[77; 32])], &suspend), needs(1, 2));
    // the proposer has no vote by proposing, and whom it is about has none at all
    let expel = standing(2, 0, Standing::Expelled);
    assert_eq!(world.decide(&[&jinhua], &expel), needs(1, 2));
    let resume = standing(2, 1, Standing::Active);
    assert!(matches!(
        world.decide(&[&founder, &jinhua], &standing(2, 0, Standing::Suspended)),
        Response::MemberChanged { .. }
    ));
    assert_eq!(world.decide(&[&founder, &dalian], &resume), needs(1, 2));
    // with one suspended the other two still must agree; votes on the standing before count no more
    assert!(matches!(world.decide(&[&founder, &jinhua], &expel), Response::Refused(Refusal::RevisionMismatch { .. })));
    assert!(matches!(world.decide(&[&founder, &jinhua], &resume), Response::MemberChanged { .. }));
    let again = standing(2, 2, Standing::Expelled);
    assert!(matches!(world.decide(&[&founder, &jinhua], &again), Response::MemberChanged { .. }));
    assert_eq!(world.decide(&[&founder, &jinhua], &one), Response::PolicySet { revision: 2 });
}

#[test]
fn a_member_may_go_by_itself_and_bad_votes_are_refused() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let (dalian, _) = world.admit("dalian", 2, &[]);
    world.admit("jinhua", 3, &[]);
    let three = Motion::Policy {
        expected_revision: 0,
        policy: FederationPolicy { admission_approvals: 3, voters: 3, learners: 4 },
    };
    world.decide(&[&founder], &three);
    let of = |world: &World, key: &SigningKey, motion: &Motion| world.vote(key, motion);
    let (leave, other) = (standing(2, 0, Standing::Expelled), standing(3, 0, Standing::Expelled));
    let mut forged = of(&world, &dalian, &leave);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let mixed = vec![of(&world, &dalian, &leave), of(&world, &founder, &other)];
    let late = Vote { motion: leave.clone(), reason: String::new(), until: Timestamp(1) };
    let late = Envelope::seal(StatementKind::Vote, world.federation, &dalian, 0, late.to_bytes()).to_bytes();
    let long = Vote { motion: leave.clone(), reason: "x".repeat(401), until: Timestamp(u64::MAX) };
    let long = Envelope::seal(StatementKind::Vote, world.federation, &dalian, 0, long.to_bytes()).to_bytes();
    for votes in [vec![], vec![forged], mixed, vec![long], vec![of(&world, &dalian, &leave); 65]] {
        let refused = world.command(&founder, &Command::Decide { votes });
        assert!(
            matches!(&refused, Response::Refused(Refusal::Invalid { field, .. }) if field == "votes"),
            "{refused:?}"
        );
    }
    assert_eq!(world.command(&founder, &Command::Decide { votes: vec![late] }), needs(0, 2));
    // all others are as many as there are to ask
    assert_eq!(world.decide(&[&founder], &other), needs(1, 2));
    assert!(matches!(world.decide(&[&dalian], &leave), Response::MemberChanged { .. }));
}

#[test]
fn history_search_and_sums_follow_each_change() {
    let mut world = World::new();
    let founder = world.founder.clone();
    world.register(&founder, BEIJING);
    let key = Cpi::parse(BEIJING).unwrap().stable_key();
    let larger = BEIJING.rsplit_once('~').unwrap().0.replace("-400G-INX8480P_800", "-800G-INX8480P_900");
    let larger = Cpi::seal(&larger).unwrap();
    let revise = Command::Revise { key, expected_revision: 1, text: larger.as_str().to_owned(), release: 1 };
    assert_eq!(world.command(&founder, &revise), Response::IdentifierChanged { key, revision: 2 });
    let reader = world.reader();
    assert_eq!(reader.identifier_at(&key, Timestamp(2000)).unwrap().revision, 1);
    assert_eq!(reader.identifier(&key).unwrap().revision, 2);
    let dictionary = Dictionary::first();
    let search = |world: &World, filter: &str| {
        let query = SearchQuery { filter: Some(Filter::parse(filter).unwrap()), limit: 10, ..SearchQuery::default() };
        world.reader().search(&query, &dictionary).items.len()
    };
    assert_eq!(search(&world, "class = GC"), 1);
    assert_eq!(search(&world, "class = SC"), 0);
    assert_eq!(search(&world, "chip = INX8480P"), 1);
    let prefix = SearchQuery { prefix: Some("c91110108".to_owned()), limit: 10, ..SearchQuery::default() };
    assert_eq!(world.reader().search(&prefix, &dictionary).items.len(), 1);
    let all = world.reader().statistics(StatisticsDimension::All).remove(0);
    assert_eq!((all.totals.identifiers, all.totals.pools, all.totals.chips["INX8480P"]), (1, 1, 900));
    assert_eq!(all.totals.gflops["F64"], 2_870_000);
    let retire = Command::Retire { key, expected_revision: 2, successor: None };
    assert_eq!(world.command(&founder, &retire), Response::IdentifierChanged { key, revision: 3 });
    assert!(world.reader().statistics(StatisticsDimension::All).is_empty());
    assert_eq!(search(&world, "class = GC"), 0);
    assert!(matches!(world.reader().identifier(&key).unwrap().state, IdentifierState::Retired { .. }));
    assert_eq!(world.reader().history(&key).len(), 3);
}

#[test]
fn pages_give_each_identifier_once() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let stem = BEIJING.rsplit_once('~').unwrap().0;
    let items: Vec<_> = (0..25)
        .map(|n| Registration {
            text: Cpi::seal(&stem.replace("-A01.", &format!("-A{n:02}."))).unwrap().as_str().to_owned(),
        })
        .collect();
    world.command(&founder, &Command::Register { items, release: 1 });
    for (prefix, filter) in [(None, None), (Some("cpi:1:C911"), None), (None, Some("class in (GC, SC)"))] {
        let mut query = SearchQuery {
            prefix: prefix.map(str::to_owned),
            filter: filter.map(|text| Filter::parse(text).unwrap()),
            limit: 10,
            ..SearchQuery::default()
        };
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let page = world.reader().search(&query, &Dictionary::first());
            assert!(page.items.iter().all(|item| seen.insert(item.key)));
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 25);
    }
}

#[test]
fn a_release_takes_effect_once_all_its_pieces_are_there() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let (a, b) = (vec![1u8; 100], vec![2u8; 50]);
    let sha256 = ContentDigest::of(&[a.clone(), b.clone()].concat()).0;
    let publish = |chunk, bytes: &Vec<u8>| Command::PublishRelease { release: 2, chunk, bytes: bytes.clone() };
    let activate = Command::ActivateRelease { release: 2, chunks: 2, sha256 };
    assert_eq!(world.command(&founder, &publish(0, &a)), Response::ChunkStored);
    assert!(matches!(world.command(&founder, &activate), Response::Refused(Refusal::NotFound { .. })));
    world.command(&founder, &publish(1, &b));
    assert_eq!(world.command(&founder, &activate), Response::ReleaseActive { release: 2 });
    assert_eq!(world.reader().release(2).unwrap().len(), 150);
}

#[test]
fn two_replicas_have_one_hash() {
    let (mut a, mut b) = (World::new(), World::new());
    for world in [&mut a, &mut b] {
        let founder = world.founder.clone();
        world.register(&founder, BEIJING);
        world.admit("dalian", 2, &[]);
    }
    assert_eq!(a.reader().summary(), b.reader().summary());
    let founder = b.founder.clone();
    b.command(&founder, &Command::RaiseRingVersion { version: 2 });
    assert_ne!(a.reader().summary().unwrap().hash, b.reader().summary().unwrap().hash);
}
