//! Where things lie in the byte map. One byte in front names the table; numbers are big-endian so that they sort.

use cpi::ids::{MemberId, StableKey};

/// Format version of the state's rows.
pub(super) const ROW_VERSION: u8 = 2;

/// Summary of the whole: federation, counters, registry time, replica hash.
pub const SUMMARY: &[u8] = b"A";
/// The federation's policy.
pub const POLICY: &[u8] = b"P";
/// Where the Raft driver keeps its own: applied log id and membership. Not part of the replica hash.
pub const RAFT: &[u8] = b"R";

/// Members by id.
pub const MEMBERS: u8 = b'M';
/// Member by signing key.
pub const SIGNERS: u8 = b'K';
/// Member by transport key.
pub const TRANSPORTS: u8 = b'T';
/// Member by region name.
pub const REGIONS: u8 = b'N';
/// Used invitation nonces.
pub const NONCES: u8 = b'V';
/// Sequence windows by signing key, and outcomes by key and sequence.
pub const WINDOWS: u8 = b'W';
/// Outcomes by signing key and sequence.
pub const OUTCOMES: u8 = b'O';
/// Identifiers by stable key.
pub const IDENTIFIERS: u8 = b'I';
/// Revisions that were replaced, by stable key and revision.
pub const HISTORY: u8 = b'H';
/// Indexes by dimension, value and stable key.
pub const INDEX: u8 = b'X';
/// Statistics by dimension, value and measure.
pub const STATISTICS: u8 = b'S';
/// Dictionary releases by number.
pub const RELEASES: u8 = b'D';
/// Pieces of releases by number and piece.
pub const CHUNKS: u8 = b'C';

/// A key of `table` from its parts.
pub fn join(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(table);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// A member's record.
pub fn member(member: MemberId) -> Vec<u8> {
    join(MEMBERS, &[&member.0.to_be_bytes()])
}

/// An identifier's present revision.
pub fn identifier(key: &StableKey) -> Vec<u8> {
    join(IDENTIFIERS, &[&key.0])
}

/// A revision of an identifier that was replaced.
pub fn revision(key: &StableKey, revision: u64) -> Vec<u8> {
    join(HISTORY, &[&key.0, &revision.to_be_bytes()])
}

/// An outcome that is remembered.
pub fn outcome(signer: &[u8; 32], sequence: u64) -> Vec<u8> {
    join(OUTCOMES, &[signer, &sequence.to_be_bytes()])
}
