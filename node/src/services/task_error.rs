//! Why a verb on tasks failed.

use super::artifacts::PutError;
use super::logs::ReadLogError;
use crate::drivers::custody::TaskRecordsError;
use crate::drivers::negotiation::HandleError;
use consensus::negotiation::DOCUMENT_BYTES_MAX;
use cpi::filter::FilterError;
use cpi::ids::TaskId;
use cpi::reason::Reason;
use cpi::task::FieldError;

/// The longest idempotency key, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// Why a verb on tasks failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// There is no such task at this node.
    #[error("there is no task {id} at this node; ask the region that accepted it")]
    NotFound {
        /// The id asked for.
        id: TaskId,
    },
    /// Fields of the document are wrong.
    #[error("the task document is not valid: {}", .0.first().map_or_else(String::new, ToString::to_string))]
    Invalid(Vec<FieldError>),
    /// The document is too long.
    #[error(
        "the task document has {bytes} bytes, at most {DOCUMENT_BYTES_MAX} are allowed: put large content into inputs"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A filter of the placement is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An input is not in this node's artifact store.
    #[error("the content of input {path} is not here: upload {digest} first")]
    InputMissing {
        /// The input's path.
        path: String,
        /// Its digest, as the document says.
        digest: String,
    },
    /// The idempotency key was used for another document.
    #[error("the idempotency key was used for task {task} with another document")]
    KeyReused {
        /// The earlier task.
        task: TaskId,
    },
    /// The task submitted under the idempotency key was cleared away before the key.
    #[error("the idempotency key was used for task {task}, which has ended and is no longer kept")]
    KeyOutlives {
        /// The earlier task.
        task: TaskId,
    },
    /// The idempotency key is too long or empty.
    #[error("an idempotency key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// Refused with a reason of the taxonomy.
    #[error("{0}")]
    Refused(Reason),
    /// No task is ever in this state.
    #[error(
        "{state:?} is no state of a task: expected pending, placing, staging, running, finishing, succeeded, failed, cancelled, open or ended"
    )]
    State {
        /// As asked.
        state: String,
    },
    /// The page token is not one of this list.
    #[error("the page token was not given by this list")]
    PageToken,
    /// The events asked for are no longer kept.
    #[error("the events asked for are no longer kept: list again, then watch from now")]
    Gone,
    /// The driver cannot answer.
    #[error(transparent)]
    Driver(#[from] HandleError),
    /// The node's rows cannot be read.
    #[error(transparent)]
    Records(#[from] TaskRecordsError),
    /// A log cannot be read.
    #[error("the log cannot be read now")]
    Log(#[from] ReadLogError),
    /// Too little space is free.
    #[error(transparent)]
    Space(#[from] PutError),
    /// The disk failed.
    #[error("the node's disk cannot be used")]
    Disk(#[from] std::io::Error),
}
