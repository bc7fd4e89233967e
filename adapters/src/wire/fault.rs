//! Errors on the wire: a gRPC status with a `Fault` inside.

use super::proto;
use crate::contract::AdapterError;
use cpi::reason::{Fault, Reason, ReasonCode};
use prost::Message as _;
use tonic::{Code, Status};

fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Submitter => "submitter",
        Fault::Provider => "provider",
        Fault::Federation => "federation",
        Fault::Network => "network",
        Fault::None => "none",
    }
}

pub(crate) fn reason_to_wire(reason: &Reason) -> proto::Reason {
    proto::Reason { code: reason.code.code().to_owned(), detail: reason.detail.clone() }
}

/// A code that this release does not know becomes `internal`, with the code in the detail.
pub(crate) fn reason_from_wire(reason: proto::Reason) -> Reason {
    match ReasonCode::ALL.iter().find(|known| known.code() == reason.code) {
        Some(code) => Reason::new(*code, printable(&reason.detail)),
        None => Reason::new(
            ReasonCode::Internal,
            format!("unknown reason {:?}: {}", printable(&reason.code), printable(&reason.detail)),
        ),
    }
}

/// Text of another process without control characters, cut to the length of a detail.
fn printable(text: &str) -> String {
    text.chars().take(Reason::DETAIL_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What a plugin answers with for `error`.
pub fn status_of(error: &AdapterError) -> Status {
    let code = match error.reason.code {
        ReasonCode::InvalidTask | ReasonCode::InputCorrupt => Code::InvalidArgument,
        ReasonCode::BackendUnsupported => Code::Unimplemented,
        ReasonCode::NotPermitted => Code::PermissionDenied,
        ReasonCode::NoCapacityNow | ReasonCode::QuotaExceeded => Code::ResourceExhausted,
        ReasonCode::RunLost => Code::NotFound,
        ReasonCode::AdapterDown => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    let fault = proto::Fault {
        retryable: error.retryable,
        fault: fault_name(error.reason.code.fault()).to_owned(),
        reason: Some(reason_to_wire(&error.reason)),
    };
    Status::with_details(code, error.reason.code.code(), fault.encode_to_vec().into())
}

/// What a plugin refused with, where `status` comes from the plugin; `None` where the plugin does not work: it is gone,
/// hangs, or breaks the protocol.
pub fn fault_of(status: &Status) -> Option<AdapterError> {
    if status.details().is_empty() {
        return None;
    }
    let fault = proto::Fault::decode(status.details()).ok()?;
    Some(AdapterError { retryable: fault.retryable, reason: reason_from_wire(fault.reason?) })
}
