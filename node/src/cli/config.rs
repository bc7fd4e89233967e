//! `config check`, `config print`.

use super::Context;
use super::exit::{CliError, Exit};
use super::output::print;
use crate::config::{ConfigLoader, Detail, LoadedConfig};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Verbs of the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Loads and validates a configuration as `node` would; says everything that is wrong.
    #[command(after_help = "Example:\n  causeway config check configs/node.toml --set http.listen=127.0.0.1:0")]
    Check(ConfigArgs),
    /// Prints the reference: every key with its unit, default and consequence.
    #[command(
        after_help = "Examples:\n  causeway config print > node.toml\n  causeway config print node.toml --effective --source"
    )]
    Print {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only the values in effect, without the texts.
        #[arg(long)]
        effective: bool,
        /// Where each value came from: default, file and line, variable or flag.
        #[arg(long, requires = "effective")]
        source: bool,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The file. Default: defaults, environment and flags only.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A value over file and environment; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// Loads it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<LoadedConfig, CliError> {
        Ok(ConfigLoader::load(self.file.as_deref(), &self.set)?)
    }
}

/// Runs a verb.
pub fn run(command: ConfigCommand, context: &Context) -> Result<Exit, CliError> {
    match command {
        ConfigCommand::Check(arguments) => {
            let loaded = arguments.load()?;
            let pools = loaded.config.pools.len();
            context.output.say(format!("ok: region {}, {pools} pools", loaded.config.region.name));
        }
        ConfigCommand::Print { config, effective, source } => {
            let loaded = config.load()?;
            let detail = match (effective, source) {
                (false, _) => Detail::Documented,
                (true, false) => Detail::Plain,
                (true, true) => Detail::Sources,
            };
            print(&crate::config::print(&loaded, detail))?;
        }
    }
    Ok(Exit::Ok)
}
