//! `task`: a document becomes a run somewhere, and its results come back.

use super::client::{Client, Extra, encode};
use super::exit::{CliError, Exit};
use super::output::{Column, Format, Kind, Output, column, print, text_at, wide};
use super::task_files::{ARTIFACTS, digest_inputs, fetch_artifacts, upload_all};
use super::task_follow::{LogOptions, follow_logs, print_events, wait_for_end};
use super::task_show::{explain_text, plan_text};
use super::{Context, ListArgs, confirm, read_text};
use clap::{Args, Subcommand};
use cpi::dictionary::Dictionary;
use cpi::task::{DOCUMENT_BYTES_MAX, Format as DocumentFormat, TaskSpec, parse_document, validate};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const COLUMNS: &[Column] = &[
    column("ID", "id", Kind::Text),
    column("NAME", "name", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("REGION", "place.region", Kind::Text),
    column("POOL", "place.pool", Kind::Text),
    wide("CLASS", "place.class", Kind::Text),
    column("REASON", "reason", Kind::Reason),
    column("EXIT", "exit_code", Kind::Text),
    wide("SIGNAL", "signal", Kind::Text),
    wide("RUNS", "runs", Kind::Text),
    wide("FENCE", "fence", Kind::Text),
    wide("ORIGIN", "origin", Kind::Text),
    wide("DURABILITY", "durability", Kind::Text),
    wide("DECIDED", "decided_ms", Kind::Millis),
    wide("CPU", "usage.cpu_ms", Kind::Millis),
    wide("MEMORY PEAK", "usage.memory_peak_bytes", Kind::Bytes),
    column("AGE", "submitted_at", Kind::Age),
];

const STATUS: &[Column] = &[
    column("ID", "id", Kind::Text),
    column("NAME", "name", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("REASON", "reason.code", Kind::Text),
    column("WHY", "reason.sentence", Kind::Text),
    column("DETAIL", "reason.detail", Kind::Text),
    column("NEXT STEP", "reason.next_step", Kind::Text),
    column("ORIGIN", "origin", Kind::Text),
    column("REGION", "place.region", Kind::Text),
    column("POOL", "place.pool", Kind::Text),
    column("CLASS", "place.class", Kind::Text),
    column("FENCE", "fence", Kind::Text),
    column("RUNS", "runs", Kind::Text),
    column("DURABILITY", "durability", Kind::Text),
    column("SUBMITTED", "submitted_at", Kind::Text),
    column("DECIDED IN", "decided_ms", Kind::Millis),
    column("STARTED", "started_at", Kind::Text),
    column("ENDED", "ended_at", Kind::Text),
    column("EXIT CODE", "exit_code", Kind::Text),
    column("SIGNAL", "signal", Kind::Text),
    column("ELAPSED", "usage.wall_ms", Kind::Millis),
    column("PROCESSOR", "usage.cpu_ms", Kind::Millis),
    column("MEMORY PEAK", "usage.memory_peak_bytes", Kind::Bytes),
];

/// Verbs of tasks.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Checks a document without a node.
    #[command(after_help = "Example:\n  causeway task validate task.yaml")]
    Validate {
        /// The document, YAML or JSON, or `-`.
        file: String,
    },
    /// Shows who would run a task and who would not, with every reason; the first choice is held for a minute.
    #[command(after_help = "Exit codes: 0 nothing to do (no region would take it), 1 it would place, 255 error.\n\n\
        Example:\n  causeway task plan task.yaml\n  causeway task run task.yaml --plan ID")]
    Plan(PlanArgs),
    /// Uploads the inputs and submits a task.
    #[command(
        after_help = "Examples:\n  causeway task run task.yaml --wait --timeout 10m\n  causeway task run task.yaml --plan ID --wait --logs"
    )]
    Run(Box<RunArgs>),
    /// Tasks that were submitted at this node, newest first.
    List {
        /// A state, or `open` or `ended`.
        #[arg(long)]
        state: Option<String>,
        /// Only tasks whose name begins so.
        #[arg(long)]
        name: Option<String>,
        /// Only tasks placed in this region.
        #[arg(long = "in", value_name = "REGION")]
        placed_in: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Where a task stands.
    #[command(visible_alias = "get")]
    Status {
        /// The task's id.
        id: String,
        /// Wait for its end; exit code 7 if it failed.
        #[arg(long)]
        wait: bool,
    },
    /// What happened to a task.
    Events {
        /// The task's id.
        id: String,
        /// Go on until it ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// Why a task is where it is: every region asked, every answer.
    Explain {
        /// The task's id.
        id: String,
    },
    /// What the program wrote.
    Logs {
        /// The task's id.
        id: String,
        /// Go on until it ended.
        #[arg(short, long)]
        follow: bool,
        /// Standard error instead of standard output.
        #[arg(long)]
        stderr: bool,
        /// Begin at this octet.
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Cancels a task; what runs is stopped.
    #[command(visible_alias = "stop")]
    Cancel {
        /// The task's id.
        id: String,
        /// Wait until it has ended.
        #[arg(long)]
        wait: bool,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Lists the outputs that came back, or brings them here.
    Artifacts {
        /// The task's id.
        id: String,
        /// Write them into this folder.
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// Arguments of `task plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The document, YAML or JSON, or `-`.
    file: String,
}

/// Arguments of `task run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The document, YAML or JSON, or `-`.
    file: String,
    /// Place exactly as this plan says, or not at all.
    #[arg(long, value_name = "ID")]
    plan: Option<String>,
    /// Wait for the end; exit code 7 if the task fails.
    #[arg(long)]
    wait: bool,
    /// With --wait, show what the program writes.
    #[arg(long, requires = "wait")]
    logs: bool,
    /// With --wait, bring the outputs into this folder.
    #[arg(long, value_name = "DIR", requires = "wait")]
    output: Option<PathBuf>,
    /// Validate and plan only; nothing is submitted.
    #[arg(long)]
    dry_run: bool,
    /// Repeats with the same key are the same task.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// Runs a verb.
pub async fn run(command: TaskCommand, context: &Context) -> Result<Exit, CliError> {
    let output = &context.output;
    match command {
        TaskCommand::Validate { file } => {
            let spec = read_task(&file)?;
            output.say(format!("ok: task {:?}", spec.name));
        }
        TaskCommand::Plan(PlanArgs { file }) => return plan(context, &file).await,
        TaskCommand::Run(arguments) => return submit(context, *arguments).await,
        TaskCommand::List { state, name, placed_in, list } => {
            let mut query = list.query();
            query.extend([("state", state), ("name", name), ("region", placed_in)]);
            let page = context.client()?.list("/v1/tasks", query, list.all).await?;
            output.list(&page, COLUMNS, "id")?;
        }
        TaskCommand::Status { id, wait } => {
            let client = context.client()?;
            if wait {
                let task = wait_for_end(&client, output, &id, context.limit(), false).await?;
                output.one(&task, STATUS, "id")?;
                return verdict(&task);
            }
            let task = client.get(&format!("/v1/tasks/{}", encode(&id)), Vec::new()).await?;
            output.one(&task, STATUS, "id")?;
            next_for(output, &task);
        }
        TaskCommand::Events { id, follow } => {
            print_events(&context.client()?, output, &id, follow, context.limit()).await?;
        }
        TaskCommand::Explain { id } => explain(context, &id).await?,
        TaskCommand::Logs { id, follow, stderr, offset } => {
            let options = LogOptions { follow, stderr, offset };
            follow_logs(&context.client()?, &id, options, context.limit()).await?;
        }
        TaskCommand::Cancel { id, wait, yes } => {
            confirm(&format!("cancel {id}"), yes)?;
            let client = context.client()?;
            let mut task = client.post(&format!("/v1/tasks/{}/cancel", encode(&id)), json!({})).await?;
            if wait {
                task = wait_for_end(&client, output, &id, context.limit(), false).await?;
            }
            output.one(&task, STATUS, "id")?;
        }
        TaskCommand::Artifacts { id, output: folder } => {
            let client = context.client()?;
            match folder {
                None => {
                    let page = client.get(&format!("/v1/tasks/{}/artifacts", encode(&id)), Vec::new()).await?;
                    output.list(&page, ARTIFACTS, "path")?;
                }
                Some(folder) => fetch_artifacts(&client, output, &id, &folder).await?,
            }
        }
    }
    Ok(Exit::Ok)
}

/// Reads and checks a document as far as that is possible without a node.
fn read_task(file: &str) -> Result<TaskSpec, CliError> {
    let text = read_text(file, DOCUMENT_BYTES_MAX as u64 + 1)?;
    let spec = parse_document(text.as_bytes(), DocumentFormat::of_file(file))
        .map_err(|error| CliError::usage(format!("{file}: {error}")))?;
    validate(&spec, &Dictionary::first()).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("{file}: {error}")).collect();
        CliError::Usage {
            message: lines.join("\n"),
            hint: Some("the schema of a task document is TaskSpec in /v1/openapi.json".to_owned()),
        }
    })?;
    Ok(spec)
}

async fn plan(context: &Context, file: &str) -> Result<Exit, CliError> {
    let mut spec = read_task(file)?;
    digest_inputs(&mut spec, file)?;
    let client = context.client()?;
    let plan = client.post("/v1/plans", document_of(&spec)).await?;
    show_plan(&context.output, &plan)?;
    let feasible = plan["feasible"].as_bool().unwrap_or(false);
    if feasible {
        context.output.next(format!("causeway task run {file} --plan {}", text_at(&plan, "id")));
    }
    Ok(if feasible { Exit::Failed } else { Exit::Ok })
}

fn document_of(spec: &TaskSpec) -> Value {
    serde_json::to_value(spec).expect("a task document is plain JSON")
}

fn show_plan(output: &Output, plan: &Value) -> Result<(), CliError> {
    match output.format {
        Format::Json | Format::Yaml => return print(&output.document(plan)?),
        Format::Name => return print(&format!("{}\n", text_at(plan, "id"))),
        Format::Table | Format::Wide => {}
    }
    print(&plan_text(output, plan)?)
}

async fn submit(context: &Context, arguments: RunArgs) -> Result<Exit, CliError> {
    let output = &context.output;
    let mut spec = read_task(&arguments.file)?;
    let uploads = digest_inputs(&mut spec, &arguments.file)?;
    let client = context.client()?;
    if arguments.dry_run {
        let plan = client.post("/v1/plans", document_of(&spec)).await?;
        show_plan(output, &plan)?;
        return Ok(Exit::Ok);
    }
    upload_all(&client, output, uploads).await?;
    let key = arguments.idempotency_key.unwrap_or_else(|| crate::trace::TraceId::random().to_string());
    let submitted = post_task(&client, &spec, arguments.plan, &key).await?;
    let task = if submitted["task"].is_object() { submitted["task"].clone() } else { submitted };
    let id = text_at(&task, "id");
    if !arguments.wait {
        output.one(&task, STATUS, "id")?;
        output.next(format!("causeway task logs -f {id}"));
        return Ok(Exit::Ok);
    }
    output.say(format!("task {id} accepted by {}", text_at(&task, "origin")));
    let task = wait_for_end(&client, output, &id, context.limit(), arguments.logs).await?;
    if let Some(folder) = &arguments.output
        && task["state"] == "succeeded"
    {
        fetch_artifacts(&client, output, &id, folder).await?;
    }
    match output.format {
        Format::Table => output.list(&task, COLUMNS, "id")?,
        _ => output.one(&task, STATUS, "id")?,
    }
    verdict(&task)
}

/// Submits; a lost connection is tried again with the same key, which makes it the same task.
async fn post_task(client: &Client, spec: &TaskSpec, plan: Option<String>, key: &str) -> Result<Value, CliError> {
    let mut attempt = 0;
    loop {
        let extra = Extra {
            query: vec![("plan", plan.clone())],
            body: Some(document_of(spec)),
            headers: vec![("idempotency-key", key.to_owned())],
        };
        match client.call(Method::POST, "/v1/tasks", extra).await {
            Err(CliError::Connect { .. }) if attempt < 3 => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
            }
            other => return other,
        }
    }
}

