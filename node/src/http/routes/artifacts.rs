//! `/v1/artifacts`: contents by digest, in and out as streams.

use crate::http::extract::{Json, Path};
use crate::http::problem::{ApiError, Code};
use crate::http::state::AppState;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cpi::ids::ContentDigest;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;

/// Bytes of one piece of a download.
const PIECE: usize = 128 << 10;

/// A stored content.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StoredView {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Its length.
    pub size_bytes: u64,
}

fn digest_of(text: &str) -> Result<ContentDigest, ApiError> {
    text.parse().map_err(|error: cpi::ids::ParseIdError| ApiError::parameter("digest", error.to_string()))
}

async fn store(
    state: &AppState,
    body: Body,
    expected: Option<ContentDigest>,
) -> Result<(ContentDigest, u64), ApiError> {
    let pieces = body.into_data_stream().map_err(std::io::Error::other).boxed();
    state.services().artifacts()?.put(pieces, expected).await
}

/// Uploads a content under its digest; another content is refused. Uploading it twice is no error.
#[utoipa::path(put, path = "/v1/artifacts/{digest}", tag = "artifacts",
    request_body(content = String, content_type = "application/octet-stream"),
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses(
        (status = 201, description = "Stored", body = StoredView),
        (status = 200, description = "It was here", body = StoredView)))]
pub async fn put(
    State(state): State<AppState>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<StoredView>), ApiError> {
    let expected = digest_of(&digest)?;
    if let Some(size_bytes) = state.services().artifacts()?.size(&expected) {
        return Ok((StatusCode::OK, Json(StoredView { digest, size_bytes })));
    }
    let (_, size_bytes) = store(&state, body, Some(expected)).await?;
    Ok((StatusCode::CREATED, Json(StoredView { digest, size_bytes })))
}

/// Uploads a content and answers its digest.
#[utoipa::path(post, path = "/v1/artifacts", tag = "artifacts",
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 201, description = "Stored", body = StoredView)))]
pub async fn post(State(state): State<AppState>, body: Body) -> Result<(StatusCode, Json<StoredView>), ApiError> {
    let (digest, size_bytes) = store(&state, body, None).await?;
    Ok((StatusCode::CREATED, Json(StoredView { digest: digest.to_string(), size_bytes })))
}

/// Whether a content is here, and how long it is.
#[utoipa::path(head, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses((status = 200, description = "It is here; `Content-Length` says how long it is")))]
pub async fn head(State(state): State<AppState>, Path(digest): Path<String>) -> Result<Response, ApiError> {
    let digest = digest_of(&digest)?;
    let size = state.services().artifacts()?.size(&digest);
    let size = size.ok_or_else(|| ApiError::not_found(format!("artifact {digest}")))?;
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

/// Downloads a content; `Range: bytes=N-` resumes.
#[utoipa::path(get, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits"),
        ("Range" = Option<String>, Header, description = "`bytes=N-`: from this octet on")),
    responses(
        (status = 200, description = "The content", body = String, content_type = "application/octet-stream"),
        (status = 206, description = "The rest of the content", body = String, content_type = "application/octet-stream")))]
pub async fn get(
    State(state): State<AppState>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let digest = digest_of(&digest)?;
    let port = state.services().artifacts()?;
    let absent = || ApiError::not_found(format!("artifact {digest}"));
    let size = port.size(&digest).ok_or_else(absent)?;
    let mut file = port.open(&digest).await?.ok_or_else(absent)?;
    let from = range_start(&headers, size)?;
    if from > 0 {
        let failed = |error: std::io::Error| ApiError::new(Code::Internal, format!("reading {digest}: {error}"));
        file.seek(std::io::SeekFrom::Start(from)).await.map_err(failed)?;
    }
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(size - from), PIECE));
    let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = (status, body).into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(size - from));
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        out.insert(header::ETAG, tag);
    }
    if from > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes {from}-{}/{size}", size.saturating_sub(1)))
    {
        out.insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

/// The first octet asked for; only open ranges are served, others are answered whole.
fn range_start(headers: &HeaderMap, size: u64) -> Result<u64, ApiError> {
    let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else { return Ok(0) };
    let from = text.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).and_then(|from| from.parse().ok());
    match from {
        None => Ok(0),
        Some(from) if from <= size => Ok(from),
        Some(_) => Err(ApiError::parameter("Range", format!("expected a start up to {size}"))),
    }
}
