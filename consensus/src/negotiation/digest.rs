//! What a region says of itself to everyone: small, signed by its driver, gossiped, never relied on for correctness.

use super::shape::ShapeDigest;
use crate::codec::{self, CodecError};
use cpi::ids::{MemberId, StableKey};
use cpi::resource::{ChipModel, ClassStatus, ComputeClass, Firmness, PriceList, Quantity};
use serde::{Deserialize, Serialize};

/// The largest digest on the wire, in bytes, signature included by the driver's bound.
pub const DIGEST_BYTES_MAX: usize = 2048;
/// Room for the body: the envelope around it takes about 180 bytes.
pub const DIGEST_BODY_BYTES_MAX: usize = DIGEST_BYTES_MAX - 192;
/// The most identifiers that one pool names in a digest.
pub const IDENTIFIERS_MAX: usize = 8;
const VERSION: u8 = 4;
/// About what the longest shape takes in a digest.
const SHAPE_BYTES_MAX: usize = 32;

/// One region's soft state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Who says it.
    pub member: MemberId,
    /// Its incarnation.
    pub incarnation: u64,
    /// Counts up within the incarnation; older ones are ignored.
    pub sequence: u64,
    /// How long it may be believed, in ms.
    pub ttl_ms: u64,
    /// Whether the region takes no new work.
    pub draining: bool,
    /// Its pools.
    pub pools: Vec<PoolDigest>,
    /// What the federation asks for most, most asked first, and what it would cost here.
    pub shapes: Vec<ShapeDigest>,
    /// Whether pools, identifiers or shapes were left out for lack of room.
    pub truncated: bool,
}

/// One pool's soft state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDigest {
    /// Its name.
    pub name: String,
    /// What it is sold as.
    pub class: ComputeClass,
    /// How sure its offers are.
    pub firmness: Firmness,
    /// Whether it runs commands.
    pub commands: bool,
    /// Whether it runs images.
    pub images: bool,
    /// What it costs.
    pub price: PriceList,
    /// Grams of CO2 per kWh.
    pub carbon_g_per_kwh: Option<u32>,
    /// Takes no new work.
    pub cordoned: bool,
    /// Its backend does not answer: its places come after all others of the region.
    pub down: bool,
    /// Tasks that were committed to it and do not run yet.
    pub queue: u32,
    /// Stable keys of the identifiers that describe it.
    pub identifiers: Vec<StableKey>,
    /// Its server classes.
    pub classes: Vec<ClassDigest>,
}

/// One server class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassDigest {
    /// Its name.
    pub name: String,
    /// Its accelerator.
    pub chip: Option<ChipModel>,
    /// What one empty server has.
    pub per_server: Quantity,
    /// How many servers.
    pub servers: u32,
    /// Sum of what is free.
    pub free: Quantity,
    /// The most for one task on one server.
    pub largest_fit: Quantity,
    /// Which counts of whole free chips its servers have: bit n for n chips, bit 31 for more.
    pub whole_chips: u32,
    /// Which parts of a chip are free somewhere: bit n for n tenths and less than one more.
    pub chip_parts: u16,
}

/// What all servers of a class have together.
pub fn total_of(per_server: &Quantity, servers: u32) -> Quantity {
    let times = |each: u64| each.saturating_mul(u64::from(servers));
    Quantity {
        cpu_milli: times(per_server.cpu_milli),
        memory_bytes: times(per_server.memory_bytes),
        storage_bytes: times(per_server.storage_bytes),
        chip_milli: times(per_server.chip_milli),
    }
}

impl ClassDigest {
    /// What all its servers have together.
    pub fn total(&self) -> Quantity {
        total_of(&self.per_server, self.servers)
    }

    /// The same as people see it.
    pub fn status(&self) -> ClassStatus {
        ClassStatus {
            class: self.name.clone(),
            chip: self.chip.clone(),
            total: self.total(),
            free: self.free,
            largest_fit: self.largest_fit,
        }
    }
}

impl Digest {
    /// Encodes it, leaving out what [`Self::fit`] leaves out.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.clone().fit()
    }

    /// Leaves out identifiers first, then the rarest shapes, then pools at the end until it has room. Returns its encoding.
    pub fn fit(&mut self) -> Vec<u8> {
        let digest = self;
        loop {
            let bytes = codec::encode(VERSION, &*digest).expect("a digest has only plain fields");
            if bytes.len() <= DIGEST_BODY_BYTES_MAX {
                return bytes;
            }
            digest.truncated = true;
            let longest =
                digest.pools.iter_mut().filter(|p| !p.identifiers.is_empty()).max_by_key(|p| p.identifiers.len());
            if let Some(pool) = longest {
                pool.identifiers.pop();
            } else if !digest.shapes.is_empty() {
                let over = bytes.len() - DIGEST_BODY_BYTES_MAX;
                let kept = digest.shapes.len().saturating_sub(over.div_ceil(SHAPE_BYTES_MAX).max(1));
                digest.shapes.truncate(kept);
            } else if digest.pools.len() > 1 {
                digest.pools.pop();
            } else if digest.pools.first_mut().is_some_and(|pool| pool.classes.pop().is_some()) {
                continue;
            } else {
                digest.pools.clear();
            }
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`CodecError`], also for more than [`DIGEST_BODY_BYTES_MAX`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, DIGEST_BODY_BYTES_MAX)
    }
}
