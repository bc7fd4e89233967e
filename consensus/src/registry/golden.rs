//! The bytes of stored entries and of the state's rows after a fixed story: a change here is a new format and needs a new
//! version byte, and a reader for the old one once there was a release.

use super::command::{IdentifierChange, Registration, genesis_entry, statement_entry};
use super::tests::{BEIJING, DALIAN, World};
use super::*;
use crate::time::Timestamp;
use cpi::identifier::Cpi;
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn entries_and_envelopes() {
    assert_eq!(hex(&statement_entry(Timestamp(1000), b"xyz")), "0201fbe8030378797a");
    let world = World::new();
    let key = SigningKey::from_bytes(&[1; 32]);
    let envelope = world.signed(&key, 7, &Command::RenewRaftId { lost: 3 });
    let federation = hex(&world.federation.id);
    let public = hex(&key.verifying_key().to_bytes());
    // version, kind, federation, epoch, key, sequence, body (version, variant, id), signature
    assert!(hex(&envelope).starts_with(&format!("0100{federation}00{public}070302090340")), "{}", hex(&envelope));
    assert_eq!(envelope.len(), 1 + 1 + 32 + 1 + 32 + 1 + 1 + 3 + 1 + 64);
}

/// A short digest for each kind of row: what changed is seen at a glance.
#[test]
fn rows_of_the_state() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let (second, _) = world.admit("dalian", 2, &["C91210231MA00CP027A"]);
    world.register(&founder, BEIJING);
    let key = Cpi::parse(BEIJING).unwrap().stable_key();
    let larger = BEIJING.rsplit_once('~').unwrap().0.replace("-400G-INX8480P_800", "-800G-INX8480P_900");
    let text = Cpi::seal(&larger).unwrap().as_str().to_owned();
    let register = IdentifierChange::Register { items: vec![Registration { text: DALIAN.to_owned() }], release: 1 };
    let revise = IdentifierChange::Revise { key, expected_revision: 1, text, release: 1 };
    assert!(world.command(&second, &Command::Batch(vec![register])).refusal().is_none());
    assert!(world.command(&founder, &Command::Batch(vec![revise])).refusal().is_none());
    world.command(&founder, &Command::Retire { key, expected_revision: 2, successor: None });
    world.command(&second, &Command::RenewRaftId { lost: 2 });
    let policy = FederationPolicy { admission_approvals: 2, voters: 5, learners: 4 };
    world.decide(&[&founder], &Motion::Policy { expected_revision: 0, policy });
    let mut tables: BTreeMap<char, (usize, Sha256)> = BTreeMap::new();
    for (key, value) in &world.kv.0 {
        assert!(value.is_empty() || value[0] == 2, "row {} has no version byte", hex(key));
        let (rows, hash) = tables.entry(char::from(key[0])).or_default();
        *rows += 1;
        for part in [key, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    let found: Vec<String> = tables
        .into_iter()
        .map(|(table, (rows, hash))| format!("{table} {rows} {}", &hex(&hash.finalize())[..16]))
        .collect();
    let expected = [
        "A 1 03537be5bb397bee",
        "H 2 de623a70b41c8179",
        "I 2 eda6a53b673f96e1",
        "K 2 6c3d3561743b470d",
        "M 2 e2aac8249d8a4f35",
        "N 2 31db8ed1036e07fa",
        "O 7 76675eb614519d26",
        "P 1 dda464eeef1f4364",
        "S 6 ef79ee49caa4780c",
        "T 2 12cf18bacf77bccf",
        "V 1 75b625b9a7e6f784",
        "W 2 66297e3c5081a7c1",
        "X 7 93fbf28f874cb96e",
    ];
    assert_eq!(found, expected);
    // row A holds the federation's id, the hash of the whole genesis
    let genesis = genesis_entry(Timestamp(5), &world.genesis);
    assert_eq!(hex(&genesis[..8]), "0200050474657374", "version, variant, stamp, name");
}

#[test]
fn a_batch_is_decided_change_by_change_and_repeats_its_outcomes() {
    let mut world = World::new();
    let founder = world.founder.clone();
    let key = Cpi::parse(BEIJING).unwrap().stable_key();
    let register =
        |text: &str| IdentifierChange::Register { items: vec![Registration { text: text.to_owned() }], release: 1 };
    let retire = IdentifierChange::Retire { key, expected_revision: 1, successor: None };
    let batch = Command::Batch(vec![register(BEIJING), register(DALIAN), register(BEIJING), retire.clone(), retire]);
    let envelope = world.signed(&founder, 100, &batch);
    let first = world.submit(envelope.clone());
    let Response::Batch(outcomes) = &first else { panic!("{first:?}") };
    let item = |at: usize| match &outcomes[at] {
        ChangeOutcome::Registered(items) => &items[0],
        other => panic!("{other:?}"),
    };
    assert_eq!(item(0), &ItemOutcome::Registered { key, revision: 1 });
    assert!(matches!(item(1), ItemOutcome::Refused(Refusal::ForeignEnterprise { .. })));
    assert_eq!(item(2), &ItemOutcome::Unchanged { key, revision: 1 });
    assert_eq!(outcomes[3], ChangeOutcome::Changed { key, revision: 2 });
    assert_eq!(outcomes[4], ChangeOutcome::Refused(Refusal::Retired { key }));
    assert_eq!(world.submit(envelope), first, "the same bytes give the first outcome");
    let none = world.command(&founder, &Command::Batch(Vec::new()));
    assert!(matches!(none, Response::Refused(Refusal::Invalid { .. })));
    let many = world.command(&founder, &Command::Batch(vec![register(BEIJING); 501]));
    assert!(matches!(many, Response::Refused(Refusal::Invalid { .. })));
}
