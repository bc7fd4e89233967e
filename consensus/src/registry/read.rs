//! Reads of the registry: by key, by text, by filter with pages, by time, and sums.

use super::identifier::{IdentifierRecord, IdentifierState};
use super::index::{self, Totals};
use super::keys;
use super::kv::{KvRead, prefix_end};
use super::member::{MemberRecord, Standing};
use super::motion::{self, Motion, Tally};
use super::policy::FederationPolicy;
use super::response::Response;
use super::state::{self, RegistryState, Summary, load};
use crate::time::Timestamp;
use cpi::dictionary::Dictionary;
use cpi::filter::{Filter, FilterField, Hint, IdentifierSource};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, RegionName, StableKey};
use std::sync::Arc;

/// Records looked at by one page of a search, so that a filter that matches little still answers in time. Such a page
/// may be short and have a next one.
pub const SCANNED_MAX: usize = 50_000;
/// Items of one page.
pub const PAGE_MAX: usize = 1000;

/// One consistent view of the registry. Cheap to clone.
#[derive(Clone)]
pub struct RegistryReader {
    kv: Arc<dyn KvRead + Send + Sync>,
}

/// What to search for. All given parts must hold.
#[derive(Debug, Clone, Default)]
pub struct SearchQuery {
    /// A prefix of the identifier's text, `cpi:1:` included or not.
    pub prefix: Option<String>,
    /// A filter over identifier fields and measures.
    pub filter: Option<Filter>,
    /// Retired ones too.
    pub retired: bool,
    /// Only this member's.
    pub owner: Option<MemberId>,
    /// At most so many, up to [`PAGE_MAX`].
    pub limit: usize,
    /// Where the page before ended: opaque.
    pub after: Option<Vec<u8>>,
}

/// Some items, and where to go on.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// In a stable order.
    pub items: Vec<T>,
    /// For the next page; `None` at the end.
    pub next: Option<Vec<u8>>,
    /// How many records were looked at.
    pub scanned: usize,
}

/// What sums can be grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatisticsDimension {
    /// Everything in one sum.
    All,
    /// By resource type: GC, IC, SC, EC, HC.
    Class,
    /// By city.
    City,
    /// By enterprise.
    Enterprise,
    /// By accelerator model.
    Chip,
    /// By service type (how the resource is reached: VM, BM, CT, JB and so on).
    Service,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistic {
    /// The group's value; empty for everything.
    pub value: String,
    /// Its sums.
    pub totals: Totals,
}

/// What the registry remembers of a signing key's sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Nothing: a statement with it is still to come.
    No,
    /// A statement was applied with it.
    Outcome {
        /// SHA-256 of its envelope.
        digest: [u8; 32],
        /// What it came to.
        response: Response,
    },
    /// It lies before the remembered ones.
    Forgotten,
}

impl RegistryReader {
    /// Reads of `kv`.
    pub fn new(kv: Arc<dyn KvRead + Send + Sync>) -> Self {
        Self { kv }
    }

    /// What holds for the whole; `None` before the genesis.
    pub fn summary(&self) -> Option<Summary> {
        RegistryState::summary(&*self.kv)
    }

    /// The federation's policy.
    pub fn policy(&self) -> FederationPolicy {
        load(&*self.kv, keys::POLICY).unwrap_or_default()
    }

    /// A member.
    pub fn member(&self, member: MemberId) -> Option<MemberRecord> {
        load(&*self.kv, &keys::member(member))
    }

    /// The member of a region.
    pub fn member_of_region(&self, region: &RegionName) -> Option<MemberRecord> {
        load(&*self.kv, &keys::join(keys::REGIONS, &[region.as_str().as_bytes()]))
            .and_then(|member| self.member(member))
    }

    /// The member that signs with `key` now.
    pub fn member_of_key(&self, key: &[u8; 32]) -> Option<MemberRecord> {
        let member = load(&*self.kv, &keys::join(keys::SIGNERS, &[key])).and_then(|member| self.member(member))?;
        let time = self.summary()?.time;
        member.signs_with(key, time).then_some(member)
    }

    /// All members by id, expelled ones too.
    pub fn members(&self) -> Vec<MemberRecord> {
        let mut members = Vec::new();
        self.kv.scan(&[keys::MEMBERS], &[keys::MEMBERS + 1], &mut |_, value| {
            members.push(
                crate::codec::decode(keys::ROW_VERSION, value, crate::codec::FRAME_BYTES_MAX)
                    .expect("this replica wrote it"),
            );
            true
        });
        members
    }

