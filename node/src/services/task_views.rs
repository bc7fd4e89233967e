//! Tasks as people and programs see them: the JSON shapes of `/v1/tasks` and `/v1/plans`.

use cpi::reason::{Fault, Reason};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A reason with everything a person needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasonView {
    /// The stable code, for example `no_capacity_now`.
    pub code: String,
    /// The facts of this case; may be empty.
    pub detail: String,
    /// One sentence.
    pub sentence: String,
    /// What to do next.
    pub next_step: String,
    /// Who has to act: `submitter`, `provider`, `federation`, `network`, `none`.
    pub fault: String,
    /// Whether asking again later can help by itself.
    pub retryable: bool,
}

impl From<&Reason> for ReasonView {
    fn from(reason: &Reason) -> Self {
        let fault = match reason.code.fault() {
            Fault::Submitter => "submitter",
            Fault::Provider => "provider",
            Fault::Federation => "federation",
            Fault::Network => "network",
            Fault::None => "none",
        };
        Self {
            code: reason.code.code().to_owned(),
            detail: reason.detail.clone(),
            sentence: reason.code.sentence().to_owned(),
            next_step: reason.code.next_step().to_owned(),
            fault: fault.to_owned(),
            retryable: reason.code.is_retryable(),
        }
    }
}

/// Where in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlaceView {
    /// The region's name.
    pub region: String,
    /// The member's id, as in `m7`.
    pub member: String,
    /// The pool.
    pub pool: String,
    /// The server class.
    pub class: String,
    /// Which way the task is run: 0 for the main one, n for `variants[n - 1]`.
    pub variant: u16,
    /// The agreed price per hour, in millionths of the currency.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
}

/// What a run used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Elapsed.
    pub wall_ms: u64,
    /// Processor time.
    pub cpu_ms: u64,
    /// The most memory at once.
    pub memory_peak_bytes: u64,
}

/// A file brought back; its content is at the origin's artifact store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactView {
    /// Path as declared in `outputs`.
    pub path: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Its length.
    pub size_bytes: u64,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Its id: 26 characters.
    pub id: String,
    /// From its document.
    pub name: String,
    /// `pending`, `placing`, `staging`, `running`, `finishing`, `succeeded`, `failed`, `cancelled`.
    pub state: String,
    /// Why it is pending or how it ended; nothing for success.
    pub reason: Option<ReasonView>,
    /// Who submitted it.
    pub principal: String,
    /// The region that accepted it.
    pub origin: String,
    /// Where it runs or ran.
    pub place: Option<PlaceView>,
    /// The present attempt, as `epoch.member.attempt`.
    pub fence: Option<String>,
    /// Runs so far.
    pub runs: u32,
    /// What the acknowledgement is worth: `local` (the origin's disk alone; nobody takes the task over if that is lost) or
    /// `quorum` (two of the custodians' disks at least; another custodian takes the task over).
    pub durability: String,
    /// The regions that keep the task, its origin first.
    pub custodians: Vec<String>,
    /// The custodian that decides for it now.
    pub holder: String,
    /// Where the inputs are kept: `none`, `copied` to the custodians, or `origin_only`: then the task may end as
    /// `input_lost` if its origin is lost.
    pub inputs_kept: String,
    /// Whether somebody asked to cancel it.
    pub cancel_requested: bool,
    /// RFC 3339, UTC.
    pub submitted_at: String,
    /// RFC 3339, UTC.
    pub started_at: Option<String>,
    /// RFC 3339, UTC.
    pub ended_at: Option<String>,
    /// Milliseconds from the submission to the acceptance, as the origin saw it.
    pub decided_ms: Option<u64>,
    /// The program's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What the run used.
    pub usage: Option<UsageView>,
    /// Outputs that were brought back.
    pub artifacts: Vec<ArtifactView>,
}

/// A page of tasks, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskView>,
    /// How many there are in all, where it is known.
    pub total: Option<u64>,
    /// Give this back to read on.
    pub next_page_token: Option<String>,
}

/// Which tasks to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskQuery {
    /// Only tasks in this state; also `open` and `ended`.
    pub state: Option<String>,
    /// Only tasks of this principal.
    pub principal: Option<String>,
    /// Only tasks whose name begins so.
    pub name: Option<String>,
    /// Only tasks placed in this region.
    pub region: Option<String>,
    /// At most so many, 1 to 1,000. Default 50.
    pub limit: Option<u32>,
    /// Where to read on.
    pub page_token: Option<String>,
}

/// One line of a task's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Position in this node's stream of events, for resuming a watch.
    pub index: u64,
    /// The task.
    pub task: String,
    /// Position in the task's history, from 1.
    pub seq: u32,
    /// RFC 3339, UTC.
    pub at: String,
    /// Who caused it: `principal:NAME`, `origin:REGION`, `region:REGION`.
    pub actor: String,
    /// What happened, for example `declined`.
    pub kind: String,
    /// Where the task stands since.
    pub state: String,
    /// Why.
    pub reason: Option<ReasonView>,
    /// Under which fence.
    pub fence: Option<String>,
    /// Which region it is about.
    pub region: Option<String>,
    /// Which pool there.
    pub pool: Option<String>,
    /// Facts for people.
    pub detail: String,
}

