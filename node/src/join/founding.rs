//! `causeway init`: the only place where a genesis is made.

use super::{InitError, Membership, RosterSeed};
use crate::identity::Identity;
use consensus::envelope::Federation;
use consensus::registry::Genesis;
use consensus::time::Timestamp;
use cpi::ids::MemberId;
use cpi::resource::RegionPlace;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// What a founder says.
#[derive(Debug, Clone)]
pub struct Founding {
    /// The federation's name.
    pub name: String,
    /// The founder's place.
    pub place: RegionPlace,
    /// Where the founder listens, as multiaddrs.
    pub addresses: Vec<String>,
    /// Enterprise codes that it may register under.
    pub enterprises: Vec<String>,
    /// Now.
    pub now: Timestamp,
}

/// Founds a federation in `data_dir`: keys, genesis, membership. The node writes the genesis into its log at its first start.
///
/// A crash before the end leaves no membership, and founding can be tried again.
///
/// # Errors
/// [`InitError::Exists`] if the node is a member of anything, or has registry data.
pub fn found(data_dir: &Path, founding: Founding) -> Result<Membership, InitError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|source| InitError::Folder { path: data_dir.to_owned(), source })?;
    for path in [Membership::path(data_dir), data_dir.join("registry"), data_dir.join("records")] {
        if path.exists() {
            return Err(InitError::Exists { path });
        }
    }
    let identity = Identity::load_or_create(&data_dir.join("keys"))?;
    let genesis = Genesis {
        name: founding.name,
        founded_at: founding.now,
        nonce: rand::random(),
        place: founding.place,
        transport_key: identity.transport_key(),
        signing_key: identity.signing_public(),
        addresses: founding.addresses,
        enterprises: founding.enterprises,
    };
    let member = MemberId(1);
    let membership = Membership {
        member,
        raft_id: 1,
        federation: Federation { id: genesis.federation_id(), epoch: 0 },
        roster: vec![RosterSeed {
            member,
            region: genesis.place.region.clone(),
            transport_keys: vec![genesis.transport_key],
            addresses: genesis.addresses.clone(),
        }],
        genesis,
    };
    membership.store(data_dir)?;
    Ok(membership)
}
