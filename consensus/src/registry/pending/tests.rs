//! Stories of pending statements: who may claim what, what becomes of a claim, and two tables that repair each other.

use super::*;
use crate::envelope::{Envelope, Federation, StatementKind};
use crate::registry::tests::{BEIJING, DALIAN, World};
use crate::registry::{Command, ItemOutcome, Motion, Registration, Response, Standing, Statement};
use crate::time::{Monotonic, Now, Timestamp};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use std::collections::BTreeSet;

const DALIANS: &str = "C91210231MA00CP027A";
const FIRST: u64 = 1_800_000_000_000;

fn at(ms: u64) -> Now {
    Now { mono: Monotonic(ms), wall: Timestamp(FIRST + ms) }
}

fn register(texts: &[&str]) -> Command {
    let items = texts.iter().map(|text| Registration { text: (*text).to_owned() }).collect();
    Command::Register { items, release: 1 }
}

/// The `number`th of Dalian's chips.
fn chip(number: u64) -> String {
    let stem = DALIAN.rsplit_once("/U").expect("a serial number").0;
    Cpi::seal(&format!("{stem}/S{number:012}")).expect("valid").as_str().to_owned()
}

fn key_of(text: &str) -> StableKey {
    Cpi::parse(text).expect("valid").stable_key()
}

/// A federation of Beijing (member 1) and Dalian (member 2), and the tables of two members.
struct Story {
    world: World,
    dalian: SigningKey,
    here: PendingTable,
    there: PendingTable,
}

impl Story {
    fn new() -> Self {
        let mut world = World::new();
        let (dalian, admitted) = world.admit("dalian", 2, &[DALIANS]);
        assert!(matches!(admitted, Response::Admitted { .. }));
        let table = |seed| PendingTable::new(MemberId(1), PendingLimits::default(), seed);
        Self { world, dalian, here: table(1), there: table(2) }
    }

    fn statement(&self, key: &SigningKey, sequence: u64, command: &Command) -> Statement {
        Statement::open(self.world.signed(key, sequence, command), &self.world.federation).expect("signed")
    }

    fn by_dalian(&self, sequence: u64, command: &Command) -> Statement {
        self.statement(&self.dalian, sequence, command)
    }

    fn offer(&mut self, statement: Statement) -> Result<Taken, ClaimRefused> {
        self.here.offer(at(0), statement, 0, &self.world.reader())
    }

    fn actions(&mut self) -> Vec<PendingAction> {
        std::iter::from_fn(|| self.here.poll_action()).collect()
    }
}

#[test]
fn a_registration_is_pending_until_it_is_committed() {
    let mut story = Story::new();
    let statement = story.by_dalian(1, &register(&[DALIAN]));
    let id = StatementId::of(&statement.digest);
    assert_eq!(story.offer(statement.clone()), Ok(Taken::New));
    assert_eq!(story.offer(statement.clone()), Ok(Taken::Known));
    let kept = Kept { since: Timestamp(FIRST), envelope: statement.envelope.clone() };
    assert_eq!(story.actions(), [PendingAction::Keep { id, kept }], "it survives a restart of this node");
    let views = story.here.of_key(&key_of(DALIAN));
    assert_eq!((views.len(), views[0].issuer, views[0].change), (1, MemberId(2), Change::Register));
    assert!(story.world.reader().identifier(&key_of(DALIAN)).is_none(), "pending is not registered");

    story.world.submit(statement.envelope.clone());
    story.here.settle(&story.world.reader());
    assert!(story.here.is_empty() && story.here.of_key(&key_of(DALIAN)).is_empty());
    assert_eq!(story.here.bytes(), 0);
    assert_eq!(story.actions(), [PendingAction::Drop { id }]);
    assert_eq!(story.offer(statement), Ok(Taken::Known), "what is over does not come back");
}

