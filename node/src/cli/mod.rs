//! The command line: noun, then verb. Every verb but `node`, `init`, `member join` and `lab` is an HTTP client of one node.
//!
//! Data goes to standard output, talk to standard error, exit codes are stable ([`Exit`]). What a verb shows comes from the
//! API as it is: `-o json` prints the API's answer, tables pick columns of it.

mod adapter;
mod adapter_convert;
mod client;
mod completion;
mod config;
mod daemon;
mod dict;
mod doctor;
mod exit;
mod find;
mod id;
mod member;
mod output;
mod pool;
mod region;
mod registry;
mod registry_files;
mod task;
mod task_files;
mod task_follow;
mod task_show;
#[cfg(test)]
mod tests;
mod vault;

pub use client::{Client, Extra, StreamEvent, encode};
pub use exit::{CliError, Exit};
pub use find::{Target, Wanted, find};
pub use output::{Column, Format, Kind, Output};

use crate::http::NodeFile;
use clap::{Args, Parser, Subcommand};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Regional data centres joined into one computing network.
#[derive(Debug, Parser)]
#[command(
    name = "causeway",
    version,
    about,
    propagate_version = true,
    max_term_width = 110,
    after_help = "Examples:\n  causeway lab up                              five regions on this machine\n  \
        causeway task run task.yaml --wait           run a task, wait for its end\n  \
        causeway id resolve 0A1B…                    what is behind an identifier\n  causeway member list                         who is in the federation\n\n\
        Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 conflict, 6 unavailable, 7 the task itself failed.\n\
        `task plan` alone: 0 nothing to do, 1 it would place, 255 error."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every verb.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Node to talk to: URL or HOST:PORT. Default: the node that runs on this machine.
    #[arg(long, env = "CAUSEWAY_ADDR", global = true, value_name = "ADDR")]
    addr: Option<String>,
    /// Of several nodes on this machine, the one of this region.
    #[arg(long, env = "CAUSEWAY_CONTEXT", global = true, value_name = "NAME")]
    region: Option<String>,
    /// Of several nodes on this machine, the one with this data folder.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with the API key. Default: the local node's. CAUSEWAY_TOKEN holds a key itself.
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// PEM file with the certificates to trust.
    #[arg(long, env = "CAUSEWAY_CA_FILE", global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How data is printed.
    #[arg(short = 'o', long = "format", global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only these columns, by heading, separated by commas.
    #[arg(long, global = true, value_delimiter = ',', value_name = "NAMES")]
    columns: Vec<String>,
    /// No talk on standard error.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// No colours; NO_COLOR does the same.
    #[arg(long, global = true)]
    no_color: bool,
    /// How long to wait for an answer, or with --wait for the end, as in 30s or 5m.
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

/// The nouns.
#[derive(Debug, Subcommand)]
enum Command {
    /// Runs this region's node until it is told to stop.
    Node(daemon::NodeArgs),
    /// Founds a federation, with this node as its first member.
    Init(daemon::InitArgs),
    /// Identifiers: encode, decode, register, resolve, search.
    #[command(subcommand)]
    Id(id::IdCommand),
    /// The data dictionary and its releases.
    #[command(subcommand)]
    Dict(dict::DictCommand),
    /// Members of the federation: invite, approve, list, suspend, expel.
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Pools: list, inventory, cordon, drain.
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// This region as a whole: cordon, uncordon, drain.
    #[command(subcommand)]
    Region(region::RegionCommand),
    /// Adapters, the backends behind the pools: plugins, their versions, logs, tests and rules.
    #[command(subcommand)]
    Adapter(adapter::AdapterCommand),
    /// The credentials of plugins, sealed on the node's disk.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Tasks: validate, plan, run, follow, cancel, fetch results.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// The replicated registry: status, snapshot, inspect, verify.
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// The node's configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Looks for what is wrong: configuration, keys, disk, ports, clock, peers, API.
    Doctor(doctor::DoctorArgs),
    /// A ring of real nodes on this machine, to try and to test with.
    #[command(subcommand)]
    Lab(crate::lab::LabCommand),
    /// Completions for a shell.
    Completion(completion::CompletionArgs),
    /// The version of this program, and of the node it finds.
    Version,
}

/// What a verb works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where and how to print.
    pub output: Output,
    wanted: Wanted,
    timeout: Option<Duration>,
}

impl Context {
    /// A client of the wanted node.
    ///
    /// # Errors
    /// No node is found, or its key cannot be read.
    pub fn client(&self) -> Result<Client, CliError> {
        Client::new(self.target()?, self.timeout.unwrap_or(Duration::from_secs(35)))
    }

    /// The wanted node.
    ///
    /// # Errors
    /// No node is found, or its key cannot be read.
    pub fn target(&self) -> Result<Target, CliError> {
        find(&self.wanted, NodeFile::running())
    }

    /// `--timeout`, where it was given.
    pub fn limit(&self) -> Option<Duration> {
        self.timeout
    }
}

/// Parses the command line, runs the verb and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    run(cli)
}

