//! vSphere as a backend: one virtual machine per run, cloned from a template whose `causeway-runner` dials out to the node.
//!
//! `soap` speaks vim25 and keeps the session, `vim` has the few methods that are needed, `xml` reads answers; `adapter` has
//! the contract's verbs and `machines` those about servers. A machine is known by an instance UUID made of our tag, and by the
//! tag itself in its extra configuration. Faults and sizes are converted by rules (`configs/rules/vmware.toml`).

mod adapter;
mod backend;
mod config;
mod inventory;
mod soap;
mod vim;
mod xml;

pub use backend::VmwareBackend;

#[cfg(test)]
mod tests;
