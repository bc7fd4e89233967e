//! Members and what they decide together: admissions, a member's own record, motions with their votes.

use super::super::command::{Admission, JoinRequest, MemberUpdate};
use super::super::keys;
use super::super::member::{ADDRESSES_MAX, ENTERPRISES_MAX, KEY_OVERLAP_MS, KeySpan, MemberRecord, Standing};
use super::super::motion::{self, Motion, SignedVote, VOTES_MAX};
use super::super::policy::FederationPolicy;
use super::super::response::{Refusal, Response};
use super::{Act, check_revision, invalid, load, put_member, store};
use crate::envelope::{Envelope, StatementKind};
use crate::time::Timestamp;
use cpi::ids::MemberId;
use std::collections::BTreeSet;

impl Act<'_, '_> {
    pub(super) fn change_member(&mut self, mut record: MemberRecord) -> Response {
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

    pub(super) fn admit(&mut self, admission: &Admission) -> Result<Response, Refusal> {
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
            standing_changes: 0,
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
            approving.extend(motion::active_signer(self.kv, self.summary, &envelope.key).map(|by| by.member));
        }
        let have = approving.len() as u64;
        if have >= need { Ok(()) } else { Err(Refusal::NeedsApprovals { have: have as u32, need: need as u32 }) }
    }

    pub(super) fn update_member(&mut self, update: &MemberUpdate) -> Result<Response, Refusal> {
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

    /// Counts the votes on a motion and does what it asks for. Who proposes does not vote by that.
    pub(super) fn decide(&mut self, votes: &[Vec<u8>]) -> Result<Response, Refusal> {
        if votes.len() > VOTES_MAX {
            return Err(invalid("votes", format!("1 to {VOTES_MAX}")));
        }
        let opened = votes.iter().map(|vote| SignedVote::open(vote.clone(), &self.summary.federation));
        let opened: Vec<SignedVote> =
            opened.collect::<Result<_, _>>().map_err(|error| invalid("votes", format!("signed votes ({error})")))?;
        let Some(first) = opened.first() else { return Err(invalid("votes", format!("1 to {VOTES_MAX}"))) };
        let motion = first.vote.motion.clone();
        if opened.iter().any(|one| one.vote.motion != motion) {
            return Err(invalid("votes", "votes on one motion"));
        }
        let now = self.summary.time;
        let in_time = || opened.iter().filter(|one| now < one.vote.until);
        let tally = motion::tally(self.kv, self.summary, &motion, in_time().map(|one| &one.key));
        let decided = match &motion {
            Motion::Standing { member, changes, standing } => {
                let record = self.standing_of(*member, *changes)?;
                let reason = in_time().map(|one| one.vote.reason.as_str()).find(|reason| !reason.is_empty());
                tally.is_enough().then(|| self.set_standing(record, *standing, reason.unwrap_or_default()))
            }
            Motion::Policy { expected_revision, policy } => {
                check_revision(*expected_revision, self.summary.policy_revision)?;
                tally.is_enough().then(|| self.set_policy(policy))
            }
        };
        decided.unwrap_or(Err(Refusal::NeedsApprovals { have: tally.have(), need: tally.need }))
    }

    fn standing_of(&self, member: MemberId, changes: u64) -> Result<MemberRecord, Refusal> {
        let record: MemberRecord = load(self.kv, &keys::member(member))
            .ok_or_else(|| Refusal::NotFound { what: format!("member {member}") })?;
        if record.standing == Standing::Expelled {
            return Err(invalid("standing", "nothing: an expelled member joins anew, under a new id"));
        }
        check_revision(changes, record.standing_changes)?;
        Ok(record)
    }

    fn set_standing(
        &mut self,
        mut record: MemberRecord,
        standing: Standing,
        reason: &str,
    ) -> Result<Response, Refusal> {
        if record.standing == standing {
            return Err(invalid("standing", format!("another than {}, which it is", standing.name())));
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
        record.standing = standing;
        record.standing_changes += 1;
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

    fn set_policy(&mut self, policy: &FederationPolicy) -> Result<Response, Refusal> {
        if let Some((field, expected)) = policy.problem() {
            return Err(invalid(field, expected));
        }
        self.summary.policy_revision += 1;
        store(self.kv, keys::POLICY.to_vec(), policy);
        Ok(Response::PolicySet { revision: self.summary.policy_revision })
    }
}

fn check_addresses(addresses: &[String]) -> Result<(), Refusal> {
    if addresses.len() > ADDRESSES_MAX || addresses.iter().any(|address| address.len() > 256) {
        return Err(invalid("addresses", format!("at most {ADDRESSES_MAX} of at most 256 characters")));
    }
    Ok(())
}
