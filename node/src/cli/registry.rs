//! `registry`: the replicated state of the federation, as this node holds it.

use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column, print};
use super::{Context, Format};
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;

const STATUS: &[Column] = &[
    column("MEMBER", "member", Kind::Text),
    column("ROLE", "role", Kind::Text),
    column("LEADER", "leader_region|leader", Kind::Text),
    column("TERM", "term", Kind::Text),
    column("APPLIED", "applied_index", Kind::Text),
    column("COMMITTED", "commit_index|committed_index", Kind::Text),
    column("LAST LOG", "last_log_index", Kind::Text),
    column("AS OF", "as_of", Kind::Text),
    column("AGE", "age_ms", Kind::Millis),
    column("VOTERS", "voters", Kind::Text),
    column("LEARNERS", "learners", Kind::Text),
    column("SNAPSHOT", "snapshot_index", Kind::Text),
    column("IDENTIFIERS", "identifiers", Kind::Text),
    column("FEDERATION", "federation", Kind::Text),
    column("EPOCH", "epoch", Kind::Text),
    column("STATE HASH", "state_hash|hash", Kind::Text),
];

/// Verbs of the registry.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Leader, term, indexes, voters and freshness.
    Status,
    /// Makes a snapshot now and says where it is.
    Snapshot,
    /// What a snapshot or state folder on this machine holds; no node needed.
    Inspect {
        /// The folder.
        dir: PathBuf,
    },
    /// Recomputes the hash of a snapshot or state folder on this machine; no node needed.
    Verify {
        /// The folder.
        dir: PathBuf,
    },
}

/// Runs a verb.
pub async fn run(command: RegistryCommand, context: &Context) -> Result<Exit, CliError> {
    let output = &context.output;
    match command {
        RegistryCommand::Status => {
            let answer = context.client()?.get("/v1/registry", Vec::new()).await?;
            output.one(&answer, STATUS, "applied_index")?;
        }
        RegistryCommand::Snapshot => {
            let answer = context.client()?.post("/v1/registry/snapshots", json!({})).await?;
            match output.format {
                Format::Json | Format::Yaml => print(&output.document(&answer)?)?,
                _ => output.one(
                    &answer,
                    &[column("PATH", "path", Kind::Text), column("INDEX", "index", Kind::Text)],
                    "path",
                )?,
            }
        }
        RegistryCommand::Inspect { dir } | RegistryCommand::Verify { dir } => {
            return Err(CliError::NotFound(format!("{} holds no registry state", dir.display())));
        }
    }
    Ok(Exit::Ok)
}
