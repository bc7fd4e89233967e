//! Sends requests: bounded in number, size and time, repeated only where that cannot do a thing twice, and waiting where the
//! platform asks for it.

use super::api::{Api, RequestParts, Verb};
use super::auth::SignIn;
use super::fault::{Verdict, judge, needs_body};
use crate::contract::AdapterError;
use crate::southbound::{BodyProblem, Credentials, Endpoint, read_bounded};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use futures::StreamExt as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Answers that are read for what went wrong only.
const FAULT_BYTES_MAX: usize = 64 << 10;

/// Whether a request that failed may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It would fail again.
    Never,
    /// Nothing was done.
    NotDone,
    /// It may have been done.
    Unsure,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: AdapterError,
    pub(super) retry: Retry,
    /// How long the platform wants to be left alone.
    pub(super) after: Option<Duration>,
    /// The token that was refused.
    pub(super) unauthorized: Option<u64>,
}

impl From<AdapterError> for Failure {
    fn from(error: AdapterError) -> Self {
        Self { error, retry: Retry::Never, after: None, unauthorized: None }
    }
}

impl From<Failure> for AdapterError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// What becomes of a body.
#[derive(Debug, Clone)]
pub(super) enum Sink {
    /// Read as JSON.
    Json,
    /// At most this many bytes; what comes after them is left.
    Beginning(usize),
    /// Into a file of at most this many bytes.
    File(PathBuf, u64),
}

/// An answer.
#[derive(Debug)]
pub(super) enum Answer {
    Json(Value),
    Raw(Vec<u8>),
    File(ContentDigest, u64),
    /// There is no such thing.
    Absent,
    /// It is already as it was to become.
    Done,
}

/// What is sent along.
#[derive(Debug, Clone, Copy)]
pub(super) enum Payload<'a> {
    /// What the rules made.
    Rules,
    /// A file.
    File(&'a Path),
}

/// Talks to one platform.
pub(super) struct Client {
    pub(super) endpoint: Endpoint,
    pub(super) credentials: Credentials,
    sign_in: SignIn,
    slots: Semaphore,
    /// The platform asked to be left alone until then.
    heard: Mutex<Option<Instant>>,
}

/// An error of the network for people: no address, no secrets.
pub(super) fn network(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("{what}: {cause}")
}

