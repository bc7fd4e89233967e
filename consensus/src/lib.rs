//! What peers agree on: all of them by Raft (`registry`), two of them by contract (`negotiation`), three of them by quorum
//! (`custody`), enough of them by votes (`membership`). Pure machines; `raft` is the only room that knows openraft, `store` the only one that knows RocksDB.

pub mod codec;
pub mod custody;
pub mod envelope;
pub mod membership;
pub mod negotiation;
pub mod operation;
pub mod raft;
pub mod registry;
pub mod store;
pub mod time;
