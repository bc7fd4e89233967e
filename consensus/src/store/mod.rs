//! What must survive: the Raft log, the registry's state, and the node's own records. The only room that names RocksDB.
//!
//! Three databases, because they fail and stall differently: a checkpoint of the state must not carry the sender's vote,
//! and a stall of the state must not stop appends. Each database that promises durability has one sync thread, which
//! makes one `fdatasync` for all that waited. A failed sync is never retried: the database refuses everything after it.

mod error;
mod log;
mod options;
mod records;
mod state;
mod sync;

pub use error::StoreError;
pub use log::{LogDb, LogMark};
pub use records::{RecordBatch, Records, Table};
pub use state::{Checkpoint, CheckpointFile, StateDb, StateReader};
