//! The state machine: one entry in, one response out, the same on every replica.

use super::command::{
    Admission, Command, Entry, EntryBody, IdentifierChange, JoinRequest, MemberUpdate, REGISTRATIONS_MAX, Registration,
};
use super::genesis::{FOUNDER_RAFT_ID, Genesis};
use super::identifier::{IdentifierRecord, IdentifierState};
use super::kv::{KvRead, KvWrite, Overlay};
use super::member::{ADDRESSES_MAX, ENTERPRISES_MAX, KEY_OVERLAP_MS, KeySpan, MemberRecord, Standing};
use super::policy::FederationPolicy;
use super::read::Settled;
use super::response::{ChangeOutcome, ItemOutcome, Refusal, Response};
use super::window::{Seen, WINDOW, Window};
use super::{Statement, index, keys};
use crate::codec;
use crate::envelope::{Envelope, Federation, StatementKind};
use crate::time::Timestamp;
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Characters of a reason.
const REASON_CHARS_MAX: usize = 400;
/// Pieces of one dictionary release.
const CHUNKS_MAX: u32 = 256;

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
    Some(codec::decode(1, &bytes, codec::FRAME_BYTES_MAX).expect("this replica wrote it"))
}

fn store<T: Serialize>(kv: &mut dyn KvWrite, key: Vec<u8>, value: &T) {
    kv.put(key, codec::encode(1, value).expect("stored types have plain fields"));
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
        let mut act = Act { kv, summary, index, statement, signer: &signer };
        act.run().unwrap_or_else(Response::Refused)
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
    index: u64,
    statement: &'a Statement,
    signer: &'a MemberRecord,
}

