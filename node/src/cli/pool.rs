//! `pool`: what regions share, and what this one takes out of service.

use super::client::encode;
use super::exit::{CliError, Exit};
use super::output::{Column, Format, Kind, column, wide};
use super::{Context, ListArgs};
use clap::Subcommand;
use serde_json::{Value, json};
use std::time::Duration;

/// Between looks at what still runs in a pool that is being drained.
const RUNS_LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) const COLUMNS: &[Column] = &[
    column("REGION", "region", Kind::Text),
    column("POOL", "name", Kind::Text),
    column("CLASS", "class", Kind::Text),
    column("SERVERS", "class_name", Kind::Text),
    column("CHIP", "chip_model", Kind::Text),
    column("CORES FREE", "free.cpu_milli", Kind::Milli),
    wide("CORES", "total.cpu_milli", Kind::Milli),
    column("MEMORY FREE", "free.memory_bytes", Kind::Bytes),
    wide("MEMORY", "total.memory_bytes", Kind::Bytes),
    column("CHIPS FREE", "free.chip_milli", Kind::Milli),
    column("CHIPS", "total.chip_milli", Kind::Milli),
    column("LARGEST FIT", "largest_fit.chip_milli", Kind::Milli),
    wide("FIRMNESS", "firmness", Kind::Text),
    wide("BACKEND", "backend", Kind::Text),
    wide("AGE MS", "age_ms", Kind::Text),
    column("STATE", "condition", Kind::Text),
];

const RUNS: &[Column] = &[
    column("TASK", "task", Kind::Id),
    column("ORIGIN", "origin", Kind::Text),
    column("PHASE", "phase", Kind::Text),
    column("CLASS", "class", Kind::Text),
    column("SERVER", "server", Kind::Text),
    column("CORES", "quantity.cpu_milli", Kind::Milli),
    column("MEMORY", "quantity.memory_bytes", Kind::Bytes),
    column("CHIPS", "quantity.chip_milli", Kind::Milli),
    wide("FENCE", "fence", Kind::Text),
];

/// Verbs of pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Pools of this region and, as last told, of the others.
    List {
        /// Only this region's.
        #[arg(long)]
        own: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// One pool of this region with the runs in it.
    #[command(visible_alias = "get")]
    Inventory {
        /// The pool.
        pool: String,
    },
    /// Takes a pool out of service for new work; what runs goes on.
    #[command(after_help = "Example:\n  causeway pool cordon h800")]
    Cordon {
        /// The pool.
        pool: String,
    },
    /// Puts a pool back into service.
    Uncordon {
        /// The pool.
        pool: String,
    },
    /// Takes a pool out of service and waits for its runs to end; --timeout bounds the wait.
    Drain {
        /// The pool.
        pool: String,
    },
}

/// Runs a verb.
pub async fn run(command: PoolCommand, context: &Context) -> Result<Exit, CliError> {
    let client = context.client()?;
    let output = &context.output;
    match command {
        PoolCommand::List { own, list } => {
            let mut query = list.query();
            query.push(("own", own.then(|| "true".to_owned())));
            let page = client.list("/v1/pools", query, list.all).await?;
            match output.format {
                Format::Table | Format::Wide => output.list(&by_class(&page), COLUMNS, "name")?,
                _ => output.list(&page, COLUMNS, "name")?,
            }
        }
        PoolCommand::Inventory { pool } => {
            let answer = client.get(&format!("/v1/pools/{}/inventory", encode(&pool)), Vec::new()).await?;
            match output.format {
                Format::Table | Format::Wide => {
                    output.list(&by_class(&json!([answer["pool"]])), COLUMNS, "name")?;
                    output.say("");
                    output.list(&answer["runs"], RUNS, "task")?;
                }
                _ => super::output::print(&output.document(&answer)?)?,
            }
        }
        PoolCommand::Cordon { pool } => act(context, &client, &pool, "cordon").await?,
        PoolCommand::Uncordon { pool } => act(context, &client, &pool, "uncordon").await?,
        PoolCommand::Drain { pool } => {
            act(context, &client, &pool, "drain").await?;
            wait_until_empty(context, &client, Some(&pool)).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn act(context: &Context, client: &super::Client, pool: &str, verb: &str) -> Result<(), CliError> {
    let answer = client.post(&format!("/v1/pools/{}/{verb}", encode(pool)), json!({})).await?;
    match context.output.format {
        Format::Table | Format::Wide => context.output.list(&by_class(&json!([answer])), COLUMNS, "name"),
        _ => context.output.one(&answer, COLUMNS, "name"),
    }
}

/// Waits until nothing runs any more in an own pool, or in all of them; tells how many are left as they become fewer.
pub(super) async fn wait_until_empty(
    context: &Context,
    client: &super::Client,
    pool: Option<&str>,
) -> Result<(), CliError> {
    let begin = std::time::Instant::now();
    let mut told = u64::MAX;
    loop {
        let own = vec![("own", Some("true".to_owned())), ("limit", Some("1000".to_owned()))];
        let page = client.get("/v1/pools", own).await?;
        let pools = super::output::items(&page);
        let wanted = pools.iter().filter(|view| pool.is_none_or(|name| view["name"] == name));
        let runs: u64 = wanted.filter_map(|view| view["runs"].as_u64()).sum();
        if runs == 0 {
            return Ok(());
        }
        if runs < told {
            context.output.say(format!("{runs} runs have not ended yet"));
            told = runs;
        }
        if let Some(limit) = context.limit()
            && begin.elapsed() >= limit
        {
            let what = format!("the end of {runs} runs; nothing new gets in meanwhile");
            return Err(CliError::TimedOut { what, seconds: limit.as_secs() });
        }
        tokio::time::sleep(RUNS_LOOK_EVERY).await;
    }
}

/// One row for each class of each pool, with the pool's own fields beside.
pub(super) fn by_class(page: &Value) -> Value {
    let mut rows = Vec::new();
    for pool in super::output::items(page) {
        let flag = |name: &str| pool[name].as_bool().unwrap_or(false);
        let condition = match (flag("draining"), flag("cordoned"), flag("stale")) {
            (true, ..) => "draining",
            (_, true, _) => "cordoned",
            (.., true) => "stale",
            _ => "open",
        };
        for class in pool["classes"].as_array().into_iter().flatten() {
            let mut row = class.clone();
            row["class_name"] = json!(format!("{} x {}", class["servers"], class["name"].as_str().unwrap_or("")));
            for field in ["region", "name", "class", "firmness", "backend", "age_ms"] {
                row[field] = pool[field].clone();
            }
            row["condition"] = json!(condition);
            rows.push(row);
        }
    }
    json!({ "items": rows, "next_page_token": page["next_page_token"] })
}
