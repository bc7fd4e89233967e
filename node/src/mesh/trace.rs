//! The trace id that travels with every frame, so that one submission can be followed through all nodes it touches.

use std::future::Future;

/// 16 bytes as in W3C Trace Context; all zero means none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct TraceId(pub [u8; 16]);

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::fmt::Debug for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TraceId({self})")
    }
}

tokio::task_local! {
    static CURRENT: TraceId;
}

impl TraceId {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The trace id of the running task, or none. Frames that are sent carry it; handlers run under the sender's.
    pub fn current() -> Self {
        CURRENT.try_with(|id| *id).unwrap_or_default()
    }

    /// Runs `future` under this trace id.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Runs `call` under this trace id.
    pub fn sync_scope<R>(self, call: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self, call)
    }
}
