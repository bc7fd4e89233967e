//! Operations on machines as people and programs see them: the JSON shapes of `/v1/operations`.

use super::pool_views::QuantityView;
use super::registry::rfc3339;
use super::task_views::ReasonView;
use consensus::operation::{OperationPhase, OperationRecord, Sight, SightState, Verb};
use cpi::resource::Quantity;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is wanted of a machine.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginOperation {
    /// The backend; `causeway adapter list -o wide` says which make machines.
    pub adapter: String,
    /// `provision`, `modify`, `start`, `stop`, `restart` or `release`.
    #[schema(example = "provision")]
    pub verb: String,
    /// The machine, for all but `provision`.
    #[serde(default)]
    pub resource: Option<String>,
    /// The pool in which it is made.
    #[serde(default)]
    pub pool: Option<String>,
    /// The class of servers.
    #[serde(default)]
    pub class: Option<String>,
    /// What it is to have, for `provision` and `modify`.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    pub need: Option<Quantity>,
    /// What it starts from, where the platform lets one choose.
    #[serde(default)]
    pub image: Option<String>,
    /// Given to it at its first start, at most 16 KiB. No secrets: it is kept on disk.
    #[serde(default)]
    pub user_data: String,
    /// Storage of its own.
    #[serde(default)]
    pub volumes: Vec<VolumeRequest>,
    /// Who is told of its changes.
    #[serde(default)]
    pub webhook: Option<Webhook>,
}

/// Storage asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeRequest {
    /// Its name.
    pub name: String,
    /// Storage class; empty for the platform's default.
    #[serde(default)]
    pub class: String,
    /// How much.
    pub size_bytes: u64,
}

/// Where changes are posted, as this view in JSON.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https`, or `http` to this machine.
    pub url: String,
    /// The name of the vault's secret under which requests are signed.
    pub secret: String,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    /// Its id.
    pub id: String,
    /// The machine: what later operations name in `resource`.
    pub resource: String,
    /// The backend.
    pub adapter: String,
    /// What is wanted.
    pub verb: String,
    /// `waiting` (behind another one of the machine), `working`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    pub reason: Option<ReasonView>,
    /// How often the platform was told.
    pub calls: u32,
    /// What was seen last of the machine.
    pub machine: Option<MachineView>,
    /// Who is told.
    pub webhook_url: Option<String>,
    /// RFC 3339, UTC.
    pub begun_at: String,
    /// RFC 3339, UTC.
    pub ended_at: Option<String>,
    /// Grows with each change.
    pub revision: u32,
}

/// A machine as its platform says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineView {
    /// `pending`, `ready`, `stopped`, `released` or `failed`.
    pub state: String,
    /// The platform's name of it.
    pub handle: String,
    /// What it has.
    pub has: QuantityView,
    /// Where it can be reached.
    pub addresses: Vec<String>,
}

impl From<&Sight> for MachineView {
    fn from(sight: &Sight) -> Self {
        let state = match sight.state {
            SightState::Pending => "pending",
            SightState::Ready => "ready",
            SightState::Stopped => "stopped",
            SightState::Released => "released",
            SightState::Failed(_) => "failed",
        };
        Self {
            state: state.to_owned(),
            handle: sight.handle.clone(),
            has: sight.has.into(),
            addresses: sight.addresses.clone(),
        }
    }
}

impl From<&OperationRecord> for OperationView {
    fn from(record: &OperationRecord) -> Self {
        let (state, reason) = match &record.phase {
            OperationPhase::Waiting => ("waiting", None),
            OperationPhase::Working => ("working", None),
            OperationPhase::Done => ("done", None),
            OperationPhase::Failed(reason) => ("failed", Some(reason.into())),
        };
        let verb = match record.verb {
            Verb::Provision => "provision",
            Verb::Modify(_) => "modify",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Release => "release",
        };
        let notify = record.notify.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        Self {
            id: record.id.to_string(),
            resource: record.resource.to_string(),
            adapter: record.adapter.clone(),
            verb: verb.to_owned(),
            state: state.to_owned(),
            reason,
            calls: record.calls,
            machine: record.sight.as_ref().map(Into::into),
            webhook_url: notify.and_then(|notify| notify["url"].as_str().map(str::to_owned)),
            begun_at: rfc3339(record.begun),
            ended_at: record.ended.map(rfc3339),
            revision: record.revision,
        }
    }
}
