//! `dict`: the data dictionary that identifiers are read with.

use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column};
use super::{Context, ListArgs, read_text};
use clap::Subcommand;

const RELEASES: &[Column] = &[
    column("RELEASE", "release", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("ISSUED", "issued", Kind::Text),
    column("SHA256", "sha256|digest", Kind::Text),
];

/// Verbs of the dictionary.
#[derive(Debug, Subcommand)]
pub enum DictCommand {
    /// The release in force; with a table and a code, one entry.
    Get {
        /// `chips`, `cities`, `industries`, … Default: what tables there are.
        table: Option<String>,
        /// A code of the table.
        code: Option<String>,
    },
    /// All releases.
    #[command(visible_alias = "list")]
    Releases {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Publishes a release, a JSON document.
    Publish {
        /// File with the release, or `-`.
        file: String,
    },
}

/// Runs a verb.
pub async fn run(command: DictCommand, context: &Context) -> Result<Exit, CliError> {
    let client = context.client()?;
    let output = &context.output;
    match command {
        DictCommand::Get { table, code } => {
            let answer = client.get("/v1/dictionary", vec![("table", table), ("code", code)]).await?;
            let yaml = super::output::Output {
                format: match output.format {
                    super::Format::Json => super::Format::Json,
                    _ => super::Format::Yaml,
                },
                ..output.clone()
            };
            super::output::print(&yaml.document(&answer)?)?;
        }
        DictCommand::Releases { list } => {
            let page = client.list("/v1/dictionary/releases", list.query(), list.all).await?;
            output.list(&page, RELEASES, "release")?;
        }
        DictCommand::Publish { file } => {
            let text = read_text(&file, 16 << 20)?;
            let body =
                serde_json::from_str(&text).map_err(|error| CliError::usage(format!("{file}: not JSON: {error}")))?;
            let answer = client.post("/v1/dictionary/releases", body).await?;
            output.one(&answer, RELEASES, "release")?;
        }
    }
    Ok(Exit::Ok)
}
