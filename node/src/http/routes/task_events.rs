//! `/v1/tasks/{id}/events` and `/logs`: what happened and what the program wrote, once or followed to the end.

use super::stream::{EventSink, ReaderGone, resume_after, stream, wants_stream};
use super::tasks::task_id;
use crate::http::extract::{Json, Path, Query};
use crate::http::page::{Page, PageQuery, PageRequest};
use crate::http::ports::TaskPort;
use crate::http::problem::{ApiError, Code};
use crate::http::state::AppState;
use crate::services::task_views::EventView;
use adapters::contract::LogStream;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use cpi::ids::TaskId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};

/// Events read at once.
const BATCH: usize = 500;
/// Bytes of a log read at once.
const LOG_BYTES: usize = 64 << 10;
/// First and longest pause before a log that has not grown is read again.
const LOG_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Pause after which the task is looked at again although no event came.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Whether a task's state is its last one.
fn is_ended(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "cancelled")
}

/// What happened to a task, oldest first. With `Accept: text/event-stream` it is followed until the task's end, and
/// `Last-Event-ID` (the event's `seq`) resumes.
#[utoipa::path(get, path = "/v1/tasks/{id}/events", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), PageQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "Resume after this `seq`")),
    responses((status = 200, description = "A page, or a stream of `EventView`", content(
        (Page<EventView> = "application/json"), (String = "text/event-stream")))))]
pub async fn events(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Query(query): Query<PageQuery>,
) -> Result<Response, ApiError> {
    let text = id;
    let id = task_id(&text)?;
    let tasks = state.services().tasks()?.clone();
    if wants_stream(&headers) {
        let after = resume_after(&headers, None)?.unwrap_or(0);
        tasks.get(id).await?;
        let after = u32::try_from(after).unwrap_or(u32::MAX);
        return stream(&state, move |sink| async move {
            let _ = follow_events(tasks, id, after, &sink).await;
        });
    }
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), &format!("events\n{text}"))?;
    let wrong = || ApiError::new(Code::InvalidPageToken, "`page_token` was not given by this list");
    let after = page.after_text()?.map_or(Ok(0), |seq| seq.parse().map_err(|_| wrong()))?;
    let mut items = tasks.events(id, after, page.limit + 1).await?;
    let more = items.len() > page.limit;
    items.truncate(page.limit);
    let next_page_token = items.last().filter(|_| more).map(|last| page.token(last.seq.to_string().as_bytes()));
    Ok(Json(Page { items, next_page_token, total: None }).into_response())
}

async fn follow_events(
    tasks: Arc<dyn TaskPort>,
    id: TaskId,
    mut after: u32,
    sink: &EventSink,
) -> Result<(), ReaderGone> {
    let wanted = id.to_string();
    let mut news = tasks.subscribe();
    loop {
        loop {
            let Ok(batch) = tasks.events(id, after, BATCH).await else { return Ok(()) };
            let whole = batch.len() < BATCH;
            for event in batch {
                after = event.seq;
                sink.send(Some(after.to_string()), "event", &event).await?;
                if is_ended(&event.state) {
                    return Ok(());
                }
            }
            if whole {
                break;
            }
        }
        if tasks.get(id).await.is_ok_and(|task| is_ended(&task.state)) && after_is_last(&tasks, id, after).await {
            return Ok(());
        }
        // wait for news about this task; what was missed is read from the record
        let wait = async {
            loop {
                match news.recv().await {
                    Ok(event) if event.task == wanted && event.seq > after => return true,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => return false,
                }
            }
        };
        tokio::select! {
            () = sink.closed() => return Err(ReaderGone),
            more = wait => if !more { return Ok(()) },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn after_is_last(tasks: &Arc<dyn TaskPort>, id: TaskId, after: u32) -> bool {
    tasks.events(id, after, 1).await.is_ok_and(|rest| rest.is_empty())
}

/// Which log, and from where.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// `stdout` (default) or `stderr`.
    pub stream: Option<String>,
    /// The first octet. Default 0.
    #[serde(default)]
    pub offset: u64,
    /// Follow until the run ended, as server-sent events of type `log` and one `end`.
    #[serde(default)]
    pub follow: bool,
}

/// A piece of a followed log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogEvent {
    /// The piece's first octet in the log.
    pub offset: u64,
    /// The octets, Base64.
    pub base64: String,
    /// The region that runs the task.
    pub region: String,
}

/// What the program wrote: as it is, or with `follow=true` as events whose ids (octet offsets) resume.
#[utoipa::path(get, path = "/v1/tasks/{id}/logs", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), LogQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "Resume at this octet")),
    responses((status = 200, description = "The log so far, or a stream of `LogEvent`", content(
        (String = "application/octet-stream"), (LogEvent = "text/event-stream")))))]
pub async fn logs(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Query(query): Query<LogQuery>,
) -> Result<Response, ApiError> {
    let id = task_id(&id)?;
    let which = match query.stream.as_deref() {
        None | Some("stdout") => LogStream::Stdout,
        Some("stderr") => LogStream::Stderr,
        Some(other) => return Err(ApiError::parameter("stream", format!("{other:?}: expected stdout or stderr"))),
    };
    let tasks = state.services().tasks()?.clone();
    tasks.get(id).await?;
    if query.follow || wants_stream(&headers) {
        let offset = resume_after(&headers, Some(query.offset))?.unwrap_or(0);
        return stream(&state, move |sink| async move {
            let _ = follow_log(tasks, id, which, offset, &sink).await;
        });
    }
    let first = tasks.logs(id, which, query.offset, LOG_BYTES).await?;
    let pieces = futures::stream::unfold(Some((tasks, first)), move |at| async move {
        let (tasks, piece) = at?;
        if piece.bytes.is_empty() {
            return None;
        }
        let next = piece.offset + piece.bytes.len() as u64;
        let following = if piece.end { None } else { tasks.logs(id, which, next, LOG_BYTES).await.ok() };
        Some((Ok::<_, std::io::Error>(piece.bytes), following.map(|piece| (tasks, piece))))
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(pieces)).into_response())
}

async fn follow_log(
    tasks: Arc<dyn TaskPort>,
    id: TaskId,
    which: LogStream,
    mut offset: u64,
    sink: &EventSink,
) -> Result<(), ReaderGone> {
    let mut pause = LOG_PAUSE.0;
    loop {
        match tasks.logs(id, which, offset, LOG_BYTES).await {
            Ok(piece) => {
                if !piece.bytes.is_empty() {
                    offset = piece.offset + piece.bytes.len() as u64;
                    let base64 = data_encoding::BASE64.encode(&piece.bytes);
                    let event = LogEvent { offset: piece.offset, base64, region: piece.region.clone() };
                    sink.send(Some(offset.to_string()), "log", &event).await?;
                    pause = LOG_PAUSE.0;
                }
                if piece.end {
                    let end = serde_json::json!({ "offset": offset });
                    return sink.send(Some(offset.to_string()), "end", &end).await;
                }
                if !piece.bytes.is_empty() {
                    continue;
                }
            }
            Err(error) if error.code.is_retryable() || error.reason.is_some_and(|r| r.is_retryable()) => {}
            Err(_) => {
                // a task that ended without ever running has no log
                let ended = tasks.get(id).await.is_ok_and(|task| is_ended(&task.state));
                if ended {
                    return sink.send(Some(offset.to_string()), "end", &serde_json::json!({ "offset": offset })).await;
                }
            }
        }
        tokio::select! {
            () = sink.closed() => return Err(ReaderGone),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LOG_PAUSE.1);
    }
}
