//! The part of the northbound contract that is about machines instead of runs: servers and volumes as a stream,
//! reservations, and resources that a platform makes, changes and deletes.

use crate::contract::RunKey;
use cpi::reason::Reason;
use cpi::resource::{ChipModel, Firmness, Quantity};
use serde::{Deserialize, Serialize};

/// What a backend can beyond running tasks. All `false` by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// It can set capacity aside on its platform.
    pub reserves: bool,
    /// It can make, change and delete machines.
    pub provisions: bool,
    /// It tells its servers one by one.
    pub streams_inventory: bool,
    /// At most one instance may be open at a time.
    pub exclusive: bool,
    /// Its jobs execute the one runner, which reports to the node's run desk.
    #[serde(default)]
    pub by_runner: bool,
}

/// One server of a pool, as its platform names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The platform's name of it.
    pub id: String,
    /// The pool.
    pub pool: String,
    /// Its server class.
    pub class: String,
    /// What it has, empty.
    pub total: Quantity,
    /// What is free now.
    pub free: Quantity,
    /// Its accelerators.
    pub chip: Option<ChipModel>,
    /// How they are divided, where they are.
    pub partitions: Vec<Partition>,
    /// Where it is, from far to near.
    pub topology: Vec<String>,
    /// Whether it takes new work.
    pub schedulable: bool,
    /// Why not, where it does not.
    pub note: String,
}

/// Equal parts of chips.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The platform's name of the shape, for example `1g.10gb`.
    pub profile: String,
    /// How much of a chip one part is, in thousandths.
    pub chip_milli: u32,
    /// How many there are.
    pub total: u32,
    /// How many are free.
    pub free: u32,
}

/// Storage that a platform has for tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The platform's name of it.
    pub id: String,
    /// The pool.
    pub pool: String,
    /// Storage class, volume type or datastore kind.
    pub class: String,
    /// Its size.
    pub size_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// A piece of an inventory, or a change of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "of", rename_all = "snake_case")]
pub enum InventoryEvent {
    /// A server as it is now.
    Server(Server),
    /// A volume as it is now.
    Volume(Volume),
    /// The server or volume with this id is no more.
    Gone(String),
    /// All that was there at the beginning has been told.
    Synced,
}

/// Asks a platform to set capacity aside for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveRequest {
    /// For which run; the reservation's tag.
    pub key: RunKey,
    /// In which pool.
    pub pool: String,
    /// On a server of which class.
    pub class: String,
    /// What.
    pub need: Quantity,
    /// For how long, in ms. It lapses by itself.
    pub ttl_ms: u64,
}

/// Capacity that a platform set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// For which run.
    pub key: RunKey,
    /// How sure it is.
    pub firmness: Firmness,
    /// For how long it is kept from now, in ms.
    pub ttl_ms: u64,
}

/// What a resource is known by, here and on its platform. Printed as 26 characters of Crockford base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceTag(pub cpi::ids::TaskId);

impl std::fmt::Display for ResourceTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Asks a platform for a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionRequest {
    /// Its tag; the same tag is the same machine.
    pub tag: ResourceTag,
    /// In which pool.
    pub pool: String,
    /// Of which class.
    pub class: String,
    /// What it is to have.
    pub need: Quantity,
    /// What it starts from, where the platform lets one choose.
    pub image: Option<String>,
    /// Given to it at its first start.
    pub user_data: String,
    /// Storage of its own.
    pub volumes: Vec<VolumeNeed>,
}

/// Storage asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeNeed {
    /// Its name in the task.
    pub name: String,
    /// Storage class; empty for the platform's default.
    pub class: String,
    /// How much.
    pub size_bytes: u64,
}

/// A machine that a platform made for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its tag.
    pub tag: ResourceTag,
    /// Where it stands.
    pub state: ResourceState,
    /// The platform's name of it; empty while it has none.
    pub handle: String,
    /// What it has.
    pub has: Quantity,
    /// Where it can be reached.
    pub addresses: Vec<String>,
}

/// Where a resource stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum ResourceState {
    /// Being made or changed.
    Pending,
    /// Usable.
    Ready,
    /// Switched off.
    Stopped,
    /// Deleted.
    Released,
    /// It could not be made.
    Failed(Reason),
}

/// What to do with a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Switch on.
    Start,
    /// Switch off.
    Stop,
    /// Off and on.
    Restart,
}
