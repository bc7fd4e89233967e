//! Load on `POST /v1/identifiers:resolve`: as many requests as the node answers, or a fixed rate, over kept connections.
//!
//! Plain sockets and one request at a time on each connection, so that the generator takes little of a small machine. It
//! prints requests per second and the latencies that it saw; the server's own are at `/metrics`.

use anyhow::{Context as _, anyhow, bail};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const USAGE: &str = "load_resolve ADDR KEY_FILE KEYS_FILE [CONNECTIONS=8] [SECONDS=10] [RATE=0 (as many as possible)]

KEYS_FILE has one stable key a line (`causeway id search --all -o name`).";

struct Arguments {
    addr: String,
    key: String,
    keys: Vec<String>,
    connections: usize,
    seconds: u64,
    rate: u64,
}

fn arguments() -> anyhow::Result<Arguments> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [addr, key_file, keys_file, rest @ ..] = given.as_slice() else { bail!("{USAGE}") };
    let number = |at: usize, default: u64| rest.get(at).map_or(Ok(default), |text| text.parse().context(USAGE));
    let keys: Vec<String> =
        std::fs::read_to_string(keys_file).context("reading the keys")?.lines().map(str::to_owned).collect();
    if keys.is_empty() {
        bail!("{keys_file} holds no keys");
    }
    Ok(Arguments {
        addr: addr.trim_start_matches("http://").trim_end_matches('/').to_owned(),
        key: std::fs::read_to_string(key_file).context("reading the API key")?.trim().to_owned(),
        keys,
        connections: usize::try_from(number(0, 8)?)?.clamp(1, 1_024),
        seconds: number(1, 10)?,
        rate: number(2, 0)?,
    })
}

/// One connection: asks, reads the whole answer, asks again. Returns latencies in microseconds.
fn ask(arguments: &Arguments, at: usize, until: Instant) -> anyhow::Result<Vec<u32>> {
    let mut socket = TcpStream::connect(&arguments.addr).context("connecting")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let pause =
        (arguments.rate > 0).then(|| Duration::from_secs_f64(arguments.connections as f64 / arguments.rate as f64));
    let mut due = Instant::now();
    let (mut latencies, mut buffer) = (Vec::with_capacity(1 << 20), vec![0; 64 << 10]);
    let mut next = at * 7_919;
    while Instant::now() < until {
        if let Some(pause) = pause {
            // what is late is sent at once, so that a slow node is not spared
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += pause;
        }
        let body = format!("{{\"key\":\"{}\"}}", arguments.keys[next % arguments.keys.len()]);
        next += 104_729;
        let request = format!(
            "POST /v1/identifiers:resolve HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            arguments.addr,
            arguments.key,
            body.len()
        );
        let begin = Instant::now();
        socket.write_all(request.as_bytes())?;
        read_answer(&mut socket, &mut buffer)?;
        latencies.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}

/// Reads one answer with a content length; anything but 200 is an error.
fn read_answer(socket: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut have = 0;
    loop {
        let count = socket.read(&mut buffer[have..])?;
        if count == 0 {
            bail!("the node closed the connection");
        }
        have += count;
        let Some(end) = buffer[..have].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).context("the head is no text")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("the node answered {}", String::from_utf8_lossy(&buffer[..have]));
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.trim().parse::<usize>().ok())
            .ok_or_else(|| anyhow!("no content length"))?;
        let whole = end + 4 + length;
        if whole > buffer.len() {
            bail!("an answer of {whole} bytes");
        }
        while have < whole {
            let count = socket.read(&mut buffer[have..])?;
            if count == 0 {
                bail!("the node closed the connection");
            }
            have += count;
        }
        return Ok(());
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let begin = Instant::now();
    let until = begin + Duration::from_secs(arguments.seconds);
    let mut all: Vec<u32> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..arguments.connections)
            .map(|at| {
                let arguments = &arguments;
                scope.spawn(move || ask(arguments, at, until))
            })
            .collect();
        let mut all = Vec::new();
        for thread in running {
            all.extend(thread.join().map_err(|_| anyhow!("a connection panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    all.sort_unstable();
    let at = |permille: usize| all[(all.len() - 1) * permille / 1000];
    let rate = all.len() as f64 / begin.elapsed().as_secs_f64();
    println!(
        "{} requests, {rate:.0}/s over {} connections; latency us: p50 {} p99 {} p999 {} max {}",
        all.len(),
        arguments.connections,
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    Ok(())
}
