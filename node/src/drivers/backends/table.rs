//! The backends of this node by name, and which of them drives a pool. Grows and shrinks while the node runs.

use adapters::contract::Adapter;
use cpi::resource::PoolSpec;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// Backends and pools. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Backends {
    inner: Arc<RwLock<Inner>>,
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Inner {
    adapters: BTreeMap<String, Arc<dyn Adapter>>,
    /// The pools as declared, with the backend that each names.
    pools: Vec<PoolSpec>,
}

impl Backends {
    /// A table of `pools` without backends.
    pub fn new(pools: Vec<PoolSpec>) -> Self {
        let inner = Inner { adapters: BTreeMap::new(), pools };
        Self { inner: Arc::new(RwLock::new(inner)), changed: Arc::new(watch::channel(0).0) }
    }

    /// Adds a backend, in place of what had its name.
    pub fn insert(&self, name: &str, adapter: Arc<dyn Adapter>) {
        self.write(|inner| drop(inner.adapters.insert(name.to_owned(), adapter)));
    }

    /// Takes a backend away.
    pub fn remove(&self, name: &str) {
        self.write(|inner| drop(inner.adapters.remove(name)));
    }

    /// Declares the pools anew.
    pub fn set_pools(&self, pools: Vec<PoolSpec>) {
        self.write(|inner| inner.pools = pools);
    }

    fn write(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
    }

    fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A backend.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Adapter>> {
        self.read(|inner| inner.adapters.get(name).cloned())
    }

    /// The backend that drives `pool`.
    pub fn of_pool(&self, pool: &str) -> Option<Arc<dyn Adapter>> {
        self.read(|inner| {
            let spec = inner.pools.iter().find(|spec| spec.name == pool)?;
            inner.adapters.get(&spec.backend).cloned()
        })
    }

    /// All backends by name.
    pub fn all(&self) -> Vec<(String, Arc<dyn Adapter>)> {
        self.read(|inner| inner.adapters.iter().map(|(name, adapter)| (name.clone(), Arc::clone(adapter))).collect())
    }

    /// The pools as declared.
    pub fn pools(&self) -> Vec<PoolSpec> {
        self.read(|inner| inner.pools.clone())
    }

    /// The names of the pools that a backend drives.
    pub fn pools_of(&self, backend: &str) -> Vec<String> {
        let of = |inner: &Inner| {
            let pools = inner.pools.iter().filter(|pool| pool.backend == backend);
            pools.map(|pool| pool.name.clone()).collect()
        };
        self.read(of)
    }

    /// Counts changes of this table.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
