//! The ordered byte map that the registry lives on: RocksDB in a node, a `BTreeMap` in tests and simulations.
//!
//! Reads do not fail here: a replica that cannot read its own state has nothing true to say and must stop, which is what
//! the database behind it does.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Reads of one consistent state.
pub trait KvRead {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Calls `visit` with keys and values from `from` on, in order, while `key < until` and `visit` says `true`.
    fn scan(&self, from: &[u8], until: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool);

    /// The last key and value with `from <= key < until`.
    fn last(&self, from: &[u8], until: &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;
}

/// Writes beside reads that see them.
pub trait KvWrite: KvRead {
    /// Sets a value.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);

    /// Removes a value, if it is there.
    fn delete(&mut self, key: Vec<u8>);
}

/// A state in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryKv(pub BTreeMap<Vec<u8>, Vec<u8>>);

fn range(from: &[u8], until: &[u8]) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    (Bound::Included(from.to_vec()), Bound::Excluded(until.to_vec()))
}

impl KvRead for MemoryKv {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if from >= until {
            return;
        }
        for (key, value) in self.0.range(range(from, until)) {
            if !visit(key, value) {
                return;
            }
        }
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        if from >= until {
            return None;
        }
        self.0.range(range(from, until)).next_back().map(|(key, value)| (key.clone(), value.clone()))
    }
}

impl KvWrite for MemoryKv {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.insert(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.0.remove(&key);
    }
}

/// Changes over a state that are not written yet; reads see them.
pub struct Overlay<'a> {
    base: &'a dyn KvRead,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Overlay<'a> {
    /// No changes over `base`.
    pub fn new(base: &'a dyn KvRead) -> Self {
        Self { base, changes: BTreeMap::new() }
    }

    /// The changes by key; `None` removes.
    pub fn into_changes(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.changes
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.changes.get(key) {
            Some(change) => change.clone(),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if from >= until {
            return;
        }
        let mut changes = self.changes.range(range(from, until)).peekable();
        let mut stopped = false;
        self.base.scan(from, until, &mut |key, value| {
            while let Some((changed, change)) = changes.next_if(|(changed, _)| changed.as_slice() < key) {
                if change.as_ref().is_some_and(|value| !visit(changed, value)) {
                    stopped = true;
                    return false;
                }
            }
            let shown = match changes.next_if(|(changed, _)| changed.as_slice() == key) {
                Some((_, None)) => true,
                Some((_, Some(value))) => visit(key, value),
                None => visit(key, value),
            };
            stopped = !shown;
            shown
        });
        if stopped {
            return;
        }
        for (changed, change) in changes {
            if change.as_ref().is_some_and(|value| !visit(changed, value)) {
                return;
            }
        }
    }

    fn last(&self, from: &[u8], until: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut end = until.to_vec();
        loop {
            let below = self.base.last(from, &end);
            if from >= end.as_slice() {
                return None;
            }
            let above = self.changes.range(range(from, &end)).next_back();
            match (below, above) {
                (below, None) => return below,
                (Some(below), Some((key, _))) if below.0 > *key => return Some(below),
                (_, Some((key, Some(value)))) => return Some((key.clone(), value.clone())),
                (_, Some((key, None))) => end.clone_from(key),
            }
        }
    }
}

impl KvWrite for Overlay<'_> {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }
}

/// The smallest key that no key with `prefix` reaches.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 255 {
            end.push(last + 1);
            return end;
        }
    }
    vec![255; 64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_overlay_reads_as_if_its_changes_were_written(
            base in proptest::collection::btree_map(proptest::collection::vec(0u8..4, 1..4), any::<[u8; 1]>(), 0..20),
            changes in proptest::collection::vec((proptest::collection::vec(0u8..4, 1..4), any::<Option<[u8; 1]>>()), 0..20),
            from in proptest::collection::vec(0u8..4, 0..3),
            until in proptest::collection::vec(0u8..5, 0..3),
        ) {
            let base = MemoryKv(base.into_iter().map(|(key, value)| (key, value.to_vec())).collect());
            let mut written = base.clone();
            let mut overlay = Overlay::new(&base);
            for (key, value) in changes {
                match value {
                    Some(value) => { written.put(key.clone(), value.to_vec()); overlay.put(key, value.to_vec()); }
                    None => { written.delete(key.clone()); overlay.delete(key); }
                }
            }
            let all = |kv: &dyn KvRead| { let mut out = Vec::new(); kv.scan(&from, &until, &mut |k, v| { out.push((k.to_vec(), v.to_vec())); true }); out };
            prop_assert_eq!(all(&written), all(&overlay));
            prop_assert_eq!(written.last(&from, &until), overlay.last(&from, &until));
        }
    }
}