impl Act<'_, '_> {
    fn run(&mut self) -> Result<Response, Refusal> {
        match &self.statement.command {
            Command::Admit(admission) => self.admit(admission),
            Command::UpdateMember(update) => self.update_member(update),
            Command::SetStanding { member, expected_revision, standing, reason } => {
                self.set_standing(*member, *expected_revision, *standing, reason)
            }
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
            Command::SetPolicy { expected_revision, policy } => self.set_policy(*expected_revision, policy),
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

    fn change_member(&mut self, mut record: MemberRecord) -> Response {
        record.revision += 1;
        put_member(self.kv, &record);
        self.summary.members_revision += 1;
        Response::MemberChanged { member: record.member, revision: record.revision, raft_id: record.raft_id }
    }

    fn taken(&self, key: &[u8], what: &str) -> Result<(), Refusal> {
        match load::<MemberId>(self.kv, key) {
            Some(member) => Err(Refusal::Taken { what: what.to_owned(), member }),
            None => Ok(()),
        }
    }

    fn admit(&mut self, admission: &Admission) -> Result<Response, Refusal> {
        check_addresses(&admission.addresses)?;
        if admission.enterprises.len() > ENTERPRISES_MAX {
            return Err(invalid("enterprises", format!("at most {ENTERPRISES_MAX}")));
        }
        self.check_request(admission)?;
        let nonce = keys::join(keys::NONCES, &[&admission.invitation_nonce]);
        if self.kv.get(&nonce).is_some() {
            return Err(Refusal::InvitationUsed);
        }
        self.taken(&keys::join(keys::SIGNERS, &[&admission.signing_key]), "the signing key")?;
        self.taken(&keys::join(keys::TRANSPORTS, &[&admission.transport_key]), "the transport key")?;
        let region = admission.place.region.as_str();
        self.taken(&keys::join(keys::REGIONS, &[region.as_bytes()]), &format!("the region name {region}"))?;
        self.check_approvals(admission)?;
        let member = MemberId(self.summary.next_member);
        let record = MemberRecord {
            member,
            revision: 1,
            place: admission.place.clone(),
            transport_keys: vec![KeySpan { key: admission.transport_key, until: None }],
            signing_keys: vec![KeySpan { key: admission.signing_key, until: None }],
            addresses: admission.addresses.clone(),
            enterprises: admission.enterprises.clone(),
            standing: Standing::Active,
            standing_reason: String::new(),
            raft_id: self.summary.next_raft_id,
            admitted_at: self.summary.time,
            admitted_by: self.signer.member,
        };
        self.summary.next_member += 1;
        self.summary.next_raft_id += 1;
        self.summary.active_members += 1;
        self.summary.members_revision += 1;
        put_member(self.kv, &record);
        store(self.kv, nonce, &member);
        Ok(Response::Admitted { member, raft_id: record.raft_id })
    }

    /// The joiner asked for exactly this, and has both keys.
    fn check_request(&self, admission: &Admission) -> Result<(), Refusal> {
        let wrong = |expected: &str| invalid("request", expected);
        let envelope = Envelope::open(&admission.request, StatementKind::JoinRequest, &self.summary.federation)
            .map_err(|error| wrong(&format!("the joiner's signed request ({error})")))?;
        let request = JoinRequest::from_bytes(&envelope.body).map_err(|_| wrong("a join request"))?;
        if envelope.key != admission.signing_key
            || request.transport_key != admission.transport_key
            || request.place != admission.place
            || request.addresses != admission.addresses
            || request.invitation_nonce != admission.invitation_nonce
        {
            return Err(wrong("the same keys, place, addresses and invitation as the admission"));
        }
        let claim = JoinRequest::transport_claim(&admission.signing_key, &admission.invitation_nonce);
        let holds = ed25519_dalek::VerifyingKey::from_bytes(&admission.transport_key)
            .ok()
            .zip(ed25519_dalek::Signature::from_slice(&request.transport_proof).ok())
            .is_some_and(|(key, signature)| key.verify_strict(&claim, &signature).is_ok());
        if holds { Ok(()) } else { Err(wrong("a proof that the joiner has the transport key")) }
    }

    fn check_approvals(&self, admission: &Admission) -> Result<(), Refusal> {
        let policy: FederationPolicy = load(self.kv, keys::POLICY).unwrap_or_default();
        let need = u64::from(policy.admission_approvals).min(self.summary.active_members);
        let digest = Admission::approval_of(&admission.request, &admission.enterprises);
        let mut approving = BTreeSet::from([self.signer.member]);
        for approval in admission.approvals.iter().take(64) {
            let Ok(envelope) = Envelope::open(approval, StatementKind::Approval, &self.summary.federation) else {
                continue;
            };
            if envelope.body != digest {
                continue;
            }
            let by: Option<MemberRecord> = load::<MemberId>(self.kv, &keys::join(keys::SIGNERS, &[&envelope.key]))
                .and_then(|member| load(self.kv, &keys::member(member)));
            if let Some(by) = by
                && by.standing == Standing::Active
                && by.signs_with(&envelope.key, self.summary.time)
            {
                approving.insert(by.member);
            }
        }
        let have = approving.len() as u64;
        if have >= need { Ok(()) } else { Err(Refusal::NeedsApprovals { have: have as u32, need: need as u32 }) }
    }

    fn update_member(&mut self, update: &MemberUpdate) -> Result<Response, Refusal> {
        let mut record = self.signer.clone();
        check_revision(update.expected_revision, record.revision)?;
        if let Some(addresses) = &update.addresses {
            check_addresses(addresses)?;
            record.addresses.clone_from(addresses);
        }
        let until = Timestamp(self.summary.time.0 + KEY_OVERLAP_MS);
        let now = self.summary.time;
        let rotate = |spans: &mut Vec<KeySpan>, key: [u8; 32]| {
            spans.retain(|span| span.until.is_none_or(|until| now < until));
            for span in spans.iter_mut().filter(|span| span.until.is_none()) {
                span.until = Some(until);
            }
            spans.insert(0, KeySpan { key, until: None });
        };
        if let Some(key) = update.transport_key {
            self.taken(&keys::join(keys::TRANSPORTS, &[&key]), "the transport key")?;
            rotate(&mut record.transport_keys, key);
        }
        if let Some(key) = update.signing_key {
            self.taken(&keys::join(keys::SIGNERS, &[&key]), "the signing key")?;
            rotate(&mut record.signing_keys, key);
        }
        Ok(self.change_member(record))
    }

    fn set_standing(
        &mut self,
        member: MemberId,
        expected_revision: u64,
        standing: Standing,
        reason: &str,
    ) -> Result<Response, Refusal> {
        if reason.chars().count() > REASON_CHARS_MAX {
            return Err(invalid("reason", format!("at most {REASON_CHARS_MAX} characters")));
        }
        let mut record: MemberRecord = load(self.kv, &keys::member(member))
            .ok_or_else(|| Refusal::NotFound { what: format!("member {member}") })?;
        check_revision(expected_revision, record.revision)?;
        if record.standing == Standing::Expelled {
            return Err(invalid("standing", "nothing: an expelled member joins anew, under a new id"));
        }
        let was_active = record.standing == Standing::Active;
        let is_active = standing == Standing::Active;
        if was_active && !is_active && self.summary.active_members == 1 {
            return Err(Refusal::LastMember);
        }
        match (was_active, is_active) {
            (true, false) => self.summary.active_members -= 1,
            (false, true) => self.summary.active_members += 1,
            _ => {}
        }
        if standing == Standing::Expelled {
            self.kv.delete(keys::join(keys::REGIONS, &[record.place.region.as_str().as_bytes()]));
        }
        record.standing = standing;
        reason.clone_into(&mut record.standing_reason);
        let region_freed = standing == Standing::Expelled;
        let place = record.place.region.clone();
        let response = self.change_member(record);
        if region_freed {
            // `put_member` wrote the name again; an expelled member does not keep it
            self.kv.delete(keys::join(keys::REGIONS, &[place.as_str().as_bytes()]));
        }
        Ok(response)
    }

    fn batch(&mut self, changes: &[IdentifierChange]) -> Result<Response, Refusal> {
        let items: usize = changes.iter().map(IdentifierChange::items).sum();
        if changes.is_empty() || changes.len() > REGISTRATIONS_MAX || items > REGISTRATIONS_MAX {
            return Err(invalid("batch", format!("1 to {REGISTRATIONS_MAX} identifiers")));
        }
        let one = |change: &IdentifierChange| match change {
            IdentifierChange::Register { items, release } => self.register(items, *release),
            IdentifierChange::Revise { key, expected_revision, text, release } => {
                self.revise(key, *expected_revision, text, *release)
            }
            IdentifierChange::Retire { key, expected_revision, successor } => {
                self.retire(key, *expected_revision, *successor)
            }
        };
        Ok(Response::Batch(changes.iter().map(one).map(|made| made.unwrap_or_else(ChangeOutcome::Refused)).collect()))
    }

    fn register(&mut self, items: &[Registration], release: u32) -> Result<ChangeOutcome, Refusal> {
        if items.is_empty() || items.len() > REGISTRATIONS_MAX {
            return Err(invalid("items", format!("1 to {REGISTRATIONS_MAX} identifiers")));
        }
        Ok(ChangeOutcome::Registered(
            items
                .iter()
                .map(|item| self.register_one(&item.text, release).unwrap_or_else(ItemOutcome::Refused))
                .collect(),
        ))
    }

    fn parse(&self, text: &str) -> Result<Cpi, Refusal> {
        let cpi = Cpi::parse(text).map_err(|error| invalid("text", error.to_string()))?;
        if cpi.as_str() != text {
            return Err(invalid("text", format!("the canonical form {}", cpi.as_str())));
        }
        if !self.signer.enterprises.iter().any(|code| code == cpi.enterprise()) {
            return Err(Refusal::ForeignEnterprise {
                enterprise: cpi.enterprise().to_owned(),
                member: self.signer.member,
            });
        }
        Ok(cpi)
    }

    fn record(&self, key: StableKey, revision: u64, text: &str, release: u32) -> IdentifierRecord {
        IdentifierRecord {
            key,
            revision,
            text: text.to_owned(),
            owner: self.signer.member,
            state: IdentifierState::Registered,
            release,
            committed_at: self.summary.time,
            index: self.index,
            signer: self.statement.key,
            statement: self.statement.digest,
        }
    }

    fn put_identifier(&mut self, record: &IdentifierRecord) {
        store(self.kv, keys::identifier(&record.key), record);
        store(self.kv, keys::revision(&record.key, record.revision), record);
    }

    fn register_one(&mut self, text: &str, release: u32) -> Result<ItemOutcome, Refusal> {
        let cpi = self.parse(text)?;
        let key = cpi.stable_key();
        if let Some(present) = load::<IdentifierRecord>(self.kv, &keys::identifier(&key)) {
            let since = load::<IdentifierRecord>(self.kv, &keys::revision(&key, 1))
                .map_or(present.committed_at, |r| r.committed_at);
            return match present.state {
                _ if present.owner != self.signer.member => {
                    Err(Refusal::OwnedByOther { key, owner: present.owner, since })
                }
                IdentifierState::Retired { .. } => Err(Refusal::Retired { key }),
                IdentifierState::Registered if present.text == text => {
                    Ok(ItemOutcome::Unchanged { key, revision: present.revision })
                }
                IdentifierState::Registered => Err(Refusal::RevisionMismatch { expected: 0, found: present.revision }),
            };
        }
        let record = self.record(key, 1, text, release);
        self.put_identifier(&record);
        index::add(self.kv, &key, &cpi);
        Ok(ItemOutcome::Registered { key, revision: 1 })
    }

    fn owned(&self, key: &StableKey, expected_revision: u64) -> Result<IdentifierRecord, Refusal> {
        let present: IdentifierRecord = load(self.kv, &keys::identifier(key))
            .ok_or_else(|| Refusal::NotFound { what: format!("identifier {key}") })?;
        if present.owner != self.signer.member {
            return Err(Refusal::OwnedByOther { key: *key, owner: present.owner, since: present.committed_at });
        }
        if let IdentifierState::Retired { .. } = present.state {
            return Err(Refusal::Retired { key: *key });
        }
        check_revision(expected_revision, present.revision)?;
        Ok(present)
    }

    fn revise(&mut self, key: &StableKey, expected: u64, text: &str, release: u32) -> Result<ChangeOutcome, Refusal> {
        let present = self.owned(key, expected)?;
        let cpi = self.parse(text)?;
        let found = cpi.stable_key();
        if found != *key {
            return Err(Refusal::OtherIdentity { expected: *key, found });
        }
        let before = Cpi::parse(&present.text).expect("it was parsed when it was stored");
        index::remove(self.kv, key, &before);
        let record = self.record(*key, present.revision + 1, text, release);
        self.put_identifier(&record);
        index::add(self.kv, key, &cpi);
        Ok(ChangeOutcome::Changed { key: *key, revision: record.revision })
    }

    fn retire(
        &mut self,
        key: &StableKey,
        expected: u64,
        successor: Option<StableKey>,
    ) -> Result<ChangeOutcome, Refusal> {
        let present = self.owned(key, expected)?;
        if let Some(successor) = successor
            && (successor == *key || self.kv.get(&keys::identifier(&successor)).is_none())
        {
            return Err(Refusal::NotFound { what: format!("successor {successor}") });
        }
        let before = Cpi::parse(&present.text).expect("it was parsed when it was stored");
        index::remove(self.kv, key, &before);
        let mut record = self.record(*key, present.revision + 1, &present.text, present.release);
        record.state = IdentifierState::Retired { successor };
        self.put_identifier(&record);
        Ok(ChangeOutcome::Changed { key: *key, revision: record.revision })
    }

    fn publish(&mut self, release: u32, chunk: u32, bytes: &[u8]) -> Result<Response, Refusal> {
        if release != self.summary.release + 1 {
            return Err(invalid("release", format!("{}: one more than the one in force", self.summary.release + 1)));
        }
        if chunk >= CHUNKS_MAX || bytes.is_empty() || bytes.len() > super::command::RELEASE_CHUNK_BYTES_MAX {
            return Err(invalid(
                "chunk",
                format!("at most {CHUNKS_MAX} pieces of 1 to {} bytes", super::command::RELEASE_CHUNK_BYTES_MAX),
            ));
        }
        self.kv.put(keys::join(keys::CHUNKS, &[&release.to_be_bytes(), &chunk.to_be_bytes()]), bytes.to_vec());
        Ok(Response::ChunkStored)
    }

    fn activate(&mut self, release: u32, chunks: u32, sha256: &[u8; 32]) -> Result<Response, Refusal> {
        if release != self.summary.release + 1 {
            return Err(invalid("release", format!("{}: one more than the one in force", self.summary.release + 1)));
        }
        let mut hash = Sha256::new();
        for chunk in 0..chunks.min(CHUNKS_MAX) {
            let key = keys::join(keys::CHUNKS, &[&release.to_be_bytes(), &chunk.to_be_bytes()]);
            let bytes = self
                .kv
                .get(&key)
                .ok_or_else(|| Refusal::NotFound { what: format!("piece {chunk} of release {release}") })?;
            hash.update(&bytes);
        }
        if <[u8; 32]>::from(hash.finalize()) != *sha256 {
            return Err(invalid("sha256", "the digest of all pieces together"));
        }
        self.summary.release = release;
        store(self.kv, keys::join(keys::RELEASES, &[&release.to_be_bytes()]), &(chunks, *sha256, self.summary.time));
        Ok(Response::ReleaseActive { release })
    }

    fn set_policy(&mut self, expected_revision: u64, policy: &FederationPolicy) -> Result<Response, Refusal> {
        check_revision(expected_revision, self.summary.policy_revision)?;
        if let Some((field, expected)) = policy.problem() {
            return Err(invalid(field, expected));
        }
        self.summary.policy_revision += 1;
        store(self.kv, keys::POLICY.to_vec(), policy);
        Ok(Response::PolicySet { revision: self.summary.policy_revision })
    }
}

fn check_revision(expected: u64, found: u64) -> Result<(), Refusal> {
    if expected == found { Ok(()) } else { Err(Refusal::RevisionMismatch { expected, found }) }
}

fn check_addresses(addresses: &[String]) -> Result<(), Refusal> {
    if addresses.len() > ADDRESSES_MAX || addresses.iter().any(|address| address.len() > 256) {
        return Err(invalid("addresses", format!("at most {ADDRESSES_MAX} of at most 256 characters")));
    }
    Ok(())
}
