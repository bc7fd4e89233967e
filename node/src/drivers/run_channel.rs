//! The words between the negotiation driver and the run executor of this region.
//!
//! Commands may be repeated and are idempotent by [`RunKey`]; reports may be late or repeated. The executor never talks
//! to peers about a task except to fetch its inputs; what it reports reaches the origin through the negotiation.

use crate::trace::TraceId;
use adapters::contract::RunKey;
use bytes::Bytes;
use consensus::negotiation::RunOutcome;
use cpi::ids::{LeaseId, MemberId};
use cpi::reason::Reason;
use cpi::resource::Quantity;
use tokio::time::Instant;

/// Everything the executor needs to know of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLease {
    /// The run's tag.
    pub key: RunKey,
    /// The request that brought it, for logs; none after a restart.
    pub trace: TraceId,
    /// The lease it runs under.
    pub lease: LeaseId,
    /// Whose task: inputs are fetched from its artifact store (this node itself for own tasks).
    pub origin: MemberId,
    /// Who keeps the task beside it: they have copies of small inputs, and may read logs and results.
    pub custodians: Vec<MemberId>,
    /// Pool by name.
    pub pool: String,
    /// Server class by name.
    pub class: String,
    /// Which way to run it: 0 for the document's main resources and command, n for `variants[n - 1]`.
    pub variant: u16,
    /// What it may use.
    pub need: Quantity,
    /// The task document (`cpi::task::TaskSpec`) as JSON text.
    pub document: Bytes,
    /// Time to live of the lease from now.
    pub lease_ttl_ms: u64,
    /// Whether a lapse freezes the run (`on_partition = stop`).
    pub freeze_on_lapse: bool,
}

impl RunLease {
    /// Who may read the run's logs and results: whoever decides for the task, and all who may come to.
    pub fn readers(&self) -> Vec<MemberId> {
        let others = self.custodians.iter().filter(|m| **m != self.origin);
        std::iter::once(&self.origin).chain(others).copied().collect()
    }
}

/// What the executor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCommand {
    /// Fetch and verify the inputs; report `Staged`. Nothing is started.
    Prepare(Box<RunLease>),
    /// Start the run once it is staged; report `Started`, and `Ended` at the end. Follows its `Prepare`.
    Start {
        /// Which run.
        key: RunKey,
        /// Until when its lease lets it run.
        until: Instant,
    },
    /// After a restart of the node: find the run again and report where it stands. Never start it anew: a run that cannot
    /// be found is `Lost`.
    Reattach(Box<RunLease>),
    /// These leases go on until then; frozen runs thaw. An instant, so that what waits on the way does not lengthen a run.
    Renew {
        /// Which runs.
        keys: Vec<RunKey>,
        /// Until when they may run.
        until: Instant,
    },
    /// End the run and all it started; report `Ended` with [`cpi::reason::ReasonCode::Cancelled`], also if it never
    /// started.
    Cancel(RunKey),
    /// Forget the run: its folder, its staged inputs, what only it had in the artifact store.
    Release(RunKey),
}

/// What the executor reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    /// Which run.
    pub key: RunKey,
    /// What happened.
    pub state: RunReportState,
}

/// What happened to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunReportState {
    /// The inputs are there and verified.
    Staged,
    /// Staging or starting failed before the program ran.
    Failed(Reason),
    /// The program runs.
    Started,
    /// The lease lapsed and the run is frozen.
    Frozen,
    /// It is over. Outputs and logs (`stdout`, `stderr`) lie in this node's artifact store under the digests named.
    Ended(Box<RunOutcome>),
    /// The run cannot be found and will not come back.
    Lost(Reason),
}
