//! Runs: one server for each, which is switched off at the end and deleted when the run is removed. What became of a run
//! stands in the server's metadata as soon as it is known, so that a console may lose its lines afterwards.

use super::adapter::OpenStackAdapter;
use super::cloud::CloudError;
use super::keystone::Service;
use super::machines::{USER_DATA_BYTES_MAX, unmapped};
use super::nova::{KIND, NovaServer, ServerTag, TAG};
use super::script::{self, ConsoleEnd};
use crate::contract::{AdapterError, LogChunk, LogStream, RunEnd, RunKey, RunRequest, RunState, RunStatus, Usage};
use crate::runner::{self, DeskTicket};
use cpi::reason::{Reason, ReasonCode};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Metadata `causeway.kind` of runs.
pub(super) const RUN: &str = "run";
/// Metadata with [`EndNote`] as JSON.
const END: &str = "causeway.end";
/// Metadata with the code of the reason for which a run is being ended.
const STOP: &str = "causeway.stop";
/// Metadata with the time limit in ms.
const LIMIT: &str = "causeway.limit_ms";
/// What a script gets beyond its time limit before its server is switched off from outside.
const LIMIT_GRACE: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);
/// Characters of a detail that fit into 255 characters of metadata with everything else.
const DETAIL_CHARS_MAX: usize = 120;

/// How a run ended, small enough for a server's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EndNote {
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonCode>,
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    detail: String,
    #[serde(rename = "w", default)]
    wall_ms: u64,
}

impl EndNote {
    fn new(exit_code: Option<i32>, reason: Option<(ReasonCode, &str)>, wall_ms: u64) -> Self {
        let detail = reason.map(|(_, detail)| detail.chars().take(DETAIL_CHARS_MAX).collect()).unwrap_or_default();
        Self { exit_code, reason: reason.map(|(code, _)| code), detail, wall_ms }
    }

    fn end(&self) -> RunEnd {
        let signal = self.exit_code.filter(|code| self.reason == Some(ReasonCode::KilledBySignal) && *code > 128);
        RunEnd {
            exit_code: self.exit_code.filter(|_| signal.is_none()),
            signal: signal.map(|code| code - 128),
            reason: self.reason.map(|code| Reason::new(code, self.detail.clone())),
            usage: Usage { wall_ms: self.wall_ms, ..Usage::default() },
            outputs: Vec::new(),
        }
    }
}

pub(super) fn tag_of(key: RunKey) -> ServerTag {
    ServerTag { tag: format!("causeway-{}", runner::name_of(&key)), lookup: format!("causeway-{}", key.task) }
}

/// The key in a server's tag; `None` for what no tag of ours says.
pub(super) fn key_of(server: &NovaServer) -> Option<RunKey> {
    runner::key_of(server.metadata.get(TAG)?.strip_prefix("causeway-")?)
}

