//! `/v1/watch`: what changes, as one stream of events by topic.
//!
//! Topics: `tasks` (every event of every task submitted here; its index is the event's id, and resumes), `registry` (the
//! applied index, whenever it grows), `members` (the whole list, whenever it changes), `operations` (each change of an
//! operation on a machine; not resumed: what was missed stands in `/v1/operations`). `registry` and `members` are states, not
//! histories: a reader that comes back hears the present one first.

use super::stream::{EventSink, ReaderGone, resume_after, stream};
use crate::http::extract::Query;
use crate::http::ports::{OperationPort, TaskPort};
use crate::http::problem::ApiError;
use crate::http::state::AppState;
use crate::services::operation_views::OperationView;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

/// Events read at once.
const BATCH: usize = 500;
/// How often the member list is compared.
const MEMBERS_EVERY: Duration = Duration::from_secs(1);
/// Applied indexes are told at most this often.
const REGISTRY_EVERY: Duration = Duration::from_millis(200);

/// What to watch.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WatchQuery {
    /// Topics separated by commas: `tasks`, `registry`, `members`, `operations`. None: the first three.
    pub topics: Option<String>,
    /// Events of tasks after this index. Default: only new ones.
    pub from: Option<u64>,
}

/// Watches changes. `Last-Event-ID` resumes; 410 when the events asked for are no longer kept.
#[utoipa::path(get, path = "/v1/watch", tag = "watch", params(WatchQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "Resume after this event")),
    responses((status = 200, description = "A stream: `task` with `EventView`, `registry` with the applied index, `members` with the list",
        body = String, content_type = "text/event-stream")))]
pub async fn watch(
    State(state): State<AppState>,
    headers: HeaderMap,
    Query(query): Query<WatchQuery>,
) -> Result<Response, ApiError> {
    let topics: Vec<String> = match query.topics.as_deref() {
        None | Some("") => ["tasks", "registry", "members"].map(str::to_owned).to_vec(),
        Some(text) => text.split(',').map(|topic| topic.trim().to_owned()).collect(),
    };
    if let Some(unknown) =
        topics.iter().find(|topic| !matches!(topic.as_str(), "tasks" | "registry" | "members" | "operations"))
    {
        return Err(ApiError::parameter(
            "topics",
            format!("{unknown:?}: expected tasks, registry, members, operations"),
        ));
    }
    let has = |topic: &str| topics.iter().any(|one| one == topic);
    let after = resume_after(&headers, query.from)?;
    let tasks = if has("tasks") { Some(state.services().tasks()?.clone()) } else { None };
    if let (Some(tasks), Some(after)) = (&tasks, after) {
        // an index that is no longer kept is refused before the stream begins
        tasks.events_from(after, 1).await?;
    }
    let operations = if has("operations") { Some(state.services().operations()?.clone()) } else { None };
    let (registry, members) = (has("registry"), has("members"));
    let shared = state.clone();
    stream(&state, move |sink| async move {
        let one = async {
            match tasks {
                Some(tasks) => watch_tasks(tasks, after, &sink).await,
                None => std::future::pending().await,
            }
        };
        let two = async { if registry { watch_registry(&shared, &sink).await } else { std::future::pending().await } };
        let three = async { if members { watch_members(&shared, &sink).await } else { std::future::pending().await } };
        let four = async {
            match operations {
                Some(operations) => watch_operations(operations, &sink).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sink.closed() => {}
            _ = four => {}
            _ = one => {}
            _ = two => {}
            _ = three => {}
        }
    })
}

async fn watch_tasks(tasks: Arc<dyn TaskPort>, after: Option<u64>, sink: &EventSink) -> Result<(), ReaderGone> {
    let mut news = tasks.subscribe();
    let mut last = 0;
    if let Some(after) = after {
        last = catch_up(&tasks, after, sink).await?;
    }
    loop {
        match news.recv().await {
            Ok(event) if event.index > last => {
                last = event.index;
                sink.send(Some(last.to_string()), "task", &event).await?;
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => last = catch_up(&tasks, last, sink).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn catch_up(tasks: &Arc<dyn TaskPort>, mut after: u64, sink: &EventSink) -> Result<u64, ReaderGone> {
    while let Ok(batch) = tasks.events_from(after, BATCH).await {
        let whole = batch.len() < BATCH;
        for event in batch {
            after = event.index;
            sink.send(Some(after.to_string()), "task", &event).await?;
        }
        if whole {
            break;
        }
    }
    Ok(after)
}

async fn watch_operations(operations: Arc<dyn OperationPort>, sink: &EventSink) -> Result<(), ReaderGone> {
    let mut news = operations.subscribe();
    loop {
        match news.recv().await {
            Ok(record) => sink.send(None, "operation", &OperationView::from(record.as_ref())).await?,
            // what a slow reader missed stands in the list
            Err(RecvError::Lagged(missed)) => sink.send(None, "missed", &json!({ "operations": missed })).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn watch_registry(state: &AppState, sink: &EventSink) -> Result<(), ReaderGone> {
    let Ok(registry) = state.services().registry() else { return std::future::pending().await };
    let mut applied = registry.watch_applied();
    loop {
        let index = *applied.borrow_and_update();
        sink.send(None, "registry", &json!({ "applied_index": index })).await?;
        if applied.changed().await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(REGISTRY_EVERY).await;
    }
}

async fn watch_members(state: &AppState, sink: &EventSink) -> Result<(), ReaderGone> {
    let Ok(members) = state.services().members() else { return std::future::pending().await };
    let mut known = String::new();
    loop {
        let list = members.list();
        // round trips change all the time; who is there and how, is what is told
        let shape =
            list.iter().map(|m| format!("{} {} {} {}\n", m.id, m.state, m.role, m.connection)).collect::<String>();
        if shape != known {
            sink.send(None, "members", &json!({ "items": list })).await?;
            known = shape;
        }
        tokio::time::sleep(MEMBERS_EVERY).await;
    }
}
