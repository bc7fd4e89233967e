//! Tasks and pools behind their ports: errors become problems here.

use super::ports::{PoolPort, TaskPort};
use super::problem::{ApiError, Code, FieldError};
use crate::drivers::negotiation::HandleError;
use crate::services::logs::ReadLogError;
use crate::services::pool_views::{InventoryView, PoolView};
use crate::services::pools::{PoolError, PoolService};
use crate::services::task_views::{
    EventView, ExplainView, LogPiece, PlanView, Submitted, TaskPage, TaskQuery, TaskView,
};
use crate::services::tasks::{TaskError, TaskService};
use adapters::contract::LogStream;
use async_trait::async_trait;
use cpi::ids::{PlanId, TaskId};
use cpi::reason::ReasonCode;
use cpi::task::TaskSpec;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Events that a slow reader may lag behind.
const EVENTS_LAG_MAX: usize = 8_192;

impl From<HandleError> for ApiError {
    fn from(error: HandleError) -> Self {
        match error {
            HandleError::Busy => Self::new(Code::Busy, error.to_string()).reason(ReasonCode::Busy),
            HandleError::Stopped => Self::new(Code::Unavailable, error.to_string()),
        }
    }
}

impl From<TaskError> for ApiError {
    fn from(error: TaskError) -> Self {
        let detail = error.to_string();
        match error {
            TaskError::NotFound { id } => Self::not_found(format!("task {id} at this node")),
            TaskError::Invalid(errors) => errors.into(),
            TaskError::TooLong { .. } => Self::new(Code::TooLarge, detail).reason(ReasonCode::InvalidTask),
            TaskError::Filter(error) => error.into(),
            TaskError::InputMissing { path, .. } => {
                Self::field(FieldError::new(format!("inputs.{path}"), detail)).reason(ReasonCode::InputLost)
            }
            TaskError::KeyReused { .. } | TaskError::KeyOutlives { .. } => Self::new(Code::IdempotencyMismatch, detail),
            TaskError::Key => Self::parameter("Idempotency-Key", detail),
            TaskError::Refused(reason) => reason.into(),
            TaskError::PageToken => Self::new(Code::InvalidPageToken, detail),
            TaskError::Gone => Self::new(Code::Gone, detail),
            TaskError::Driver(error) => error.into(),
            TaskError::Records(error) => {
                tracing::error!(%error, "the node's rows cannot be read");
                Self::new(Code::Internal, detail)
            }
            TaskError::Log(ReadLogError::Peer { .. } | ReadLogError::Answer { .. }) => {
                Self::new(Code::Unavailable, detail).reason(ReasonCode::PeerUnreachable)
            }
            TaskError::Log(ReadLogError::Refused(_)) => Self::new(Code::Unavailable, detail),
            TaskError::State { .. } => Self::parameter("state", detail),
            TaskError::Space(error) => error.into(),
            TaskError::Disk(_) => Self::new(Code::DiskFull, detail).reason(ReasonCode::DiskFull),
        }
    }
}

impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::NotFound { .. } => Self::new(Code::NotFound, error.to_string()),
            PoolError::Driver(error) => error.into(),
        }
    }
}

/// Tasks behind their port.
pub struct Tasks {
    service: Arc<TaskService>,
    events: broadcast::Sender<EventView>,
}

impl Tasks {
    /// The port over a service; its task of event views ends with `stop`.
    pub fn start(service: Arc<TaskService>, stop: CancellationToken) -> Self {
        let events = broadcast::channel(EVENTS_LAG_MAX).0;
        let sender = events.clone();
        let mut watch = service.watch();
        let shown = Arc::clone(&service);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    () = stop.cancelled() => return,
                    next = watch.recv() => next,
                };
                match next {
                    // Rendering is only for those who watch.
                    Ok((index, event)) if sender.receiver_count() > 0 => {
                        let _ = sender.send(shown.show_event(index, &event));
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Self { service, events }
    }
}

#[async_trait]
impl TaskPort for Tasks {
    async fn submit(
        &self,
        principal: &str,
        idempotency_key: Option<String>,
        spec: TaskSpec,
        plan: Option<PlanId>,
    ) -> Result<Submitted, ApiError> {
        Ok(self.service.submit(principal, idempotency_key, spec, plan).await?)
    }

    async fn plan(&self, _: &str, spec: TaskSpec) -> Result<PlanView, ApiError> {
        Ok(self.service.plan(spec).await?)
    }

    async fn get(&self, id: TaskId) -> Result<TaskView, ApiError> {
        Ok(self.service.get(id)?)
    }

    async fn list(&self, query: TaskQuery) -> Result<TaskPage, ApiError> {
        Ok(self.service.list(&query)?)
    }

    async fn events(&self, id: TaskId, after_seq: u32, limit: usize) -> Result<Vec<EventView>, ApiError> {
        Ok(self.service.events(id, after_seq, limit)?)
    }

    async fn events_from(&self, index: u64, limit: usize) -> Result<Vec<EventView>, ApiError> {
        Ok(self.service.events_from(index, limit)?)
    }

    fn subscribe(&self) -> broadcast::Receiver<EventView> {
        self.events.subscribe()
    }

    async fn explain(&self, id: TaskId) -> Result<ExplainView, ApiError> {
        Ok(self.service.explain(id)?)
    }

    async fn cancel(&self, principal: &str, id: TaskId) -> Result<TaskView, ApiError> {
        Ok(self.service.cancel(principal, id).await?)
    }

    async fn logs(&self, id: TaskId, stream: LogStream, offset: u64, bytes_max: usize) -> Result<LogPiece, ApiError> {
        Ok(self.service.logs(id, stream, offset, bytes_max).await?)
    }
}

#[async_trait]
impl PoolPort for PoolService {
    async fn list(&self, own_only: bool) -> Result<Vec<PoolView>, ApiError> {
        Ok(PoolService::list(self, own_only).await?)
    }

    async fn inventory(&self, pool: &str) -> Result<InventoryView, ApiError> {
        Ok(PoolService::inventory(self, pool).await?)
    }

    async fn cordon(&self, pool: &str) -> Result<PoolView, ApiError> {
        Ok(PoolService::cordon(self, pool, true).await?)
    }

    async fn uncordon(&self, pool: &str) -> Result<PoolView, ApiError> {
        Ok(PoolService::cordon(self, pool, false).await?)
    }

    async fn drain(&self, pool: &str) -> Result<PoolView, ApiError> {
        // Draining a pool: nothing new gets in, and what runs is let end.
        Ok(PoolService::cordon(self, pool, true).await?)
    }

    async fn cordon_region(&self, cordoned: bool) -> Result<Vec<PoolView>, ApiError> {
        Ok(self.drain_region(cordoned).await?)
    }
}
