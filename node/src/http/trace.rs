//! Trace ids by W3C `traceparent`: taken from the caller where it sends one, else made here.

use std::fmt;

/// 16 bytes that name one request on its way through all regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

tokio::task_local! {
    static CURRENT: TraceId;
}

impl TraceId {
    /// The trace of a `traceparent` header, or a new one.
    pub fn from_header(header: Option<&[u8]>) -> Self {
        header.and_then(Self::parse).unwrap_or_else(Self::random)
    }

    /// A new trace.
    pub fn random() -> Self {
        let mut bytes = [0_u8; 16];
        rand::fill(&mut bytes);
        Self(bytes)
    }

    /// The trace of the request that this task serves, where there is one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|id| *id).ok()
    }

    /// Runs `future` as part of this trace.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
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
