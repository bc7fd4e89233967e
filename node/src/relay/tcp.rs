//! Connections: accepted after a round trip, as a real handshake would take, then two late pipes.

use super::line::Line;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Chunks under way each way.
const UNDER_WAY_MAX: usize = 2048;
/// Bytes read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// After a failed accept (no file descriptors): try again this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Relays the connections of one route.
pub(super) async fn relay(listener: TcpListener, target: SocketAddr, line: Arc<Line>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (line, stop) = (Arc::clone(&line), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = line.cut() => {}
                _ = connect(stream, target, &line) => {}
            }
        });
    }
}

async fn connect(client: TcpStream, target: SocketAddr, line: &Line) -> std::io::Result<()> {
    tokio::time::sleep(line.settings().rtt).await;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::try_join!(pipe(client_read, server_write, line), pipe(server_read, client_write, line))?;
    Ok(())
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &Line) -> std::io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Bytes)>(UNDER_WAY_MAX);
    let read = async move {
        let mut buffer = bytes::BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok::<_, std::io::Error>(());
            }
            if sender.send((line.due(), buffer.split().freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write)?;
    Ok(())
}
