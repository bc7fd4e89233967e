//! Why a custodian refused a step. One enum per verb.

use cpi::ids::{Epoch, Fence, MemberId};

/// Why a fence or epoch was not promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromiseError {
    /// A higher epoch was promised to somebody already.
    #[error("epoch {} of {} is lower than the promised {} of {}", asked.counter, asked.member, promised.counter, promised.member)]
    Lower {
        /// What was asked for.
        asked: Epoch,
        /// What holds.
        promised: Epoch,
    },
    /// The task has ended: there is nothing left to decide.
    #[error("the task has ended")]
    Ended,
}

/// Why a provider was not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A newer attempt supersedes this fence.
    #[error("fence {asked} is superseded by {current}")]
    Fenced {
        /// The fence of the request.
        asked: Fence,
        /// The newest fence on record.
        current: Fence,
    },
    /// Another provider is bound under this very fence.
    #[error("{holder} is bound under fence {fence} already")]
    Taken {
        /// The fence.
        fence: Fence,
        /// Who holds it.
        holder: MemberId,
    },
    /// The task was cancelled.
    #[error("the task was cancelled")]
    Cancelled,
    /// The task has ended.
    #[error("the task has ended")]
    Ended,
}

/// Why a cancellation was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// The task has ended.
    #[error("the task has ended")]
    Ended,
}

/// Why a result was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// The result comes from a run under another fence than the bound one.
    #[error("a result under fence {asked} is not accepted: {}", bound.map_or_else(|| "nothing is bound".to_owned(), |f| format!("fence {f} is bound")))]
    Fenced {
        /// The fence of the result.
        asked: Fence,
        /// The bound fence, if any.
        bound: Option<Fence>,
    },
    /// Another result was accepted before.
    #[error("the task has ended with another result")]
    Ended,
}
