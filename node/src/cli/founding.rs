//! `init` and `member join`: the two verbs that give a node its membership, before it runs for the first time.

use super::config::ConfigArgs;
use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column};
use super::{Context, read_text};
use crate::config::NodeConfig;
use crate::join::{Founding, InitError, JoinError, JoinProgress, Joiner, Membership, found, join};
use clap::Args;
use consensus::time::Timestamp;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a join keeps asking where nobody says.
const PATIENCE: Duration = Duration::from_secs(600);

const COLUMNS: &[Column] = &[
    column("FEDERATION", "name", Kind::Text),
    column("ID", "federation", Kind::Text),
    column("MEMBER", "member", Kind::Text),
    column("REGION", "region", Kind::Text),
    column("DATA", "data_dir", Kind::Text),
];

/// Which configuration a verb without a running node reads.
#[derive(Debug, Clone, Args)]
pub struct NodeConfigArgs {
    /// The node's configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A value over file and environment; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

impl NodeConfigArgs {
    /// Loads it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<crate::config::LoadedConfig, CliError> {
        ConfigArgs::of(self.config.clone(), self.set.clone()).load()
    }
}

/// Arguments of `init`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  causeway init --config /etc/causeway/node.toml --name east --enterprise C91110108MA00CP019A\n  \
    causeway node --config /etc/causeway/node.toml"
)]
pub struct InitArgs {
    #[command(flatten)]
    config: NodeConfigArgs,
    /// The federation's name, for people.
    #[arg(long, default_value = "causeway", value_name = "NAME")]
    name: String,
    /// Enterprise code that this member may register identifiers under; may be repeated.
    #[arg(long = "enterprise", value_name = "CODE")]
    enterprises: Vec<String>,
}

/// Arguments of `member join`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  causeway member join TOKEN --config /etc/causeway/node.toml\n  causeway node --config /etc/causeway/node.toml\n\n\
    It waits until the federation admitted this region. Running it again is always safe."
)]
pub struct JoinArgs {
    /// The invitation's token, or `-` to read it from standard input.
    token: String,
    #[command(flatten)]
    config: NodeConfigArgs,
}

/// Founds a federation.
pub fn init(arguments: &InitArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = arguments.config.load()?;
    for code in &arguments.enterprises {
        check_enterprise(code)?;
    }
    if !(1..=64).contains(&arguments.name.chars().count()) {
        return Err(CliError::usage("the federation's name: expected 1 to 64 characters"));
    }
    let founding = Founding {
        name: arguments.name.clone(),
        place: loaded.config.region.place(),
        addresses: addresses(&loaded.config),
        enterprises: arguments.enterprises.clone(),
        now: now(),
    };
    let membership = found(&loaded.config.data.dir, founding).map_err(|error| {
        let exit = if matches!(error, InitError::Exists { .. }) { Exit::Conflict } else { Exit::Failed };
        CliError::failed(exit, &error)
    })?;
    show(context, &membership, &loaded.config)?;
    context.output.next(next(&arguments.config));
    Ok(Exit::Ok)
}

/// Joins a federation.
pub async fn join_federation(arguments: JoinArgs, context: &Context) -> Result<Exit, CliError> {
    let loaded = arguments.config.load()?;
    let token = if arguments.token == "-" { read_text("-", 64 << 10)? } else { arguments.token };
    let joiner = Joiner {
        place: loaded.config.region.place(),
        addresses: addresses(&loaded.config),
        patience: context.limit().unwrap_or(PATIENCE),
        now: now(),
    };
    let progress = |progress: JoinProgress| match progress {
        JoinProgress::Asking { federation } => context.output.say(format!("asking to join {federation}")),
        JoinProgress::Waiting { have, need } => {
            let region = &joiner.place.region;
            context
                .output
                .say(format!("waiting for approval, {have} of {need}: `causeway member approve {region}` at a member"));
        }
        JoinProgress::Retrying { reason } => context.output.say(format!("trying again: {reason}")),
    };
    let membership = join(&loaded.config.data.dir, token.trim(), &joiner, progress).await.map_err(|error| {
        let exit = match &error {
            JoinError::Invitation(_) => Exit::Usage,
            JoinError::Elsewhere { .. } => Exit::Conflict,
            JoinError::Refused(_) => Exit::Denied,
            JoinError::Ask(_) | JoinError::StillWaiting { .. } => Exit::Unavailable,
            _ => Exit::Failed,
        };
        CliError::failed(exit, &error)
    })?;
    show(context, &membership, &loaded.config)?;
    context.output.next(next(&arguments.config));
    Ok(Exit::Ok)
}

fn next(config: &NodeConfigArgs) -> String {
    match &config.config {
        Some(file) => format!("causeway node --config {}", file.display()),
        None => "causeway node".to_owned(),
    }
}

fn show(context: &Context, membership: &Membership, config: &NodeConfig) -> Result<(), CliError> {
    let value = json!({
        "name": membership.genesis.name,
        "federation": data_encoding::HEXLOWER.encode(&membership.federation.id),
        "member": membership.member.to_string(),
        "region": config.region.name,
        "data_dir": config.data.dir,
    });
    context.output.one(&value, COLUMNS, "member")
}

/// Checks the form of an enterprise code; its check characters are verified with every identifier under it.
fn check_enterprise(code: &str) -> Result<(), CliError> {
    let plain = code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let length = match code.as_bytes().first() {
        Some(b'C') => code.len() == 19,
        Some(b'L') => code.len() == 21,
        Some(b'P') => code.len() == 9,
        _ => false,
    };
    if plain && length {
        return Ok(());
    }
    let expected = "C and 18 characters (GB 32100), L and 20 (ISO 17442), or P and 8";
    Err(CliError::usage(format!("--enterprise {code:?}: expected {expected}")))
}

/// Where peers reach this node: what the operator announces, else what it listens on and is no wildcard.
pub fn addresses(config: &NodeConfig) -> Vec<String> {
    let mesh = &config.mesh;
    if !mesh.announce.is_empty() {
        return mesh.announce.clone();
    }
    let wild = |address: &&String| {
        let parts: Vec<&str> = address.split('/').collect();
        matches!(parts.as_slice(), ["", _, "0.0.0.0" | "::", ..] | ["", _, _, _, "0", ..])
    };
    mesh.listen.iter().filter(|address| !wild(address)).cloned().collect()
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}
