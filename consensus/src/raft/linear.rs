//! Histories of concurrent clients while the leader is stopped and cut off: each identifier behaves as one register with
//! compare-and-set. The check is Wing and Gong's search over orders, with the states that were seen remembered.

use super::tests::{PATIENCE, Ring, STEM, key};
use super::{ProposeError, RegistryHandle};
use crate::registry::command::Registration;
use crate::registry::{Command, ItemOutcome, Refusal, Response};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const KEYS: u32 = 4;
const CLIENTS: u64 = 6;
const FAULTS: u64 = 4;

/// What a client asked of one identifier. Its state is its revision; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Register,
    Revise { expected: u64 },
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It is at this revision: read, or found there by a write that was refused or had nothing to do.
    At(u64),
    /// The write was done and led to this revision.
    Wrote(u64),
    /// Nothing: the write may take effect any time, or never.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    call: Call,
    told: Told,
    began: Duration,
    ended: Duration,
}

/// The state after an operation that takes effect at `state`; `None` where it could not have been told what it was.
fn step(state: u64, operation: &Operation) -> Option<u64> {
    let next = match operation.call {
        Call::Register if state == 0 => 1,
        Call::Revise { expected } if state == expected && state > 0 => state + 1,
        _ => state,
    };
    match operation.told {
        Told::At(found) => (next == state && found == state).then_some(state),
        Told::Wrote(revision) => (next != state && revision == next).then_some(next),
        Told::Nothing => Some(next),
    }
}

/// Whether some order of the operations explains what was told, each between its begin and its end.
fn is_linearizable(operations: &[Operation]) -> bool {
    let mut tried: BTreeSet<(Vec<bool>, u64)> = BTreeSet::new();
    let mut open = vec![(vec![false; operations.len()], 0)];
    while let Some((done, state)) = open.pop() {
        let left = || operations.iter().enumerate().filter(|(at, _)| !done[*at]);
        let Some(first_end) = left().filter(|(_, op)| op.told != Told::Nothing).map(|(_, op)| op.ended).min() else {
            return true;
        };
        for (at, operation) in left().filter(|(_, op)| op.began <= first_end) {
            let Some(next) = step(state, operation) else { continue };
            if operation.told == Told::Nothing && next == state {
                continue;
            }
            let mut then = done.clone();
            then[at] = true;
            if tried.insert((then.clone(), next)) {
                open.push((then, next));
            }
        }
    }
    false
}

fn operation(call: Call, told: Told, began: u64, ended: u64) -> Operation {
    Operation { call, told, began: Duration::from_millis(began), ended: Duration::from_millis(ended) }
}

#[test]
fn the_check_finds_what_is_wrong() {
    let write = operation(Call::Register, Told::Wrote(1), 0, 10);
    let revise = operation(Call::Revise { expected: 1 }, Told::Wrote(2), 20, 30);
    let read = |found, began, ended| operation(Call::Read, Told::At(found), began, ended);
    assert!(is_linearizable(&[write, revise, read(2, 31, 32), read(1, 15, 25), read(2, 25, 29)]));
    assert!(!is_linearizable(&[write, revise, read(1, 31, 32)]), "a stale read");
    assert!(!is_linearizable(&[write, revise, read(2, 21, 22), read(1, 23, 24)]), "back in time");
    assert!(!is_linearizable(&[write, revise, operation(Call::Revise { expected: 1 }, Told::Wrote(2), 25, 40)]));
    assert!(!is_linearizable(&[read(1, 0, 1), operation(Call::Register, Told::Wrote(1), 2, 3)]), "before it was");
    let lost = operation(Call::Register, Told::Nothing, 0, 5);
    assert!(is_linearizable(&[lost, read(0, 6, 7), read(1, 8, 9)]), "it may come late");
    assert!(is_linearizable(&[lost, read(0, 6, 7)]), "or never");
    assert!(!is_linearizable(&[lost, read(1, 6, 7), read(0, 8, 9)]), "but not go away again");
}

fn text(number: u32, revision: u64) -> Cpi {
    // another capacity, same key
    Cpi::seal(&STEM.replace("-A01.", &format!("-{number:03}.")).replace("-400G-", &format!("-{}G-", 400 + revision)))
        .expect("it follows the grammar")
}

