//! All rule files of a folder; the best one for a backend, its platform's version and a pool; read again when they change.

use super::convert::{FILE_BYTES_MAX, Rules};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::SystemTime;

/// A file that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookProblem {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

type Stamp = (Option<SystemTime>, u64);

/// The rules of a folder (`*.toml`).
pub struct RuleBook {
    folder: PathBuf,
    rules: RwLock<BTreeMap<PathBuf, Arc<Rules>>>,
    seen: Mutex<BTreeMap<PathBuf, Stamp>>,
}

impl RuleBook {
    /// Reads all files. Those that cannot be used are told and left out.
    pub fn open(folder: &Path) -> (Self, Vec<BookProblem>) {
        let book = Self { folder: folder.to_owned(), rules: RwLock::default(), seen: Mutex::default() };
        let problems = book.reload();
        (book, problems)
    }

    /// Reads what changed since the last time. A file that got worse is told, and its last good state goes on; a file that
    /// is gone is forgotten.
    pub fn reload(&self) -> Vec<BookProblem> {
        let mut problems = Vec::new();
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut there = BTreeMap::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                return vec![BookProblem { path: self.folder.clone(), why: error.to_string() }];
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "toml")
                && let Ok(meta) = entry.metadata()
            {
                there.insert(path, (meta.modified().ok(), meta.len()));
            }
        }
        let mut rules = self.rules.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        rules.retain(|path, _| there.contains_key(path));
        for (path, stamp) in &there {
            if seen.get(path) == Some(stamp) {
                continue;
            }
            let read = if stamp.1 > FILE_BYTES_MAX {
                Err("expected at most 1 MiB".to_owned())
            } else {
                std::fs::read_to_string(path)
                    .map_err(|error| error.to_string())
                    .and_then(|text| Rules::parse(&text).map_err(|error| error.to_string()))
            };
            match read {
                Ok(read) => {
                    tracing::info!(path = %path.display(), rules = read.name(), "conversion rules are in force");
                    rules.insert(path.clone(), Arc::new(read));
                }
                Err(why) => problems.push(BookProblem { path: path.clone(), why }),
            }
        }
        *seen = there;
        *self.rules.write().unwrap_or_else(std::sync::PoisonError::into_inner) = rules;
        problems
    }

    /// The rules for a backend kind, the version of its platform and a pool: those for the pool before those for all, then
    /// those for the longest beginning of the version.
    pub fn choose(&self, backend: &str, platform: &str, pool: &str) -> Option<Arc<Rules>> {
        let rules = self.rules.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fits = |rules: &&Arc<Rules>| {
            rules.backend == backend
                && platform.starts_with(&rules.platform)
                && (rules.pools.is_empty() || rules.pools.iter().any(|name| name == pool))
        };
        rules.values().filter(fits).max_by_key(|rules| (!rules.pools.is_empty(), rules.platform.len())).cloned()
    }

    /// Names and versions of all rules in force.
    pub fn names(&self) -> Vec<String> {
        let rules = self.rules.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        rules.values().map(|rules| rules.name().to_owned()).collect()
    }
}
