//! The state machine: one entry in, one response out, the same on every replica.

mod identifiers;
mod members;
mod releases;

use super::command::{Command, Entry, EntryBody};
use super::genesis::{FOUNDER_RAFT_ID, Genesis};
use super::kv::{KvRead, KvWrite, Overlay};
use super::member::{KeySpan, MemberRecord, Standing};
use super::read::Settled;
use super::response::{Refusal, Response};
use super::window::{Seen, WINDOW, Window};
use super::{Statement, index, keys};
use crate::codec;
use crate::envelope::Federation;
use crate::time::Timestamp;
use cpi::ids::MemberId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// What holds for the whole registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Which federation, in which epoch.
    pub federation: Federation,
    /// Its name, for people.
    pub name: String,
    /// When it was founded.
    pub founded_at: Timestamp,
    /// Registry time: the newest stamp that was applied.
    pub time: Timestamp,
    /// Log index of the newest entry that was applied.
    pub applied: u64,
    /// A hash over all entries, responses and changes so far; equal on all replicas at the same index.
    pub hash: [u8; 32],
    /// The id that the next member gets.
    pub next_member: u64,
    /// The Raft id that the next replica gets.
    pub next_raft_id: u64,
    /// What all replicas can do.
    pub ring_version: u32,
    /// The dictionary release in force.
    pub release: u32,
    /// The policy's revision; 0 while it is the default.
    pub policy_revision: u64,
    /// Members that are active.
    pub active_members: u64,
    /// Grows with each change of members, so that followers of the roster need not compare it.
    pub members_revision: u64,
}

/// Applies entries to a byte map. Holds nothing itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct RegistryState;

pub(super) fn load<T: DeserializeOwned>(kv: &dyn KvRead, key: &[u8]) -> Option<T> {
    let bytes = kv.get(key)?;
    Some(codec::decode(keys::ROW_VERSION, &bytes, codec::FRAME_BYTES_MAX).expect("this replica wrote it"))
}

fn store<T: Serialize>(kv: &mut dyn KvWrite, key: Vec<u8>, value: &T) {
    kv.put(key, codec::encode(keys::ROW_VERSION, value).expect("stored types have plain fields"));
}

/// An outcome as remembered.
#[derive(Serialize, Deserialize)]
struct Remembered {
    digest: [u8; 32],
    response: Response,
}

impl RegistryState {
    /// The summary, once there was a genesis.
    pub fn summary(kv: &dyn KvRead) -> Option<Summary> {
        load(kv, keys::SUMMARY)
    }

    /// Applies the entry at log `index`. The changes are in `kv` afterwards.
    pub fn apply(kv: &mut dyn KvWrite, index: u64, entry: &Entry) -> Response {
        let mut changes = Overlay::new(&*kv);
        let (response, digest) = match &entry.body {
            EntryBody::Genesis(genesis) => (found(&mut changes, entry.stamp, genesis), genesis.federation_id()),
            EntryBody::Statement(statement) => {
                let Some(mut summary) = Self::summary(&changes) else {
                    return Response::Refused(Refusal::NotFound { what: "federation".to_owned() });
                };
                let response = execute(&mut changes, &mut summary, index, entry.stamp, statement);
                store(&mut changes, keys::SUMMARY.to_vec(), &summary);
                (response, statement.digest)
            }
        };
        if let Some(mut summary) = Self::summary(&changes) {
            summary.applied = index;
            let mut hash = Sha256::new();
            hash.update(summary.hash);
            hash.update(index.to_be_bytes());
            hash.update(digest);
            hash.update(codec::encode(1, &response).expect("plain fields"));
            let changes = changes.into_changes();
            for (key, value) in &changes {
                hash.update((key.len() as u64).to_be_bytes());
                hash.update(key);
                hash.update(value.as_deref().unwrap_or(b"\0deleted"));
            }
            summary.hash = hash.finalize().into();
            for (key, value) in changes {
                match value {
                    Some(value) => kv.put(key, value),
                    None => kv.delete(key),
                }
            }
            store(kv, keys::SUMMARY.to_vec(), &summary);
        }
        response
    }
}

/// What is remembered of a signing key's sequence.
pub(super) fn settled(kv: &dyn KvRead, key: &[u8; 32], sequence: u64) -> Settled {
    let window: Window = load(kv, &keys::join(keys::WINDOWS, &[key])).unwrap_or_default();
    match window.look(sequence) {
        Seen::New => Settled::No,
        Seen::TooOld => Settled::Forgotten,
        Seen::Before => match load(kv, &keys::outcome(key, sequence)) {
            Some(Remembered { digest, response }) => Settled::Outcome { digest, response },
            None => Settled::Forgotten,
        },
    }
}

fn found(kv: &mut dyn KvWrite, stamp: Timestamp, genesis: &Genesis) -> Response {
    if kv.get(keys::SUMMARY).is_some() {
        return Response::Refused(Refusal::Invalid {
            field: "genesis".to_owned(),
            expected: "none: the federation exists".to_owned(),
        });
    }
    let member = MemberId(1);
    let record = MemberRecord {
        member,
        revision: 1,
        place: genesis.place.clone(),
        transport_keys: vec![KeySpan { key: genesis.transport_key, until: None }],
        signing_keys: vec![KeySpan { key: genesis.signing_key, until: None }],
        addresses: genesis.addresses.clone(),
        enterprises: genesis.enterprises.clone(),
        standing: Standing::Active,
        standing_reason: String::new(),
        standing_changes: 0,
        raft_id: FOUNDER_RAFT_ID,
        admitted_at: stamp,
        admitted_by: member,
    };
    put_member(kv, &record);
    let summary = Summary {
        federation: Federation { id: genesis.federation_id(), epoch: 0 },
        name: genesis.name.clone(),
        founded_at: genesis.founded_at,
        time: stamp,
        applied: 0,
        hash: [0; 32],
        next_member: 2,
        next_raft_id: FOUNDER_RAFT_ID + 1,
        ring_version: 1,
        release: 1,
        policy_revision: 0,
        active_members: 1,
        members_revision: 1,
    };
    store(kv, keys::SUMMARY.to_vec(), &summary);
    Response::Founded
}

