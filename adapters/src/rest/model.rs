//! The documents on our side: what the rules are given to make requests of, and what they make of answers.

use crate::contract::{AdapterError, OutputFound, RunEnd, RunOutput, RunRequest, RunState, Usage};
use crate::southbound::tag_of;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{ChipModel, PoolSpec, Quantity};
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

/// The chip of a class of a pool.
pub(super) fn chip_of<'a>(pools: &'a [PoolSpec], pool: &str, class: &str) -> Option<&'a ChipModel> {
    let pool = pools.iter().find(|known| known.name == pool)?;
    pool.classes.iter().find(|known| known.name == class)?.chip.as_ref()
}

/// `need` and `chip` of a document; `chip` only where chips are asked for.
pub(super) fn need(need: &Quantity, chip: Option<&ChipModel>) -> (Value, Value) {
    let chip = chip.filter(|_| need.chip_milli > 0);
    let chip = chip.map_or(Value::Null, |chip| json!({ "model": chip.model, "kind": chip.kind.code() }));
    let need = json!({
        "cpu_milli": need.cpu_milli,
        "memory_bytes": need.memory_bytes,
        "storage_bytes": need.storage_bytes,
        "chip_milli": need.chip_milli,
    });
    (need, chip)
}

/// A submission: `tag, task, fence, pool, class, need, chip, command, image, env, inputs, outputs, max_runtime_ms,
/// lease_ttl_ms, freeze_on_lapse`. With `inline` inputs have their content (base64), otherwise only path and digest.
///
/// # Errors
/// An input cannot be read, or all of them are larger than `inline_bytes_max`.
pub(super) async fn submission(
    run: &RunRequest,
    chip: Option<&ChipModel>,
    inline: bool,
    inline_bytes_max: u64,
) -> Result<Value, AdapterError> {
    let lost = |error: std::io::Error| {
        AdapterError::passing(ReasonCode::InputLost, format!("an input cannot be read: {error}"))
    };
    let mut inputs = Vec::with_capacity(run.inputs.len());
    let mut left = inline_bytes_max;
    for input in &run.inputs {
        let mut told = json!({ "path": input.path, "digest": input.digest.hex(), "executable": input.executable });
        if inline {
            let length = tokio::fs::metadata(&input.source).await.map_err(lost)?.len();
            left = left.checked_sub(length).ok_or_else(|| {
                let why = format!("inputs of more than {inline_bytes_max} bytes do not fit into a request");
                AdapterError::fatal(ReasonCode::BackendUnsupported, why)
            })?;
            let content = tokio::fs::read(&input.source).await.map_err(lost)?;
            told["content_base64"] = Value::String(BASE64.encode(&content));
        }
        inputs.push(told);
    }
    let outputs = run.outputs.iter().map(|output| json!({ "path": output.path, "optional": output.optional }));
    let (need, chip) = need(&run.need, chip);
    let mut env = run.env.clone();
    env.insert("CAUSEWAY_TASK".to_owned(), run.key.task.to_string());
    env.insert("CAUSEWAY_FENCE".to_owned(), run.key.fence.to_string());
    env.insert("CAUSEWAY_CHIPS".to_owned(), run.need.chip_milli.div_ceil(1000).to_string());
    Ok(json!({
        "tag": tag_of(run.key),
        "task": run.key.task.to_string(),
        "fence": run.key.fence.to_string(),
        "pool": run.pool,
        "class": run.class,
        "need": need,
        "chip": chip,
        "command": run.command,
        "image": run.image,
        "env": env,
        "inputs": inputs,
        "outputs": outputs.collect::<Vec<_>>(),
        "max_runtime_ms": run.max_runtime_ms,
        "lease_ttl_ms": run.lease_ttl_ms,
        "freeze_on_lapse": run.freeze_on_lapse,
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StateName {
    Starting,
    Running,
    Frozen,
    Ended,
}

/// Why, as rules say it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReasonSaid {
    pub(super) code: ReasonCode,
    #[serde(default)]
    pub(super) detail: Option<String>,
}

impl From<ReasonSaid> for Reason {
    fn from(said: ReasonSaid) -> Self {
        Self::new(said.code, super::fault::shown(&said.detail.unwrap_or_default()))
    }
}

/// A time: RFC 3339, or ms since 1970.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum TimeSaid {
    Ms(i64),
    Text(String),
}

impl TimeSaid {
    fn ms(&self) -> Option<i64> {
        match self {
            Self::Ms(ms) => Some(*ms),
            Self::Text(text) => text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond()),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UsageSaid {
    pub(super) wall_ms: Option<u64>,
    /// With `ended`, instead of `wall_ms`.
    pub(super) started: Option<TimeSaid>,
    pub(super) ended: Option<TimeSaid>,
    pub(super) cpu_ms: u64,
    pub(super) memory_peak_bytes: u64,
}

/// What `[north.run]` makes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunSaid {
    pub(super) tag: String,
    pub(super) handle: String,
    pub(super) state: StateName,
    #[serde(default)]
    pub(super) exit_code: Option<i32>,
    #[serde(default)]
    pub(super) signal: Option<i32>,
    #[serde(default)]
    pub(super) reason: Option<ReasonSaid>,
    #[serde(default)]
    pub(super) usage: UsageSaid,
    /// Those that were declared when it was submitted.
    #[serde(default)]
    pub(super) outputs: Vec<OutputSaid>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputSaid {
    pub(super) path: String,
    #[serde(default)]
    pub(super) optional: bool,
}

impl RunSaid {
    pub(super) fn declared(&self) -> Vec<RunOutput> {
        let output = |said: &OutputSaid| RunOutput { path: said.path.clone(), optional: said.optional };
        self.outputs.iter().map(output).collect()
    }

    /// Where the run stands, where it has not ended; `None` where it has.
    pub(super) fn under_way(&self) -> Option<RunState> {
        match self.state {
            StateName::Starting => Some(RunState::Starting),
            StateName::Running => Some(RunState::Running),
            StateName::Frozen => Some(RunState::Frozen),
            StateName::Ended => None,
        }
    }

    /// How it ended, with the outputs that were found and the names of those that were not.
    pub(super) fn end(&self, outputs: Vec<OutputFound>, missing: &[String]) -> RunEnd {
        let said = self.reason.clone().map(Reason::from);
        let reason = said.or_else(|| match (self.exit_code, self.signal) {
            (Some(0), _) if missing.is_empty() => None,
            (Some(0), _) => Some(Reason::new(ReasonCode::OutputMissing, missing.join("; "))),
            (Some(code), _) => Some(Reason::new(ReasonCode::ExitNonzero, format!("exit code {code}"))),
            (None, Some(signal)) => Some(Reason::new(ReasonCode::KilledBySignal, format!("signal {signal}"))),
            (None, None) => Some(Reason::new(ReasonCode::RunLost, "the platform does not say how it ended")),
        });
        let usage = &self.usage;
        let between = || {
            let (from, to) = (usage.started.as_ref()?.ms()?, usage.ended.as_ref()?.ms()?);
            u64::try_from(to.checked_sub(from)?).ok()
        };
        RunEnd {
            exit_code: self.exit_code,
            signal: self.signal,
            reason,
            usage: Usage {
                wall_ms: usage.wall_ms.or_else(between).unwrap_or(0),
                cpu_ms: usage.cpu_ms,
                memory_peak_bytes: usage.memory_peak_bytes,
            },
            outputs,
        }
    }
}
