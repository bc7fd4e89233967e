//! `region`: this whole region out of service for new work, and back.

use super::exit::{CliError, Exit};
use super::output::Format;
use super::pool::{COLUMNS, by_class, wait_until_empty};
use super::{Client, Context};
use clap::Subcommand;
use serde_json::json;

/// Verbs of the region.
#[derive(Debug, Subcommand)]
pub enum RegionCommand {
    /// Takes all pools of this region out of service for new work; what runs goes on.
    Cordon,
    /// Puts the region back into service; pools that were cordoned one by one stay so.
    Uncordon,
    /// Takes the region out of service and waits for its runs to end; --timeout bounds the wait.
    #[command(
        after_help = "Example, before maintenance:\n  causeway region drain --timeout 2h && systemctl stop causeway"
    )]
    Drain,
}

/// Runs a verb.
pub async fn run(command: RegionCommand, context: &Context) -> Result<Exit, CliError> {
    let client = context.client()?;
    match command {
        RegionCommand::Cordon => act(context, &client, "cordon").await?,
        RegionCommand::Uncordon => act(context, &client, "uncordon").await?,
        RegionCommand::Drain => {
            act(context, &client, "drain").await?;
            wait_until_empty(context, &client, None).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn act(context: &Context, client: &Client, verb: &str) -> Result<(), CliError> {
    let page = client.post(&format!("/v1/region/{verb}"), json!({})).await?;
    match context.output.format {
        Format::Table | Format::Wide => context.output.list(&by_class(&page), COLUMNS, "name"),
        _ => context.output.list(&page, COLUMNS, "name"),
    }
}
