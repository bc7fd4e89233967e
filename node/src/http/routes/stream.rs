//! Streams of server-sent events: bounded, resumable, ended when the reader goes away.

use crate::http::problem::ApiError;
use crate::http::state::AppState;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Events that wait for a slow reader; the producer waits then.
const WAITING_MAX: usize = 64;
/// Pause between comments that keep the connection open.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Where a producer puts its events.
pub struct EventSink {
    sender: mpsc::Sender<Event>,
    _permit: OwnedSemaphorePermit,
}

/// The reader went away.
#[derive(Debug, Clone, Copy)]
pub struct ReaderGone;

impl EventSink {
    /// Sends an event with its resumption id.
    ///
    /// # Errors
    /// [`ReaderGone`]: the producer should end.
    pub async fn send(&self, id: Option<String>, kind: &str, data: &impl serde::Serialize) -> Result<(), ReaderGone> {
        let text = serde_json::to_string(data).expect("a view has only plain fields");
        let event = Event::default().event(kind).data(text);
        let event = id.map_or_else(|| event.clone(), |id| event.clone().id(id));
        self.sender.send(event).await.map_err(|_| ReaderGone)
    }

    /// Ends when the reader went away.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}

/// Answers a stream whose events `produce` sends.
///
/// # Errors
/// More streams than `http.streams_max` are open.
pub fn stream<F>(state: &AppState, produce: impl FnOnce(EventSink) -> F) -> Result<Response, ApiError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let sink = EventSink { sender, _permit: state.stream_permit()? };
    tokio::spawn(produce(sink));
    let events = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (Ok::<_, Infallible>(event), receiver))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Whether the caller asks for a stream.
pub fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"))
}

/// The position after which a stream is resumed: `Last-Event-ID`, else the parameter.
///
/// # Errors
/// The header is no position of ours.
pub fn resume_after(headers: &HeaderMap, parameter: Option<u64>) -> Result<Option<u64>, ApiError> {
    match headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default()) {
        None | Some("") => Ok(parameter),
        Some(text) => {
            text.parse().map(Some).map_err(|_| ApiError::parameter("Last-Event-ID", "expected the id of an event"))
        }
    }
}
