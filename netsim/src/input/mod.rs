//! Input files of a simulation: sites, links, servers, tasks as CSV, the policy as TOML. See `docs/netsim.md`.

mod links;
mod servers;
mod sites;
mod table;
mod tasks;

pub use links::{Pairs, read_pairs};
pub use servers::{ServerRow, Spread, read_servers, spread_servers};
pub use sites::{Site, read_sites};
pub use table::{InputError, Row, Table};
pub use tasks::{TaskRow, read_tasks};

use consensus::negotiation::NegotiationConfig;
use std::path::Path;

/// Reads a policy: a `[negotiation]` section's keys as TOML, every one with its default.
///
/// # Errors
/// [`InputError`] with the file and where in it.
pub fn read_policy(path: &Path) -> Result<NegotiationConfig, InputError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| InputError::Open { file: file.clone(), source })?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().map_or(1, |rest| rest.chars().count() + 1);
        InputError::Policy { file, line, column, what: error.message().to_owned() }
    })
}