/// Runs a parsed command line.
pub fn run(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let plan = matches!(&command, Command::Task(task::TaskCommand::Plan(_)));
    let context = Context {
        output: Output {
            format: global.format,
            quiet: global.quiet,
            color: !global.no_color && std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal(),
            columns: global.columns.clone(),
            now: jiff::Timestamp::now(),
        },
        wanted: Wanted {
            addr: global.addr,
            region: global.region,
            data_dir: global.data_dir,
            api_key_file: global.api_key_file,
            token: std::env::var("CAUSEWAY_TOKEN").ok().filter(|token| !token.is_empty()),
            ca_file: global.ca_file,
        },
        timeout: global.timeout,
    };
    let result = perform(command, &context);
    match result {
        Ok(exit) => exit.into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "error: {error}");
            if let Some(hint) = error.hint() {
                let _ = writeln!(stderr, "hint: {hint}");
            }
            if plan { ExitCode::from(255) } else { error.exit().into() }
        }
    }
}

fn perform(command: Command, context: &Context) -> Result<Exit, CliError> {
    match command {
        Command::Node(arguments) => daemon::node(&arguments),
        Command::Init(arguments) => daemon::init(&arguments, context),
        Command::Member(member::MemberCommand::Join(arguments)) => daemon::join(&arguments, context),
        Command::Config(command) => config::run(command, context),
        Command::Vault(command) => vault::run(command, context),
        Command::Completion(arguments) => completion::run(&arguments),
        Command::Id(command) => block_on(id::run(command, context)),
        Command::Dict(command) => block_on(dict::run(command, context)),
        Command::Member(command) => block_on(member::run(command, context)),
        Command::Pool(command) => block_on(pool::run(command, context)),
        Command::Region(command) => block_on(region::run(command, context)),
        Command::Adapter(command) => block_on(adapter::run(command, context)),
        Command::Task(command) => block_on(task::run(command, context)),
        Command::Registry(command) => block_on(registry::run(command, context)),
        Command::Doctor(arguments) => block_on(doctor::run(arguments, context)),
        Command::Version => block_on(version(context)),
        Command::Lab(crate::lab::LabCommand::Up(arguments)) => lab_up(arguments),
    }
}

fn block_on<F: Future<Output = Result<Exit, CliError>>>(future: F) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// The lab watches processes and relays datagrams, so it gets more than one thread.
fn lab_up(arguments: crate::lab::UpArgs) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let held = runtime.block_on(crate::lab::up(arguments))?;
    Ok(if held { Exit::Ok } else { Exit::Failed })
}

async fn version(context: &Context) -> Result<Exit, CliError> {
    let mut answer = serde_json::json!({ "client": env!("CARGO_PKG_VERSION"), "node": null, "region": null });
    if let Ok(client) = context.client()
        && let Ok(node) = client.get("/version", Vec::new()).await
    {
        answer["node"] = node["version"].clone();
        answer["region"] = node["region"].clone();
    }
    let columns = [
        output::column("CLIENT", "client", Kind::Text),
        output::column("NODE", "node", Kind::Text),
        output::column("REGION", "region", Kind::Text),
    ];
    context.output.one(&answer, &columns, "client")?;
    Ok(Exit::Ok)
}

/// Options of every list.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// At most so many, 1 to 1000.
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// All pages.
    #[arg(long)]
    all: bool,
    /// Read on where the page before ended.
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
}

impl ListArgs {
    /// The parameters of the page.
    pub fn query(&self) -> Vec<(&'static str, Option<String>)> {
        let limit = self.limit.map(|limit| limit.to_string()).or_else(|| self.all.then(|| "1000".to_owned()));
        vec![("limit", limit), ("page_token", self.page_token.clone())]
    }
}

/// Reads a time such as `30s`, `5m`, `1h30m` or `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    parsed.filter(|time| !time.is_zero()).ok_or_else(|| "expected a time such as 30s, 5m or 250ms".to_owned())
}

/// Reads a file, or standard input for `-`; at most `bytes_max` bytes.
///
/// # Errors
/// It cannot be read, is not UTF-8, or is too long.
pub fn read_text(path: &str, bytes_max: u64) -> Result<String, CliError> {
    use std::io::Read as _;
    let mut text = String::new();
    let wrong = |error: std::io::Error| CliError::usage(format!("{path}: {error}"));
    if path == "-" {
        std::io::stdin().lock().take(bytes_max + 1).read_to_string(&mut text).map_err(wrong)?;
    } else {
        std::fs::File::open(path).map_err(wrong)?.take(bytes_max + 1).read_to_string(&mut text).map_err(wrong)?;
    }
    if text.len() as u64 > bytes_max {
        return Err(CliError::usage(format!("{path}: longer than {bytes_max} bytes")));
    }
    Ok(text)
}

/// Asks before something that cannot be undone; without a terminal only `--yes` will do.
///
/// # Errors
/// The person said no, or there is nobody to ask.
pub fn confirm(question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage { message: format!("{question} needs a yes"), hint: Some("add --yes".to_owned()) });
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{question}? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(CliError::usage("nothing was done")) }
}
