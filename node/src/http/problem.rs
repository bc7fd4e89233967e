//! The one shape of every error: RFC 9457 problem details with a stable code, a hint and a trace id.
//!
//! The codes here are those of the interface itself; where the taxonomy of `cpi::reason` applies, it stands in `reason`.

use cpi::reason::ReasonCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where the page of a code is found.
pub const TYPE_BASE: &str = "https://causeway.network/problems/";

macro_rules! codes {
    ($($variant:ident, $code:literal, $status:literal, $retryable:literal, $title:literal, $hint:literal;)*) => {
        /// A stable code of the interface.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Code] = &[$(Self::$variant,)*];

            /// The stable text.
            pub fn text(self) -> &'static str { match self { $(Self::$variant => $code,)* } }

            /// The HTTP status.
            pub fn status(self) -> u16 { match self { $(Self::$variant => $status,)* } }

            /// Whether the same call may succeed later.
            pub fn is_retryable(self) -> bool { match self { $(Self::$variant => $retryable,)* } }

            /// A few words for people.
            pub fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }

            /// What to do next.
            pub fn hint(self) -> &'static str { match self { $(Self::$variant => $hint,)* } }
        }
    };
}

codes! {
    MalformedBody, "malformed_body", 400, false, "The body is not the expected JSON", "See /v1/openapi.json for the shape of the body.";
    InvalidParameter, "invalid_parameter", 400, false, "A parameter is not valid", "`field_errors` names the parameter and what was expected.";
    InvalidPageToken, "invalid_page_token", 400, false, "The page token is not valid here", "Start again without `page_token`; a token belongs to one list and its filter.";
    Unauthenticated, "unauthenticated", 401, false, "A valid API key is missing", "Send `Authorization: Bearer KEY`; the key is in the node's data folder, file api.key.";
    Denied, "denied", 403, false, "The caller may not do this", "Ask the operator of the node or an administrator of the federation.";
    NotFound, "not_found", 404, false, "There is no such thing", "Check the name; the matching list shows what exists.";
    NoRoute, "no_route", 404, false, "There is no such path", "See /v1/openapi.json for all paths.";
    MethodNotAllowed, "method_not_allowed", 405, false, "The path does not have this method", "See /v1/openapi.json for the methods of the path.";
    Conflict, "conflict", 409, false, "It conflicts with what is there", "Read the current state, then decide again.";
    IdempotencyMismatch, "idempotency_mismatch", 409, false, "The idempotency key was used for another request", "Use a new `Idempotency-Key` for a new request.";
    Gone, "gone", 410, false, "The events asked for are no longer kept", "Read the list again, then watch without `from`.";
    StaleRevision, "stale_revision", 412, false, "It was changed in the meantime", "Read it again and send its new ETag in `If-Match`.";
    TooLarge, "too_large", 413, false, "The body is too large", "Send less at once; `http.body_bytes_max` and `artifacts.object_bytes_max` are the bounds.";
    UnsupportedMediaType, "unsupported_media_type", 415, false, "The body has another media type than expected", "Send `Content-Type: application/json`.";
    Invalid, "invalid", 422, false, "The request is well-formed but not valid", "`field_errors` names the fields and what was expected.";
    Refused, "refused", 422, false, "The request was refused", "`reason` says why.";
    RateLimited, "rate_limited", 429, true, "Too many requests", "Wait for `Retry-After` seconds.";
    Busy, "busy", 429, true, "The node sheds new work", "Wait for `Retry-After` seconds.";
    Internal, "internal", 500, true, "Something failed that should not", "Send the trace id to the operator of the node.";
    NotJoined, "not_joined", 503, true, "The node does not belong to a federation yet", "Run `causeway init` for a new federation, or `causeway member join TOKEN`.";
    Overloaded, "overloaded", 503, true, "The node is overloaded", "Wait for `Retry-After` seconds.";
    Timeout, "timeout", 503, true, "The request took too long", "Ask again; nothing acknowledged is lost.";
    Unavailable, "unavailable", 503, true, "A part that the request needs is not available", "`detail` names it; ask again later.";
    DiskFull, "disk_full", 507, true, "The node's disk is full or cannot be written", "The operator frees space; nothing acknowledged was lost.";
}

