//! The trace id of one request on its way through all regions: taken from the caller's W3C `traceparent` where it sends
//! one, else made here; carried by every frame of the mesh that is sent on its behalf, and named in the log of each hop.

use std::fmt;

/// 16 bytes as in W3C Trace Context; all zero means none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

tokio::task_local! {
    static CURRENT: TraceId;
}

impl TraceId {
    /// No trace.
    pub const NONE: Self = Self([0; 16]);

    /// The trace of a `traceparent` header, or a new one.
    pub fn from_header(header: Option<&[u8]>) -> Self {
        header.and_then(Self::parse).unwrap_or_else(Self::random)
    }

    /// A new trace.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Whether there is one.
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }

    /// The trace of what this task serves, or none. Frames that are sent carry it; handlers run under the sender's.
    pub fn current() -> Self {
        CURRENT.try_with(|id| *id).unwrap_or_default()
    }

    /// Runs `future` as part of this trace.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Runs `call` as part of this trace.
    pub fn sync_scope<R>(self, call: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self, call)
    }

    fn parse(header: &[u8]) -> Option<Self> {
        // version(2) - trace(32) - parent(16) - flags(2), all lower-case hexadecimal
        let well_formed = header.len() >= 55 && header[2] == b'-' && header[35] == b'-' && header[52] == b'-';
        if !well_formed || &header[..2] == b"ff" {
            return None;
        }
        let bytes: [u8; 16] = data_encoding::HEXLOWER.decode(&header[3..35]).ok()?.try_into().ok()?;
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The header that passes the trace on, with `parent` as the caller's span.
    pub fn traceparent(&self, parent: u64) -> String {
        format!("00-{self}-{parent:016x}-01")
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_trace_is_kept_and_a_wrong_one_is_replaced() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceId::from_header(Some(header.as_bytes()));
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.traceparent(0x00f0_67aa_0ba9_02b7), header);
        for wrong in
            ["", "00-0-0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", &header.to_uppercase()]
        {
            assert_ne!(TraceId::from_header(Some(wrong.as_bytes())).to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        }
    }
}
