//! The `openstack` backend: machines and runs are Nova servers, capacity is what Placement says, accelerators come by
//! Placement's classes or Cyborg's device profiles.
//!
//! `cloud` is one session with a cloud (Keystone's token and catalogue, requests, refusals); `inventory` turns Placement's
//! providers into servers and classes; `flavours` finds the flavour for a need; `machines` and `runs` are the verbs. Nothing
//! is kept here that is not at the platform: a server's metadata have our tag and what became of a run.
//! All names of the platform go through the rule file `configs/rules/openstack.toml`.

mod adapter;
mod backend;
mod cloud;
mod config;
mod flavours;
mod inventory;
mod keystone;
mod machines;
mod nova;
mod parts;
mod runs;
mod script;
#[cfg(test)]
mod tests;

pub use backend::OpenStackBackend;