/// `Retry-After` in seconds; dates are not heard.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?;
    text.trim().parse().ok().map(|seconds: u64| Duration::from_secs(seconds.min(86_400)))
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, requests_max: usize) -> Self {
        Self {
            endpoint,
            credentials: Credentials::default(),
            sign_in: SignIn::default(),
            slots: Semaphore::new(requests_max),
            heard: Mutex::new(None),
        }
    }

    /// Keeps the credentials of the call that is being served for what works without a call.
    pub(super) fn remember(&self, api: &Api) {
        for name in api.credentials() {
            // one that is missing is told by the first request that needs it
            let _ = self.credentials.get(name);
        }
    }

    /// How long the platform still wants to be left alone.
    pub(super) fn asked_to_wait(&self) -> Option<Duration> {
        let heard = *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        heard.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Sends one request until it is answered, or `deadline`.
    ///
    /// # Errors
    /// [`Failure`]; its `retry` is [`Retry::Unsure`] if any of the attempts may have been done.
    pub(super) async fn send(
        &self,
        api: &Api,
        verb: &Verb,
        parts: &RequestParts,
        payload: Payload<'_>,
        sink: &Sink,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let patience = &api.patience;
        let (mut tries, mut unsure, mut signed_again) = (0, false, false);
        loop {
            if let Some(wait) = self.asked_to_wait() {
                if Instant::now() + wait >= deadline {
                    let why = format!("{}: the platform asks to be left alone for {} ms", verb.name, wait.as_millis());
                    let error = AdapterError::passing(ReasonCode::Busy, why);
                    let retry = if unsure { Retry::Unsure } else { Retry::NotDone };
                    return Err(Failure { error, retry, after: Some(wait), unauthorized: None });
                }
                tokio::time::sleep(wait).await;
            }
            let sent = tokio::time::timeout_at(deadline, async {
                let _slot = self.slots.acquire().await;
                self.once(api, verb, parts, payload, sink, deadline).await
            });
            let mut failure = match sent.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => Failure {
                    error: AdapterError::passing(ReasonCode::AdapterDown, format!("{}: no answer in time", verb.name)),
                    retry: Retry::Unsure,
                    after: None,
                    unauthorized: None,
                },
            };
            if let Some(number) = failure.unauthorized
                && !signed_again
                && self.sign_in.refused(number).await
            {
                signed_again = true;
                continue;
            }
            unsure |= failure.retry == Retry::Unsure;
            let may = match failure.retry {
                Retry::Never => false,
                Retry::NotDone => true,
                Retry::Unsure => verb.repeatable,
            };
            if let Some(after) = failure.after {
                let after = after.min(Duration::from_millis(patience.retry_after_ms_max));
                *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now() + after);
            }
            let doubled = patience.backoff_ms_min.saturating_mul(1 << tries.min(20)).min(patience.backoff_ms_max);
            let wait = Duration::from_millis(rand::random_range(doubled / 2..=doubled));
            if !may || tries >= patience.retries_max || Instant::now() + wait >= deadline {
                if unsure && failure.retry != Retry::Never {
                    failure.retry = Retry::Unsure;
                }
                return Err(failure);
            }
            tries += 1;
            if failure.after.is_none() {
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn once(
        &self,
        api: &Api,
        verb: &Verb,
        parts: &RequestParts,
        payload: Payload<'_>,
        sink: &Sink,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        // a file may take as long as its verb
        let one = if matches!((payload, sink), (Payload::Rules, Sink::Json | Sink::Beginning(_))) {
            left.min(Duration::from_millis(api.patience.request_ms))
        } else {
            left
        };
        let signed = self.sign_in.sign(&api.auth, &self.endpoint, &self.credentials, one).await?;
        let number = signed.as_ref().map(|(_, _, number)| *number);
        let mut request = self.endpoint.http.request(verb.method.clone(), self.url(parts)?).timeout(one);
        request = request.headers(headers(api, parts)?);
        if let Some((name, value, _)) = signed {
            request = request.header(name, value);
        }
        match payload {
            Payload::File(path) => {
                let file = tokio::fs::File::open(path).await;
                let file = file.map_err(|error| {
                    AdapterError::passing(ReasonCode::InputLost, format!("an input cannot be read: {error}"))
                })?;
                let length = file.metadata().await.map(|meta| meta.len()).unwrap_or(0);
                let stream = tokio_util::io::ReaderStream::new(file);
                request = request.header("content-length", length).body(reqwest::Body::wrap_stream(stream));
            }
            Payload::Rules => {
                if let Some(body) = &parts.body {
                    request = request.json(body);
                }
            }
        }
        let answer = request.send().await.map_err(|error| Failure {
            // what cannot be made out of our own rules fails the same way again
            retry: if error.is_builder() {
                Retry::Never
            } else if error.is_connect() {
                Retry::NotDone
            } else {
                Retry::Unsure
            },
            error: AdapterError::passing(ReasonCode::AdapterDown, format!("{}: {}", verb.name, network(&error))),
            after: None,
            unauthorized: None,
        })?;
        self.read(api, verb, answer, sink, number).await
    }

    async fn read(
        &self,
        api: &Api,
        verb: &Verb,
        answer: reqwest::Response,
        sink: &Sink,
        number: Option<u64>,
    ) -> Result<Answer, Failure> {
        let status = answer.status();
        let after = retry_after(answer.headers());
        let unsure = |why: String| Failure {
            error: AdapterError::passing(ReasonCode::AdapterDown, format!("{}: {why}", verb.name)),
            retry: Retry::Unsure,
            after: None,
            unauthorized: None,
        };
        // an answer that is too long is too long the next time as well
        let unread = |problem: BodyProblem| {
            let retry = if matches!(problem, BodyProblem::TooLong { .. }) { Retry::Never } else { Retry::Unsure };
            Failure { retry, ..unsure(problem.to_string()) }
        };
        if needs_body(api, status) {
            let bytes_max = if status.is_success() { api.patience.answer_bytes_max } else { FAULT_BYTES_MAX };
            let read = match read_bounded(answer, bytes_max).await {
                Ok(read) => read,
                // what a failure says is not needed to know that it is one
                Err(_) if !status.is_success() => Vec::new(),
                Err(problem) => return Err(unread(problem)),
            };
            return match judge(api, verb, status, &read) {
                Verdict::Success if matches!(sink, Sink::Json) => json(&read).map(Answer::Json).map_err(unsure),
                Verdict::Success => Ok(Answer::Raw(read)),
                Verdict::Absent => Ok(Answer::Absent),
                Verdict::Done => Ok(Answer::Done),
                Verdict::Fault(error) => {
                    let retry = match (error.retryable, status.as_u16()) {
                        (false, _) => Retry::Never,
                        (true, 400..=499 | 503) => Retry::NotDone,
                        (true, _) => Retry::Unsure,
                    };
                    let unauthorized = number.filter(|_| status.as_u16() == 401);
                    Err(Failure { error, retry, after, unauthorized })
                }
            };
        }
        match sink {
            Sink::Json => {
                let read = read_bounded(answer, api.patience.answer_bytes_max).await.map_err(unread)?;
                json(&read).map(Answer::Json).map_err(unsure)
            }
            Sink::Beginning(bytes_max) => {
                beginning(answer, *bytes_max).await.map(Answer::Raw).map_err(|error| unsure(network(&error)))
            }
            Sink::File(path, bytes_max) => {
                file(answer, path, *bytes_max, verb).await.map(|(digest, length)| Answer::File(digest, length))
            }
        }
    }

    fn url(&self, parts: &RequestParts) -> Result<reqwest::Url, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::BackendUnsupported, why);
        let mut url = self.endpoint.url.clone();
        {
            let mut path = url.path_segments_mut().map_err(|()| wrong("the address has no path".to_owned()))?;
            path.pop_if_empty();
            for part in &parts.path {
                // an empty part would address all things instead of one
                if part.is_empty() || part == "." || part == ".." {
                    return Err(wrong(format!("path {:?}: expected names", parts.path)));
                }
                path.push(part);
            }
        }
        if !parts.query.is_empty() {
            let mut query = url.query_pairs_mut();
            for (name, value) in &parts.query {
                let values =
                    if let Value::Array(values) = value { values.as_slice() } else { std::slice::from_ref(value) };
                for value in values {
                    match value {
                        Value::Null => {}
                        Value::String(text) => drop(query.append_pair(name, text)),
                        Value::Bool(_) | Value::Number(_) => drop(query.append_pair(name, &value.to_string())),
                        _ => return Err(wrong(format!("query {name}: expected text or a number"))),
                    }
                }
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        Ok(url)
    }
}

fn headers(api: &Api, parts: &RequestParts) -> Result<HeaderMap, AdapterError> {
    let mut headers = HeaderMap::new();
    for (name, value) in api.headers.iter().chain(&parts.headers) {
        let wrong = || AdapterError::fatal(ReasonCode::BackendUnsupported, format!("header {name:?} cannot be sent"));
        let name = HeaderName::try_from(name.as_str()).map_err(|_| wrong())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    Ok(headers)
}

fn json(body: &[u8]) -> Result<Value, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON: {error}"))
}

async fn beginning(answer: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    let mut pieces = answer.bytes_stream();
    while body.len() < bytes_max {
        let Some(piece) = pieces.next().await.transpose()? else { break };
        body.extend_from_slice(&piece[..piece.len().min(bytes_max - body.len())]);
    }
    Ok(body)
}

async fn file(
    answer: reqwest::Response,
    path: &Path,
    bytes_max: u64,
    verb: &Verb,
) -> Result<(ContentDigest, u64), Failure> {
    let disk = |error: std::io::Error| {
        Failure::from(AdapterError::passing(ReasonCode::DiskFull, format!("{}: {error}", verb.name)))
    };
    let mut file = tokio::fs::File::create(path).await.map_err(disk)?;
    let (mut hash, mut length) = (Sha256::new(), 0_u64);
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Failure {
            error: AdapterError::passing(ReasonCode::AdapterDown, format!("{}: {}", verb.name, network(&error))),
            retry: Retry::Unsure,
            after: None,
            unauthorized: None,
        })?;
        length += piece.len() as u64;
        if length > bytes_max {
            let why = format!("{}: more than {bytes_max} bytes", verb.name);
            return Err(AdapterError::fatal(ReasonCode::OutputMissing, why).into());
        }
        hash.update(&piece);
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.sync_all().await.map_err(disk)?;
    Ok((ContentDigest(hash.finalize().into()), length))
}

/// A client that several parts share.
pub(super) type SharedClient = Arc<Client>;