async fn ask(ring: &Ring, handle: &RegistryHandle, number: u32, call: Call) -> Option<Told> {
    let limit = Duration::from_secs(2);
    let command = match call {
        Call::Read => {
            handle.linearizable(limit).await.ok()?;
            let stable: StableKey = text(number, 1).stable_key();
            return Some(Told::At(handle.reader().identifier(&stable).map_or(0, |record| record.revision)));
        }
        Call::Register => {
            Command::Register { items: vec![Registration { text: text(number, 1).as_str().to_owned() }], release: 1 }
        }
        Call::Revise { expected } => {
            let cpi = text(number, expected + 1);
            let key = cpi.stable_key();
            Command::Revise { key, expected_revision: expected, text: cpi.as_str().to_owned(), release: 1 }
        }
    };
    let told = match handle.propose(ring.sign(&key(1), &command), limit).await {
        Err(ProposeError::Rejected(error)) => panic!("{error}"),
        Err(_) => return Some(Told::Nothing),
        Ok(committed) => committed.response,
    };
    let refused = |refusal: &Refusal| match refusal {
        Refusal::RevisionMismatch { found, .. } => Told::At(*found),
        Refusal::NotFound { .. } => Told::At(0),
        other => panic!("{other}"),
    };
    Some(match told {
        Response::Registered(items) => match &items[0] {
            ItemOutcome::Registered { revision, .. } => Told::Wrote(*revision),
            ItemOutcome::Unchanged { revision, .. } => Told::At(*revision),
            ItemOutcome::Refused(refusal) => refused(refusal),
        },
        Response::IdentifierChanged { revision, .. } => Told::Wrote(revision),
        Response::Refused(refusal) => refused(&refusal),
        other => panic!("{other:?}"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_are_linearizable_while_leaders_die() {
    let seed = 20_260;
    let ring = Arc::new(Ring::of(3).await);
    ring.voters(3).await;
    let (begin, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (ring, stop) = (Arc::clone(&ring), Arc::clone(&stop));
        clients.spawn(async move {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ client);
            let (mut history, mut known) = (Vec::new(), vec![0u64; KEYS as usize]);
            while !stop.load(Ordering::Relaxed) {
                let (number, member) = (random.random_range(0..KEYS), random.random_range(1..=3u64));
                let revision = known[number as usize];
                let call = match random.random_range(0..4u32) {
                    0 => Call::Register,
                    1 => Call::Read,
                    _ => Call::Revise { expected: revision.max(1) },
                };
                let there = ring.switch.replicas.lock().expect("never poisoned").get(&MemberId(member)).cloned();
                let Some(handle) = there else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let began = begin.elapsed();
                let Some(told) = ask(&ring, &handle, number, call).await else { continue };
                if let Told::At(revision) | Told::Wrote(revision) = told {
                    known[number as usize] = revision;
                }
                history.push((number, Operation { call, told, began, ended: begin.elapsed() }));
            }
            history
        });
    }
    for fault in 0..FAULTS {
        tokio::time::sleep(Duration::from_millis(800)).await;
        ring.until("a leader", |ring| ring.leader(&[1, 2, 3]).is_some()).await;
        let leader = ring.leader(&[1, 2, 3]).expect("seen above");
        let others: Vec<u64> = (1..=3).filter(|member| *member != leader).collect();
        if fault % 2 == 0 {
            ring.stop(leader).await;
        } else {
            ring.switch.cut.lock().expect("never poisoned").insert(MemberId(leader));
        }
        ring.until("another leader", |ring| ring.leader(&others).is_some()).await;
        if fault % 2 == 0 {
            ring.start(leader, None).await;
        } else {
            ring.switch.cut.lock().expect("never poisoned").clear();
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut history = Vec::new();
    while let Some(part) = clients.join_next().await {
        history.extend(part.expect("no client failed"));
    }
    let wrote = history.iter().filter(|(_, operation)| matches!(operation.told, Told::Wrote(_))).count();
    assert!(wrote > 50, "only {wrote} writes in {:?}: this shows little", begin.elapsed());
    assert!(begin.elapsed() < 4 * PATIENCE);
    for number in 0..KEYS {
        let mut of_key: Vec<Operation> =
            history.iter().filter(|(of, _)| *of == number).map(|(_, operation)| *operation).collect();
        of_key.sort_by_key(|operation| operation.began);
        assert!(is_linearizable(&of_key), "seed {seed}: no order explains identifier {number}: {of_key:#?}");
    }
}
