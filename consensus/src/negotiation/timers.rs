//! Timers of a machine: ordered, at most one per key, cheap to move.

use crate::time::Monotonic;
use std::collections::{BTreeMap, BTreeSet};

/// What is due when.
#[derive(Debug, Clone)]
pub struct Timers<K> {
    due: BTreeSet<(Monotonic, K)>,
    of: BTreeMap<K, Monotonic>,
}

impl<K: Ord + Copy> Default for Timers<K> {
    fn default() -> Self {
        Self { due: BTreeSet::new(), of: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets the key's timer; an earlier setting of the same key is replaced.
    pub fn arm(&mut self, key: K, at: Monotonic) {
        if let Some(old) = self.of.insert(key, at)
            && old != at
        {
            self.due.remove(&(old, key));
        }
        self.due.insert((at, key));
    }

    /// Sets the key's timer, unless it is set already.
    pub fn arm_once(&mut self, key: K, at: Monotonic) {
        if !self.of.contains_key(&key) {
            self.arm(key, at);
        }
    }

    /// Forgets the key's timer.
    pub fn disarm(&mut self, key: K) {
        if let Some(old) = self.of.remove(&key) {
            self.due.remove(&(old, key));
        }
    }

    /// The earliest moment at which something is due.
    pub fn next(&self) -> Option<Monotonic> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the earliest key that is due by `now`.
    pub fn pop_due(&mut self, now: Monotonic) -> Option<K> {
        let &(at, key) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.of.remove(&key);
        Some(key)
    }
}
