//! Following a task: its events until the end, and its logs while they are written. Streams that break off are resumed.

use super::client::{Client, StreamEvent, encode};
use super::exit::CliError;
use super::output::{Column, Format, Kind, Output, column, print, text_at};
use futures::StreamExt as _;
use serde_json::Value;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Times a broken stream is taken up again without having brought anything.
const RESUMES_MAX: u32 = 20;
/// Pause before a broken stream is taken up again.
const RESUME_PAUSE: Duration = Duration::from_millis(300);

pub(super) const EVENTS: &[Column] = &[
    column("AT", "at", Kind::Text),
    column("EVENT", "kind", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("REGION", "region", Kind::Text),
    column("POOL", "pool", Kind::Text),
    column("REASON", "reason", Kind::Reason),
    column("DETAIL", "detail", Kind::Text),
];

/// Which log, from where, and whether to go on.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Go on until the task ended.
    pub follow: bool,
    /// Standard error instead of standard output.
    pub stderr: bool,
    /// The first octet.
    pub offset: u64,
}

/// Whether a task's state is its last one.
pub fn is_ended(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "cancelled")
}

/// Calls `each` for every event of `path` until it says stop, the stream ends, or time runs out; resumes what breaks off.
async fn follow(
    client: &Client,
    path: &str,
    query: &[(&str, Option<String>)],
    limit: Option<Duration>,
    what: &str,
    mut each: impl FnMut(&StreamEvent) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let started = Instant::now();
    let timed_out = || CliError::TimedOut { what: what.to_owned(), seconds: limit.unwrap_or_default().as_secs() };
    let mut last_id: Option<String> = None;
    let mut resumes = 0;
    loop {
        let left = match limit {
            Some(limit) => limit.checked_sub(started.elapsed()).ok_or_else(timed_out)?,
            None => Duration::from_secs(365 * 86_400),
        };
        let one = async {
            let mut events = client.events(path, query.to_vec(), last_id.as_deref()).await?;
            let mut heard = false;
            while let Some(event) = events.next().await {
                let event = event?;
                heard = true;
                if !event.id.is_empty() {
                    last_id = Some(event.id.clone());
                }
                if !each(&event)? {
                    return Ok((true, heard));
                }
            }
            Ok((false, heard))
        };
        match tokio::time::timeout(left, one).await {
            Err(_) => return Err(timed_out()),
            Ok(Ok((true, _))) => return Ok(()),
            Ok(Ok((false, true))) => resumes = 0,
            Ok(Ok((false, false))) => resumes += 1,
            Ok(Err(error @ CliError::Connect { .. })) => {
                resumes += 1;
                if resumes > RESUMES_MAX {
                    return Err(error);
                }
            }
            Ok(Err(error)) => return Err(error),
        }
        if resumes > RESUMES_MAX {
            return Ok(());
        }
        tokio::time::sleep(RESUME_PAUSE).await;
    }
}

/// Prints a task's events; with `on` until its end.
pub async fn print_events(
    client: &Client,
    output: &Output,
    id: &str,
    on: bool,
    limit: Option<Duration>,
) -> Result<(), CliError> {
    let path = format!("/v1/tasks/{}/events", encode(id));
    if !on {
        let page = client.list(&path, vec![("limit", Some("1000".to_owned()))], true).await?;
        return output.list(&page, EVENTS, "seq");
    }
    follow(client, &path, &[], limit, "the end of the task", |event| {
        if event.data.is_object() {
            match output.format {
                Format::Json => print(&format!("{}\n", event.data))?,
                Format::Yaml => print(&format!("---\n{}", output.document(&event.data)?))?,
                _ => print(&event_line(&event.data))?,
            }
        }
        Ok(!is_ended(&text_at(&event.data, "state")))
    })
    .await
}

/// One event as a line.
pub(super) fn event_line(event: &Value) -> String {
    let at = text_at(event, "at");
    let clock = at.split_once('T').map_or(at.as_str(), |(_, clock)| clock.get(..12).unwrap_or(clock));
    let mut line = format!("{clock}  {:<12} {:<10}", text_at(event, "kind"), text_at(event, "state"));
    for part in ["region", "pool", "reason.code", "detail"] {
        let text = text_at(event, part);
        if !text.is_empty() {
            line.push_str("  ");
            line.push_str(&text);
        }
    }
    format!("{}\n", line.trim_end())
}

/// Waits for the end of a task and returns it. Events (or, with `logs`, what the program writes) are shown meanwhile.
pub async fn wait_for_end(
    client: &Client,
    output: &Output,
    id: &str,
    limit: Option<Duration>,
    logs: bool,
) -> Result<Value, CliError> {
    let path = format!("/v1/tasks/{}", encode(id));
    let watch = async {
        follow(client, &format!("{path}/events"), &[], limit, "the end of the task", |event| {
            if event.data.is_object() {
                output.say(event_line(&event.data).trim_end());
            }
            Ok(!is_ended(&text_at(&event.data, "state")))
        })
        .await
    };
    if logs {
        let options = LogOptions { follow: true, stderr: false, offset: 0 };
        let (watched, logged) = tokio::join!(watch, follow_logs(client, id, options, limit));
        watched?;
        logged?;
    } else {
        watch.await?;
    }
    client.get(&path, Vec::new()).await
}

/// Writes a task's log to standard output as it is.
pub async fn follow_logs(
    client: &Client,
    id: &str,
    options: LogOptions,
    limit: Option<Duration>,
) -> Result<(), CliError> {
    let path = format!("/v1/tasks/{}/logs", encode(id));
    let stream = if options.stderr { "stderr" } else { "stdout" };
    let mut query = vec![("stream", Some(stream.to_owned())), ("offset", Some(options.offset.to_string()))];
    if !options.follow {
        let (_, mut pieces) = client.bytes(&path, query).await?;
        while let Some(piece) = pieces.next().await {
            write_raw(&piece?)?;
        }
        return Ok(());
    }
    query.push(("follow", Some("true".to_owned())));
    follow(client, &path, &query, limit, "the end of the log", |event| match event.kind.as_str() {
        "log" => {
            let encoded = text_at(&event.data, "base64");
            let decoded = data_encoding::BASE64.decode(encoded.as_bytes());
            write_raw(&decoded.map_err(|error| anyhow::anyhow!("a log event is broken: {error}"))?)?;
            Ok(true)
        }
        "end" => Ok(false),
        _ => Ok(true),
    })
    .await
}

fn write_raw(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}