    /// Members that are not expelled.
    pub fn roster(&self) -> Vec<MemberRecord> {
        self.members().into_iter().filter(|member| member.standing != Standing::Expelled).collect()
    }

    /// How many of those who sign with `voters` count for `motion`, and how many must; `None` before the genesis.
    pub fn tally<'a>(&self, motion: &Motion, voters: impl Iterator<Item = &'a [u8; 32]>) -> Option<Tally> {
        Some(motion::tally(&*self.kv, &self.summary()?, motion, voters))
    }

    /// Whether an invitation was used, and by whom.
    pub fn invitation_used_by(&self, nonce: &[u8; 16]) -> Option<MemberId> {
        load(&*self.kv, &keys::join(keys::NONCES, &[nonce]))
    }

    /// What came of the statement that `key` signed with `sequence`.
    pub fn settled(&self, key: &[u8; 32], sequence: u64) -> Settled {
        state::settled(&*self.kv, key, sequence)
    }

    /// The present revision of an identifier, retired ones too.
    pub fn identifier(&self, key: &StableKey) -> Option<IdentifierRecord> {
        load(&*self.kv, &keys::identifier(key))
    }

    /// All revisions, the oldest first.
    pub fn history(&self, key: &StableKey) -> Vec<IdentifierRecord> {
        let from = keys::join(keys::HISTORY, &[&key.0]);
        let mut revisions = Vec::new();
        self.kv.scan(&from, &prefix_end(&from), &mut |_, value| {
            revisions.push(
                crate::codec::decode(keys::ROW_VERSION, value, crate::codec::FRAME_BYTES_MAX)
                    .expect("this replica wrote it"),
            );
            true
        });
        // the present one is not there yet: it moves when another replaces it
        revisions.extend(self.identifier(key));
        revisions
    }

    /// The revision that held at registry time `at`.
    pub fn identifier_at(&self, key: &StableKey, at: Timestamp) -> Option<IdentifierRecord> {
        self.history(key).into_iter().rev().find(|record| record.committed_at <= at)
    }

    /// Identifiers that match, in a stable order under concurrent writes.
    pub fn search(&self, query: &SearchQuery, dictionary: &Dictionary) -> Page<IdentifierRecord> {
        let limit = query.limit.clamp(1, PAGE_MAX);
        let mut page = Page { items: Vec::new(), next: None, scanned: 0 };
        let after = query.after.as_deref();
        let prefix = query.prefix.as_deref().map(normal_prefix);
        for (from, until, keyed) in self.ranges(query, prefix.as_deref()) {
            if page.next.is_some() {
                break;
            }
            // a page begins after the last key it looked at; ranges that lie wholly before it are done
            let from = match after {
                Some(after) if after >= from.as_slice() => [after, &[0]].concat(),
                _ => from,
            };
            self.kv.scan(&from, &until, &mut |place, value| {
                page.scanned += 1;
                let record = if keyed {
                    key_of(place).and_then(|key| self.identifier(&key))
                } else {
                    crate::codec::decode(keys::ROW_VERSION, value, crate::codec::FRAME_BYTES_MAX).ok()
                };
                if let Some(record) = record
                    && self.matches(query, prefix.as_deref(), dictionary, &record)
                    && !page.items.iter().any(|item: &IdentifierRecord| item.key == record.key)
                {
                    page.items.push(record);
                }
                if page.items.len() == limit || page.scanned >= SCANNED_MAX {
                    page.next = Some(place.to_vec());
                    return false;
                }
                true
            });
        }
        page
    }

    fn matches(
        &self,
        query: &SearchQuery,
        prefix: Option<&str>,
        dictionary: &Dictionary,
        record: &IdentifierRecord,
    ) -> bool {
        let shown = query.retired || record.state == IdentifierState::Registered;
        let owned = query.owner.is_none_or(|owner| owner == record.owner);
        let begins = prefix.is_none_or(|prefix| record.text.starts_with(prefix));
        shown
            && owned
            && begins
            && query.filter.as_ref().is_none_or(|filter| {
                Cpi::parse(&record.text).is_ok_and(|cpi| filter.matches(&IdentifierSource { cpi: &cpi, dictionary }))
            })
    }

    /// Which parts of the map to look at: `(from, until, whether the places are index entries)`, in order. Retired
    /// identifiers are in no index.
    fn ranges(&self, query: &SearchQuery, prefix: Option<&str>) -> Vec<(Vec<u8>, Vec<u8>, bool)> {
        let indexed = |dimension: u8, value: &[u8], exact: bool| {
            let end: &[u8] = if exact { &[0] } else { &[] };
            let from = keys::join(keys::INDEX, &[&[dimension], value, end]);
            let until = prefix_end(&from);
            (from, until, true)
        };
        if !query.retired {
            if let Some(prefix) = prefix {
                return vec![indexed(index::BY_TEXT, prefix.as_bytes(), false)];
            }
            let hints = query.filter.as_ref().map(Filter::hints).unwrap_or_default();
            for wanted in [FilterField::Enterprise, FilterField::Chip, FilterField::Class, FilterField::Cpi] {
                for hint in hints.iter().filter(|hint| hint.field() == wanted) {
                    let dimension = match wanted {
                        FilterField::Enterprise => index::BY_ENTERPRISE,
                        FilterField::Chip => index::BY_CHIP,
                        FilterField::Class => index::BY_CLASS,
                        _ => index::BY_TEXT,
                    };
                    match hint {
                        Hint::OneOf { texts, .. } => {
                            return texts.iter().map(|text| indexed(dimension, text.as_bytes(), true)).collect();
                        }
                        Hint::Prefix { prefix, .. } => return vec![indexed(dimension, prefix.as_bytes(), false)],
                        Hint::Range { .. } => {}
                    }
                }
            }
        }
        vec![(vec![keys::IDENTIFIERS], vec![keys::IDENTIFIERS + 1], false)]
    }

    /// Sums by a dimension, in the order of its values.
    pub fn statistics(&self, by: StatisticsDimension) -> Vec<Statistic> {
        let dimension = match by {
            StatisticsDimension::All => index::ALL,
            StatisticsDimension::Class => index::BY_CLASS,
            StatisticsDimension::City => index::BY_CITY,
            StatisticsDimension::Enterprise => index::BY_ENTERPRISE,
            StatisticsDimension::Chip => index::BY_CHIP,
            StatisticsDimension::Service => index::BY_SERVICE,
        };
        let from = index::statistic(dimension, "");
        let mut groups = Vec::new();
        self.kv.scan(&from, &prefix_end(&from), &mut |key, value| {
            groups.push(Statistic {
                value: String::from_utf8_lossy(&key[from.len()..]).into_owned(),
                totals: crate::codec::decode(keys::ROW_VERSION, value, crate::codec::FRAME_BYTES_MAX)
                    .expect("this replica wrote it"),
            });
            true
        });
        groups
    }

    /// The bytes of an active dictionary release beyond the first, which is built in.
    pub fn release(&self, release: u32) -> Option<Vec<u8>> {
        let (chunks, _, _): (u32, [u8; 32], Timestamp) =
            load(&*self.kv, &keys::join(keys::RELEASES, &[&release.to_be_bytes()]))?;
        let mut bytes = Vec::new();
        for chunk in 0..chunks {
            bytes.extend(self.kv.get(&keys::join(keys::CHUNKS, &[&release.to_be_bytes(), &chunk.to_be_bytes()]))?);
        }
        Some(bytes)
    }

    /// Releases in force or before, beyond the first: number, SHA-256, since when.
    pub fn releases(&self) -> Vec<(u32, [u8; 32], Timestamp)> {
        let mut releases = Vec::new();
        self.kv.scan(&[keys::RELEASES], &[keys::RELEASES + 1], &mut |key, value| {
            let stored: (u32, [u8; 32], Timestamp) =
                crate::codec::decode(keys::ROW_VERSION, value, 256).expect("this replica wrote it");
            let number = key[1..].try_into().map_or(0, u32::from_be_bytes);
            releases.push((number, stored.1, stored.2));
            true
        });
        releases
    }
}

/// The text as it is stored begins with the scheme and version; people often leave them out, or write lower case.
pub fn normal_prefix(prefix: &str) -> String {
    let rest = prefix.strip_prefix("cpi:1:").unwrap_or(prefix);
    format!("cpi:1:{}", rest.to_ascii_uppercase())
}

fn key_of(place: &[u8]) -> Option<StableKey> {
    place.len().checked_sub(16).and_then(|at| place[at..].try_into().ok()).map(StableKey)
}
