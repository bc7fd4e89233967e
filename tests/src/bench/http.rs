//! A small HTTP/1.1 load generator: connections that stay open, one request under way on each, prepared beforehand, so that
//! it takes little of the processor that it shares with the node.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How to load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// For how long.
    pub time: Duration,
    /// Requests a second over all connections; `None` for as many as come.
    pub rate: Option<f64>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Answers of status 2xx, in microseconds each.
    pub us: Vec<u32>,
    /// Answers of other statuses or with another content, and connections that broke.
    pub errors: u64,
    /// For how long.
    pub seconds: f64,
    /// One of the errors.
    pub example: Option<String>,
}

impl Loaded {
    /// Good answers a second.
    pub fn per_second(&self) -> f64 {
        self.us.len() as f64 / self.seconds.max(1e-9)
    }
}

/// A request, ready to send. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Request {
    /// Head and body as they go over the wire.
    pub bytes: Bytes,
    /// How the body of a good answer begins; empty where the status alone tells.
    pub answer: Bytes,
}

/// A request, ready to send; its answer is judged by the status.
pub fn request(method: &str, path: &str, key: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    Request { bytes: (text + "\r\n" + body).into(), answer: Bytes::new() }
}

/// Sends requests that `make` gives for connection and number, until the time is over or it gives none.
///
/// # Errors
/// No connection could be made.
pub async fn drive(
    address: SocketAddr,
    load: Load,
    make: impl Fn(usize, u64) -> Option<Request> + Send + Sync + 'static,
) -> anyhow::Result<Loaded> {
    let make = Arc::new(make);
    let begin = Instant::now();
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..load.connections {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let make = Arc::clone(&make);
        connections.spawn(one(stream, number, load, begin, move |sent| make(number, sent)));
    }
    let mut all = Loaded::default();
    while let Some(part) = connections.join_next().await {
        let part = part?;
        all.us.extend(part.us);
        all.errors += part.errors;
        all.example = all.example.or(part.example);
    }
    all.seconds = begin.elapsed().as_secs_f64();
    Ok(all)
}

async fn one(
    mut stream: TcpStream,
    number: usize,
    load: Load,
    begin: Instant,
    make: impl Fn(u64) -> Option<Request>,
) -> Loaded {
    let mut out = Loaded::default();
    let mut buffer = Vec::with_capacity(16 << 10);
    let between = load.rate.map(|rate| Duration::from_secs_f64(load.connections as f64 / rate));
    let mut sent = 0u64;
    while begin.elapsed() < load.time {
        // with a rate, latency counts from when the request was due: a slow server gets no kinder load
        let due = match between {
            None => Instant::now(),
            Some(between) => {
                let share = between.mul_f64(number as f64 / load.connections as f64);
                let due = begin + share + between.mul_f64(sent as f64);
                tokio::time::sleep_until(due.into()).await;
                due
            }
        };
        let Some(request) = make(sent) else { break };
        sent += 1;
        match exchange(&mut stream, &request.bytes, &mut buffer).await {
            Ok(status) if (200..300).contains(&status) && buffer.starts_with(&request.answer) => {
                out.us.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok(status) => {
                out.errors += 1;
                out.example.get_or_insert_with(|| format!("status {status}: {}", String::from_utf8_lossy(&buffer)));
            }
            Err(error) => {
                out.errors += 1;
                out.example.get_or_insert_with(|| error.to_string());
                break;
            }
        }
    }
    out
}

/// One request and its whole answer, whose body is left in `buffer`.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    stream.write_all(request).await?;
    buffer.clear();
    let (head, length, status) = loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the node closed the connection");
        }
        if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end]).context("the head is not text")?;
            let status = head.get(9..12).and_then(|text| text.parse().ok()).context("the answer has no status")?;
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse::<usize>().ok())
                .context("the answer has no content-length")?;
            break (end + 4, length, status);
        }
        if buffer.len() > ANSWER_BYTES_MAX {
            bail!("the head is too long");
        }
    };
    if length > ANSWER_BYTES_MAX {
        bail!("the answer is too long");
    }
    while buffer.len() < head + length {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the node closed the connection");
        }
    }
    buffer.drain(..head);
    Ok(status)
}
