//! Members: who is in, how they are reached, and how somebody gets in or out.

use super::member_views::{ApprovalsView, InvitationView, InviteRequest, MemberView, PolicyRequest, PolicyView};
use crate::http::ports::MemberPort;
use crate::http::{ApiError, Code};
use crate::identity::Signer;
use crate::join::{AdmissionRegistry, Approvals, ApproveError, InviteError, PendingJoin};
use crate::mesh::{MeshHandle, PeerView};
use async_trait::async_trait;
use consensus::raft::{RegistryHandle, RegistryStatus, Role};
use consensus::registry::{Command, FederationPolicy, MemberRecord, RegistryReader, Response, Standing};
use consensus::time::Timestamp;
use cpi::ids::{ContentDigest, MemberId, RegionName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an invitation is good if nobody says, in seconds.
const INVITATION_TTL_S: u64 = 86_400;
/// Wait for a commit before the caller is told that there is no quorum.
const COMMIT_WAIT: Duration = Duration::from_secs(10);

#[async_trait]
impl AdmissionRegistry for RegistryHandle {
    fn reader(&self) -> RegistryReader {
        Self::reader(self)
    }

    async fn propose(&self, envelope: Vec<u8>, deadline: Duration) -> Result<Response, String> {
        Self::propose(self, envelope, deadline).await.map(|committed| committed.response).map_err(|e| e.to_string())
    }
}

/// The members of the federation, as this node sees them.
pub struct MemberService {
    me: MemberId,
    registry: RegistryHandle,
    mesh: MeshHandle,
    signer: Signer,
    approvals: Arc<Approvals>,
}

impl MemberService {
    /// A service of member `me`.
    pub fn new(
        me: MemberId,
        registry: RegistryHandle,
        mesh: MeshHandle,
        signer: Signer,
        approvals: Arc<Approvals>,
    ) -> Self {
        Self { me, registry, mesh, signer, approvals }
    }

    fn view(&self, record: &MemberRecord, seen: &Seen) -> MemberView {
        let peer = seen.peers.get(&record.member);
        let connection = match peer {
            _ if record.member == self.me => "self",
            Some(peer) if peer.connected => "connected",
            _ => "away",
        };
        MemberView {
            id: record.member.to_string(),
            region: record.place.region.to_string(),
            city: record.place.city.clone(),
            country: record.place.country.clone(),
            state: record.standing.name().to_owned(),
            role: seen.role(record).to_owned(),
            enterprise_codes: record.enterprises.clone(),
            addresses: record.addresses.clone(),
            connection: connection.to_owned(),
            rtt_ms: peer.and_then(|peer| peer.rtt_ms),
            rtt_p99_ms: peer.and_then(|peer| peer.rtt_p99_ms),
            last_seen: peer.and_then(|peer| ago(peer.last_seen_ms?)),
            admitted_at: at(record.admitted_at),
            ring_position: seen.ring.iter().position(|member| *member == record.member).map(|at| at as u32),
            approvals: None,
        }
    }

    fn seen(&self, records: &[MemberRecord]) -> Seen {
        Seen {
            peers: self.mesh.peers().into_iter().map(|peer| (peer.member, peer)).collect(),
            ring: ring(records.iter().filter(|record| record.standing == Standing::Active).map(|r| r.member)),
            status: self.registry.status(),
        }
    }

    fn named(&self, id: &str) -> Option<MemberRecord> {
        let reader = self.registry.reader();
        if let Ok(member) = id.parse::<MemberId>()
            && let Some(record) = reader.member(member)
        {
            return Some(record);
        }
        id.parse::<RegionName>().ok().and_then(|region| reader.member_of_region(&region))
    }

    async fn set_standing(&self, id: &str, standing: Standing, reason: Option<&str>) -> Result<MemberView, ApiError> {
        let record = self.named(id).ok_or_else(|| ApiError::new(Code::NotFound, format!("there is no member {id}")))?;
        if record.standing != standing {
            let command = Command::SetStanding {
                member: record.member,
                expected_revision: record.revision,
                standing,
                reason: reason.unwrap_or_default().to_owned(),
            };
            let envelope = self.signer.seal_command(command.to_bytes())?.to_bytes();
            let committed = self.registry.propose(envelope, COMMIT_WAIT).await?;
            if let Response::Refused(refusal) = committed.response {
                return Err(refusal.into());
            }
        }
        let records = self.registry.reader().members();
        let record = records.iter().find(|one| one.member == record.member).cloned().unwrap_or(record);
        Ok(self.view(&record, &self.seen(&records)))
    }
}

/// What is looked up once for a list.
struct Seen {
    peers: BTreeMap<MemberId, PeerView>,
    ring: Vec<MemberId>,
    status: RegistryStatus,
}

impl Seen {
    fn role(&self, record: &MemberRecord) -> &'static str {
        let leads = self.status.freshness.leader == Some(record.member);
        let votes = self.status.voters.iter().any(|(_, member)| *member == record.member);
        let learns = self.status.learners.iter().any(|(_, member)| *member == record.member);
        match (leads, votes, learns) {
            (true, ..) => "leader",
            (false, true, _) => "voter",
            (false, false, true) => "learner",
            (false, false, false) => role_name(Role::Follower),
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Follower => "follower",
    }
}

/// Members in the order of the hash of their ids.
pub fn ring(members: impl Iterator<Item = MemberId>) -> Vec<MemberId> {
    let mut ring: Vec<MemberId> = members.collect();
    ring.sort_by_key(|member| ContentDigest::of(&member.0.to_be_bytes()));
    ring
}

fn at(at: Timestamp) -> Option<String> {
    jiff::Timestamp::from_millisecond(at.0.cast_signed()).ok().map(|at| at.to_string())
}

fn ago(ms: u64) -> Option<String> {
    let now = jiff::Timestamp::now().as_millisecond();
    jiff::Timestamp::from_millisecond(now.saturating_sub_unsigned(ms)).ok().map(|at| at.to_string())
}

fn waiting_view(join: PendingJoin) -> MemberView {
    MemberView {
        id: String::new(),
        region: join.region.to_string(),
        city: join.city,
        country: join.country,
        state: "waiting".to_owned(),
        role: String::new(),
        enterprise_codes: join.enterprises,
        addresses: Vec::new(),
        connection: "away".to_owned(),
        rtt_ms: None,
        rtt_p99_ms: None,
        last_seen: None,
        admitted_at: None,
        ring_position: None,
        approvals: Some(ApprovalsView { have: join.have, need: join.need }),
    }
}

#[async_trait]
impl MemberPort for MemberService {
    fn list(&self) -> Vec<MemberView> {
        let records = self.registry.reader().members();
        let seen = self.seen(&records);
        let mut views: Vec<MemberView> = records.iter().map(|record| self.view(record, &seen)).collect();
        views.extend(self.approvals.pending().into_iter().map(waiting_view));
        views
    }

    async fn invite(&self, request: &InviteRequest) -> Result<InvitationView, ApiError> {
        let ttl_s = request.ttl_s.unwrap_or(INVITATION_TTL_S);
        let made = self.approvals.desk().invite(request.region.as_deref(), &request.enterprises, ttl_s, None);
        let (token, expires_at) = made.map_err(|error| {
            let InviteError::Invalid { field, .. } = &error;
            ApiError::field(crate::http::FieldError::new(*field, error.to_string()))
        })?;
        Ok(InvitationView { token, expires_at: at(expires_at).unwrap_or_default() })
    }

    fn policy(&self) -> PolicyView {
        let reader = self.registry.reader();
        let FederationPolicy { admission_approvals, voters, .. } = reader.policy();
        PolicyView { admission_approvals, voters, revision: reader.summary().map_or(0, |s| s.policy_revision) }
    }

    async fn set_policy(&self, request: &PolicyRequest) -> Result<PolicyView, ApiError> {
        let reader = self.registry.reader();
        let mut policy = reader.policy();
        policy.admission_approvals = request.admission_approvals.unwrap_or(policy.admission_approvals);
        policy.voters = request.voters.unwrap_or(policy.voters);
        if let Some((field, expected)) = policy.problem() {
            return Err(ApiError::field(crate::http::FieldError::new(field, format!("expected {expected}"))));
        }
        let expected_revision = reader.summary().map_or(0, |summary| summary.policy_revision);
        let command = Command::SetPolicy { expected_revision, policy };
        let envelope = self.signer.seal_command(command.to_bytes())?.to_bytes();
        let committed = self.registry.propose(envelope, COMMIT_WAIT).await?;
        match committed.response {
            Response::Refused(refusal) => Err(refusal.into()),
            _ => Ok(self.policy()),
        }
    }

    async fn approve(&self, id: &str) -> Result<MemberView, ApiError> {
        // Approved before, or admitted by the invitation alone: the same answer.
        if let Some(record) = self.named(id).filter(|record| record.standing != Standing::Expelled) {
            return Ok(self.view(&record, &self.seen(&self.registry.reader().members())));
        }
        match self.approvals.approve(id).await {
            Ok(Some(record)) => Ok(self.view(&record, &self.seen(&self.registry.reader().members()))),
            Ok(None) => {
                let waits = self.approvals.pending().into_iter().find(|join| join.region.as_str() == id);
                waits.map(waiting_view).ok_or_else(|| ApiError::new(Code::NotFound, format!("{id} waits no more")))
            }
            Err(error @ ApproveError::NotWaiting { .. }) => Err(ApiError::new(Code::NotFound, error.to_string())),
            Err(ApproveError::Registry(reason)) => Err(ApiError::new(Code::Unavailable, reason)),
            Err(ApproveError::Sign(error)) => Err(error.into()),
        }
    }

    async fn suspend(&self, id: &str, reason: Option<&str>) -> Result<MemberView, ApiError> {
        self.set_standing(id, Standing::Suspended, reason).await
    }

    async fn resume(&self, id: &str) -> Result<MemberView, ApiError> {
        self.set_standing(id, Standing::Active, None).await
    }

    async fn expel(&self, id: &str, reason: Option<&str>) -> Result<MemberView, ApiError> {
        self.set_standing(id, Standing::Expelled, reason).await
    }
}
