//! The yardstick of registry writes: a fresh three-node etcd on loopback, synced as it is by default, and puts of 256 bytes
//! over its own protocol (gRPC on HTTP/2 connections that stay open, many clients on each).

use super::http::Loaded;
use super::idle::cpu_seconds;
use super::{tails, writes};
use crate::ring::{PATIENCE, until};
use anyhow::{Context as _, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Nodes of the cluster.
const NODES: usize = 3;
/// Connections over which all clients are spread, as with etcd's own client.
const CONNECTIONS: usize = 8;
/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Keys that are written, again and again.
const KEYS: u64 = 10_000;

struct Cluster {
    nodes: Vec<Child>,
    ports: Vec<u16>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("causeway-etcd-").tempdir()?;
        let free = || Ok::<_, std::io::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let ports: Vec<u16> = (0..NODES).map(|_| free()).collect::<Result<_, _>>()?;
        let peers: Vec<u16> = (0..NODES).map(|_| free()).collect::<Result<_, _>>()?;
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(at, port)| format!("e{at}=http://127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for at in 0..NODES {
            let (client, peer) = (format!("http://127.0.0.1:{}", ports[at]), format!("http://127.0.0.1:{}", peers[at]));
            let log = std::fs::File::create(folder.path().join(format!("e{at}.log")))?;
            let started = Command::new("etcd")
                .args(["--name", &format!("e{at}"), "--initial-cluster-state", "new", "--log-level", "warn"])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-token", "causeway-bench"])
                .arg("--data-dir")
                .arg(folder.path().join(format!("e{at}")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .kill_on_drop(true)
                .spawn();
            nodes.push(started.context("starting etcd: is Debian's etcd-server installed?")?);
        }
        let cluster = Self { nodes, ports, _folder: folder };
        for at in 0..NODES {
            let up = until(PATIENCE, || async {
                match Connection::open(cluster.ports[at]).await {
                    Ok(mut connection) => connection.put(b"warm", b"warm").await.is_ok(),
                    Err(_) => false,
                }
            });
            up.await.with_context(|| format!("etcd node {at} takes no writes"))?;
        }
        Ok(cluster)
    }

    fn cpu(&self) -> anyhow::Result<f64> {
        self.nodes.iter().filter_map(Child::id).map(cpu_seconds).sum()
    }
}

/// One client on a connection that others share.
#[derive(Clone)]
struct Connection {
    sender: h2::client::SendRequest<Bytes>,
    authority: String,
}

impl Connection {
    async fn open(port: u16) -> anyhow::Result<Self> {
        let authority = format!("127.0.0.1:{port}");
        let stream = TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, authority })
    }

    /// `etcdserverpb.KV/Put`; done once a quorum has it on disk.
    async fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        let request = http::Request::post(format!("http://{}/etcdserverpb.KV/Put", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut body) = sender.send_request(request, false)?;
        body.send_data(put_frame(key, value), true)?;
        let mut answer = answer.await?.into_body();
        while let Some(data) = answer.data().await {
            let length = data?.len();
            answer.flow_control().release_capacity(length)?;
        }
        let trailers = answer.trailers().await?.context("etcd answered without a status")?;
        match trailers.get("grpc-status").and_then(|status| status.to_str().ok()) {
            Some("0") => Ok(()),
            other => bail!("etcd answered with status {other:?}: {:?}", trailers.get("grpc-message")),
        }
    }
}

/// A gRPC message with `PutRequest { key = 1, value = 2 }`.
fn put_frame(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    for (tag, bytes) in [(0x0a, key), (0x12, value)] {
        message.put_u8(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(bytes);
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// Puts from `clients` for `seconds` into a fresh cluster.
///
/// # Errors
/// etcd is not installed, does not start, or refuses a write.
pub async fn run(clients: usize, seconds: u64) -> anyhow::Result<Value> {
    let cluster = Cluster::start().await?;
    let mut connections = Vec::new();
    for at in 0..CONNECTIONS.min(clients) {
        connections.push(Connection::open(cluster.ports[at % NODES]).await?);
    }
    let (cpu_before, begin) = (cluster.cpu()?, Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let mut connection = connections[client % connections.len()].clone();
        tasks.spawn(async move {
            let (mut out, value) = (Loaded::default(), [b'x'; VALUE_BYTES]);
            let mut number = client as u64 * 7919;
            while begin.elapsed() < Duration::from_secs(seconds) {
                let key = format!("reg/{:06}", number % KEYS);
                number += 1;
                let sent = Instant::now();
                match connection.put(key.as_bytes(), &value).await {
                    Ok(()) => out.us.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX)),
                    Err(error) => {
                        out.errors += 1;
                        out.example.get_or_insert_with(|| error.to_string());
                    }
                }
            }
            out
        });
    }
    let mut all = Loaded::default();
    while let Some(part) = tasks.join_next().await {
        let part = part?;
        all.us.extend(part.us);
        all.errors += part.errors;
        all.example = all.example.or(part.example);
    }
    all.seconds = begin.elapsed().as_secs_f64();
    let spent = cluster.cpu()? - cpu_before;
    if all.errors > 0 {
        bail!("etcd refused {} of {} writes: {:?}", all.errors, all.us.len(), all.example);
    }
    let written = all.us.len() as u64;
    Ok(json!({
        "clients": clients,
        "value_bytes": VALUE_BYTES,
        "writes": written,
        "writes_per_second": all.per_second(),
        "latency": tails(all.us),
        "processor_us_per_write": spent * 1e6 / written.max(1) as f64,
    }))
}

fn median(rounds: &[Value], name: &str) -> f64 {
    let mut numbers: Vec<f64> = rounds.iter().filter_map(|round| round[name].as_f64()).collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => 0.0,
        count if count % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

/// Ours and etcd in turn, each round on fresh clusters.
///
/// # Errors
/// One of the two does not start or refuses a write.
pub async fn against(clients: usize, seconds: u64, rounds: u64) -> anyhow::Result<Value> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        ours.push(writes::run(clients, seconds).await.context("causeway")?);
        theirs.push(run(clients, seconds).await.context("etcd")?);
    }
    let both = |name: &str| (median(&ours, name), median(&theirs, name));
    let (per_second, processor) = (both("writes_per_second"), both("processor_us_per_write"));
    Ok(json!({
        "clients": clients,
        "rounds": rounds,
        "writes_per_second_median": { "causeway": per_second.0, "etcd": per_second.1 },
        "ratio": per_second.0 / per_second.1.max(1e-9),
        "processor_us_per_write_median": { "causeway": processor.0, "etcd": processor.1 },
        "causeway": ours,
        "etcd": theirs,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_framed_as_grpc_wants_it() {
        let frame = put_frame(b"k", &[7; 200]);
        assert_eq!(&frame[..5], &[0, 0, 0, 0, 206]);
        assert_eq!(&frame[5..11], &[0x0a, 1, b'k', 0x12, 0xc8, 1]);
        assert_eq!(frame.len(), 5 + 206);
    }

    #[test]
    fn medians() {
        let rounds: Vec<Value> = [3.0, 1.0, 2.0].map(|n| json!({ "n": n })).to_vec();
        assert_eq!(median(&rounds, "n"), 2.0);
        assert_eq!(median(&rounds[..2], "n"), 2.0);
        assert_eq!(median(&[], "n"), 0.0);
    }
}