/// Exit code 0 for success, 7 with the reason for the rest.
fn verdict(task: &Value) -> Result<Exit, CliError> {
    if task["state"] == "succeeded" {
        return Ok(Exit::Ok);
    }
    let (state, why) = (text_at(task, "state"), text_at(task, "reason.sentence"));
    let detail = text_at(task, "reason.detail");
    let detail = if detail.is_empty() { detail } else { format!(" ({detail})") };
    Err(CliError::TaskFailed(format!("the task ended as {state}: {why}{detail} {}", text_at(task, "reason.next_step"))))
}

fn next_for(output: &Output, task: &Value) {
    let id = text_at(task, "id");
    output.next(match task["state"].as_str() {
        Some("succeeded") => format!("causeway task artifacts {id} --output DIR"),
        Some("failed") => format!("causeway task logs {id}"),
        Some("running") => format!("causeway task logs -f {id}"),
        _ => format!("causeway task explain {id}"),
    });
}

async fn explain(context: &Context, id: &str) -> Result<(), CliError> {
    let answer = context.client()?.get(&format!("/v1/tasks/{}/explain", encode(id)), Vec::new()).await?;
    let output = &context.output;
    match output.format {
        Format::Json | Format::Yaml => return print(&output.document(&answer)?),
        Format::Name => return print(&format!("{}\n", text_at(&answer, "reason.code"))),
        Format::Table | Format::Wide => {}
    }
    print(&explain_text(output, &answer)?)
}
