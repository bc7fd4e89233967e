//! What a fake run does.

use cpi::reason::ReasonCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The variable of a run's environment that may hold its script as JSON.
pub const SCRIPT_VARIABLE: &str = "CAUSEWAY_FAKE";

/// How a fake run goes. The default ends at once with exit code 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeScript {
    /// Before it is running, in ms.
    pub start_ms: u64,
    /// Between its start and its end, in ms; the time stands still while it is frozen.
    pub run_ms: u64,
    /// Its exit code.
    pub exit_code: i32,
    /// It ends with this reason instead of what its exit code says.
    pub reason: Option<ReasonCode>,
    /// What it writes to standard output, all at its start.
    pub stdout: String,
    /// Likewise to standard error.
    pub stderr: String,
    /// Files that it leaves, by path.
    pub files: BTreeMap<String, String>,
    /// `submit` fails with this; the run does not exist then.
    pub refuse: Option<ReasonCode>,
    /// How the platform misbehaves.
    pub lie: Option<Lie>,
}

/// Ways in which platforms do not tell the truth in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// No event is ever sent; only `status` and `list` tell.
    Silent,
    /// Each event comes three times.
    Repeats,
    /// `running` comes once more after the end.
    LateRunning,
    /// `submit` starts the run and then says that the backend is down.
    SubmitLostAnswer,
    /// The run is forgotten in the middle: `status` finds nothing any more.
    Vanishes,
    /// A cancel is accepted and does nothing.
    IgnoresCancel,
}
