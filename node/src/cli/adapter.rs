//! `adapter`: the backends behind the pools, and the plugins among them.

use super::adapter_convert::{self, ConvertArgs};
use super::client::{Extra, encode};
use super::exit::{CliError, Exit};
use super::output::{Column, Format, Kind, column, print, text_at, wide};
use super::{Client, Context, ListArgs};
use clap::{Args, Subcommand};
use cpi::ids::ContentDigest;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at a suite that runs.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const COLUMNS: &[Column] = &[
    column("ADAPTER", "name", Kind::Text),
    column("BACKEND", "backend", Kind::Text),
    column("VERSION", "version", Kind::Text),
    column("ORIGIN", "origin", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("READY", "ready", Kind::Text),
    wide("COMMANDS", "runs_commands", Kind::Text),
    wide("IMAGES", "runs_images", Kind::Text),
    wide("RESERVES", "reserves", Kind::Text),
    wide("PROVISIONS", "provisions", Kind::Text),
    column("FIRMNESS", "firmness", Kind::Text),
    column("POOLS", "pools", Kind::Text),
    column("NOTES", "notes", Kind::Text),
];

const PLUGIN: &[Column] = &[
    column("ADAPTER", "adapter.name", Kind::Text),
    column("BACKEND", "adapter.backend", Kind::Text),
    column("VERSION", "adapter.version", Kind::Text),
    column("ORIGIN", "adapter.origin", Kind::Text),
    column("STATE", "adapter.state", Kind::Text),
    column("READY", "adapter.ready", Kind::Text),
    column("FIRMNESS", "adapter.firmness", Kind::Text),
    column("POOLS", "adapter.pools", Kind::Text),
    column("NOTES", "adapter.notes", Kind::Text),
    column("PROGRAM", "plugin.sha256", Kind::Text),
    column("BEFORE", "plugin.previous_sha256", Kind::Text),
    column("STARTS", "plugin.starts", Kind::Text),
    column("FAILURES", "plugin.failures", Kind::Text),
    column("REASON", "plugin.reason", Kind::Text),
];

const PROCESSES: &[Column] = &[
    column("PROCESS", "number", Kind::Text),
    column("PID", "pid", Kind::Text),
    column("VERSION", "version", Kind::Text),
    column("PROTOCOL", "protocol", Kind::Text),
    column("UP MS", "up_ms", Kind::Text),
    column("CALLS", "calls", Kind::Text),
    column("READY", "ready", Kind::Text),
    column("NOTES", "notes", Kind::Text),
];

const CASES: &[Column] =
    &[column("CASE", "case", Kind::Text), column("CHIP", "chip", Kind::Text), column("FAILURE", "failure", Kind::Text)];

/// Verbs of adapters.
#[derive(Debug, Subcommand)]
pub enum AdapterCommand {
    /// All adapters with their health.
    #[command(after_help = "Example:\n  causeway adapter list -o wide")]
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// One adapter with its plugin's processes, versions and history; with -o json the schema of its configuration too.
    #[command(visible_alias = "get", after_help = "Example:\n  causeway adapter show slurm-east")]
    Show {
        /// The adapter.
        adapter: String,
    },
    /// Registers a plugin with its pools while the node runs; kept over restarts.
    #[command(after_help = "Example, with the body of POST /v1/adapters as YAML:\n  \
        causeway adapter register slurm-west.yaml")]
    Register {
        /// YAML or JSON; `-` for standard input.
        file: String,
    },
    /// Takes away a plugin that was registered at run time, with its pools.
    #[command(after_help = "Example:\n  causeway adapter remove slurm-west --yes")]
    Remove {
        /// The adapter.
        adapter: String,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Replaces a plugin's program while its runs go on; rolled back by itself if it fails soon.
    #[command(after_help = "Example:\n  causeway adapter swap slurm-east /usr/lib/causeway/plugins/slurm/slurm-2\n\n\
        The program must lie below the node's `adapters.host.plugins_dir`. The swap holds until the node is started \
        again: put the new hash into the configuration as well.")]
    Swap(SwapArgs),
    /// Goes back to the program before the last swap.
    #[command(after_help = "Example:\n  causeway adapter rollback slurm-east")]
    Rollback {
        /// The adapter.
        adapter: String,
    },
    /// Ends a plugin's quarantine and starts it.
    #[command(after_help = "Example:\n  causeway adapter reset slurm-east")]
    Reset {
        /// The adapter.
        adapter: String,
    },
    /// The newest lines that a plugin wrote.
    #[command(after_help = "Example:\n  causeway adapter logs slurm-east --lines 500")]
    Logs {
        /// The adapter.
        adapter: String,
        /// How many, 1 to 500.
        #[arg(long, default_value_t = 100, value_name = "N")]
        lines: u16,
    },
    /// Runs the conformance suite in one pool of an adapter and waits for its end. It starts and ends real runs.
    #[command(after_help = "Example:\n  causeway pool drain east && causeway adapter test slurm-east --pool east \
        --starts-runs && causeway pool uncordon east")]
    Test(TestArgs),
    /// Shows what the conversion rules of a backend make of a request.
    #[command(after_help = "Examples:\n  causeway adapter convert --backend slurm --explain request.json\n  \
        causeway adapter convert --backend slurm --north --section state job.json")]
    Convert(ConvertArgs),
}

/// Which program.
#[derive(Debug, Clone, Args)]
pub struct SwapArgs {
    /// The adapter.
    adapter: String,
    /// The program, on the node's machine.
    program: PathBuf,
    /// What it must hash to. Default: what the file hashes to here.
    #[arg(long, value_name = "SHA256")]
    sha256: Option<String>,
    /// An argument of the program; may be repeated.
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Where the suite runs.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// The adapter.
    adapter: String,
    /// The pool, drained. Default: the adapter's only one.
    #[arg(long)]
    pool: Option<String>,
    /// The class of servers. Default: the first without chips.
    #[arg(long)]
    class: Option<String>,
    /// Says that real runs may be started and ended there.
    #[arg(long)]
    starts_runs: bool,
}

/// Runs a verb.
pub async fn run(command: AdapterCommand, context: &Context) -> Result<Exit, CliError> {
    let path = |adapter: &str, verb: &str| format!("/v1/adapters/{}{verb}", encode(adapter));
    match command {
        AdapterCommand::List { list } => {
            let page = context.client()?.list("/v1/adapters", list.query(), list.all).await?;
            context.output.list(&page, COLUMNS, "name")?;
        }
        AdapterCommand::Show { adapter } => {
            show(context, &context.client()?.get(&path(&adapter, ""), vec![]).await?)?;
        }
        AdapterCommand::Register { file } => {
            let text = super::read_text(&file, 1 << 20)?;
            let body: Value =
                serde_saphyr::from_str(&text).map_err(|error| CliError::usage(format!("{file}: {error}")))?;
            show(context, &context.client()?.post("/v1/adapters", body).await?)?;
        }
        AdapterCommand::Remove { adapter, yes } => {
            super::confirm(&format!("take away adapter {adapter} and its pools"), yes)?;
            context.client()?.call(Method::DELETE, &path(&adapter, ""), Extra::default()).await?;
            context.output.say(format!("{adapter} is gone"));
        }
        AdapterCommand::Swap(args) => {
            let sha256 = match args.sha256 {
                Some(sha256) => sha256,
                None => hash(&args.program)?,
            };
            let program = std::path::absolute(&args.program)?;
            let body = json!({ "path": program, "args": args.args, "sha256": sha256 });
            show(context, &context.client()?.post(&path(&args.adapter, "/swap"), body).await?)?;
        }
        AdapterCommand::Rollback { adapter } => {
            show(context, &context.client()?.post(&path(&adapter, "/rollback"), json!({})).await?)?;
        }
        AdapterCommand::Reset { adapter } => {
            show(context, &context.client()?.post(&path(&adapter, "/reset"), json!({})).await?)?;
        }
        AdapterCommand::Logs { adapter, lines } => {
            let query = vec![("lines", Some(lines.to_string()))];
            let log = context.client()?.get(&path(&adapter, "/logs"), query).await?;
            match context.output.format {
                Format::Json | Format::Yaml => print(&context.output.document(&log)?)?,
                _ => {
                    for line in log["lines"].as_array().into_iter().flatten() {
                        print(&format!("{}\n", line.as_str().unwrap_or_default()))?;
                    }
                }
            }
        }
        AdapterCommand::Test(args) => return test(context, &context.client()?, &args).await,
        AdapterCommand::Convert(args) => adapter_convert::run(&args, context)?,
    }
    Ok(Exit::Ok)
}

fn show(context: &Context, detail: &Value) -> Result<(), CliError> {
    context.output.one(detail, PLUGIN, "adapter.name")?;
    if matches!(context.output.format, Format::Table | Format::Wide) && detail["plugin"].is_object() {
        print("\n")?;
        context.output.list(&detail["plugin"]["processes"], PROCESSES, "pid")?;
        for line in detail["plugin"]["history"].as_array().into_iter().flatten() {
            context.output.say(format!("  {}", line.as_str().unwrap_or_default()));
        }
    }
    Ok(())
}

fn hash(path: &Path) -> Result<String, CliError> {
    let bytes = std::fs::read(path).map_err(|error| CliError::Usage {
        message: format!("{}: {error}", path.display()),
        hint: Some("where the node runs elsewhere, name the hash with --sha256".to_owned()),
    })?;
    Ok(ContentDigest::of(&bytes).to_string())
}

async fn test(context: &Context, client: &Client, args: &TestArgs) -> Result<Exit, CliError> {
    if !args.starts_runs {
        return Err(CliError::Usage {
            message: "the suite starts and ends real runs, and makes and deletes machines where the backend can"
                .to_owned(),
            hint: Some("drain a pool of the adapter, then add --starts-runs".to_owned()),
        });
    }
    let path = format!("/v1/adapters/{}/test", encode(&args.adapter));
    let body = json!({ "starts_runs": true, "pool": args.pool, "class": args.class });
    let mut suite = client.post(&path, body).await?;
    let pool = format!("{}/{}", text_at(&suite, "pool"), text_at(&suite, "class"));
    context.output.say(format!("the suite runs in {pool}"));
    let begun = Instant::now();
    while suite["state"] == "running" {
        if context.limit().is_some_and(|limit| begun.elapsed() > limit) {
            let seconds = begun.elapsed().as_secs();
            return Err(CliError::TimedOut { what: "the suite's end".to_owned(), seconds });
        }
        tokio::time::sleep(LOOK_EVERY).await;
        suite = client.get(&path, vec![]).await?;
    }
    match context.output.format {
        Format::Table => {
            let cases = suite["cases"].as_array().into_iter().flatten();
            let failed: Vec<Value> = cases.filter(|case| !case["failure"].is_null()).cloned().collect();
            if !failed.is_empty() {
                print(&context.output.list_text(&Value::Array(failed), CASES, "case")?)?;
            }
        }
        Format::Wide | Format::Name => print(&context.output.list_text(&suite["cases"], CASES, "case")?)?,
        _ => print(&context.output.document(&suite)?)?,
    }
    context.output.say(format!("{} passed, {} failed", suite["passed"], suite["failed"]));
    Ok(if suite["failed"] == 0 { Exit::Ok } else { Exit::Failed })
}
