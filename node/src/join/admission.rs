//! The member's side: makes invitations, answers joiners, gathers approvals, and puts admissions before the registry.

use super::approvals::WaitingJoin;
use super::invitation::Token;
use super::joiner::check_request;
use super::message::{Answer, Ask};
use super::{ApproveError, Invitation, InvitationError, InviteError, RosterSeed};
use crate::identity::Signer;
use crate::mesh::{JoinHandler, JoinPeer};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::registry::command::JoinRequest;
use consensus::registry::{Admission, Command, Genesis, MemberRecord, Refusal, RegistryReader, Response, Standing};
use consensus::time::Timestamp;
use cpi::ids::{MemberId, RegionName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Joins that may wait for approval here.
const WAITING_MAX: usize = 256;
/// Approvals kept for one join.
const APPROVALS_MAX: usize = 64;
/// An admission is given this long to commit before the joiner is told to ask again.
const COMMIT_WAIT: Duration = Duration::from_secs(8);
/// Wait for the replica here to see an admission that was committed.
const SEEN_WAIT: Duration = Duration::from_secs(5);
/// How long an invitation may be good, in seconds.
const TTL_S: std::ops::RangeInclusive<u64> = 60..=2_592_000;

/// What the desk needs of the registry.
#[async_trait]
pub trait AdmissionRegistry: Send + Sync {
    /// The replica here.
    fn reader(&self) -> RegistryReader;

    /// Puts a signed command before the leader and waits until it is applied; an `Err` says why it could not commit.
    async fn propose(&self, envelope: Vec<u8>, deadline: Duration) -> Result<Response, String>;
}

/// A join that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingJoin {
    /// What an approval signs ([`Admission::approval_of`]): two requests under one name are told apart by it.
    pub request: [u8; 32],
    /// Its region.
    pub region: RegionName,
    /// City code.
    pub city: String,
    /// ISO 3166 country.
    pub country: String,
    /// Enterprise codes that it would be admitted with.
    pub enterprises: Vec<String>,
    /// Approvals there are.
    pub have: u32,
    /// Approvals needed.
    pub need: u32,
}

struct Waiting {
    token: Token,
    request: Vec<u8>,
    body: JoinRequest,
    signing_key: [u8; 32],
    /// By approving key.
    approvals: BTreeMap<[u8; 32], Vec<u8>>,
}

/// One member's desk for those who want in. What waits here is asked for again by the joiner, so it needs no disk.
pub struct AdmissionDesk {
    me: MemberId,
    genesis: Genesis,
    signer: Signer,
    registry: Arc<dyn AdmissionRegistry>,
    transport_key: [u8; 32],
    /// By what an approval signs.
    waiting: Mutex<BTreeMap<[u8; 32], Waiting>>,
    now: fn() -> Timestamp,
}

impl AdmissionDesk {
    /// A desk of member `me`.
    pub fn new(
        me: MemberId,
        genesis: Genesis,
        transport_key: [u8; 32],
        signer: Signer,
        registry: Arc<dyn AdmissionRegistry>,
        now: fn() -> Timestamp,
    ) -> Self {
        Self { me, genesis, signer, registry, transport_key, waiting: Mutex::default(), now }
    }

    /// Makes an invitation; returns the token and when it expires.
    ///
    /// # Errors
    /// [`InviteError::Invalid`] names the field.
    pub fn invite(
        &self,
        region: Option<&str>,
        enterprises: &[String],
        ttl_s: u64,
        joiner_key: Option<[u8; 32]>,
    ) -> Result<(String, Timestamp), InviteError> {
        let invalid = |field, expected: String| InviteError::Invalid { field, expected };
        if !TTL_S.contains(&ttl_s) {
            return Err(invalid("ttl_s", format!("{} to {} seconds", TTL_S.start(), TTL_S.end())));
        }
        let region = region
            .map(|region| region.parse::<RegionName>())
            .transpose()
            .map_err(|error| invalid("region", error.to_string()))?;
        if enterprises.len() > consensus::registry::member::ENTERPRISES_MAX {
            let most = consensus::registry::member::ENTERPRISES_MAX;
            return Err(invalid("enterprises", format!("at most {most} codes")));
        }
        let expires_at = Timestamp((self.now)().0.saturating_add(ttl_s * 1_000));
        let own = self.registry.reader().member(self.me);
        let invitation = Invitation {
            federation: self.signer.federation(),
            federation_name: self.genesis.name.clone(),
            inviter: self.me,
            inviter_transport_key: self.transport_key,
            inviter_addresses: own.map(|own| own.addresses).unwrap_or_default(),
            joiner_key,
            region,
            enterprises: enterprises.to_vec(),
            expires_at,
            nonce: rand::random(),
        };
        let envelope = self.signer.seal(StatementKind::Invitation, invitation.to_bytes());
        Ok((Token::text(&envelope), expires_at))
    }

