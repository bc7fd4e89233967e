//! What was acknowledged as pending and refused later: kept for a while, so that its owner can read why.

use consensus::codec;
use consensus::registry::pending::{Change, Claim};
use consensus::registry::{Refusal, RegistryReader};
use consensus::store::{RecordBatch, Records, Table};
use consensus::time::Timestamp;
use cpi::ids::StableKey;
use serde::{Deserialize, Serialize};

/// Refused claims by stable key: one of each, the last.
const REFUSED: Table = Table(b'f');
const ROW_VERSION: u8 = 1;
/// The largest row: a text and a sentence.
const ROW_BYTES_MAX: usize = 16 << 10;
/// Rows kept; where there are more, the oldest go.
const ROWS_MAX: usize = 1_000;
/// A row is shown for a week.
const SHOWN_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// A claim of this member that the registry refused after it was acknowledged as pending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedClaim {
    /// When this node learned of it, in ms since 1970.
    pub at: Timestamp,
    /// `register`, `revise` or `retire`.
    pub change: String,
    /// The text that was to be registered; `None` for a retirement.
    pub text: Option<String>,
    /// The revision that was to be replaced.
    pub expected_revision: u64,
    /// The reason in one word.
    pub reason: String,
    /// And in a sentence.
    pub detail: String,
}

/// Refused claims on the node's disk.
#[derive(Clone)]
pub struct RefusedClaims(Records);

impl RefusedClaims {
    /// Over the node's records.
    pub fn new(records: Records) -> Self {
        Self(records)
    }

    /// Remembers refusals, and forgets the oldest where there are too many. Reads the disk: not for a thread that others wait
    /// for.
    pub fn remember(&self, now: Timestamp, refused: &[(Claim, Refusal)]) {
        let mut batch = RecordBatch::default();
        for (claim, refusal) in refused {
            let row = RefusedClaim {
                at: now,
                change: claim.change.name().to_owned(),
                text: claim.text.clone(),
                expected_revision: claim.expected_revision,
                reason: refusal.name().to_owned(),
                detail: refusal.to_string(),
            };
            batch.put(REFUSED, &claim.key.0, &codec::encode(ROW_VERSION, &row).expect("plain fields"));
        }
        for key in self.old(now, refused.len()) {
            batch.delete(REFUSED, &key);
        }
        self.0.write_then(batch, |written| {
            if let Err(error) = written {
                tracing::error!(%error, "a refusal cannot be kept; it stands in this log alone");
            }
        });
    }

    fn old(&self, now: Timestamp, coming: usize) -> Vec<Vec<u8>> {
        let rows = self.0.scan(REFUSED, &[], None, ROWS_MAX + coming).unwrap_or_default();
        let at = |row: &[u8]| read(row).map_or(0, |claim| claim.at.0);
        let mut by_age: Vec<(u64, Vec<u8>)> = rows.into_iter().map(|(key, row)| (at(&row), key)).collect();
        by_age.sort();
        let surplus = (by_age.len() + coming).saturating_sub(ROWS_MAX);
        let over = |at: &(u64, Vec<u8>)| now.0.saturating_sub(at.0) >= SHOWN_MS;
        let late = by_age.iter().take_while(|row| over(row)).count();
        by_age.into_iter().take(surplus.max(late)).map(|(_, key)| key).collect()
    }

    /// What was refused of `key` last; nothing once it was followed by a success.
    pub fn of_key(&self, now: Timestamp, key: &StableKey, registry: &RegistryReader) -> Option<RefusedClaim> {
        let row = self.0.get(REFUSED, &key.0).ok().flatten()?;
        let refused = read(&row)?;
        let repaired = registry.identifier(key).is_some_and(|present| {
            Some(&present.text) == refused.text.as_ref() && refused.change != Change::Retire.name()
                || present.committed_at > refused.at
        });
        (now.0.saturating_sub(refused.at.0) < SHOWN_MS && !repaired).then_some(refused)
    }
}

fn read(row: &[u8]) -> Option<RefusedClaim> {
    codec::decode(ROW_VERSION, row, ROW_BYTES_MAX).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::registry::kv::MemoryKv;
    use std::sync::Arc;

    fn claim(n: u8) -> (Claim, Refusal) {
        let key = StableKey([n; 16]);
        let claim = Claim { key, change: Change::Register, text: Some(format!("text {n}")), expected_revision: 0 };
        (claim, Refusal::UnknownSigner)
    }

    #[test]
    fn the_last_refusal_of_a_key_is_shown_for_a_week_and_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = RefusedClaims::new(Records::open(folder.path()).expect("opens"));
        let registry = RegistryReader::new(Arc::new(MemoryKv::default()));
        refused.remember(Timestamp(1_000), &[claim(1), claim(2)]);
        drop(refused);
        let refused = RefusedClaims::new(Records::open(folder.path()).expect("opens again"));
        let shown = refused.of_key(Timestamp(2_000), &StableKey([1; 16]), &registry).expect("kept");
        assert_eq!((shown.change.as_str(), shown.reason.as_str()), ("register", "unknown_signer"));
        assert!(refused.of_key(Timestamp(2_000), &StableKey([3; 16]), &registry).is_none());
        assert!(refused.of_key(Timestamp(1_000 + SHOWN_MS), &StableKey([1; 16]), &registry).is_none(), "a week");
        refused.remember(Timestamp(1_001 + SHOWN_MS), &[claim(3)]);
        let left = refused.0.scan(REFUSED, &[], None, 10).expect("reads");
        assert_eq!(left.len(), 1, "the old ones are gone");
    }
}
