//! The heterogeneous resource adapter: the northbound contract and the backends behind it.
//!
//! `contract` and `resources` are what the node sees of every backend. `local` runs processes on this machine; `kubernetes`
//! drives a cluster, `openstack` a cloud, `vmware` a vCenter; `fake` plays
//! runs by script for benchmarks and fault tests. `wire` is the published protocol, `plugin` its side in a plugin's process,
//! `host` its side in the node; `vault` keeps credentials, `rules` are conversions as data. `rest` speaks to any HTTP API that a rule file
//! describes. `conformance` is the one suite that every backend passes.

pub mod conformance;
pub mod contract;
pub mod fake;
pub mod host;
pub mod kubernetes;
pub mod local;
pub mod openstack;
pub mod plugin;
pub mod resources;
pub mod rest;
pub mod rules;
pub mod runner;
pub mod slurm;
mod southbound;
pub mod testkit;
pub mod vault;
pub mod vmware;
pub mod wire;
