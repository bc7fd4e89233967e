//! What services hold: hands wishes to the driver and waits for its answers.

use super::board::TaskBoard;
use super::driver::{Control, Switch};
use crate::trace::TraceId;
use arc_swap::ArcSwap;
use consensus::custody::Durability;
use consensus::negotiation::{
    Attempt, LeasePhase, OriginStats, PlanRequest, PlanResult, PoolDigest, ProviderStats, Submission,
};
use cpi::ids::{MemberId, TaskId};
use cpi::reason::Reason;
use cpi::resource::Quantity;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a caller waits for room in the driver's queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// The driver cannot answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Too much waits already.
    #[error("the node has too much to negotiate already")]
    Busy,
    /// The node is stopping, or its disk failed.
    #[error("the negotiation has stopped")]
    Stopped,
}

/// Why a task was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The driver cannot answer.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// The machine refused it.
    #[error("{0}")]
    Refused(Reason),
}

/// Why a task was not cancelled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// The driver cannot answer.
    #[error(transparent)]
    Handle(#[from] HandleError),
}

/// A pool of some region as the machine knows it.
#[derive(Debug, Clone)]
pub struct PoolState {
    /// Whose.
    pub member: MemberId,
    /// Its figures.
    pub digest: PoolDigest,
    /// Whether the region takes no new work.
    pub draining: bool,
    /// Age of the figures.
    pub age_ms: u64,
    /// Whether they are too old to be believed.
    pub stale: bool,
    /// The backend, for own pools.
    pub backend: Option<String>,
    /// Runs, for own pools.
    pub runs: Option<u32>,
}

/// A run that this region provides.
#[derive(Debug, Clone)]
pub struct ProviderRun {
    /// Its tag.
    pub attempt: Attempt,
    /// Whose task.
    pub origin: MemberId,
    /// Pool.
    pub pool: String,
    /// Class.
    pub class: String,
    /// Server of the class.
    pub server: u32,
    /// What it takes.
    pub quantity: Quantity,
    /// How far it came.
    pub phase: LeasePhase,
}

/// What metrics show of the machine; a picture taken five times a second.
#[derive(Debug, Clone, Default)]
pub struct NegotiationGauges {
    /// Holds of this region's capacity.
    pub holds: usize,
    /// Leases of this region's capacity.
    pub leases: usize,
    /// Runs that ended here since the start: of own tasks, and of other regions' tasks.
    pub runs_ended: (u64, u64),
    /// Per `pool/class`: total, free, largest fit.
    pub capacity: Vec<(String, Quantity, Quantity, Quantity)>,
}

/// Hands wishes to the negotiation driver. Cheap to clone.
#[derive(Clone)]
pub struct NegotiationHandle {
    pub(super) gauges: Arc<ArcSwap<NegotiationGauges>>,
    pub(super) control: mpsc::Sender<Control>,
    pub(super) work: mpsc::Sender<Control>,
    pub(super) board: Arc<TaskBoard>,
}

impl NegotiationHandle {
    /// What metrics show.
    pub fn gauges(&self) -> Arc<NegotiationGauges> {
        self.gauges.load_full()
    }

    /// Tasks as they stand.
    pub fn board(&self) -> &Arc<TaskBoard> {
        &self.board
    }

    /// Hands a task in; returns once it is on disk, with what that is worth.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, submission: Submission) -> Result<Durability, SubmitError> {
        let (answer, waiting) = oneshot::channel();
        self.send(&self.work, Control::Submit(Box::new(submission), TraceId::current(), answer)).await?;
        waiting.await.map_err(|_| HandleError::Stopped)?.map_err(SubmitError::Refused)
    }

    /// Makes a plan.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn plan(&self, request: PlanRequest) -> Result<PlanResult, HandleError> {
        let (answer, waiting) = oneshot::channel();
        self.send(&self.work, Control::Plan(Box::new(request), answer)).await?;
        waiting.await.map_err(|_| HandleError::Stopped)
    }

    /// Wants a task ended.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn cancel(&self, task: TaskId, principal: String) -> Result<(), HandleError> {
        let (answer, waiting) = oneshot::channel();
        self.send(&self.control, Control::Cancel(task, principal, answer)).await?;
        waiting.await.map_err(|_| HandleError::Stopped)
    }

    /// All pools that are known.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn pools(&self) -> Result<Vec<PoolState>, HandleError> {
        let (answer, waiting) = oneshot::channel();
        self.send(&self.control, Control::ReadPools(answer)).await?;
        waiting.await.map_err(|_| HandleError::Stopped)
    }

    /// Runs that this region provides.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn runs(&self) -> Result<Vec<ProviderRun>, HandleError> {
        let (answer, waiting) = oneshot::channel();
        self.send(&self.control, Control::ReadRuns(answer)).await?;
        waiting.await.map_err(|_| HandleError::Stopped)
    }

    /// Counters of both parts.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn stats(&self) -> Result<(OriginStats, ProviderStats, usize), HandleError> {
        let (answer, waiting) = oneshot::channel();
        self.send(&self.control, Control::ReadStats(answer)).await?;
        waiting.await.map_err(|_| HandleError::Stopped)
    }

    /// Closes a pool of this region for new work, or opens it; on disk when it returns, and so kept over restarts.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn cordon(&self, pool: &str, on: bool) -> Result<(), HandleError> {
        self.switch(Switch::Cordon { pool: pool.to_owned(), on }).await
    }

    /// Closes this region for new work, or opens it; on disk when it returns, and so kept over restarts.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn drain(&self, on: bool) -> Result<(), HandleError> {
        self.switch(Switch::Draining { on }).await
    }

    async fn switch(&self, switch: Switch) -> Result<(), HandleError> {
        let (answer, waiting) = oneshot::channel();
        self.send(&self.control, Control::Switch(switch, answer)).await?;
        waiting.await.map_err(|_| HandleError::Stopped)
    }

    /// Feeds something that the registry, the mesh or an adapter tells.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn feed(&self, input: consensus::negotiation::Input) -> Result<(), HandleError> {
        self.send(&self.control, Control::Feed(Box::new(input))).await
    }

    async fn send(&self, queue: &mpsc::Sender<Control>, control: Control) -> Result<(), HandleError> {
        match tokio::time::timeout(PATIENCE, queue.send(control)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(HandleError::Stopped),
            Err(_) => Err(HandleError::Busy),
        }
    }
}
