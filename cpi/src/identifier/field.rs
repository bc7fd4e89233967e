//! The fields of an identifier, in the order of the grammar, by the names used in JSON, errors and the filter language.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A field of the identifier's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpiField {
    /// The text as a whole.
    Text,
    /// `cpi:`.
    Scheme,
    /// The version letter.
    Version,
    /// X: who answers for the resource.
    Enterprise,
    /// X: industry of the enterprise.
    Industry,
    /// X: city.
    City,
    /// X: availability zone.
    Zone,
    /// Y: resource type.
    ResourceType,
    /// Y: service type.
    ServiceType,
    /// Y: nameplate compute capacity.
    Capacity,
    /// Y: storage capacity.
    Storage,
    /// Y: external bandwidth.
    Bandwidth,
    /// Y: chips and their quantities.
    Chips,
    /// Y': server type.
    ServerType,
    /// Y': CPU model.
    CpuModel,
    /// Y': cores per server.
    Cores,
    /// Y': memory per server.
    Memory,
    /// Y': storage per server.
    ServerStorage,
    /// Y': number of servers.
    Servers,
    /// Z: computing address.
    Address,
    /// Z: chip type.
    ChipType,
    /// Z: chip model.
    ChipModel,
    /// Z: unique id of the chip.
    ChipUid,
    /// An extension.
    Extension,
    /// The CRC-32C at the end.
    Check,
}

impl CpiField {
    /// The stable name, snake_case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Scheme => "scheme",
            Self::Version => "version",
            Self::Enterprise => "enterprise",
            Self::Industry => "industry",
            Self::City => "city",
            Self::Zone => "zone",
            Self::ResourceType => "resource_type",
            Self::ServiceType => "service_type",
            Self::Capacity => "capacity",
            Self::Storage => "storage",
            Self::Bandwidth => "bandwidth",
            Self::Chips => "chips",
            Self::ServerType => "server_type",
            Self::CpuModel => "cpu_model",
            Self::Cores => "cores",
            Self::Memory => "memory",
            Self::ServerStorage => "server_storage",
            Self::Servers => "servers",
            Self::Address => "address",
            Self::ChipType => "chip_type",
            Self::ChipModel => "chip_model",
            Self::ChipUid => "chip_uid",
            Self::Extension => "extension",
            Self::Check => "check",
        }
    }
}

impl fmt::Display for CpiField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
