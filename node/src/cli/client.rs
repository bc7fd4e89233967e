//! The command line's client: one node, its key, problems as errors, streams, uploads and downloads.

use super::exit::CliError;
use super::find::Target;
use crate::http::Problem;
use cpi::ids::ContentDigest;
use eventsource_stream::Eventsource as _;
use futures::{Stream, StreamExt as _};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client of one node.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<Zeroizing<String>>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

/// A request body and headers beyond the key.
#[derive(Debug, Clone, Default)]
pub struct Extra<'a> {
    /// Query parameters; absent values are left out.
    pub query: Vec<(&'a str, Option<String>)>,
    /// A JSON body.
    pub body: Option<Value>,
    /// Headers.
    pub headers: Vec<(&'a str, String)>,
}

/// An event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamEvent {
    /// What resumes the stream after this event.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its data.
    pub data: Value,
}

impl Client {
    /// A client of `target`; every request but streams and transfers ends within `timeout`.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn new(target: Target, timeout: Duration) -> Result<Self, CliError> {
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy();
        if let Some(path) = &target.ca_file {
            let pem = std::fs::read(path).map_err(|e| anyhow::anyhow!("reading {}: {e}", path.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|e| CliError::usage(format!("{} holds no certificate: {e}", path.display())))?;
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| anyhow::anyhow!("making an HTTP client: {error}"))?;
        Ok(Self { http, base: target.url.trim_end_matches('/').to_owned(), key: target.key, timeout })
    }

