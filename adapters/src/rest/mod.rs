//! Any HTTP API as a backend, by a rule file alone.
//!
//! The rule file's `south` sections make requests (`path`, `query`, `headers`, `body`) of what a verb is about; its `north`
//! sections read answers; `[http]` says how one talks: address, sign-in, which verb is which method, pages, errors, patience.
//! There is no vendor in this code. `docs/adapters.md` shows the way from an API's documentation to a working file.
//!
//! `file` is the grammar, `api` the rules ready for use, `auth` signs in, `client` sends one request and hears what the
//! platform says about waiting, `model` has the documents on our side, `runs` finds runs by tag and tells changes,
//! `machines` and `files` are the optional parts.

mod adapter;
mod api;
mod auth;
mod backend;
mod client;
mod fault;
mod file;
mod files;
mod machines;
mod model;
mod runs;

pub use backend::RestBackend;

#[cfg(test)]
mod tests;