    /// Joins that wait for approval here.
    pub fn pending(&self) -> Vec<PendingJoin> {
        let need = self.approvals_needed();
        let waiting = self.waiting();
        waiting
            .iter()
            .map(|(request, waiting)| PendingJoin {
                request: *request,
                region: waiting.body.place.region.clone(),
                city: waiting.body.place.city.clone(),
                country: waiting.body.place.country.clone(),
                enterprises: waiting.token.invitation.enterprises.clone(),
                have: self.have(waiting),
                need,
            })
            .collect()
    }

    /// The same as other members are told of it.
    pub(super) fn waiting_joins(&self) -> Vec<WaitingJoin> {
        let need = self.approvals_needed();
        let waiting = self.waiting();
        let join = |waiting: &Waiting| WaitingJoin {
            request: waiting.request.clone(),
            enterprises: waiting.token.invitation.enterprises.clone(),
            have: self.have(waiting),
            need,
        };
        waiting.values().map(join).collect()
    }

    /// The federation that is joined.
    pub(super) fn federation(&self) -> Federation {
        self.signer.federation()
    }

    /// Signs an approval as this member.
    pub(super) fn sign_approval(&self, digest: [u8; 32]) -> Envelope {
        self.signer.seal(StatementKind::Approval, digest.to_vec())
    }