#[test]
fn what_is_wrong_by_itself_is_told_from_what_the_state_says() {
    let mut story = Story::new();
    let stranger = SigningKey::from_bytes(&[77; 32]);
    let reject = [
        story.by_dalian(1, &Command::RaiseRingVersion { version: 2 }),
        story.by_dalian(1, &register(&[])),
        story.by_dalian(1, &register(&["nonsense"])),
        story.by_dalian(1, &register(&[&DALIAN.to_lowercase()])),
        story.by_dalian(
            1,
            &Command::Revise { key: key_of(BEIJING), expected_revision: 1, text: DALIAN.to_owned(), release: 1 },
        ),
    ];
    for statement in reject {
        let refused = story.offer(statement.clone()).expect_err("refused");
        assert!(refused.is_wrong_by_itself(), "{refused}");
    }
    let ignore = [
        (story.statement(&stranger, 1, &register(&[DALIAN])), "unknown_signer"),
        (story.by_dalian(1, &register(&[BEIJING])), "foreign_enterprise"),
    ];
    for (statement, name) in ignore {
        let refused = story.offer(statement).expect_err("refused");
        assert!(!refused.is_wrong_by_itself(), "{refused}");
        assert_eq!(refused.name(), name);
    }
    assert!(story.here.is_empty());
    assert!(story.actions().is_empty());
}

#[test]
fn bytes_that_do_not_open_have_names() {
    let story = Story::new();
    let envelope = story.world.signed(&story.dalian, 1, &register(&[DALIAN]));
    let name = |bytes: Vec<u8>, federation: &Federation| {
        ClaimRefused::from(&Statement::open(bytes, federation).expect_err("does not open")).name()
    };
    let federation = story.world.federation;
    let mut forged = envelope.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(name(forged, &federation), "signature");
    assert_eq!(name(envelope[..40].to_vec(), &federation), "malformed");
    assert_eq!(name(envelope.clone(), &Federation { id: [9; 32], epoch: 0 }), "federation");
    let mut later = envelope;
    later[0] = 9;
    assert_eq!(name(later, &federation), "format");
    let offer = Envelope::seal(StatementKind::Offer, federation, &story.dalian, 1, Vec::new()).to_bytes();
    assert_eq!(name(offer, &federation), "kind");
}

#[test]
fn somebody_elses_identifier_and_a_stale_revision_are_not_pending() {
    let mut story = Story::new();
    let dalian = story.dalian.clone();
    assert!(matches!(
        story.world.command(&dalian, &register(&[DALIAN])),
        Response::Registered(items) if matches!(items[0], ItemOutcome::Registered { .. })
    ));
    let (key, founder) = (key_of(DALIAN), story.world.founder.clone());
    let retire = |expected_revision| Command::Retire { key, expected_revision, successor: None };
    let foreign = story.statement(&founder, 900, &retire(1));
    assert!(matches!(story.offer(foreign), Err(ClaimRefused::ForeignIdentifier { owner: MemberId(2), .. })));
    let stale = story.by_dalian(901, &retire(0));
    assert!(matches!(story.offer(stale), Err(ClaimRefused::Stale { found: 1, .. })));
    let right = story.by_dalian(902, &retire(1));
    assert_eq!(story.offer(right), Ok(Taken::New));
    assert_eq!(story.here.of_key(&key)[0].change, Change::Retire);
    // it went on another way meanwhile
    story.world.command(&dalian, &retire(1));
    story.here.settle(&story.world.reader());
    assert!(story.here.is_empty());
}

#[test]
fn a_replayed_statement_and_one_of_two_with_a_sequence_are_refused() {
    let mut story = Story::new();
    let first = story.by_dalian(7, &register(&[DALIAN]));
    let other = story.by_dalian(7, &register(&[&chip(1)]));
    story.world.submit(first.envelope.clone());
    assert_eq!(story.offer(first), Err(ClaimRefused::Settled));
    assert_eq!(story.offer(other), Err(ClaimRefused::Equivocation { sequence: 7 }));
    let one = story.by_dalian(8, &register(&[&chip(2)]));
    let two = story.by_dalian(8, &register(&[&chip(3)]));
    assert_eq!(story.offer(one), Ok(Taken::New));
    assert_eq!(story.offer(two), Err(ClaimRefused::Equivocation { sequence: 8 }), "before any of them is committed");
}

#[test]
fn two_members_may_claim_one_key_and_both_are_flagged() {
    let mut story = Story::new();
    let (rival, admitted) = story.world.admit("jinhua", 3, &[DALIANS]);
    assert!(matches!(admitted, Response::Admitted { .. }));
    let (mine, theirs) = (story.by_dalian(1, &register(&[DALIAN])), story.statement(&rival, 1, &register(&[DALIAN])));
    assert_eq!(story.offer(mine), Ok(Taken::New));
    assert_eq!(story.offer(theirs.clone()), Ok(Taken::New));
    let issuers: Vec<MemberId> = story.here.of_key(&key_of(DALIAN)).iter().map(|view| view.issuer).collect();
    assert_eq!(issuers, [MemberId(2), MemberId(3)]);
    story.world.submit(theirs.envelope);
    story.here.settle(&story.world.reader());
    assert!(story.here.is_empty(), "the first committed holds; the other's claim cannot");
}

