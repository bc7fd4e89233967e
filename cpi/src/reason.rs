//! The one taxonomy of reasons: every decline, pending state, failure and end of a task carries one of these codes.
//!
//! Codes are stable text. Each has a precedence (the smaller is shown first where several apply), a sentence for
//! people, and a next step; `docs/reasons/` has a page for each. Nothing else in Causeway invents a code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which side has to act before the task can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The submitter's document or program.
    Submitter,
    /// The region that was asked or that ran the task.
    Provider,
    /// The federation: membership, registry, policy.
    Federation,
    /// The network between regions.
    Network,
    /// Nobody: a normal state.
    None,
}

macro_rules! reasons {
    ($($variant:ident, $code:literal, $precedence:literal, $fault:ident, $retryable:literal, $sentence:literal, $next:literal;)*) => {
        /// A reason code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ReasonCode {
            $(#[doc = $sentence] #[serde(rename = $code)] $variant,)*
        }

        impl ReasonCode {
            /// All codes in the order of their precedence table.
            pub const ALL: &'static [ReasonCode] = &[$(ReasonCode::$variant,)*];

            /// The stable text, snake_case.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// 0 to 99; where several reasons apply, the smaller one is shown first.
            pub fn precedence(self) -> u8 {
                match self { $(Self::$variant => $precedence,)* }
            }

            /// Who has to act.
            pub fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }

            /// Whether asking again later can help without a change by anybody.
            pub fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }

            /// One sentence for people.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What to do next.
            pub fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

reasons! {
    InvalidTask, "invalid_task", 1, Submitter, false, "The task document is not valid.", "Run `causeway task validate FILE`; it names the field.";
    NotPermitted, "not_permitted", 2, Federation, false, "The caller or its region may not do this.", "Ask an administrator of the federation for the right.";
    MemberSuspended, "member_suspended", 3, Federation, false, "The region's membership is suspended or ended.", "See `causeway member list`; an administrator can resume it.";
    ResidencyViolated, "residency_violated", 4, Submitter, false, "The region lies outside the task's residency.", "Widen `placement.residency`, or wait for a region inside it.";
    RegionExcluded, "region_excluded", 5, Submitter, false, "The task's placement excludes this region.", "Change `placement.regions`, `cities` or `exclude_regions`.";
    FilterMismatch, "filter_mismatch", 6, Submitter, false, "No identifier of the region matches the task's filter.", "Try the filter with `causeway id search`.";
    ChipUnavailable, "chip_unavailable", 7, Submitter, false, "The region has no chip of the asked model or kind.", "Ask for another chip, a kind, or add a variant.";
    ShapeTooLarge, "shape_too_large", 8, Submitter, false, "No server of the region is large enough, even empty.", "Ask for less per task, or split it.";
    BackendUnsupported, "backend_unsupported", 9, Provider, false, "The pool's backend cannot run this kind of task.", "Use a command instead of an image, or another pool.";
    PolicyRefused, "policy_refused", 10, Provider, false, "The region's policy refuses this task.", "Ask the region's operator, or name other regions.";
    BudgetExceeded, "budget_exceeded", 11, Submitter, false, "The price is over the task's budget.", "Raise `budget`, or choose cheaper regions.";
    QuotaExceeded, "quota_exceeded", 12, Provider, true, "The origin's quota at this region is used up.", "Wait for own tasks to end, or ask the operator for more.";
    DeadlineTooSoon, "deadline_too_soon", 13, Submitter, false, "The task cannot start before its deadline.", "Set a later `deadline`.";
    PoolCordoned, "pool_cordoned", 20, Provider, true, "The pool takes no new work for now.", "Wait, or ask the operator to uncordon it.";
    RegionDraining, "region_draining", 21, Provider, true, "The region is being drained.", "Other regions are asked by themselves.";
    NoCapacityNow, "no_capacity_now", 22, Provider, true, "All fitting servers are taken at the moment.", "The task waits and asks again; see its position with `task explain`.";
    Fragmented, "fragmented", 23, Provider, true, "Enough is free in total, but not on one server.", "Ask for a smaller shape, or wait.";
    ChipsHeld, "chips_held", 24, Provider, true, "The last fitting capacity is on hold for another task.", "Holds last seconds; the task asks again by itself.";
    Contended, "contended", 25, Provider, true, "The shape is contended, and the region compares before it commits.", "Nothing: the origin asks for an offer instead.";
    Busy, "busy", 26, Provider, true, "The region is overloaded and sheds new questions.", "Nothing: it is asked again after the time it named.";
    StagingFull, "staging_full", 27, Provider, true, "The region has no room to stage the inputs.", "Send smaller inputs, or wait.";
    AdapterDown, "adapter_down", 28, Provider, true, "The pool's backend does not answer.", "The operator sees it in `causeway doctor`.";
    HoldLost, "hold_lost", 30, Provider, true, "The offered capacity is no longer there.", "The next offer is taken by itself.";
    OfferExpired, "offer_expired", 31, None, true, "The offer or plan was used after its hold ended.", "Make a new plan.";
    PlanChanged, "plan_changed", 32, None, false, "The placement would differ from the plan.", "Look at the difference, then run without the plan or plan again.";
    Fenced, "fenced", 33, None, false, "A newer attempt of the task supersedes this one.", "Nothing: the newer attempt counts.";
    PeerUnreachable, "peer_unreachable", 40, Network, true, "The region does not answer.", "It is asked again when it is back; see `causeway member list`.";
    PeerTimeout, "peer_timeout", 41, Network, true, "The region did not answer before its time was over.", "It is asked again later.";
    OriginUnreachable, "origin_unreachable", 42, Network, true, "The region that accepted the task cannot be reached.", "Ask again with the same idempotency key when it is back.";
    NoQuorum, "no_quorum", 43, Federation, true, "The registry has no quorum at the moment.", "What was accepted is kept and committed when a quorum is back.";
    NoCandidates, "no_candidates", 44, Federation, true, "No region of the federation can take the task.", "`task explain` lists every region with its reason.";
    WaitingForInputs, "waiting_for_inputs", 50, None, true, "Inputs are on their way to the region.", "Nothing: watch `task events`.";
    InputLost, "input_lost", 51, Submitter, false, "An input can no longer be had from anywhere.", "Submit the task again with its inputs.";
    InputCorrupt, "input_corrupt", 52, Network, true, "An input did not match its digest.", "It is fetched again by itself.";
    StartFailed, "start_failed", 60, Submitter, false, "The command could not be started.", "Check that the command exists and is executable; see `task logs`.";
    ExitNonzero, "exit_nonzero", 61, Submitter, false, "The program ended with an exit code other than 0.", "See `task logs`.";
    KilledBySignal, "killed_by_signal", 62, Submitter, false, "The program was ended by a signal.", "See `task logs`.";
    Oom, "oom", 63, Submitter, false, "The program used more memory than it had asked for.", "Raise `resources.memory`.";
    TimeLimit, "time_limit", 64, Submitter, false, "The program ran longer than its `max_runtime`.", "Raise `max_runtime`.";
    OutputMissing, "output_missing", 65, Submitter, false, "A declared output was not written.", "Check `outputs` against what the program writes.";
    Cancelled, "cancelled", 70, None, false, "The task was cancelled.", "Nothing.";
    DeadlinePassed, "deadline_passed", 71, None, false, "The deadline passed before the task could end.", "Set a later `deadline`; `task explain` shows what stood in the way.";
    RunLost, "run_lost", 72, Provider, true, "The region or its run was lost.", "Another attempt is made by itself while attempts are left.";
    AttemptsExhausted, "attempts_exhausted", 73, Provider, false, "All attempts were used up.", "`task events` shows why each one ended.";
    DiskFull, "disk_full", 80, Provider, true, "The node's disk is full or cannot be written.", "The operator frees space; nothing acknowledged was lost.";
    Internal, "internal", 99, Provider, true, "Something failed that should not.", "Send the trace id to the operator of the region.";
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A code with the facts of this case. `detail` is at most [`Reason::DETAIL_CHARS_MAX`] characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// What happened.
    pub code: ReasonCode,
    /// The facts of this case, for people. May be empty.
    pub detail: String,
}

impl Reason {
    /// Longer details are cut, because they come from other regions.
    pub const DETAIL_CHARS_MAX: usize = 400;

    /// A reason with facts; cuts `detail` to its bound.
    pub fn new(code: ReasonCode, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if let Some((cut, _)) = detail.char_indices().nth(Self::DETAIL_CHARS_MAX) {
            detail.truncate(cut);
        }
        Self { code, detail }
    }
}

impl From<ReasonCode> for Reason {
    fn from(code: ReasonCode) -> Self {
        Self { code, detail: String::new() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.code.sentence())
        } else {
            write!(f, "{} ({})", self.code.sentence(), self.detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ordered_by_precedence() {
        for pair in ReasonCode::ALL.windows(2) {
            assert!(pair[0].precedence() < pair[1].precedence(), "{} before {}", pair[0], pair[1]);
            assert_ne!(pair[0].code(), pair[1].code());
        }
    }

    #[test]
    fn details_from_elsewhere_are_cut() {
        assert_eq!(Reason::new(ReasonCode::Busy, "é".repeat(1000)).detail.chars().count(), Reason::DETAIL_CHARS_MAX);
    }
}
