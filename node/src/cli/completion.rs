//! Completions for the shells, generated from the same definitions that parse the command line.

use super::exit::{CliError, Exit};
use super::output::print;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

/// Which shell.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(causeway completion bash)\n  causeway completion fish > ~/.config/fish/completions/causeway.fish"
)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions.
pub fn run(arguments: &CompletionArgs) -> Result<Exit, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Cli::command(), "causeway", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Ok)
}
