//! `adapter`: the backends behind the pools.

use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column, wide};
use super::{Context, ListArgs};
use clap::Subcommand;

const COLUMNS: &[Column] = &[
    column("ADAPTER", "name", Kind::Text),
    column("BACKEND", "backend", Kind::Text),
    column("VERSION", "version", Kind::Text),
    column("READY", "ready", Kind::Text),
    column("COMMANDS", "runs_commands", Kind::Text),
    column("IMAGES", "runs_images", Kind::Text),
    column("FIRMNESS", "firmness", Kind::Text),
    wide("POOLS", "pools", Kind::Text),
    column("NOTES", "notes", Kind::Text),
];

/// Verbs of adapters.
#[derive(Debug, Subcommand)]
pub enum AdapterCommand {
    /// All adapters with their health.
    List {
        #[command(flatten)]
        list: ListArgs,
    },
}

/// Runs a verb.
pub async fn run(command: AdapterCommand, context: &Context) -> Result<Exit, CliError> {
    match command {
        AdapterCommand::List { list } => {
            let page = context.client()?.list("/v1/adapters", list.query(), list.all).await?;
            context.output.list(&page, COLUMNS, "name")?;
        }
    }
    Ok(Exit::Ok)
}