#[test]
fn an_author_has_its_share_and_the_table_its_bound() {
    let mut story = Story::new();
    let limits = PendingLimits { author_statements_max: 3, statements_max: 4, ..PendingLimits::default() };
    story.here = PendingTable::new(MemberId(9), limits, 1);
    for number in 1..=3 {
        let statement = story.by_dalian(number, &register(&[&chip(number)]));
        assert_eq!(story.offer(statement), Ok(Taken::New));
    }
    let fourth = story.by_dalian(4, &register(&[&chip(4)]));
    assert_eq!(story.offer(fourth), Err(ClaimRefused::Full { of_author: true }));
    let founder = story.world.founder.clone();
    let other = story.statement(&founder, 800, &register(&[BEIJING]));
    assert_eq!(story.offer(other), Ok(Taken::New), "one author's share leaves the others theirs");
    let limits = PendingLimits { author_bytes_max: 10, ..PendingLimits::default() };
    story.here = PendingTable::new(MemberId(9), limits, 1);
    let large = story.by_dalian(5, &register(&[DALIAN]));
    assert_eq!(story.offer(large), Err(ClaimRefused::Full { of_author: true }));
}

#[test]
fn it_lives_seven_days_from_its_first_not_from_each_hearing() {
    const DAY: u64 = 24 * 3_600 * 1_000;
    let mut story = Story::new();
    let statement = story.by_dalian(1, &register(&[DALIAN]));
    let reader = story.world.reader();
    assert_eq!(story.here.offer(at(0), statement.clone(), 6 * DAY, &reader), Ok(Taken::New));
    let items = story.here.items(at(DAY / 2), &story.here.ids().collect::<Vec<_>>());
    assert_eq!(items[0].age_ms, 6 * DAY + DAY / 2, "it tells its age when it travels on");
    assert_eq!(story.here.poll_timeout(at(0)), Some(Monotonic(DAY)));
    story.here.handle_timeout(at(DAY - 1), &reader, |_| false);
    assert_eq!(story.here.len(), 1);
    story.here.handle_timeout(at(DAY), &reader, |_| false);
    assert!(story.here.is_empty());
    assert_eq!(story.there.offer(at(0), statement, 7 * DAY, &reader), Err(ClaimRefused::Expired));
}

#[test]
fn the_leader_proposes_after_a_while_in_order_one_at_a_time() {
    let mut story = Story::new();
    let statements: Vec<Statement> = (1..=2).map(|n| story.by_dalian(n, &register(&[&chip(n)]))).collect();
    for statement in statements.iter().rev().cloned() {
        assert_eq!(story.offer(statement), Ok(Taken::New));
    }
    story.actions();
    let reader = story.world.reader();
    story.here.handle_timeout(at(60_000), &reader, |_| false);
    assert!(story.actions().is_empty(), "only the leader does");
    story.here.lead(at(60_000), true);
    story.here.handle_timeout(at(61_999), &reader, |_| false);
    assert!(story.actions().is_empty(), "the owner comes first");
    let propose = |at: usize| PendingAction::Propose {
        id: StatementId::of(&statements[at].digest),
        envelope: statements[at].envelope.clone(),
    };
    story.here.handle_timeout(at(63_000), &reader, |digest| *digest == statements[0].digest);
    assert_eq!(story.actions(), [propose(1)], "the first is in flight by its owner's hand");
    story.here.handle_timeout(at(70_000), &reader, |_| false);
    assert!(story.actions().is_empty(), "one at a time");
    story.here.returned(at(70_000), &StatementId::of(&statements[1].digest));
    story.here.handle_timeout(at(70_001), &reader, |_| false);
    assert_eq!(story.actions(), [propose(0)], "what failed waits longer");
    story.world.submit(statements[0].envelope.clone());
    story.here.settle(&story.world.reader());
    assert_eq!(story.here.len(), 1);
}

