//! Answers of the replica name how fresh they are: `X-Index`, `X-As-Of`, `X-Last-Contact-Ms`, `X-Known-Leader`.

use super::problem::ApiError;
use super::state::AppState;
use crate::services::identifier_views::FreshnessView;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// This replica as it is.
    Stale,
    /// This replica as it is, which follows the leader closely.
    #[default]
    Default,
    /// After everything that was committed before the call.
    Linearizable,
}

impl Consistency {
    /// Waits where the caller wants it.
    ///
    /// # Errors
    /// No quorum can be reached in time.
    pub async fn reach(self, state: &AppState) -> Result<(), ApiError> {
        match self {
            Self::Stale | Self::Default => Ok(()),
            Self::Linearizable => state.services().identifiers()?.catch_up().await,
        }
    }
}

/// An answer with its freshness.
#[derive(Debug)]
pub struct Fresh<T>(pub FreshnessView, pub T);

impl<T: IntoResponse> IntoResponse for Fresh<T> {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        write(&self.0, response.headers_mut());
        response
    }
}

fn write(freshness: &FreshnessView, headers: &mut HeaderMap) {
    headers.insert("x-index", HeaderValue::from(freshness.index));
    if let Some(value) = freshness.as_of.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert("x-as-of", value);
    }
    if let Some(age_ms) = freshness.age_ms {
        headers.insert("x-last-contact-ms", HeaderValue::from(age_ms));
    }
    let leader = HeaderValue::from_static(if freshness.leader.is_some() { "true" } else { "false" });
    headers.insert("x-known-leader", leader);
}

/// The revision that `If-Match` names.
///
/// # Errors
/// It is missing or no revision of ours.
pub fn expected_revision(headers: &HeaderMap) -> Result<u64, ApiError> {
    let missing = || ApiError::parameter("If-Match", "expected the ETag of the revision that is changed, as in \"3\"");
    let text = headers.get("if-match").and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    text.trim_matches('"').parse().map_err(|_| missing())
}

/// The ETag of a revision.
pub fn etag(revision: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes are valid")
}
