//! The bytes of what Raft stores, byte by byte: a change here is a new format and needs a new version byte.

use super::types::{Entry, LogId, Peer, Proposal, StoredMembership, Vote};
use super::wire::{self, WireLogId, WireProgress, WireVote};
use openraft::{EntryPayload, Membership};
use std::collections::{BTreeMap, BTreeSet};

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn membership(ids: &[u64]) -> Membership<u64, Peer> {
    let nodes: BTreeMap<u64, Peer> = ids.iter().map(|id| (*id, Peer { member: id + 1 })).collect();
    Membership::new(vec![ids.iter().copied().collect::<BTreeSet<_>>()], nodes).expect("voters are nodes")
}

#[test]
fn log_entries() {
    let bytes = |payload| wire::entry_bytes(Entry { log_id: id(3, 7), payload });
    let stored = [
        (EntryPayload::Blank, "01030700"),
        (EntryPayload::Normal(Proposal(b"abc".as_slice().into())), "0103070103616263"),
        (EntryPayload::Membership(membership(&[1, 300])), "01030702010201fb2c01020102fb2c01fb2d01"),
    ];
    for (payload, expected) in stored {
        let found = bytes(payload.clone());
        assert_eq!(hex(&found), expected);
        assert_eq!(wire::entry_bytes(wire::entry_from(&found).expect("read back")), found);
    }
    let mut newer = bytes(EntryPayload::Blank);
    newer[0] = 2;
    assert!(wire::entry_from(&newer).is_err(), "a newer format is refused, not guessed at");
}

#[test]
fn marks_and_progress() {
    assert_eq!(hex(&wire::encode(&WireVote::from(Vote::new_committed(5, 2)))), "01050201");
    assert_eq!(hex(&wire::encode(&WireVote::from(Vote::new(5, 2)))), "01050200");
    assert_eq!(hex(&wire::encode(&Some(WireLogId::from(id(3, 7))))), "01010307");
    assert_eq!(hex(&wire::encode(&None::<WireLogId>)), "0100");
    assert_eq!(hex(&wire::encode(&WireLogId::from(id(3, 7)))), "010307");
    let stored = StoredMembership::new(Some(id(1, 2)), membership(&[1]));
    let progress = wire::encode(&WireProgress::new(Some(id(3, 7)), &stored));
    assert_eq!(hex(&progress), "01010307010102010101010102");
    let (applied, read) = wire::decode::<WireProgress>(&progress).and_then(WireProgress::read).expect("read back");
    assert_eq!((applied, read), (Some(id(3, 7)), stored));
}
