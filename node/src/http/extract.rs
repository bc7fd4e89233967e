//! Extractors whose refusals are problems: JSON bodies, query strings and path parts.

use super::problem::{ApiError, Code, FieldError};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A JSON body, in and out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(json_error(rejection)),
        }
    }
}

impl<T: Serialize> axum::response::IntoResponse for Json<T> {
    fn into_response(self) -> axum::response::Response {
        axum::Json(self.0).into_response()
    }
}

fn json_error(rejection: JsonRejection) -> ApiError {
    use std::error::Error as _;
    let cause = rejection.source().map_or_else(|| rejection.body_text(), root_cause);
    match rejection {
        JsonRejection::MissingJsonContentType(_) => {
            ApiError::new(Code::UnsupportedMediaType, "expected `Content-Type: application/json`")
        }
        JsonRejection::JsonSyntaxError(_) => ApiError::new(Code::MalformedBody, format!("not JSON: {cause}")),
        JsonRejection::JsonDataError(_) => body_shape_error(&cause),
        JsonRejection::BytesRejection(rejection) if rejection.status() == 413 => {
            ApiError::new(Code::TooLarge, "the body is longer than `http.body_bytes_max`")
        }
        _ => ApiError::new(Code::MalformedBody, cause),
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(below) = at.source() {
        at = below;
    }
    at.to_string()
}

/// A body that is JSON, but not the expected one; names the field where the decoder's words do.
///
/// The words are `path: message` or the message alone; a message quotes names with backticks.
pub fn body_shape_error(cause: &str) -> ApiError {
    let named = cause.split_once(": ").filter(|(path, _)| !path.contains([' ', '`']));
    let (path, words) = named.map_or(("", cause), |(path, words)| (path, words));
    let quoted: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
    let field = if path.is_empty() || path == "." { quoted.first().copied().unwrap_or("") } else { path };
    let mut message = words.to_owned();
    if words.starts_with("unknown field") {
        let unknown = quoted.first().copied().unwrap_or("");
        let nearest = quoted
            .iter()
            .skip(1)
            .map(|name| (strsim::jaro_winkler(unknown, name), name))
            .filter(|(likeness, _)| *likeness > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, nearest)) = nearest {
            message = format!("{message}; did you mean `{nearest}`?");
        }
    }
    let mut error = ApiError::new(Code::Invalid, message.clone());
    error.field_errors.push(FieldError::new(field, message));
    error
}

/// A query string.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(parameter_error(&query_cause(&rejection))),
        }
    }
}

fn query_cause(rejection: &QueryRejection) -> String {
    use std::error::Error as _;
    rejection.source().map_or_else(|| rejection.body_text(), root_cause)
}

fn parameter_error(cause: &str) -> ApiError {
    let mut error = body_shape_error(cause);
    error.code = Code::InvalidParameter;
    error
}

/// A part of the path, read from its text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(cause)) => {
                Err(ApiError::parameter("path", cause.body_text()))
            }
            Err(other) => Err(ApiError::parameter("path", other.body_text())),
        }
    }
}
