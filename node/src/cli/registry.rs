//! `registry`: the replicated state of the federation, as this node holds it.

use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column, print};
use super::{Context, Format, registry_files};
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

const FILES: &[Column] = &[
    column("PATH", "path", Kind::Text),
    column("FEDERATION", "federation", Kind::Text),
    column("NAME", "name", Kind::Text),
    column("EPOCH", "epoch", Kind::Text),
    column("APPLIED", "applied_index", Kind::Text),
    column("TIME", "time", Kind::Text),
    column("STATE HASH", "state_hash", Kind::Text),
    column("RING VERSION", "ring_version", Kind::Text),
    column("DICTIONARY", "dictionary_release", Kind::Text),
    column("IDENTIFIERS", "identifiers", Kind::Text),
    column("SOUND", "sound", Kind::Text),
];

/// Verbs of the registry.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Leader, term, indexes, voters and freshness.
    Status,
    /// Makes a snapshot now and says where it is.
    Snapshot,
    /// What a snapshot, or the state of a stopped node on this machine, holds; no node needed.
    Inspect {
        /// The folder.
        dir: PathBuf,
    },
    /// Reads all of a snapshot, or of a stopped node's state, and checks it against itself; no node needed.
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
        RegistryCommand::Inspect { dir } => output.one(&registry_files::inspect(&dir)?, FILES, "state_hash")?,
        RegistryCommand::Verify { dir } => output.one(&registry_files::verify(&dir)?, FILES, "state_hash")?,
    }
    Ok(Exit::Ok)
}
