//! Plugins that were registered while the node ran: one row each in the node's records, as JSON after a version.

use crate::config::PluginSection;
use consensus::store::{RecordBatch, Records, StoreError, Table};
use cpi::resource::PoolSpec;
use serde::{Deserialize, Serialize};

const PLUGIN: Table = Table(b'P');
const VERSION: u8 = 1;
const ROWS_MAX: usize = 1024;

/// A plugin with the pools that it drives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The plugin, as the configuration would name it.
    pub plugin: PluginSection,
    /// Its pools; each names it in `backend`.
    #[serde(default)]
    pub pools: Vec<PoolSpec>,
}

/// Why the rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PluginRowsError {
    /// The store refused.
    #[error("the node's records cannot be used")]
    Store(#[from] StoreError),
    /// A row is not what it should be.
    #[error("the row of plugin {name:?} is damaged: {why}")]
    Row {
        /// The plugin.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// The rows.
#[derive(Clone)]
pub struct PluginRows(Records);

impl PluginRows {
    /// The rows in `records`.
    pub fn new(records: Records) -> Self {
        Self(records)
    }

    /// All registrations by name.
    ///
    /// # Errors
    /// [`PluginRowsError`].
    pub fn all(&self) -> Result<Vec<Registration>, PluginRowsError> {
        let rows = self.0.scan(PLUGIN, b"", None, ROWS_MAX)?;
        let read = rows.into_iter().map(|(key, value)| {
            let wrong = |why: String| PluginRowsError::Row { name: String::from_utf8_lossy(&key).into_owned(), why };
            match value.split_first() {
                Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| wrong(error.to_string())),
                other => Err(wrong(format!("expected version {VERSION}, got {:?}", other.map(|(version, _)| version)))),
            }
        });
        read.collect()
    }

    /// Keeps a registration; on disk when it returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put(&self, registration: &Registration) -> Result<(), StoreError> {
        let mut value = vec![VERSION];
        serde_json::to_writer(&mut value, registration).expect("a registration has only plain fields");
        let mut batch = RecordBatch::default();
        batch.put(PLUGIN, registration.plugin.name.as_bytes(), &value);
        self.0.write(batch).await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Forgets a registration; on disk when it returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let mut batch = RecordBatch::default();
        batch.delete(PLUGIN, name.as_bytes());
        self.0.write(batch).await.unwrap_or(Err(StoreError::Stopped))
    }
}
