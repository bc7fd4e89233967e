//! The verbs that are no clients of a node: `node`, `init`, `member join`.

use super::Context;
use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column};
use crate::app::{self, DataFolder};
use crate::config::{ConfigLoader, NodeConfig};
use crate::join::{
    Founding, InitError, InvitationError, JoinError, JoinProgress, Joiner, found, join as join_by_token,
};
use anyhow::Context as _;
use clap::Args;
use consensus::time::Timestamp;
use cpi::identifier::Cpi;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

const COLUMNS: &[Column] = &[
    column("FEDERATION", "federation", Kind::Text),
    column("ID", "federation_id", Kind::Text),
    column("MEMBER", "member", Kind::Text),
    column("REGION", "region", Kind::Text),
    column("DATA", "data_dir", Kind::Text),
];

/// Which node.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// The configuration. Default: defaults and environment.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A value over file and environment; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

/// What to found.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// The federation's name, for people.
    #[arg(long, value_name = "TEXT", default_value = "causeway")]
    name: String,
    /// Enterprise codes that this region may register under. Default: those of its pools' identifiers.
    #[arg(long = "enterprise", value_name = "CODE")]
    enterprises: Vec<String>,
}

/// What to join.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// The token that `causeway member invite` printed.
    token: String,
    #[command(flatten)]
    node: NodeArgs,
    /// How long to wait for members' approvals and for a quorum.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::duration)]
    wait: Duration,
}

impl NodeArgs {
    fn load(&self) -> Result<NodeConfig, CliError> {
        Ok(ConfigLoader::load(self.config.as_deref(), &self.set)?.config)
    }
}

/// Runs the node.
pub fn node(arguments: &NodeArgs) -> Result<Exit, CliError> {
    let config = arguments.load()?;
    app::start_tracing(&config.log)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.node.worker_threads > 0 {
        runtime.worker_threads(config.node.worker_threads);
    }
    let runtime = runtime.enable_all().thread_name("causeway").build().context("starting the runtime")?;
    let ended = runtime.block_on(app::run(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended?;
    Ok(Exit::Ok)
}

fn now() -> Timestamp {
    Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default())
}

/// The addresses that others can dial before this node runs: a port that is not known yet is announced once it is.
fn announced(config: &NodeConfig) -> Vec<String> {
    let known = |address: &&String| {
        !address.contains("/ip4/0.0.0.0/")
            && !address.contains("/ip6/::/")
            && !address.split('/').any(|part| part == "0")
    };
    let from = if config.mesh.announce.is_empty() { &config.mesh.listen } else { &config.mesh.announce };
    from.iter().filter(known).cloned().collect()
}

/// Enterprise codes of the identifiers in the pools.
fn enterprises_of(config: &NodeConfig) -> Vec<String> {
    let texts = config.pools.iter().flat_map(|pool| &pool.identifiers);
    let codes: BTreeSet<String> =
        texts.filter_map(|text| Cpi::parse(text).ok()).map(|cpi| cpi.enterprise().to_owned()).collect();
    codes.into_iter().collect()
}

/// Founds a federation.
pub fn init(arguments: &InitArgs, context: &Context) -> Result<Exit, CliError> {
    let config = arguments.node.load()?;
    let folder = DataFolder::open(&config.data.dir).map_err(anyhow::Error::from)?;
    let founding = Founding {
        name: arguments.name.clone(),
        place: config.region.place(),
        addresses: announced(&config),
        enterprises: if arguments.enterprises.is_empty() {
            enterprises_of(&config)
        } else {
            arguments.enterprises.clone()
        },
        now: now(),
    };
    let membership = found(folder.path(), founding).map_err(|error| {
        let exit = if matches!(error, InitError::Exists { .. }) { Exit::Conflict } else { Exit::Failed };
        CliError::failed(exit, &error)
    })?;
    let federation = data_encoding::HEXLOWER.encode(&membership.federation.id);
    let answer = json!({
        "federation": membership.genesis.name, "federation_id": federation, "member": membership.member.to_string(),
        "region": config.region.name, "data_dir": config.data.dir,
    });
    context.output.one(&answer, COLUMNS, "member")?;
    context.output.next("causeway node --config FILE, then causeway member invite");
    Ok(Exit::Ok)
}

/// Joins a federation.
pub fn join(arguments: &JoinArgs, context: &Context) -> Result<Exit, CliError> {
    super::block_on(join_async(arguments, context))
}

/// Joins a federation, on a runtime that is there.
pub async fn join_async(arguments: &JoinArgs, context: &Context) -> Result<Exit, CliError> {
    let config = arguments.node.load()?;
    let folder = DataFolder::open(&config.data.dir).map_err(anyhow::Error::from)?;
    let joiner =
        Joiner { place: config.region.place(), addresses: announced(&config), patience: arguments.wait, now: now() };
    let mut told = None;
    let progress = |progress: JoinProgress| {
        let words = match &progress {
            JoinProgress::Asking { federation } => format!("asking to join {federation}"),
            JoinProgress::Waiting { have, need } => format!("waiting for approval: {have} of {need}"),
            JoinProgress::Retrying { reason } => format!("asking again: {reason}"),
        };
        if told.as_ref() != Some(&progress) {
            context.output.say(words);
            told = Some(progress);
        }
    };
    match join_by_token(folder.path(), &arguments.token, &joiner, progress).await {
        Ok(membership) => {
            let answer = json!({
                "federation": membership.genesis.name, "member": membership.member.to_string(),
                "region": config.region.name, "data_dir": config.data.dir,
            });
            context.output.one(&answer, COLUMNS, "member")?;
            context.output.next("causeway node --config FILE");
            Ok(Exit::Ok)
        }
        Err(error) => {
            let exit = match &error {
                JoinError::Invitation(InvitationError::Malformed) => Exit::Usage,
                JoinError::Invitation(_) | JoinError::Refused(_) => Exit::Denied,
                JoinError::Elsewhere { .. } => Exit::Conflict,
                JoinError::Ask(_) | JoinError::StillWaiting { .. } => Exit::Unavailable,
                _ => Exit::Failed,
            };
            Err(CliError::failed(exit, &error))
        }
    }
}