#[test]
fn a_revision_waits_for_the_registration_before_it() {
    let mut story = Story::new();
    let other = Cpi::seal(&DALIAN.rsplit_once('~').expect("a check").0.replace("400G", "800G")).expect("valid");
    let text = other.as_str().to_owned();
    let (key, registered) = (key_of(&text), story.by_dalian(1, &register(&[DALIAN])));
    let revised = story.by_dalian(2, &Command::Revise { key, expected_revision: 1, text, release: 1 });
    assert_eq!(story.offer(revised.clone()), Ok(Taken::New), "what it replaces may be pending elsewhere");
    story.actions();
    story.here.lead(at(0), true);
    story.here.handle_timeout(at(10_000), &story.world.reader(), |_| false);
    assert!(story.actions().is_empty(), "proposed now it would be refused for good");
    story.world.submit(registered.envelope);
    story.here.handle_timeout(at(20_000), &story.world.reader(), |_| false);
    assert_eq!(story.actions().len(), 1);
}

#[test]
fn own_statements_are_the_drivers_to_keep_and_to_send() {
    let mut story = Story::new();
    let founder = story.world.founder.clone();
    let own = story.statement(&founder, 700, &register(&[BEIJING]));
    assert_eq!(story.offer(own), Ok(Taken::New));
    story.here.lead(at(0), true);
    story.here.handle_timeout(at(30 * 24 * 3_600 * 1_000), &story.world.reader(), |_| false);
    assert!(story.actions().is_empty(), "neither kept, proposed nor forgotten");
    assert_eq!(story.here.len(), 1);
    let items = story.here.items(at(1_000_000), &story.here.ids().collect::<Vec<_>>());
    assert_eq!(items[0].age_ms, 0, "its owner vouches for it");
}

#[test]
fn nothing_of_an_expelled_member_stays() {
    let mut story = Story::new();
    let statement = story.by_dalian(1, &register(&[DALIAN]));
    assert_eq!(story.offer(statement.clone()), Ok(Taken::New));
    let founder = story.world.founder.clone();
    let expel = Motion::Standing { member: MemberId(2), changes: 0, standing: Standing::Expelled };
    assert!(story.world.decide(&[&founder], &expel).refusal().is_none());
    story.here.settle(&story.world.reader());
    assert!(story.here.is_empty());
    let again = story.by_dalian(2, &register(&[DALIAN]));
    assert_eq!(story.offer(again), Err(ClaimRefused::NotActive { member: MemberId(2) }));
}

#[test]
fn what_a_suspended_member_has_pending_waits_for_its_return() {
    let mut story = Story::new();
    let founder = story.world.founder.clone();
    let statement = story.by_dalian(1, &register(&[DALIAN]));
    assert_eq!(story.offer(statement.clone()), Ok(Taken::New));
    let standing = |changes, standing| Motion::Standing { member: MemberId(2), changes, standing };
    assert!(story.world.decide(&[&founder], &standing(0, Standing::Suspended)).refusal().is_none());
    story.here.settle(&story.world.reader());
    assert_eq!(story.here.len(), 1, "a suspension passes");
    story.actions();
    story.here.lead(at(0), true);
    story.here.handle_timeout(at(60_000), &story.world.reader(), |_| false);
    assert!(story.actions().is_empty(), "the registry would remember its refusal");
    assert!(story.world.decide(&[&founder], &standing(1, Standing::Active)).refusal().is_none());
    story.here.handle_timeout(at(120_000), &story.world.reader(), |_| false);
    assert!(matches!(story.actions().as_slice(), [PendingAction::Propose { .. }]));
    assert!(story.world.submit(statement.envelope).refusals().next().is_none());
}

#[test]
fn what_an_outcome_refuses_is_told_claim_by_claim() {
    let mut story = Story::new();
    let change = |text: &str| crate::registry::IdentifierChange::Register {
        items: vec![Registration { text: text.to_owned() }],
        release: 1,
    };
    let key = Cpi::parse(DALIAN).unwrap().stable_key();
    let retire = crate::registry::IdentifierChange::Retire { key, expected_revision: 5, successor: None };
    let batch = story.by_dalian(1, &Command::Batch(vec![change(DALIAN), change(BEIJING), retire]));
    let response = story.world.submit(batch.envelope.clone());
    let refused = refused_claims(&batch, &response);
    let found: Vec<_> = refused.iter().map(|(claim, refusal)| (claim.change, refusal.name())).collect();
    assert_eq!(found, [(Change::Register, "foreign_enterprise"), (Change::Retire, "stale")]);
    let single = story.by_dalian(2, &register(&[DALIAN, BEIJING]));
    let response = story.world.submit(single.envelope.clone());
    assert_eq!(refused_claims(&single, &response).len(), 1);
    let whole = Response::Refused(crate::registry::Refusal::UnknownSigner);
    assert_eq!(refused_claims(&single, &whole).len(), 2);
}

