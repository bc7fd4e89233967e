//! The one place that turns errors of other rooms into problems: a status, a stable code, a hint, the wrong fields.

use super::problem::{ApiError, Code, FieldError};
use cpi::filter::FilterError;
use cpi::identifier::CpiError;
use cpi::reason::{Reason, ReasonCode};
use cpi::task::TaskDocumentError;

impl From<CpiError> for ApiError {
    fn from(error: CpiError) -> Self {
        let field = FieldError {
            field: format!("cpi.{}", error.field),
            message: error.to_string(),
            offset: Some(u64::from(error.offset)),
            expected: Some(error.expected.clone().into_owned()),
        };
        let release = error.release.map_or_else(String::new, |n| format!(" by dictionary release {n}"));
        let hint = format!("Write it as expected{release}; `causeway id encode` builds one from fields.");
        Self::field(field).hint(hint)
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        let mut problem = Self::new(Code::InvalidParameter, error.to_string());
        problem.field_errors.push(FieldError {
            field: "filter".to_owned(),
            message: error.to_string(),
            offset: Some(u64::from(error.offset)),
            expected: Some(error.expected.clone()),
        });
        match error.nearest {
            Some(nearest) => problem.hint(format!("Did you mean `{nearest}`?")),
            None => problem,
        }
    }
}

impl From<TaskDocumentError> for ApiError {
    fn from(error: TaskDocumentError) -> Self {
        let message = error.to_string();
        let (code, field) = match &error {
            TaskDocumentError::TooLarge { .. } => (Code::TooLarge, ""),
            TaskDocumentError::NotText { .. } => (Code::MalformedBody, ""),
            TaskDocumentError::UnknownField { field, .. } => (Code::Invalid, field.as_str()),
            TaskDocumentError::Malformed { message, .. } => {
                let field = message.split('`').nth(1).unwrap_or_default();
                let broken =
                    message.contains("EOF") || message.contains("expected value") || message.contains("expected `");
                (if broken { Code::MalformedBody } else { Code::Invalid }, field)
            }
        };
        let mut problem = Self::new(code, message.clone()).reason(ReasonCode::InvalidTask);
        problem.field_errors.push(FieldError::new(field, message));
        problem
    }
}

impl From<Vec<cpi::task::FieldError>> for ApiError {
    fn from(errors: Vec<cpi::task::FieldError>) -> Self {
        let detail = errors.first().map_or_else(String::new, ToString::to_string);
        let mut problem = Self::new(Code::Invalid, detail).reason(ReasonCode::InvalidTask);
        for error in errors {
            problem.field_errors.push(FieldError {
                message: error.to_string(),
                expected: error.nearest.clone(),
                field: error.field,
                offset: None,
            });
        }
        problem
    }
}

impl From<Reason> for ApiError {
    /// A refusal by the taxonomy.
    fn from(reason: Reason) -> Self {
        let code = match reason.code {
            ReasonCode::InvalidTask => Code::Invalid,
            ReasonCode::NotPermitted | ReasonCode::MemberSuspended => Code::Denied,
            ReasonCode::Busy => Code::Busy,
            ReasonCode::QuotaExceeded => Code::RateLimited,
            ReasonCode::DiskFull | ReasonCode::StagingFull => Code::DiskFull,
            ReasonCode::PlanChanged | ReasonCode::OfferExpired | ReasonCode::HoldLost | ReasonCode::Fenced => {
                Code::Conflict
            }
            ReasonCode::Internal => Code::Internal,
            ReasonCode::PeerUnreachable
            | ReasonCode::PeerTimeout
            | ReasonCode::OriginUnreachable
            | ReasonCode::NoQuorum
            | ReasonCode::AdapterDown => Code::Unavailable,
            _ => Code::Refused,
        };
        Self::new(code, reason.to_string()).reason(reason.code)
    }
}

impl From<consensus::registry::Refusal> for ApiError {
    /// What the registry refused.
    fn from(refusal: consensus::registry::Refusal) -> Self {
        use consensus::registry::Refusal as R;
        let text = refusal.to_string();
        match refusal {
            R::Invalid { field, expected } => {
                let message = format!("expected {expected}");
                Self::field(FieldError { expected: Some(expected), ..FieldError::new(field, message) })
            }
            R::UnknownSigner | R::SignerNotActive { .. } | R::ForeignEnterprise { .. } => {
                Self::new(Code::Denied, text).reason(ReasonCode::NotPermitted)
            }
            R::OwnedByOther { .. } | R::Taken { .. } | R::InvitationUsed | R::Retired { .. } | R::LastMember => {
                Self::new(Code::Conflict, text)
            }
            R::RevisionMismatch { .. } => Self::new(Code::StaleRevision, text),
            R::NotFound { .. } => Self::new(Code::NotFound, text),
            R::OtherIdentity { .. } => Self::new(Code::Invalid, text),
            R::SequenceTooOld { .. } | R::Equivocation { .. } | R::NeedsApprovals { .. } => {
                Self::new(Code::Refused, text)
            }
        }
    }
}

impl From<consensus::raft::ProposeError> for ApiError {
    fn from(error: consensus::raft::ProposeError) -> Self {
        use consensus::raft::ProposeError as P;
        let text = error.to_string();
        match error {
            P::Rejected(_) => Self::new(Code::Invalid, text),
            P::NoQuorum | P::Stopped => Self::new(Code::Unavailable, text).reason(ReasonCode::NoQuorum),
        }
    }
}

impl From<crate::identity::SignerError> for ApiError {
    fn from(error: crate::identity::SignerError) -> Self {
        Self::new(Code::DiskFull, error.to_string())
    }
}
