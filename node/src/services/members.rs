//! Members: who is in, how they are reached, and how somebody gets in or out.

use super::member_views::{
    ApprovalsView, InvitationView, InviteRequest, MemberView, MotionView, PolicyMotionView, PolicyRequest, PolicyView,
};
use crate::drivers::motions::{MotionDesk, MotionError, MotionOutcome};
use crate::http::ports::MemberPort;
use crate::http::{ApiError, Code};
use crate::join::{AdmissionRegistry, Approvals, ApproveError, InviteError, PendingJoin};
use crate::mesh::{MeshHandle, PeerView};
use async_trait::async_trait;
use consensus::membership::MotionView as OpenMotion;
use consensus::raft::{RegistryHandle, RegistryStatus, Role};
use consensus::registry::motion::REASON_CHARS_MAX;
use consensus::registry::{FederationPolicy, MemberRecord, Motion, RegistryReader, Response, Standing};
use consensus::time::Timestamp;
use cpi::ids::{ContentDigest, MemberId, RegionName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an invitation is good if nobody says, in seconds.
const INVITATION_TTL_S: u64 = 86_400;

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
    motions: MotionDesk,
    approvals: Arc<Approvals>,
}

impl MemberService {
    /// A service of member `me`.
    pub fn new(
        me: MemberId,
        registry: RegistryHandle,
        mesh: MeshHandle,
        motions: MotionDesk,
        approvals: Arc<Approvals>,
    ) -> Self {
        Self { me, registry, mesh, motions, approvals }
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
            state: seen.standing(record).name().to_owned(),
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
            request: None,
            motions: seen.motions.iter().filter(|m| m.motion.about() == Some(record.member)).map(motion_view).collect(),
        }
    }

    fn seen(&self, records: &[MemberRecord]) -> Seen {
        Seen {
            peers: self.mesh.peers().into_iter().map(|peer| (peer.member, peer)).collect(),
            ring: ring(records.iter().filter(|record| record.standing == Standing::Active).map(|r| r.member)),
            status: self.registry.status(),
            motions: self.motions.open_motions(),
            by_votes: Arc::clone(&self.motions.standings().borrow()),
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

    /// This member's vote. What waits for more votes, or for a quorum, is no error: the view says so.
    async fn vote(&self, motion: Motion, reason: &str) -> Result<(), ApiError> {
        match self.motions.vote(motion, reason).await {
            Ok(MotionOutcome::Applied(Response::Refused(refusal))) => Err(refusal.into()),
            Ok(_) => Ok(()),
            Err(MotionError::Sign(error)) => Err(error.into()),
            Err(error @ MotionError::Refused(_)) => Err(ApiError::new(Code::Conflict, error.to_string())),
            Err(error) => Err(ApiError::new(Code::Unavailable, error.to_string())),
        }
    }

    async fn set_standing(&self, id: &str, standing: Standing, reason: Option<&str>) -> Result<MemberView, ApiError> {
        let record = self.named(id).ok_or_else(|| ApiError::new(Code::NotFound, format!("there is no member {id}")))?;
        let reason = reason.unwrap_or_default();
        if reason.chars().count() > REASON_CHARS_MAX {
            let field =
                crate::http::FieldError::new("reason", format!("expected at most {REASON_CHARS_MAX} characters"));
            return Err(ApiError::field(field));
        }
        if record.standing != standing {
            let (member, changes) = (record.member, record.standing_changes);
            self.vote(Motion::Standing { member, changes, standing }, reason).await?;
        }
        let records = self.registry.reader().members();
        let record = records.iter().find(|one| one.member == record.member).cloned().unwrap_or(record);
        Ok(self.view(&record, &self.seen(&records)))
    }
}

fn motion_view(open: &OpenMotion) -> MotionView {
    let standing = if let Motion::Standing { standing, .. } = open.motion { standing.name() } else { "" };
    MotionView {
        standing: standing.to_owned(),
        reason: open.reason.clone(),
        have: open.tally.have(),
        need: open.tally.need,
        by: open.tally.by.iter().map(ToString::to_string).collect(),
        since: at(open.since),
        decided: open.tally.is_enough(),
    }
}

/// What is looked up once for a list.
struct Seen {
    peers: BTreeMap<MemberId, PeerView>,
    ring: Vec<MemberId>,
    status: RegistryStatus,
    motions: Vec<OpenMotion>,
    by_votes: Arc<BTreeMap<MemberId, Standing>>,
}

impl Seen {
    /// As in force at this node: votes count before the registry has them.
    fn standing(&self, record: &MemberRecord) -> Standing {
        self.by_votes.get(&record.member).map_or(record.standing, |standing| record.standing.max(*standing))
    }

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
        request: Some(data_encoding::HEXLOWER.encode(&join.request)),
        motions: Vec::new(),
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
        let FederationPolicy { admission_approvals, voters, learners } = reader.policy();
        let proposed = self.motions.open_motions().into_iter().filter_map(|open| {
            let Motion::Policy { policy, .. } = open.motion else { return None };
            Some(PolicyMotionView {
                admission_approvals: policy.admission_approvals,
                voters: policy.voters,
                learners: policy.learners,
                have: open.tally.have(),
                need: open.tally.need,
                by: open.tally.by.iter().map(ToString::to_string).collect(),
            })
        });
        let revision = reader.summary().map_or(0, |summary| summary.policy_revision);
        PolicyView { admission_approvals, voters, learners, revision, proposed: proposed.collect() }
    }

    async fn set_policy(&self, request: &PolicyRequest) -> Result<PolicyView, ApiError> {
        let reader = self.registry.reader();
        let mut policy = reader.policy();
        policy.admission_approvals = request.admission_approvals.unwrap_or(policy.admission_approvals);
        policy.voters = request.voters.unwrap_or(policy.voters);
        policy.learners = request.learners.unwrap_or(policy.learners);
        if let Some((field, expected)) = policy.problem() {
            return Err(ApiError::field(crate::http::FieldError::new(field, format!("expected {expected}"))));
        }
        let expected_revision = reader.summary().map_or(0, |summary| summary.policy_revision);
        if policy != reader.policy() {
            self.vote(Motion::Policy { expected_revision, policy }, "").await?;
        }
        Ok(self.policy())
    }

    async fn approve(&self, region: &str, request: &str) -> Result<MemberView, ApiError> {
        let digest = data_encoding::HEXLOWER.decode(request.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let digest: [u8; 32] = digest.ok_or_else(|| {
            let field =
                crate::http::FieldError::new("request", "expected 64 hexadecimal digits, as the list of members shows");
            ApiError::field(field)
        })?;
        let waits = || self.approvals.pending().into_iter().find(|join| join.request == digest);
        if waits().is_some_and(|join| join.region.as_str() != region) {
            return Err(ApiError::new(Code::Conflict, format!("request {request} is not of region {region}")));
        }
        match self.approvals.approve(&digest).await {
            Ok(Some(record)) => Ok(self.view(&record, &self.seen(&self.registry.reader().members()))),
            Ok(None) => waits()
                .map(waiting_view)
                .ok_or_else(|| ApiError::new(Code::NotFound, format!("request {request} waits no more"))),
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