#[test]
fn the_disk_gives_back_what_it_kept() {
    let mut story = Story::new();
    let statement = story.by_dalian(1, &register(&[DALIAN]));
    story.there.restore(at(5_000), statement.clone(), Timestamp(FIRST), &story.world.reader());
    assert_eq!(story.there.all().next().expect("pending").since, Timestamp(FIRST));
    story.world.submit(statement.envelope.clone());
    story.here.restore(at(5_000), statement.clone(), Timestamp(FIRST), &story.world.reader());
    let dropped = PendingAction::Drop { id: StatementId::of(&statement.digest) };
    assert_eq!(story.actions(), [dropped], "committed while the node was down");
}

/// One round as the driver does it, over real bytes. Returns whether the asker is done.
fn round(asker: &mut PendingTable, peer: &mut PendingTable, world: &World) -> bool {
    let registry = world.reader();
    let take = |table: &mut PendingTable, items: Vec<RepairItem>| {
        for item in items {
            let statement = Statement::open(item.envelope, &world.federation).expect("it was checked before");
            let _ = table.offer(at(0), statement, item.age_ms, &registry);
        }
    };
    let pass = |question: RepairQuestion| RepairQuestion::from_bytes(&question.to_bytes()).expect("a question");
    let RepairQuestion::Compare { sum } = pass(RepairQuestion::Compare { sum: asker.sum() }) else { unreachable!() };
    if sum == peer.sum() {
        return true;
    }
    let RepairQuestion::Have { ids } = pass(RepairQuestion::Have { ids: asker.ids().collect() }) else {
        unreachable!()
    };
    let answer = peer.missing(at(0), &ids).to_bytes();
    assert!(answer.len() <= 2 << 20);
    let RepairAnswer::Missing { items, wanted } = RepairAnswer::from_bytes(&answer).expect("an answer") else {
        unreachable!()
    };
    take(asker, items);
    take(peer, asker.items(at(0), &wanted));
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever each of two members heard, a few rounds later both have all of it, and nothing that was committed.
    #[test]
    fn two_tables_repair_each_other(
        here in proptest::collection::btree_set(1u64..40, 0..20),
        there in proptest::collection::btree_set(1u64..40, 0..20),
        committed in proptest::collection::btree_set(1u64..40, 0..5),
    ) {
        let mut story = Story::new();
        let statements: Vec<Statement> =
            (0..40).map(|n| story.by_dalian(n, &register(&[&chip(n)]))).collect();
        let reader = story.world.reader();
        for n in &here {
            let _ = story.here.offer(at(0), statements[*n as usize].clone(), 0, &reader);
        }
        for n in &there {
            let _ = story.there.offer(at(0), statements[*n as usize].clone(), 0, &reader);
        }
        for n in &committed {
            story.world.submit(statements[*n as usize].envelope.clone());
        }
        // only one of them has seen the commits yet
        story.here.settle(&story.world.reader());
        for _ in 0..3 {
            round(&mut story.here, &mut story.there, &story.world);
        }
        story.there.settle(&story.world.reader());
        let wanted: BTreeSet<u64> = here.union(&there).copied().filter(|n| !committed.contains(n)).collect();
        let found = |table: &PendingTable| table.all().map(|view| view.sequence).collect::<BTreeSet<u64>>();
        prop_assert_eq!(found(&story.here), wanted.clone());
        prop_assert_eq!(found(&story.there), wanted);
        prop_assert!(round(&mut story.here, &mut story.there, &story.world), "they say so themselves");
    }
}

#[test]
fn a_repair_of_much_goes_in_bounded_frames() {
    let mut story = Story::new();
    let reader = story.world.reader();
    for n in 0..20u64 {
        let texts: Vec<String> = (0..500).map(|at| chip(1_000 * n + at)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let statement = story.by_dalian(n + 1, &register(&texts));
        assert_eq!(story.there.offer(at(0), statement, 0, &reader), Ok(Taken::New));
    }
    assert!(story.there.bytes() > REPAIR_BYTES_MAX);
    let mut rounds = 0;
    while !round(&mut story.here, &mut story.there, &story.world) {
        rounds += 1;
        assert!(rounds < 10);
    }
    assert!(rounds > 1, "more than one frame");
    assert_eq!(story.here.len(), 20);
}
