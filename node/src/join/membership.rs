//! `membership.json`: which member of which federation this node is. Written once, whole or not at all; the registry knows
//! everything else, and newer.

use super::MembershipError;
use crate::mesh::RosterEntry;
use consensus::codec;
use consensus::envelope::Federation;
use consensus::registry::{Genesis, MemberRecord, Standing};
use cpi::ids::{MemberId, RegionName};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const FILE: &str = "membership.json";
const FILE_BYTES_MAX: u64 = 8 << 20;
const GENESIS_VERSION: u8 = 1;
const GENESIS_BYTES_MAX: usize = 256 << 10;

/// A member as it was when this node was admitted: enough to connect for the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterSeed {
    /// Who.
    pub member: MemberId,
    /// Its region.
    pub region: RegionName,
    /// Its transport keys, the newest first.
    pub transport_keys: Vec<[u8; 32]>,
    /// Where it listens.
    pub addresses: Vec<String>,
}

impl RosterSeed {
    /// The seed of an active member's record; `None` for the others.
    pub fn of(record: &MemberRecord) -> Option<Self> {
        (record.standing != Standing::Expelled).then(|| Self {
            member: record.member,
            region: record.place.region.clone(),
            transport_keys: record.transport_keys.iter().map(|span| span.key).collect(),
            addresses: record.addresses.clone(),
        })
    }
}

impl From<RosterSeed> for RosterEntry {
    fn from(seed: RosterSeed) -> Self {
        Self {
            member: seed.member,
            region: seed.region,
            transport_keys: seed.transport_keys,
            addresses: seed.addresses,
        }
    }
}

/// Which member of which federation this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its member id.
    pub member: MemberId,
    /// Its first Raft id; the registry gives a new one if the log is lost.
    pub raft_id: u64,
    /// The federation and its epoch when it was admitted.
    pub federation: Federation,
    /// How the federation began.
    pub genesis: Genesis,
    /// Whom to connect to for the first time.
    pub roster: Vec<RosterSeed>,
}

/// The file's form, for people's eyes too.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    member: MemberId,
    raft_id: u64,
    federation_name: String,
    federation_id: String,
    federation_epoch: u64,
    genesis: String,
    roster: Vec<WrittenSeed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSeed {
    member: MemberId,
    region: RegionName,
    transport_keys: Vec<String>,
    addresses: Vec<String>,
}

impl Membership {
    /// Whether this node founded the federation.
    pub fn is_founder(&self) -> bool {
        self.member == MemberId(1)
    }

    /// Where it stands in `data_dir`.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`MembershipError`]; `Missing` before `init` or `member join`.
    pub fn load(data_dir: &Path) -> Result<Self, MembershipError> {
        use std::io::Read as _;
        let path = Self::path(data_dir);
        let io = |source| MembershipError::Io { path: path.clone(), source };
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(MembershipError::Missing { path });
            }
            opened => opened.map_err(io)?,
        };
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(io)?;
        Self::parse(&text).map_err(|reason| MembershipError::Damaged { path: path.clone(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let written: Written = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if written.version != 1 {
            return Err(format!("version {} is not known here", written.version));
        }
        let bytes = data_encoding::BASE64.decode(written.genesis.as_bytes()).map_err(|error| error.to_string())?;
        let genesis: Genesis =
            codec::decode(GENESIS_VERSION, &bytes, GENESIS_BYTES_MAX).map_err(|error| error.to_string())?;
        let id = genesis.federation_id();
        if data_encoding::HEXLOWER.encode(&id) != written.federation_id {
            return Err("the federation's id is not the hash of its genesis".to_owned());
        }
        let roster = written.roster.into_iter().map(|seed| {
            let keys = seed.transport_keys.iter().map(|key| key_from_hex(key)).collect::<Option<Vec<_>>>()?;
            Some(RosterSeed {
                member: seed.member,
                region: seed.region,
                transport_keys: keys,
                addresses: seed.addresses,
            })
        });
        Ok(Self {
            member: written.member,
            raft_id: written.raft_id,
            federation: Federation { id, epoch: written.federation_epoch },
            genesis,
            roster: roster.collect::<Option<_>>().ok_or("a transport key is not 64 hexadecimal digits")?,
        })
    }

    /// Writes it: on disk before this returns.
    ///
    /// # Errors
    /// [`MembershipError::Io`].
    pub fn store(&self, data_dir: &Path) -> Result<(), MembershipError> {
        let path = Self::path(data_dir);
        let hex = |key: &[u8; 32]| data_encoding::HEXLOWER.encode(key);
        let genesis = codec::encode(GENESIS_VERSION, &self.genesis).expect("a genesis has only plain fields");
        let written = Written {
            version: 1,
            member: self.member,
            raft_id: self.raft_id,
            federation_name: self.genesis.name.clone(),
            federation_id: hex(&self.federation.id),
            federation_epoch: self.federation.epoch,
            genesis: data_encoding::BASE64.encode(&genesis),
            roster: self
                .roster
                .iter()
                .map(|seed| WrittenSeed {
                    member: seed.member,
                    region: seed.region.clone(),
                    transport_keys: seed.transport_keys.iter().map(hex).collect(),
                    addresses: seed.addresses.clone(),
                })
                .collect(),
        };
        let text = serde_json::to_vec_pretty(&written).expect("only plain fields");
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".membership").tempfile_in(data_dir)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            std::fs::File::open(data_dir)?.sync_all()
        };
        write().map_err(|source| MembershipError::Io { path: path.clone(), source })
    }
}

fn key_from_hex(text: &str) -> Option<[u8; 32]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}