/// One wrong field or parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The field, dotted, or the parameter's name.
    pub field: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// The octet offset in the field's text, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What was expected there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
}

impl FieldError {
    /// A wrong field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), offset: None, expected: None }
    }
}

/// An error as RFC 9457 problem details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A page about the code.
    #[serde(rename = "type")]
    #[schema(example = "https://causeway.network/problems/not_found")]
    pub kind: String,
    /// A few words for people; the same for every case of the code.
    pub title: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// The facts of this case.
    pub detail: String,
    /// The path of the request.
    pub instance: String,
    /// Stable code of the interface.
    #[schema(example = "not_found")]
    pub code: String,
    /// Code of the taxonomy of reasons, where one applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do next.
    pub hint: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// Seconds after which to ask again, where that helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// Names this request in the logs.
    pub trace_id: String,
    /// The region whose node answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Wrong fields and parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub field_errors: Vec<FieldError>,
}

/// An error on its way out: everything but what only the front knows (path, trace id, region).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The code, which decides status and title.
    pub code: Code,
    /// The facts of this case.
    pub detail: String,
    /// The taxonomy's code, where one applies; its next step is the hint then.
    pub reason: Option<ReasonCode>,
    /// A better hint than the code's own.
    pub hint: Option<String>,
    /// Wrong fields.
    pub field_errors: Vec<FieldError>,
    /// When to ask again.
    pub retry_after_s: Option<u64>,
}

impl ApiError {
    /// An error with the facts of the case.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after_s = matches!(code.status(), 429 | 503).then_some(1);
        Self { code, detail: detail.into(), reason: None, hint: None, field_errors: Vec::new(), retry_after_s }
    }

    /// `what` does not exist.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }

    /// A wrong parameter.
    pub fn parameter(name: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut error = Self::new(Code::InvalidParameter, format!("`{name}`: {message}"));
        error.field_errors.push(FieldError::new(name, message));
        error
    }

    /// A wrong field of the body.
    pub fn field(field: FieldError) -> Self {
        let mut error = Self::new(Code::Invalid, format!("`{}`: {}", field.field, field.message));
        error.field_errors.push(field);
        error
    }

    /// With the taxonomy's code.
    #[must_use]
    pub fn reason(mut self, reason: ReasonCode) -> Self {
        self.reason = Some(reason);
        self
    }

    /// With a better hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The complete problem.
    pub fn into_problem(self, instance: &str, trace_id: String, region: &str) -> Problem {
        let hint = self.hint.unwrap_or_else(|| match self.reason {
            Some(reason) => reason.next_step().to_owned(),
            None => self.code.hint().to_owned(),
        });
        Problem {
            kind: format!("{TYPE_BASE}{}", self.code.text()),
            title: self.code.title().to_owned(),
            status: self.code.status(),
            detail: self.detail,
            instance: instance.to_owned(),
            code: self.code.text().to_owned(),
            reason: self.reason.map(|reason| reason.code().to_owned()),
            hint,
            retryable: self.reason.map_or(self.code.is_retryable(), ReasonCode::is_retryable),
            retry_after_s: self.retry_after_s,
            trace_id,
            region: Some(region.to_owned()),
            field_errors: self.field_errors,
        }
    }
}

impl axum::response::IntoResponse for ApiError {
    /// Carries the error to the front, which writes the body: only the front knows path, trace id and region.
    fn into_response(self) -> axum::response::Response {
        let status = axum::http::StatusCode::from_u16(self.code.status()).expect("the table has valid statuses");
        let mut response = status.into_response();
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}