    /// The node's base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn request(&self, method: Method, path: &str, extra: &Extra<'_>) -> RequestBuilder {
        let given: Vec<(&str, &str)> =
            extra.query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        let mut url = format!("{}{path}", self.base);
        if !given.is_empty() {
            url.push('?');
            url.push_str(&encode_query(&given));
        }
        let mut request = self.http.request(method, url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.as_str());
        }
        for (name, value) in &extra.headers {
            request = request.header(*name, value);
        }
        match &extra.body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let response = request.send().await.map_err(|error| self.network_error(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(problem_of(response).await) }
    }

    fn network_error(&self, error: &reqwest::Error) -> CliError {
        if error.is_timeout() && !error.is_connect() {
            return CliError::TimedOut { what: "the answer".to_owned(), seconds: self.timeout.as_secs() };
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(below) = cause.source() {
            cause = below;
        }
        CliError::Connect { addr: self.base.clone(), cause: cause.to_string() }
    }

    /// Calls a route and reads its JSON answer.
    ///
    /// # Errors
    /// The node's problem, or that it cannot be reached.
    pub async fn call(&self, method: Method, path: &str, extra: Extra<'_>) -> Result<Value, CliError> {
        Ok(self.call_with_headers(method, path, extra).await?.0)
    }

    /// Calls a route; the answer's headers too.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_with_headers(
        &self,
        method: Method,
        path: &str,
        extra: Extra<'_>,
    ) -> Result<(Value, reqwest::header::HeaderMap), CliError> {
        let response = self.send(self.request(method, path, &extra).timeout(self.timeout)).await?;
        let headers = response.headers().clone();
        let bytes = response.bytes().await.map_err(|error| self.network_error(&error))?;
        if bytes.is_empty() {
            return Ok((Value::Null, headers));
        }
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| anyhow::anyhow!("{} answered something that is not JSON: {error}", self.base))?;
        Ok((value, headers))
    }

    /// Reads a route.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn get(&self, path: &str, query: Vec<(&str, Option<String>)>) -> Result<Value, CliError> {
        self.call(Method::GET, path, Extra { query, ..Extra::default() }).await
    }

    /// Writes to a route.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, CliError> {
        self.call(Method::POST, path, Extra { body: Some(body), ..Extra::default() }).await
    }

    /// Reads a list: one page, or all of them.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn list(&self, path: &str, query: Vec<(&str, Option<String>)>, all: bool) -> Result<Value, CliError> {
        let mut page = self.get(path, query.clone()).await?;
        while all && let Some(token) = page["next_page_token"].as_str().map(str::to_owned) {
            let mut next = query.clone();
            next.retain(|(name, _)| *name != "page_token");
            next.push(("page_token", Some(token)));
            let mut more = self.get(path, next).await?;
            let mut items = page["items"].as_array().cloned().unwrap_or_default();
            items.append(more["items"].as_array_mut().unwrap_or(&mut Vec::new()));
            more["items"] = Value::Array(items);
            page = more;
        }
        Ok(page)
    }

    /// Reads a route's body as bytes, piece by piece.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn bytes(
        &self,
        path: &str,
        query: Vec<(&str, Option<String>)>,
    ) -> Result<(Option<u64>, impl Stream<Item = Result<bytes::Bytes, CliError>> + use<>), CliError> {
        let response = self.send(self.request(Method::GET, path, &Extra { query, ..Extra::default() })).await?;
        let length = response.content_length();
        let client = self.clone();
        Ok((length, response.bytes_stream().map(move |piece| piece.map_err(|error| client.network_error(&error)))))
    }

    /// Follows a stream of events after `last_id`.
    ///
    /// # Errors
    /// As [`Client::call`]; later ones come as items.
    pub async fn events(
        &self,
        path: &str,
        query: Vec<(&str, Option<String>)>,
        last_id: Option<&str>,
    ) -> Result<impl Stream<Item = Result<StreamEvent, CliError>> + Unpin + use<>, CliError> {
        let mut headers = vec![("accept", "text/event-stream".to_owned())];
        if let Some(id) = last_id {
            headers.push(("last-event-id", id.to_owned()));
        }
        let extra = Extra { query, headers, body: None };
        let response = self.send(self.request(Method::GET, path, &extra)).await?;
        let base = self.base.clone();
        let events = response.bytes_stream().eventsource().map(move |event| match event {
            Ok(event) => Ok(StreamEvent {
                data: serde_json::from_str(&event.data).unwrap_or(Value::String(event.data)),
                id: event.id,
                kind: event.event,
            }),
            Err(error) => {
                Err(CliError::Connect { addr: base.clone(), cause: format!("the stream broke off: {error}") })
            }
        });
        Ok(Box::pin(events))
    }

    /// Reads `/readyz`, whose answer has the same shape whether the node is ready or not.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn readiness(&self) -> Result<Value, CliError> {
        let request = self.request(Method::GET, "/readyz", &Extra::default()).timeout(self.timeout);
        let response = request.send().await.map_err(|error| self.network_error(&error))?;
        let bytes = response.bytes().await.map_err(|error| self.network_error(&error))?;
        Ok(serde_json::from_slice(&bytes).map_err(|error| anyhow::anyhow!("/readyz is not JSON: {error}"))?)
    }

    /// Whether the node has an artifact.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn has_artifact(&self, digest: ContentDigest) -> Result<bool, CliError> {
        let request = self.request(Method::HEAD, &format!("/v1/artifacts/{digest}"), &Extra::default());
        let response = request.timeout(self.timeout).send().await.map_err(|error| self.network_error(&error))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(problem_of(response).await),
        }
    }

    /// Uploads a file under its digest; `progress` hears of each piece's length.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn upload(
        &self,
        digest: ContentDigest,
        file: &Path,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), CliError> {
        let opened = tokio::fs::File::open(file).await?;
        let length = opened.metadata().await?.len();
        let pieces = tokio_util::io::ReaderStream::with_capacity(opened, 256 << 10).inspect(move |piece| {
            if let Ok(piece) = piece {
                progress(piece.len() as u64);
            }
        });
        let request = self
            .request(Method::PUT, &format!("/v1/artifacts/{digest}"), &Extra::default())
            .header("content-type", "application/octet-stream")
            .header("content-length", length)
            .body(reqwest::Body::wrap_stream(pieces));
        self.send(request).await.map(drop)
    }
}

/// The problem that a node answered, or one made of its status where the body is none.
async fn problem_of(response: Response) -> CliError {
    let status = response.status().as_u16();
    let path = response.url().path().to_owned();
    let bytes = response.bytes().await.unwrap_or_default();
    let problem =
        serde_json::from_slice::<Problem>(&bytes).unwrap_or_else(|_| {
            let code = match status {
                401 => crate::http::Code::Unauthenticated,
                404 => crate::http::Code::NotFound,
                400..=499 => crate::http::Code::InvalidParameter,
                _ => crate::http::Code::Internal,
            };
            let mut problem = crate::http::ApiError::new(code, format!("the node answered status {status}"))
                .into_problem(&path, "-".to_owned(), "");
            problem.status = status;
            problem
        });
    CliError::Problem(Box::new(problem))
}

/// `application/x-www-form-urlencoded`.
fn encode_query(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect::<Vec<_>>().join("&")
}

/// Percent-encodes everything but unreserved characters.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
