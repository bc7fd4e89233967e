//! Members and invitations as people and programs see them: the JSON shapes of `/v1/members`, `/v1/ring`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A member of the federation, as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// As in `m7`.
    pub id: String,
    /// Its region's name.
    pub region: String,
    /// City code.
    pub city: String,
    /// ISO 3166 country.
    pub country: String,
    /// `waiting` (asked to join), `active`, `suspended`, `expelled`.
    pub state: String,
    /// In the registry: `leader`, `voter`, `learner`, `follower`.
    pub role: String,
    /// Enterprise codes under which it may register.
    pub enterprise_codes: Vec<String>,
    /// Multiaddresses it announces.
    pub addresses: Vec<String>,
    /// `self`, `connected`, `away`.
    pub connection: String,
    /// Measured round trip in ms, smoothed.
    pub rtt_ms: Option<f64>,
    /// Measured round trip in ms, 99th percentile.
    pub rtt_p99_ms: Option<f64>,
    /// When it was last heard, RFC 3339 UTC.
    pub last_seen: Option<String>,
    /// When it was admitted, RFC 3339 UTC.
    pub admitted_at: Option<String>,
    /// Its place in the ring, from 0, by the hash of its id.
    pub ring_position: Option<u32>,
    /// Where it waits: how many members approve, and how many must.
    #[serde(default)]
    pub approvals: Option<ApprovalsView>,
    /// Where it waits: the digest of its signed request and the enterprise codes that go with it, which is what an approval
    /// signs. Two requests under one name have two.
    #[serde(default)]
    pub request: Option<String>,
    /// Changes of its standing that members vote on.
    #[serde(default)]
    pub motions: Vec<MotionView>,
}

/// A change of a member's standing that members vote on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MotionView {
    /// The new standing: `active`, `suspended`, `expelled`.
    pub standing: String,
    /// Why, as the first who gave a reason said.
    pub reason: String,
    /// Members whose votes count.
    pub have: u32,
    /// Members that must vote for it.
    pub need: u32,
    /// Who did.
    pub by: Vec<String>,
    /// Since when it is known at this node, RFC 3339 UTC.
    pub since: Option<String>,
    /// Whether it has its votes. A suspension or expulsion is in force then wherever the votes are known, though the registry
    /// may not have it yet.
    pub decided: bool,
}

/// A change of the policy that members vote on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyMotionView {
    /// The new value.
    pub admission_approvals: u32,
    /// The new value.
    pub voters: u32,
    /// The new value.
    pub learners: u32,
    /// Members whose votes count.
    pub have: u32,
    /// Members that must vote for it.
    pub need: u32,
    /// Who did.
    pub by: Vec<String>,
}

/// Which request is approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// `request` of the member that waits, 64 hexadecimal digits.
    pub request: String,
}

/// Approvals of somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalsView {
    /// Members that approve; the invitation is the inviter's approval.
    pub have: u32,
    /// Members that must.
    pub need: u32,
}

/// What all members agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyView {
    /// Members that must approve an admission, and vote for an expulsion, a suspension, its end, or another policy.
    pub admission_approvals: u32,
    /// Voters of the registry.
    pub voters: u32,
    /// Learners that stand by for them; all other members follow.
    pub learners: u32,
    /// Grows with each change; 0 while it is the default.
    pub revision: u64,
    /// Changes that members vote on.
    #[serde(default)]
    pub proposed: Vec<PolicyMotionView>,
}

/// What is to change of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRequest {
    /// Members that must approve an admission and vote for what is decided together, 1 to 64; no more than are active are asked.
    #[serde(default)]
    pub admission_approvals: Option<u32>,
    /// Voters of the registry: 1, 3, 5 or 7.
    #[serde(default)]
    pub voters: Option<u32>,
    /// Learners that stand by for them, 0 to 8; all other members follow.
    #[serde(default)]
    pub learners: Option<u32>,
}

/// What an invitation is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// The region's name, where only this one may use the token.
    #[serde(default)]
    pub region: Option<String>,
    /// Enterprise codes under which the new member may register.
    #[serde(default)]
    pub enterprises: Vec<String>,
    /// Seconds for which the token is good, 60 to 2592000. Default a day.
    #[serde(default)]
    pub ttl_s: Option<u64>,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvitationView {
    /// What the new region gives to `causeway member join`. It is a secret until used.
    pub token: String,
    /// RFC 3339 UTC.
    pub expires_at: String,
}
