//! Identifiers, the dictionary and the registry as people and programs see them: the JSON shapes of `/v1/identifiers`,
//! `/v1/dictionary` and `/v1/registry`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How fresh an answer of this replica is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct FreshnessView {
    /// The registry index applied here.
    pub index: u64,
    /// The leader's last stamp that was applied here, RFC 3339 UTC; absent before the first.
    pub as_of: Option<String>,
    /// Milliseconds since then.
    pub age_ms: Option<u64>,
    /// The leader's member id, where it is known.
    pub leader: Option<String>,
}

/// A registered identifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IdentifierView {
    /// The stable key: 26 characters.
    pub key: String,
    /// The canonical text of this revision.
    pub cpi: String,
    /// `active`, `retired`, `pending` (durable at its owner, not committed yet), or `refused` (it was pending at this node, the
    /// registry refused it, and nothing else is there).
    pub state: String,
    /// Counts from 1; while pending the revision that is to be replaced, 0 for a new identifier.
    pub revision: u64,
    /// The member that owns it, as in `m7`.
    pub owner: String,
    /// Its region.
    pub owner_region: String,
    /// The registry index of this revision; 0 while pending.
    pub index: u64,
    /// When it was committed, RFC 3339 UTC.
    pub committed_at: Option<String>,
    /// What waits for a quorum; only where `state` is `pending`.
    #[serde(default)]
    pub pending: Option<PendingClaimView>,
    /// What this member had pending on it and the registry refused; shown at its own node, for a week.
    #[serde(default)]
    pub refused: Option<RefusedClaimView>,
}

/// A claim that was acknowledged and refused later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedClaimView {
    /// `register`, `revise` or `retire`.
    pub change: String,
    /// The reason in one word, as in `causeway_registry_refused_total`.
    pub reason: String,
    /// And in a sentence.
    pub detail: String,
    /// When this node learned of it, RFC 3339 UTC.
    pub at: String,
}

/// A claim that no quorum has yet. It may come to nothing, and another member may claim the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingClaimView {
    /// `register`, `revise` or `retire`.
    pub change: String,
    /// When this node heard of it, RFC 3339 UTC.
    pub since: String,
}

/// What a resolution answers for one identifier.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ResolvedView {
    /// The registered identifier.
    pub identifier: IdentifierView,
    /// What it says, in the words of the dictionary, with the present status where a digest tells it.
    #[schema(schema_with = description_schema)]
    pub description: cpi::resolve::Description,
}

/// A reference to the schema that `cpi` publishes.
pub fn description_schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    utoipa::openapi::Ref::from_schema_name("Description").into()
}

/// One revision of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionView {
    /// Counts from 1.
    pub revision: u64,
    /// `registered`, `revised`, `retired`.
    pub change: String,
    /// The text of this revision.
    pub cpi: String,
    /// The registry index.
    pub index: u64,
    /// RFC 3339 UTC.
    pub committed_at: String,
    /// The member that wrote it.
    pub owner: String,
}

/// Counts and exact capacities of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatisticsRow {
    /// The group's dimensions and values, for example `{"city": "G110100"}`; empty for the whole.
    pub group: BTreeMap<String, String>,
    /// Identifiers in it.
    pub identifiers: u64,
    /// Servers they describe.
    pub servers: u64,
    /// Chips they describe.
    pub chips: u64,
    /// Declared capacity by precision, in GFLOPS. Precisions are never added.
    pub capacity_gflops: BTreeMap<String, u64>,
}

/// The registry as this node holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RegistryStatusView {
    /// SHA-256 of the genesis, hexadecimal.
    pub federation: String,
    /// Raised by disaster recovery only.
    pub epoch: u64,
    /// This node's member id.
    pub member: String,
    /// `leader`, `voter`, `learner` or `follower`.
    pub role: String,
    /// The leader's member id, where it is known.
    pub leader: Option<String>,
    /// The leader's region.
    pub leader_region: Option<String>,
    /// Raft's term.
    pub term: u64,
    /// The last entry in the log here.
    pub last_log_index: u64,
    /// The last entry known to be committed.
    pub commit_index: u64,
    /// The last entry applied here.
    pub applied_index: u64,
    /// The last entry in a snapshot here.
    pub snapshot_index: Option<u64>,
    /// The leader's last stamp that was applied here, RFC 3339 UTC.
    pub as_of: Option<String>,
    /// Milliseconds since then.
    pub age_ms: Option<u64>,
    /// The voters' member ids.
    pub voters: Vec<String>,
    /// The learners' member ids.
    pub learners: Vec<String>,
    /// Registered identifiers.
    pub identifiers: u64,
    /// Identifiers that wait for a quorum.
    pub pending: u64,
    /// Hash of the state, where it was computed.
    pub state_hash: Option<String>,
}

/// A release of the data dictionary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// Its number.
    pub release: u32,
    /// `active` or `superseded`.
    pub state: String,
    /// The day it was issued.
    pub issued: String,
    /// SHA-256 of its document, where it came by the registry.
    pub sha256: Option<String>,
    /// The registry index that activated it.
    pub index: Option<u64>,
}
