//! The Causeway daemon and command line, one binary. `mesh` is the only room that knows libp2p; sockets, disks and clocks
//! are touched here, in `consensus::store` and in the adapters' host.

pub mod app;
pub mod cli;
pub mod config;
pub mod drivers;
pub mod http;
pub mod identity;
pub mod join;
pub mod lab;
pub mod mesh;
pub mod metrics;
pub mod relay;
pub mod services;
pub mod trace;