/// The terms of a score, each 0 (best) to 1,000 (worst).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TermsView {
    /// Against the cheapest candidate.
    pub price: u32,
    /// How full the region is.
    pub start: u32,
    /// Moving the inputs.
    pub data: u32,
    /// Round trip.
    pub latency: u32,
    /// Carbon of the site.
    pub carbon: u32,
    /// Broken promises.
    pub keep: u32,
    /// Capacity left behind that is hard to use.
    pub fragmentation: u32,
    /// Soft wishes.
    pub affinity: u32,
    /// How long tasks waited there of late, as this region learned; weighed only where the policy says so.
    #[serde(default)]
    pub waiting: u32,
    /// How often runs failed there, likewise.
    #[serde(default)]
    pub failure: u32,
}

/// A candidate of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CandidateView {
    /// The region.
    pub region: String,
    /// Its member.
    pub member: String,
    /// Best pool there.
    pub pool: String,
    /// Best class there.
    pub class: String,
    /// Lower is better.
    pub score: u32,
    /// What it is made of.
    pub terms: TermsView,
    /// Per hour in millionths.
    pub price_hour_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// Round trip.
    pub rtt_ms: u32,
    /// `not_asked`, `asked`, `offered`, `declined`, `timed_out`, `chosen`.
    pub answer: String,
    /// Why it declined.
    pub reason: Option<ReasonView>,
}

/// A region that could not take the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusalView {
    /// The region.
    pub region: String,
    /// Its member.
    pub member: String,
    /// Why.
    pub reason: ReasonView,
    /// Which clause of the task kept it out, for example `chips`.
    pub clause: String,
}

/// How one attempt was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// Its fence.
    pub fence: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// From the first ask to the binding (or to the end of the round).
    pub took_ms: u64,
    /// Best first.
    pub candidates: Vec<CandidateView>,
    /// By member.
    pub refusals: Vec<RefusalView>,
}

/// How many regions one clause of the task kept out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClauseCount {
    /// The clause.
    pub clause: String,
    /// How many regions.
    pub regions: u32,
}

/// Why a task is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// The task.
    pub id: String,
    /// Its state.
    pub state: String,
    /// One sentence that answers the question.
    pub summary: String,
    /// The reason behind it.
    pub reason: Option<ReasonView>,
    /// What to do next.
    pub next_step: String,
    /// Newest first.
    pub attempts: Vec<AttemptView>,
    /// By the newest attempt.
    pub clauses: Vec<ClauseCount>,
}

/// An offer in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfferView {
    /// The region.
    pub region: String,
    /// Its member.
    pub member: String,
    /// Pool.
    pub pool: String,
    /// Server class.
    pub class: String,
    /// Which way the task would run.
    pub variant: u16,
    /// Per hour in millionths.
    pub price_hour_micro: u64,
    /// For the task's `max_runtime`, in millionths.
    pub cost_max_micro: u64,
    /// ISO 4217.
    pub currency: String,
    /// Expected start from now.
    pub start_in_ms: u64,
    /// `held`, `reserved` or `estimate`.
    pub firmness: String,
    /// Round trip.
    pub rtt_ms: u32,
    /// How long the region took to answer.
    pub answered_ms: u64,
    /// Bytes of input that would move.
    pub data_bytes: u64,
    /// Grams of CO2 per kWh.
    pub carbon_g_per_kwh: Option<u32>,
    /// Lower is better.
    pub score: u32,
    /// What it is made of.
    pub terms: TermsView,
    /// Whether this is the plan's choice.
    pub chosen: bool,
}

/// A plan: every offer and every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// Its id; `task run --plan ID` places exactly so.
    pub id: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// Whether any region would take the task now.
    pub feasible: bool,
    /// Why not, in one reason.
    pub reason: Option<ReasonView>,
    /// Best first.
    pub offers: Vec<OfferView>,
    /// By member.
    pub refusals: Vec<RefusalView>,
    /// How many regions each clause kept out.
    pub clauses: Vec<ClauseCount>,
    /// Seconds for which the choice is held; 0 if nothing is.
    pub held_for_s: u64,
    /// From the request to the result.
    pub took_ms: u64,
}

/// The answer to a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    /// The task.
    pub task: TaskView,
    /// False if the same key was used before: the earlier task is shown.
    pub created: bool,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPiece {
    /// Offset of the first byte.
    pub offset: u64,
    /// The bytes, as they are.
    #[schema(value_type = Vec<u8>)]
    pub bytes: bytes::Bytes,
    /// Whether the log is complete and nothing follows.
    pub end: bool,
    /// The region it was read from.
    pub region: String,
}
