//! What an identifier resolves to: attributes of the resource, what its service can, its status, where a task is sent.

use crate::ids::{RegionName, StableKey};
use crate::measures::{CapacityCheck, Measures, Precision};
use crate::resource::{ChipKind, ClassStatus, ComputeClass};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A code and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    /// As it stands in the identifier.
    pub code: String,
    /// English name by the dictionary.
    pub name: String,
    /// Chinese name, where there is one.
    pub name_zh: Option<String>,
    /// What has taken the code's place since it ended.
    pub successor: Option<String>,
}

/// The description of an identifier: the third stage of resolution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// The canonical text.
    pub cpi: String,
    /// The stable key.
    pub key: StableKey,
    /// The dictionary release that the codes were looked up in.
    pub dictionary_release: u32,
    /// What the resource is.
    pub attributes: Attributes,
    /// What can be had of it.
    pub capabilities: Capabilities,
    /// How it is now. Filled by the node that answers; an identifier says nothing of it.
    pub status: Option<Status>,
    /// Where a task for it is sent.
    pub endpoint: Endpoint,
}

/// Resource attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attributes {
    /// Who answers for it.
    pub enterprise: Enterprise,
    /// Industry of the enterprise.
    pub industry: Named,
    /// Where it stands.
    pub city: Named,
    /// ISO 3166 country, two letters.
    pub country: String,
    /// Availability zone.
    pub zone: String,
    /// Resource type.
    pub resource_type: Named,
    /// Storage of the pool in bytes; `null` where not stated.
    pub storage_bytes: Option<u64>,
    /// External bandwidth in Mbit/s; `null` where not stated.
    pub bandwidth_mbps: Option<u64>,
    /// Its chips.
    pub chips: Vec<ChipAttributes>,
    /// One server.
    pub server: ServerAttributes,
    /// Number of servers.
    pub servers: u32,
    /// Partition of the pool (extension `PN`).
    pub partition: Option<String>,
    /// Extensions this version gives no meaning, kept as they came: key and value.
    pub extensions: Vec<crate::identifier::Extension>,
}

/// An enterprise code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enterprise {
    /// The code with its kind letter.
    pub code: String,
    /// What kind of code it is.
    pub kind: EnterpriseKind,
}

/// Kinds of enterprise codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnterpriseKind {
    /// Unified social credit code, GB 32100.
    SocialCredit,
    /// Legal entity identifier, ISO 17442.
    LegalEntity,
    /// Issued by the federation at admission.
    Platform,
}

/// A chip model of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChipAttributes {
    /// The model.
    pub model: Named,
    /// Its vendor.
    pub vendor: String,
    /// Its kind.
    pub kind: ChipKind,
    /// How many.
    pub count: u32,
    /// Dense peaks of one chip in GFLOPS (GOPS for INT8); `null` where not stated.
    pub peaks_gflops: Measures,
    /// Memory of one chip in bytes; `null` where not published.
    pub memory_bytes: Option<u64>,
}

/// One server of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerAttributes {
    /// Server type.
    pub server_type: Named,
    /// CPU model.
    pub cpu_model: Named,
    /// Cores.
    pub cores: u32,
    /// Memory in bytes; `null` where not stated.
    pub memory_bytes: Option<u64>,
    /// Storage in bytes; `null` where not stated.
    pub storage_bytes: Option<u64>,
}

/// Service capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capabilities {
    /// What it is sold as.
    pub class: ComputeClass,
    /// How it is used.
    pub service_type: Named,
    /// Precisions in which this class declares its capacity.
    pub declares_in: Vec<Precision>,
    /// Nameplate capacity as stated; `null` where not stated.
    pub capacity: Option<StatedCapacity>,
    /// How the statement compares with quantity x peak.
    pub capacity_check: CapacityCheck,
    /// Quantity x peak for each precision in GFLOPS, over the chips that state one; `null` where none does. Not to be
    /// added up over precisions.
    pub computed_gflops: Measures,
}

/// Stated nameplate capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatedCapacity {
    /// GFLOPS (GOPS for INT8).
    pub gflops: u64,
    /// At which precision.
    pub precision: Precision,
}

/// Soft state under the identifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The region that reported.
    pub region: RegionName,
    /// The pool.
    pub pool: String,
    /// Milliseconds since the report was made.
    pub age_ms: u64,
    /// Whether it takes new work.
    pub cordoned: bool,
    /// Tasks waiting.
    pub queue: u64,
    /// Its server classes.
    pub classes: Vec<ClassStatus>,
}

/// Where a task is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// Whether the whole pool, a node, a kind or model of chip, or one chip is named.
    pub scope: Scope,
    /// Address as people write it: IPv4, IPv6 or node id; `null` without a path, where the owner's region is asked.
    pub address: Option<String>,
    /// Chip type of the path.
    pub chip_type: Option<String>,
    /// Chip model of the path.
    pub chip_model: Option<String>,
    /// Unique id of the chip, as its platform writes it.
    pub chip_uid: Option<String>,
}

/// How narrow an identifier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// No path: the pool.
    Pool,
    /// A path with `ANY/ANY/ANY`: the pool, through this node.
    Node,
    /// Chips of a type or model behind a node.
    Chips,
    /// One chip.
    Chip,
}
