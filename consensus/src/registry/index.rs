//! Indexes and statistics, kept with each change of an identifier. Integers only; each pool's nameplate counts once.
//!
//! Many identifiers may name chips of one pool and carry its prefix. Capacity, servers and chips are counted once per
//! distinct prefix, so that registering a pool chip by chip does not multiply it.

use super::keys;
use super::kv::KvWrite;
use crate::codec;
use cpi::identifier::Cpi;
use cpi::ids::StableKey;
use cpi::measures::Precision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Index by text, for prefixes.
pub(super) const BY_TEXT: u8 = b'p';
/// Index by enterprise.
pub(super) const BY_ENTERPRISE: u8 = b'e';
/// Index by city.
pub(super) const BY_CITY: u8 = b'c';
/// Index by resource type.
pub(super) const BY_CLASS: u8 = b'k';
/// Index by chip model.
pub(super) const BY_CHIP: u8 = b'm';
/// Index by precision and capacity in GFLOPS.
pub(super) const BY_CAPACITY: u8 = b'a';
/// Identifiers that carry a prefix, counted.
const PREFIX_COUNT: u8 = b'g';

/// Statistics of everything.
pub(super) const ALL: u8 = b'*';
/// Statistics by service type.
pub(super) const BY_SERVICE: u8 = b's';

/// Totals under one value of a dimension.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Identifiers registered.
    pub identifiers: u64,
    /// Distinct pools (prefixes).
    pub pools: u64,
    /// Servers of those pools.
    pub servers: u64,
    /// Processor cores of those servers.
    pub cores: u64,
    /// Accelerator chips by model.
    pub chips: BTreeMap<String, u64>,
    /// Stated capacity in GFLOPS by precision code. Never added across precisions.
    pub gflops: BTreeMap<String, u64>,
}

impl Totals {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn change(&mut self, by: &Self, add: bool) {
        let number = |mine: &mut u64, theirs: u64| {
            *mine = if add { mine.saturating_add(theirs) } else { mine.saturating_sub(theirs) };
        };
        number(&mut self.identifiers, by.identifiers);
        number(&mut self.pools, by.pools);
        number(&mut self.servers, by.servers);
        number(&mut self.cores, by.cores);
        for (mine, theirs) in [(&mut self.chips, &by.chips), (&mut self.gflops, &by.gflops)] {
            for (name, count) in theirs {
                number(mine.entry(name.clone()).or_default(), *count);
            }
            mine.retain(|_, count| *count > 0);
        }
    }
}

/// The key of an index entry; `value` must not hold a zero byte.
pub(super) fn entry(dimension: u8, value: &[u8], key: &StableKey) -> Vec<u8> {
    keys::join(keys::INDEX, &[&[dimension], value, &[0], &key.0])
}

/// The value part of a capacity entry: sorts by precision, then capacity.
pub(super) fn capacity_value(precision: Precision, gflops: u64) -> Vec<u8> {
    // the number may hold zero bytes, so it is written in hexadecimal digits
    format!("{}{gflops:016x}", precision.code()).into_bytes()
}

/// The key of a statistic.
pub(super) fn statistic(dimension: u8, value: &str) -> Vec<u8> {
    keys::join(keys::STATISTICS, &[&[dimension], value.as_bytes()])
}

fn values(cpi: &Cpi) -> Vec<(u8, Vec<u8>)> {
    let mut values = vec![
        (BY_TEXT, cpi.as_str().as_bytes().to_vec()),
        (BY_ENTERPRISE, cpi.enterprise().as_bytes().to_vec()),
        (BY_CITY, cpi.city().as_bytes().to_vec()),
        (BY_CLASS, cpi.resource_type().as_bytes().to_vec()),
    ];
    values.extend(cpi.chips().map(|(model, _)| (BY_CHIP, model.as_bytes().to_vec())));
    if let Some((gflops, precision)) = cpi.capacity().stated() {
        values.push((BY_CAPACITY, capacity_value(precision, gflops)));
    }
    values
}

fn nameplate(cpi: &Cpi) -> Totals {
    let servers = u64::from(cpi.servers());
    let mut totals = Totals {
        pools: 1,
        servers,
        cores: servers.saturating_mul(u64::from(cpi.cores())),
        chips: cpi.chips().map(|(model, count)| (model.to_owned(), u64::from(count))).collect(),
        ..Totals::default()
    };
    if let Some((gflops, precision)) = cpi.capacity().stated() {
        totals.gflops.insert(precision.code().to_owned(), gflops);
    }
    totals
}

/// Statistics that one command changes: read once and written once, however many identifiers it has.
#[derive(Debug, Default)]
pub(super) struct Sums(BTreeMap<Vec<u8>, Totals>);

impl Sums {
    fn count(&mut self, kv: &dyn KvWrite, cpi: &Cpi, totals: &Totals, add: bool) {
        let mut places = vec![
            (ALL, ""),
            (BY_ENTERPRISE, cpi.enterprise()),
            (BY_CITY, cpi.city()),
            (BY_CLASS, cpi.resource_type()),
            (BY_SERVICE, cpi.service_type()),
        ];
        places.extend(cpi.chips().map(|(model, _)| (BY_CHIP, model)));
        for (dimension, value) in places {
            let key = statistic(dimension, value);
            let sum = self.0.entry(key).or_insert_with_key(|key| read(kv, key).unwrap_or_default());
            sum.change(totals, add);
        }
    }

    /// Writes what changed.
    pub fn write(self, kv: &mut dyn KvWrite) {
        for (key, sum) in self.0 {
            if sum.is_empty() {
                kv.delete(key);
            } else {
                kv.put(key, codec::encode(keys::ROW_VERSION, &sum).expect("plain fields"));
            }
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(kv: &dyn KvWrite, key: &[u8]) -> Option<T> {
    let bytes = kv.get(key)?;
    Some(codec::decode(keys::ROW_VERSION, &bytes, codec::FRAME_BYTES_MAX).expect("this replica wrote it"))
}

/// Takes an identifier into indexes and statistics.
pub(super) fn add(kv: &mut dyn KvWrite, sums: &mut Sums, key: &StableKey, cpi: &Cpi) {
    for (dimension, value) in values(cpi) {
        kv.put(entry(dimension, &value, key), Vec::new());
    }
    let mut totals = Totals { identifiers: 1, ..Totals::default() };
    let counter = keys::join(keys::INDEX, &[&[PREFIX_COUNT], cpi.prefix().as_bytes()]);
    let carried: u64 = read(kv, &counter).unwrap_or(0);
    if carried == 0 {
        totals.change(&nameplate(cpi), true);
    }
    kv.put(counter, codec::encode(keys::ROW_VERSION, &(carried + 1)).expect("a number"));
    sums.count(kv, cpi, &totals, true);
}

/// Takes an identifier out of indexes and statistics.
pub(super) fn remove(kv: &mut dyn KvWrite, sums: &mut Sums, key: &StableKey, cpi: &Cpi) {
    for (dimension, value) in values(cpi) {
        kv.delete(entry(dimension, &value, key));
    }
    let mut totals = Totals { identifiers: 1, ..Totals::default() };
    let counter = keys::join(keys::INDEX, &[&[PREFIX_COUNT], cpi.prefix().as_bytes()]);
    let carried: u64 = read(kv, &counter).unwrap_or(1);
    if carried <= 1 {
        totals.change(&nameplate(cpi), true);
        kv.delete(counter);
    } else {
        kv.put(counter, codec::encode(keys::ROW_VERSION, &(carried - 1)).expect("a number"));
    }
    sums.count(kv, cpi, &totals, false);
}