impl OpenStackAdapter {
    /// Starts a run whose end comes by the runner where a `desk` is given, and by the console otherwise.
    pub(super) async fn submit_run(
        &self,
        request: RunRequest,
        desk: Option<&DeskTicket>,
    ) -> Result<RunStatus, AdapterError> {
        let unsupported = |why: &str| AdapterError::fatal(ReasonCode::BackendUnsupported, why);
        if request.image.is_some() {
            return Err(unsupported("image: servers start from images of the cloud, not from container images"));
        }
        if request.command.first().is_none_or(String::is_empty) {
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, "command: expected a program"));
        }
        if let Some(name) = request.env.keys().find(|name| !is_variable(name)) {
            let why = format!("env: {name:?}: expected letters, digits and underscores");
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, why));
        }
        let files = !request.inputs.is_empty() || request.outputs.iter().any(|output| !output.optional);
        if files && desk.is_none() {
            return Err(unsupported("inputs, outputs: a console carries no files; config.runner names what does"));
        }
        let (key, tag) = (request.key, tag_of(request.key));
        let _alone = self.locks.hold(&tag.tag).await;
        if let Some(there) = self.run(key).await? {
            return self.settle(key, there).await;
        }
        let flavour = self.flavour_for(&request.pool, &request.class, &request.need).await?;
        let script = match (desk, &self.cloud.config.runner) {
            (Some(desk), Some(runner)) => script::runner_data(&tag.tag, runner, desk),
            (None, None) => script::user_data(&tag.tag, &request),
            _ => {
                return Err(unsupported(
                    "config.runner: expected a ticket of the node's run desk with it, and none without",
                ));
            }
        };
        let limit_ms = request.max_runtime_ms.saturating_add(desk.map_or(0, |desk| desk.linger_ms));
        let user_data = BASE64.encode(script.as_bytes());
        if user_data.len() > USER_DATA_BYTES_MAX {
            let why =
                format!("command, env: {} bytes as user data, expected at most {USER_DATA_BYTES_MAX}", user_data.len());
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, why));
        }
        let source = json!({
            "tag": tag.tag, "lookup": tag.lookup, "site": self.cloud.config.site, "kind": RUN, "pool": request.pool,
            "flavour": flavour.id,
            "image": self.image(None).await?,
            "network": self.network().await?,
            "zone": self.cloud.config.availability_zone,
            "user_data_base64": user_data,
            "limit_ms": limit_ms.to_string(),
            "volumes": [],
        });
        let server = self.make(&tag, &source).await?;
        if server.status == "ERROR" {
            // no host, no quota: nothing ran, so this is a refusal and nothing is kept
            let reason = server.reason(&self.cloud);
            self.delete_server(&server).await?;
            return Err(AdapterError { retryable: reason.code.is_retryable(), reason });
        }
        self.settle(key, server).await
    }

    /// The server of a run.
    async fn run(&self, key: RunKey) -> Result<Option<NovaServer>, AdapterError> {
        let there = self.cloud.server_with(&tag_of(key)).await.map_err(|error| self.cloud.refusal(&error))?;
        Ok(there.filter(|server| server.metadata.get(KIND).is_some_and(|kind| kind == RUN)))
    }

    async fn known(&self, key: RunKey) -> Result<NovaServer, AdapterError> {
        let lost = || AdapterError::fatal(ReasonCode::RunLost, format!("no run {} {} is here", key.task, key.fence));
        self.run(key).await?.ok_or_else(lost)
    }

    async fn delete_server(&self, server: &NovaServer) -> Result<(), AdapterError> {
        let path = format!("/servers/{}", server.id);
        self.cloud.delete(Service::Compute, &path).await.map_err(|error| self.cloud.refusal(&error))
    }

    pub(super) async fn run_status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        match self.run(key).await? {
            Some(server) => self.settle(key, server).await.map(Some),
            None => Ok(None),
        }
    }

    /// Where a run stands; moves on what waits: a cancel that came while the server was being made, a time that is over,
    /// an end that is not noted yet. Whoever asks does it, so that it is done by whatever process is alive.
    pub(super) async fn settle(&self, key: RunKey, server: NovaServer) -> Result<RunStatus, AdapterError> {
        let state = match server.stands(&self.cloud).map_err(unmapped)?.run.as_str() {
            "ended" => RunState::Ended(self.ending(&server).await?),
            now => {
                let stop = server.metadata.contains_key(STOP) || self.over_time(&server).await?;
                if stop && server.status != "BUILD" && server.task_state.is_none() {
                    self.switch_off(&server).await?;
                }
                match now {
                    "frozen" => RunState::Frozen,
                    "starting" => RunState::Starting,
                    _ => RunState::Running,
                }
            }
        };
        self.events.observe(key, &state);
        Ok(RunStatus { key, state })
    }

    async fn over_time(&self, server: &NovaServer) -> Result<bool, AdapterError> {
        let limit = server.metadata.get(LIMIT).and_then(|limit| limit.parse::<i64>().ok());
        let Some(limit) = limit else { return Ok(false) };
        let until = jiff::SignedDuration::from_millis(limit).saturating_add(LIMIT_GRACE);
        if server.status != "ACTIVE" || jiff::Timestamp::now().duration_since(server.began()) < until {
            return Ok(false);
        }
        self.note(server, STOP, ReasonCode::TimeLimit.code()).await?;
        Ok(true)
    }

    async fn note(&self, server: &NovaServer, name: &str, value: &str) -> Result<(), AdapterError> {
        self.cloud.note(&server.id, name, value).await.map_err(|error| self.cloud.refusal(&error))
    }

    async fn switch_off(&self, server: &NovaServer) -> Result<(), AdapterError> {
        match self.cloud.act(&server.id, &json!({ "os-stop": null })).await {
            Ok(_) => Ok(()),
            // it is doing something else just now: whoever asks next tries again
            Err(error) if error.is_status(409) || error.is_status(404) => Ok(()),
            Err(error) => Err(self.cloud.refusal(&error)),
        }
    }

    /// The end of a run whose server is off or in error. Decided once.
    async fn ending(&self, server: &NovaServer) -> Result<RunEnd, AdapterError> {
        let noted =
            |server: &NovaServer| server.metadata.get(END).and_then(|text| serde_json::from_str::<EndNote>(text).ok());
        if let Some(note) = noted(server) {
            return Ok(note.end());
        }
        let _alone = self.locks.hold(&format!("end {}", server.id)).await;
        // another call may have noted it meanwhile
        let now = self.cloud.server(&server.id).await.map_err(|error| self.cloud.refusal(&error))?;
        let server = now.as_ref().unwrap_or(server);
        if let Some(note) = noted(server) {
            return Ok(note.end());
        }
        let note = self.conclude(server).await?;
        // Nova takes no metadata for a server in error; its fault says the same each time
        if server.status != "ERROR" {
            let text = serde_json::to_string(&note).expect("plain data");
            self.note(server, END, &text).await?;
        }
        Ok(note.end())
    }

    async fn conclude(&self, server: &NovaServer) -> Result<EndNote, AdapterError> {
        let stopped =
            server.metadata.get(STOP).and_then(|code| ReasonCode::ALL.iter().find(|known| known.code() == code));
        let wall = jiff::Timestamp::now().duration_since(server.began()).as_millis();
        let wall_ms = if server.status == "ERROR" { 0 } else { u64::try_from(wall).unwrap_or(0) };
        // without a host nothing ever ran
        let console = if server.status == "ERROR" && server.host.is_none() {
            String::new()
        } else {
            match self.cloud.console(&server.id).await {
                Ok(console) => console,
                // some drivers have no console for a server that is off
                Err(CloudError::Refused { status: 404 | 409 | 501, .. }) => String::new(),
                Err(error) => return Err(self.cloud.refusal(&error)),
            }
        };
        let tag = server.metadata.get(TAG).map(String::as_str).unwrap_or_default();
        let told = script::read_console(tag, &console).and_then(|(_, end)| end);
        Ok(match (told, stopped) {
            (Some(ConsoleEnd { exit_code: 0, usage, .. }), _) => EndNote::new(Some(0), None, usage.wall_ms),
            (told, Some(code)) => {
                let wall_ms = told.map_or(wall_ms, |end| end.usage.wall_ms);
                EndNote::new(None, Some((*code, "the server was switched off")), wall_ms)
            }
            (Some(end), None) if end.timed_out => {
                EndNote::new(None, Some((ReasonCode::TimeLimit, "")), end.usage.wall_ms)
            }
            (Some(end), None) => {
                let (code, detail) = match end.exit_code {
                    126 | 127 => (ReasonCode::StartFailed, format!("exit code {}", end.exit_code)),
                    code if code > 128 => (ReasonCode::KilledBySignal, format!("signal {}", code - 128)),
                    code => (ReasonCode::ExitNonzero, format!("exit code {code}")),
                };
                EndNote::new(Some(end.exit_code), Some((code, &detail)), end.usage.wall_ms)
            }
            (None, None) if server.status == "ERROR" => {
                let reason = server.reason(&self.cloud);
                EndNote::new(None, Some((reason.code, &reason.detail)), wall_ms)
            }
            (None, None) => {
                let why = "unknown ending: the server is off, and neither a runner nor its console says how";
                EndNote::new(None, Some((ReasonCode::RunLost, why)), wall_ms)
            }
        })
    }

    pub(super) async fn list_runs(&self) -> Result<Vec<RunStatus>, AdapterError> {
        let servers = self.cloud.servers_of_kind(RUN).await.map_err(|error| self.cloud.refusal(&error))?;
        let mut runs = Vec::new();
        let mut keys = std::collections::BTreeSet::new();
        for server in servers {
            let Some(key) = key_of(&server) else { continue };
            if keys.insert(key) {
                runs.push(self.settle(key, server).await?);
            }
        }
        Ok(runs)
    }

    pub(super) async fn read_log(
        &self,
        key: RunKey,
        stream: LogStream,
        offset: u64,
        bytes_max: usize,
    ) -> Result<LogChunk, AdapterError> {
        let server = self.known(key).await?;
        let ended = server.stands(&self.cloud).map_err(unmapped)?.run == "ended";
        // a console has one stream
        if stream == LogStream::Stderr {
            return Ok(LogChunk { offset, bytes: Vec::new(), end: ended });
        }
        let console = match self.cloud.console(&server.id).await {
            Ok(console) => console,
            Err(error) if error.is_status(404) || error.is_status(409) => String::new(),
            Err(error) => return Err(self.cloud.refusal(&error)),
        };
        let said = script::read_console(&tag_of(key).tag, &console).map(|(said, _)| said).unwrap_or_default();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(said.len());
        let to = from.saturating_add(bytes_max).min(said.len());
        Ok(LogChunk { offset, bytes: said.as_bytes()[from..to].to_vec(), end: ended && to == said.len() })
    }

    pub(super) async fn cancel_run(&self, key: RunKey) -> Result<(), AdapterError> {
        // not before a submit of the same key that is under way
        let _alone = self.locks.hold(&tag_of(key).tag).await;
        let Some(mut server) = self.run(key).await? else { return Ok(()) };
        if server.stands(&self.cloud).map_err(unmapped)?.run == "ended" || server.metadata.contains_key(STOP) {
            return self.settle(key, server).await.map(drop);
        }
        // Nova takes no metadata while it makes a server
        server = self.made(server).await?;
        if server.status == "BUILD" {
            let why = "the server is still being made: cancel it again";
            return Err(AdapterError::passing(ReasonCode::Busy, why));
        }
        if server.stands(&self.cloud).map_err(unmapped)?.run == "ended" {
            return self.settle(key, server).await.map(drop);
        }
        self.note(&server, STOP, ReasonCode::Cancelled.code()).await?;
        server.metadata.insert(STOP.to_owned(), ReasonCode::Cancelled.code().to_owned());
        self.settle(key, server).await.map(drop)
    }

    pub(super) async fn remove_run(&self, key: RunKey) -> Result<(), AdapterError> {
        let _alone = self.locks.hold(&tag_of(key).tag).await;
        let Some(server) = self.run(key).await? else { return Ok(()) };
        // a runner has told the node of the end before its server is off
        if self.cloud.config.runner.is_none() && server.stands(&self.cloud).map_err(unmapped)?.run != "ended" {
            return Err(AdapterError::fatal(ReasonCode::Internal, "only a run that ended can be removed"));
        }
        self.delete_server(&server).await?;
        // the key may be used again at once: what is being deleted counts no more, as soon as Nova says so
        self.until_gone(&server.id).await?;
        self.events.forget(key);
        Ok(())
    }
}

fn is_variable(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}