    /// A member that was admitted at another desk, once the replica here has it.
    pub(super) async fn member(&self, member: MemberId) -> Option<MemberRecord> {
        let patience = tokio::time::Instant::now() + SEEN_WAIT;
        loop {
            let record = self.registry.reader().member(member);
            if record.is_some() || tokio::time::Instant::now() > patience {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Admits the joiner of `request` if it has its approvals; the new member, or `None` while more are needed.
    pub(super) async fn admit(&self, request: &[u8; 32]) -> Result<Option<MemberId>, String> {
        match self.try_admit(request).await {
            Some(Answer::Admitted { member, .. }) => Ok(Some(member)),
            Some(Answer::Waiting { .. }) | None => Ok(None),
            Some(Answer::Refused { reason } | Answer::Unavailable { reason }) => Err(reason),
        }
    }

    /// The invitation is the inviter's approval. Without it the desk proposes, but does not approve by itself.
    fn have(&self, waiting: &Waiting) -> u32 {
        let own = self.signer.public_key();
        count(waiting, (waiting.token.signing_key == own).then_some(own))
    }

    /// Approves exactly this request for this member, and admits it if that was the last approval needed.
    ///
    /// # Errors
    /// [`ApproveError`].
    pub async fn approve(&self, request: &[u8; 32]) -> Result<Option<MemberRecord>, ApproveError> {
        if !self.waiting().contains_key(request) {
            return Err(ApproveError::NotWaiting { request: data_encoding::HEXLOWER.encode(request) });
        }
        self.add_approval(&self.sign_approval(*request));
        match self.try_admit(request).await {
            Some(Answer::Admitted { member, .. }) => Ok(self.registry.reader().member(member)),
            Some(Answer::Waiting { .. }) | None => Ok(None),
            Some(Answer::Refused { reason } | Answer::Unavailable { reason }) => Err(ApproveError::Registry(reason)),
        }
    }

    /// Adds another member's approval of a join that waits here. Returns whether it counts.
    pub fn add_approval(&self, approval: &Envelope) -> bool {
        let by = self.registry.reader().member_of_key(&approval.key);
        let Some(request) = request_of(approval) else { return false };
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.get_mut(&request) else { return false };
        let counts = by.is_some_and(|by| by.standing == Standing::Active)
            && approval.verify(StatementKind::Approval, &self.signer.federation()).is_ok()
            && waiting.approvals.len() < APPROVALS_MAX;
        if counts {
            waiting.approvals.insert(approval.key, approval.to_bytes());
        }
        counts
    }

    fn approvals_needed(&self) -> u32 {
        let reader = self.registry.reader();
        let active = reader.members().iter().filter(|member| member.standing == Standing::Active).count();
        reader.policy().admission_approvals.min(u32::try_from(active).unwrap_or(u32::MAX)).max(1)
    }

    /// Answers one question of a joiner.
    async fn answer(&self, peer: &JoinPeer, ask: Ask) -> Answer {
        let refused = |error: InvitationError| Answer::Refused { reason: error.to_string() };
        let token = match Token::open(ask.invitation) {
            Ok(token) => token,
            Err(error) => return refused(error),
        };
        let (body, signing_key) = match check_request(&ask.request, &token, &peer.transport_key) {
            Ok(checked) => checked,
            Err(error) => return refused(error),
        };
        // Asked again after the admission: the same answer, even when the invitation is over by now.
        if let Some(answer) = self.admitted(&signing_key, &peer.transport_key) {
            return answer;
        }
        if let Err(error) = self.check_token(&token, &body, &peer.transport_key) {
            return refused(error);
        }
        let request = Admission::approval_of(&ask.request, &token.invitation.enterprises);
        {
            let mut waiting = self.waiting();
            if !waiting.contains_key(&request) {
                // one joiner has one request, the last; others under the same name wait beside it
                let now = (self.now)();
                waiting.retain(|_, other| other.signing_key != signing_key && now < other.token.invitation.expires_at);
                if waiting.len() >= WAITING_MAX {
                    return Answer::Unavailable { reason: "too many joins wait for approval".into() };
                }
                // The invitation is the inviter's approval.
                let fresh = Waiting { token, request: ask.request, body, signing_key, approvals: BTreeMap::new() };
                waiting.insert(request, fresh);
            }
        }
        let gone = || Answer::Unavailable { reason: "the request was replaced by another one meanwhile".into() };
        self.try_admit(&request).await.unwrap_or_else(gone)
    }

    fn check_token(&self, token: &Token, body: &JoinRequest, transport_key: &[u8; 32]) -> Result<(), InvitationError> {
        if token.invitation.federation != self.signer.federation() {
            return Err(InvitationError::Federation);
        }
        let inviter = self.registry.reader().member_of_key(&token.signing_key);
        if !inviter.is_some_and(|by| by.standing == Standing::Active && by.member == token.invitation.inviter) {
            return Err(InvitationError::Inviter);
        }
        token.check((self.now)(), &body.place.region, transport_key)
    }

    /// The answer to a joiner that is a member already.
    fn admitted(&self, signing_key: &[u8; 32], transport_key: &[u8; 32]) -> Option<Answer> {
        let reader = self.registry.reader();
        let record = reader.member_of_key(signing_key)?;
        if !record.transport_keys.iter().any(|span| span.key == *transport_key) {
            return None;
        }
        if record.standing == Standing::Expelled {
            return Some(Answer::Refused { reason: format!("member {} was expelled", record.member) });
        }
        Some(Answer::Admitted {
            member: record.member,
            raft_id: record.raft_id,
            epoch: self.signer.federation().epoch,
            genesis: Box::new(self.genesis.clone()),
            roster: reader.members().iter().filter_map(RosterSeed::of).collect(),
        })
    }

    /// Puts a waiting join before the registry if it has its approvals; `None` if no such request waits.
    pub(super) async fn try_admit(&self, request: &[u8; 32]) -> Option<Answer> {
        let need = self.approvals_needed();
        let (admission, keys) = {
            let waiting = self.waiting();
            let waiting = waiting.get(request)?;
            let have = self.have(waiting);
            if have < need {
                return Some(Answer::Waiting { have, need });
            }
            (waiting.admission(), (waiting.signing_key, waiting.body.transport_key))
        };
        let command = Command::Admit(Box::new(admission));
        let envelope = match self.signer.seal_command(command.to_bytes()) {
            Ok(envelope) => envelope.to_bytes(),
            Err(error) => return Some(Answer::Unavailable { reason: error.to_string() }),
        };
        let outcome = self.registry.propose(envelope, COMMIT_WAIT).await;
        // Whatever this attempt came to: an earlier one may have been committed.
        if let Some(answer) = self.admitted(&keys.0, &keys.1) {
            self.waiting().remove(request);
            return Some(answer);
        }
        Some(match outcome {
            Ok(Response::Refused(Refusal::NeedsApprovals { have, need })) => Answer::Waiting { have, need },
            Ok(Response::Refused(refusal)) => {
                self.waiting().remove(request);
                Answer::Refused { reason: refusal.to_string() }
            }
            Ok(_) => Answer::Unavailable { reason: "admitted; the replica here is about to see it".into() },
            Err(reason) => Answer::Unavailable { reason },
        })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn admission(&self) -> Admission {
        Admission {
            invitation_nonce: self.body.invitation_nonce,
            place: self.body.place.clone(),
            transport_key: self.body.transport_key,
            signing_key: self.signing_key,
            addresses: self.body.addresses.clone(),
            enterprises: self.token.invitation.enterprises.clone(),
            request: self.request.clone(),
            approvals: self.approvals.values().cloned().collect(),
        }
    }
}

/// Which request an approval is of.
pub(super) fn request_of(approval: &Envelope) -> Option<[u8; 32]> {
    approval.body.as_slice().try_into().ok()
}

/// How many members approve: those who said so, and `inviting`.
fn count(waiting: &Waiting, inviting: Option<[u8; 32]>) -> u32 {
    let keys: BTreeSet<[u8; 32]> = waiting.approvals.keys().copied().chain(inviting).collect();
    u32::try_from(keys.len()).unwrap_or(u32::MAX)
}

#[async_trait]
impl JoinHandler for AdmissionDesk {
    async fn on_join(&self, peer: JoinPeer, frame: Bytes) -> Result<Bytes, String> {
        let ask = Ask::from_bytes(&frame).map_err(|error| error.to_string())?;
        let answer = self.answer(&peer, ask).await;
        if let Answer::Refused { reason } = &answer {
            let key = crate::mesh::peer_name(&peer.transport_key).unwrap_or_default();
            tracing::warn!(peer = %key, reason, "a join was refused");
        }
        Ok(answer.to_bytes().into())
    }
}