fn put_member(kv: &mut dyn KvWrite, record: &MemberRecord) {
    store(kv, keys::member(record.member), record);
    for span in &record.signing_keys {
        store(kv, keys::join(keys::SIGNERS, &[&span.key]), &record.member);
    }
    for span in &record.transport_keys {
        store(kv, keys::join(keys::TRANSPORTS, &[&span.key]), &record.member);
    }
    store(kv, keys::join(keys::REGIONS, &[record.place.region.as_str().as_bytes()]), &record.member);
}

fn invalid(field: impl Into<String>, expected: impl Into<String>) -> Refusal {
    Refusal::Invalid { field: field.into(), expected: expected.into() }
}

/// Who signs, the duplicate check around it, and the command itself.
fn execute(
    kv: &mut dyn KvWrite,
    summary: &mut Summary,
    index: u64,
    stamp: Timestamp,
    statement: &Statement,
) -> Response {
    summary.time = summary.time.max(stamp);
    let signer: Option<MemberRecord> = load::<MemberId>(kv, &keys::join(keys::SIGNERS, &[&statement.key]))
        .and_then(|member| load(kv, &keys::member(member)))
        .filter(|record: &MemberRecord| record.signs_with(&statement.key, summary.time));
    let Some(signer) = signer else { return Response::Refused(Refusal::UnknownSigner) };
    let window_key = keys::join(keys::WINDOWS, &[&statement.key]);
    let mut window: Window = load(kv, &window_key).unwrap_or_default();
    let outcome_key = keys::outcome(&statement.key, statement.sequence);
    match window.look(statement.sequence) {
        Seen::TooOld => {
            return Response::Refused(Refusal::SequenceTooOld { sequence: statement.sequence, window: WINDOW });
        }
        Seen::Before => {
            let before: Option<Remembered> = load(kv, &outcome_key);
            return match before {
                Some(before) if before.digest == statement.digest => before.response,
                _ => Response::Refused(Refusal::Equivocation { sequence: statement.sequence }),
            };
        }
        Seen::New => {}
    }
    let response = if signer.standing == Standing::Active {
        let mut act = Act { kv: &mut *kv, summary, sums: index::Sums::default(), index, statement, signer: &signer };
        let response = act.run().unwrap_or_else(Response::Refused);
        act.sums.write(kv);
        response
    } else {
        Response::Refused(Refusal::SignerNotActive { member: signer.member })
    };
    for left in window.take(statement.sequence) {
        kv.delete(keys::outcome(&statement.key, left));
    }
    store(kv, window_key, &window);
    store(kv, outcome_key, &Remembered { digest: statement.digest, response: response.clone() });
    response
}

/// One command by one active member.
struct Act<'a, 'k> {
    kv: &'k mut dyn KvWrite,
    summary: &'a mut Summary,
    sums: index::Sums,
    index: u64,
    statement: &'a Statement,
    signer: &'a MemberRecord,
}

impl Act<'_, '_> {
    fn run(&mut self) -> Result<Response, Refusal> {
        match &self.statement.command {
            Command::Admit(admission) => self.admit(admission),
            Command::UpdateMember(update) => self.update_member(update),
            Command::Decide { votes } => self.decide(votes),
            Command::Register { items, release } => self.register(items, *release).map(Response::from),
            Command::Revise { key, expected_revision, text, release } => {
                self.revise(key, *expected_revision, text, *release).map(Response::from)
            }
            Command::Retire { key, expected_revision, successor } => {
                self.retire(key, *expected_revision, *successor).map(Response::from)
            }
            Command::Batch(changes) => self.batch(changes),
            Command::PublishRelease { release, chunk, bytes } => self.publish(*release, *chunk, bytes),
            Command::ActivateRelease { release, chunks, sha256 } => self.activate(*release, *chunks, sha256),
            Command::RaiseRingVersion { version } => {
                if *version != self.summary.ring_version + 1 {
                    return Err(invalid("version", (self.summary.ring_version + 1).to_string()));
                }
                self.summary.ring_version = *version;
                Ok(Response::RingVersion { version: *version })
            }
            Command::RenewRaftId { lost } => {
                let mut record = self.signer.clone();
                if record.raft_id != *lost {
                    // a member that forgot the answer asks again; an id is used by nobody before its answer is on disk
                    let (member, revision, raft_id) = (record.member, record.revision, record.raft_id);
                    return Ok(Response::MemberChanged { member, revision, raft_id });
                }
                record.raft_id = self.summary.next_raft_id;
                self.summary.next_raft_id += 1;
                Ok(self.change_member(record))
            }
        }
    }
}

fn check_revision(expected: u64, found: u64) -> Result<(), Refusal> {
    if expected == found { Ok(()) } else { Err(Refusal::RevisionMismatch { expected, found }) }
}
