//! `id`: identifiers encoded, decoded, registered, revised, retired, resolved and searched.

use super::client::{Extra, encode};
use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column, wide};
use super::{Context, ListArgs, confirm, read_text};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

const COLUMNS: &[Column] = &[
    column("KEY", "key", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("REV", "revision", Kind::Text),
    column("OWNER", "owner_region|owner", Kind::Text),
    wide("INDEX", "index", Kind::Text),
    wide("COMMITTED", "committed_at", Kind::Age),
    column("IDENTIFIER", "cpi", Kind::Text),
];

const HISTORY: &[Column] = &[
    column("REV", "revision", Kind::Text),
    column("CHANGE", "change|state", Kind::Text),
    column("COMMITTED", "committed_at", Kind::Text),
    wide("INDEX", "index", Kind::Text),
    wide("BY", "owner_region|owner|issuer", Kind::Text),
    column("IDENTIFIER", "cpi", Kind::Text),
];

/// Verbs of identifiers.
#[derive(Debug, Subcommand)]
pub enum IdCommand {
    /// Writes the canonical identifier of fields given as JSON (`-` reads them from standard input).
    #[command(after_help = "Example:\n  causeway id decode CPI -o json | causeway id encode -")]
    Encode {
        /// File with the fields, or `-`.
        file: String,
    },
    /// Takes an identifier apart; a wrong one is refused with the field, the offset and what was expected.
    Decode {
        /// The identifier, or `-` to read it from standard input.
        cpi: String,
    },
    /// Registers an identifier under this member.
    #[command(after_help = "Example:\n  causeway id register CPI")]
    Register {
        /// The identifier, or `-` to read it from standard input.
        cpi: String,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Registers many identifiers, one a line, 500 by one signed command. Each stands for itself; the same again is no error.
    #[command(after_help = "Example:\n  causeway id register-all identifiers.txt")]
    RegisterAll {
        /// File with the identifiers, or `-`. Empty lines and those that begin with `#` are left out.
        file: String,
    },
    /// Writes a new revision of a registered identifier: same key, other attributes.
    Revise {
        /// The stable key.
        key: String,
        /// The new text.
        cpi: String,
        /// The revision that is replaced. Default: the present one.
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Retires an identifier; it keeps resolving, marked as retired.
    Retire {
        /// The stable key.
        key: String,
        /// The revision that is retired. Default: the present one.
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// What is behind an identifier, key, prefix or path.
    #[command(
        after_help = "Examples:\n  causeway id resolve 7M8…KEY\n  causeway id resolve --prefix X91110108… --consistency linearizable"
    )]
    Resolve {
        /// Identifier or stable key.
        #[arg(required_unless_present_any = ["prefix", "path"])]
        what: Option<String>,
        /// A prefix of identifiers instead.
        #[arg(long, conflicts_with_all = ["what", "path"])]
        prefix: Option<String>,
        /// A path instead.
        #[arg(long, conflicts_with = "what")]
        path: Option<String>,
        /// As it was at this time, RFC 3339.
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// One identifier as the registry has it.
    Get {
        /// The stable key.
        key: String,
        /// As it was at this time, RFC 3339.
        #[arg(long, value_name = "TIME", conflicts_with = "pending")]
        at: Option<String>,
        /// Where nothing is committed: what is pending on it.
        #[arg(long)]
        pending: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Searches by prefix and filter.
    #[command(
        after_help = "Examples:\n  causeway id search --filter 'chip.kind = GPU and fp16_tflops >= 900'\n  causeway id search --prefix X9111 --all -o name"
    )]
    Search {
        /// Prefix of the text.
        #[arg(long)]
        prefix: Option<String>,
        /// Filter expression.
        #[arg(long, value_name = "EXPR")]
        filter: Option<String>,
        /// `active`, `retired`, `all` (both), or `pending`: what no quorum has committed yet, of all members.
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// All revisions of an identifier.
    History {
        /// The stable key.
        key: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Counts and exact capacities by dimension.
    #[command(visible_alias = "statistics", after_help = "Example:\n  causeway id stats --group-by city,class")]
    Stats {
        /// Dimensions, separated by commas.
        #[arg(long, value_name = "NAMES")]
        group_by: Option<String>,
        /// Only identifiers that match.
        #[arg(long, value_name = "EXPR")]
        filter: Option<String>,
    },
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// `stale`: this replica as it is; `linearizable`: after everything committed before.
    #[arg(long, value_parser = ["stale", "default", "linearizable"])]
    consistency: Option<String>,
}

/// Options of writes.
#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    /// Repeats of the call with the same key are the same call.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl WriteArgs {
    fn headers(&self) -> Vec<(&'static str, String)> {
        self.idempotency_key.iter().map(|key| ("idempotency-key", key.clone())).collect()
    }
}

/// Whether the text is a stable key rather than an identifier.
fn is_key(text: &str) -> bool {
    text.parse::<cpi::ids::StableKey>().is_ok()
}

fn text_of(argument: &str) -> Result<String, CliError> {
    if argument == "-" { Ok(read_text("-", 64 << 10)?.trim().to_owned()) } else { Ok(argument.trim().to_owned()) }
}

/// Runs a verb.
pub async fn run(command: IdCommand, context: &Context) -> Result<Exit, CliError> {
    let client = context.client()?;
    let output = &context.output;
    match command {
        IdCommand::Encode { file } => {
            let text = read_text(&file, 1 << 20)?;
            let fields: Value =
                serde_json::from_str(&text).map_err(|error| CliError::usage(format!("{file}: not JSON: {error}")))?;
            let answer = client.post("/v1/identifiers:encode", fields).await?;
            output.one(&answer, &[column("KEY", "key", Kind::Text), column("IDENTIFIER", "cpi", Kind::Text)], "cpi")?;
        }
        IdCommand::Decode { cpi } => {
            let answer = client.post("/v1/identifiers:decode", json!({ "cpi": text_of(&cpi)? })).await?;
            describe(context, &answer)?;
        }
        IdCommand::Register { cpi, write } => {
            let body = Some(json!({ "cpi": text_of(&cpi)? }));
            let extra = Extra { body, headers: write.headers(), ..Extra::default() };
            let answer = client.call(Method::POST, "/v1/identifiers", extra).await?;
            output.one(&answer, COLUMNS, "key")?;
            if answer["state"] == "pending" {
                output.say("accepted here and durable; it is committed once the registry has a quorum");
                output.say("what waits: causeway id search --state pending");
            }
            output.next(format!("causeway id resolve {}", answer["key"].as_str().unwrap_or("KEY")));
        }
        IdCommand::RegisterAll { file } => return register_all(context, &file).await,
        IdCommand::Revise { key, cpi, revision, write } => {
            let mut headers = write.headers();
            headers.push(("if-match", etag(&client, &key, revision).await?));
            let extra = Extra { body: Some(json!({ "cpi": text_of(&cpi)? })), headers, ..Extra::default() };
            let answer = client.call(Method::PUT, &format!("/v1/identifiers/{}", encode(&key)), extra).await?;
            output.one(&answer, COLUMNS, "key")?;
        }
        IdCommand::Retire { key, revision, yes } => {
            confirm(&format!("retire {key}"), yes)?;
            let headers = vec![("if-match", etag(&client, &key, revision).await?)];
            let extra = Extra { headers, body: Some(json!({})), ..Extra::default() };
            let answer = client.call(Method::POST, &format!("/v1/identifiers/{}/retire", encode(&key)), extra).await?;
            output.one(&answer, COLUMNS, "key")?;
        }
        IdCommand::Resolve { what, prefix, path, at, read } => {
            let mut body = json!({});
            match &what {
                Some(text) if is_key(text) => body["key"] = json!(text),
                Some(text) => body["cpi"] = json!(text_of(text)?),
                None => {}
            }
            for (name, value) in [("prefix", prefix), ("path", path), ("at", at), ("consistency", read.consistency)] {
                if let Some(value) = value {
                    body[name] = json!(value);
                }
            }
            let answer = client.post("/v1/identifiers:resolve", body).await?;
            describe(context, &answer)?;
        }
        IdCommand::Get { key, at, pending, read } => {
            let pending = pending.then(|| "true".to_owned());
            let query = vec![("at", at), ("pending", pending), ("consistency", read.consistency)];
            let answer = client.get(&format!("/v1/identifiers/{}", encode(&key)), query).await?;
            output.one(&answer, COLUMNS, "key")?;
            if let (Some(change), Some(why)) =
                (answer["refused"]["change"].as_str(), answer["refused"]["detail"].as_str())
            {
                output.say(format!("your waiting {change} was refused: {why}"));
            }
        }
        IdCommand::Search { prefix, filter, state, list, read } => {
            let mut query = list.query();
            query.extend([("prefix", prefix), ("filter", filter), ("state", state), ("consistency", read.consistency)]);
            let page = client.list("/v1/identifiers", query, list.all).await?;
            output.list(&page, COLUMNS, "key")?;
        }
        IdCommand::History { key, list } => {
            let path = format!("/v1/identifiers/{}/history", encode(&key));
            let page = client.list(&path, list.query(), list.all).await?;
            output.list(&page, HISTORY, "revision")?;
        }
        IdCommand::Stats { group_by, filter } => {
            let query = vec![("group_by", group_by), ("filter", filter)];
            let mut answer = client.get("/v1/identifiers:statistics", query).await?;
            if matches!(output.format, super::Format::Table | super::Format::Wide) {
                answer["items"].as_array_mut().into_iter().flatten().for_each(for_people);
            }
            let columns = [
                column("GROUP", "group", Kind::Text),
                column("IDENTIFIERS", "identifiers|count", Kind::Text),
                column("SERVERS", "servers", Kind::Text),
                column("CHIPS", "chips", Kind::Text),
                column("CAPACITY", "capacity", Kind::Text),
            ];
            output.list(&answer, &columns, "group")?;
        }
    }
    Ok(Exit::Ok)
}

/// Registers the lines of a file, as many at once as one command carries.
async fn register_all(context: &Context, file: &str) -> Result<Exit, CliError> {
    let text = read_text(file, 64 << 20)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<&str> = lines.collect();
    let client = context.client()?;
    let mut all = Vec::with_capacity(lines.len());
    for cpis in lines.chunks(consensus::registry::command::REGISTRATIONS_MAX) {
        let answer = client.post("/v1/identifiers:register", json!({ "cpis": cpis })).await?;
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        all.extend(results.into_iter().zip(cpis).map(|(mut result, cpi)| {
            result["cpi"] = json!(cpi);
            result
        }));
    }
    let refused = all.iter().filter(|result| result["code"].is_string()).count();
    let columns = [
        column("KEY", "identifier.key", Kind::Text),
        column("STATE", "identifier.state|code", Kind::Text),
        column("IDENTIFIER", "cpi", Kind::Text),
        wide("DETAIL", "detail", Kind::Text),
    ];
    context.output.list(&json!({ "items": all }), &columns, "identifier.key")?;
    if refused == 0 {
        return Ok(Exit::Ok);
    }
    context.output.say(format!("{refused} of {} were refused: -o wide says why", lines.len()));
    Ok(Exit::Failed)
}

/// A row of sums for people: the group as `city=G110100`, each capacity with its precision, never added.
fn for_people(row: &mut Value) {
    let pairs = |value: &Value, write: &dyn Fn(&str, &Value) -> String| {
        let pairs = value.as_object().into_iter().flatten();
        pairs.map(|(name, value)| write(name, value)).collect::<Vec<_>>().join(", ")
    };
    let group = pairs(&row["group"], &|name, value| format!("{name}={}", value.as_str().unwrap_or_default()));
    let capacity = pairs(&row["capacity_gflops"], &|precision, gflops| {
        let tera = gflops.as_u64().unwrap_or(0);
        format!("{} TFLOPS {precision}", super::output::thousandths(tera))
    });
    row["group"] = json!(if group.is_empty() { "all".to_owned() } else { group });
    row["capacity"] = json!(capacity);
}

/// The present ETag of an identifier, or the one of a given revision.
async fn etag(client: &super::Client, key: &str, revision: Option<u64>) -> Result<String, CliError> {
    if let Some(revision) = revision {
        return Ok(format!("\"{revision}\""));
    }
    let path = format!("/v1/identifiers/{}", encode(key));
    let (_, headers) = client.call_with_headers(Method::GET, &path, Extra::default()).await?;
    let tag = headers.get("etag").and_then(|value| value.to_str().ok());
    Ok(tag.ok_or_else(|| CliError::NotFound(format!("{key} has no revision to change")))?.to_owned())
}

/// A description for people is the same document as YAML: it is a tree, no table.
fn describe(context: &Context, answer: &Value) -> Result<(), CliError> {
    use super::output::{Format, Output, print};
    let format = match context.output.format {
        Format::Json => Format::Json,
        Format::Name => {
            let name = super::output::text_at(answer, "key|identifier.key|items.0.key");
            return print(&format!("{name}\n"));
        }
        _ => Format::Yaml,
    };
    print(&Output { format, ..context.output.clone() }.document(answer)?)
}
