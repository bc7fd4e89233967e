//! What others may look up about the runs of this region: whose they are, and which backend has them.

use adapters::contract::{Adapter, RunKey};
use cpi::ids::MemberId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// A run as the log service needs it.
#[derive(Clone)]
pub struct RunSight {
    /// Whose task it is; nobody else reads its logs.
    pub readers: Vec<MemberId>,
    /// The backend that has it, once it was told to start.
    pub adapter: Option<Arc<dyn Adapter>>,
}

/// The runs of this region. Clones are one table.
#[derive(Clone, Default)]
pub struct RunTable {
    runs: Arc<Mutex<BTreeMap<RunKey, RunSight>>>,
}

impl RunTable {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunKey, RunSight>> {
        self.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is known of a run.
    pub fn get(&self, key: &RunKey) -> Option<RunSight> {
        self.runs().get(key).cloned()
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs().is_empty()
    }

    pub(crate) fn set(&self, key: RunKey, sight: RunSight) {
        self.runs().insert(key, sight);
    }

    pub(super) fn remove(&self, key: &RunKey) {
        self.runs().remove(key);
    }
}
