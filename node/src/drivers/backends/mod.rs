//! The backends behind the pools: those built in and those in plugins, which come and go while the node runs.
//!
//! `table` says which backend drives a pool; `plugins` holds the plugin host, tells the negotiation which pools are down and
//! what they have, and keeps what was registered at run time.

mod plugins;
mod rows;
mod table;

pub use plugins::{Plugins, PluginsError, RegisterError};
pub use rows::{PluginRows, PluginRowsError, Registration};
pub use table::Backends;
