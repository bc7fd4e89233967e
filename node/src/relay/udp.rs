//! Datagrams: one socket towards clients, one per client towards the target, and a queue each way.

use super::line::Line;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Clients of one route at a time; more are not relayed.
const CLIENTS_MAX: usize = 1024;
/// Datagrams under way each way; more are lost, as on a full line.
const UNDER_WAY_MAX: usize = 65_536;
/// A client that is silent for this long is forgotten.
const CLIENT_IDLE: Duration = Duration::from_secs(120);
/// The largest datagram.
const DATAGRAM_BYTES: usize = 65_535;
/// Wanted size of the kernel's buffers: a burst must not be lost here.
const SOCKET_BYTES: usize = 4 << 20;

pub(super) fn bind(listen: SocketAddr) -> std::io::Result<UdpSocket> {
    use nix::sys::socket::{setsockopt, sockopt};
    let socket = std::net::UdpSocket::bind(listen)?;
    // Best effort: the system may allow less.
    let _ = setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BYTES);
    let _ = setsockopt(&socket, sockopt::SndBuf, &SOCKET_BYTES);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Relays the datagrams of one route.
pub(super) async fn relay(socket: UdpSocket, target: SocketAddr, line: Arc<Line>, stop: CancellationToken) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, mpsc::Sender<(Instant, Vec<u8>)>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An ICMP error of an earlier datagram: nothing to do with this one.
        let Ok((length, from)) = received else { continue };
        if line.loses() {
            continue;
        }
        let datagram = (line.due(), buffer[..length].to_vec());
        let Err(error) = (match clients.get(&from) {
            Some(client) => client.try_send(datagram),
            None => Err(mpsc::error::TrySendError::Closed(datagram)),
        }) else {
            continue;
        };
        let mpsc::error::TrySendError::Closed(datagram) = error else { continue };
        clients.retain(|_, client| !client.is_closed());
        if clients.len() >= CLIENTS_MAX {
            continue;
        }
        let (sender, towards_target) = mpsc::channel(UNDER_WAY_MAX);
        let _ = sender.try_send(datagram);
        clients.insert(from, sender);
        let client = Client { socket: Arc::clone(&socket), from, target, line: Arc::clone(&line) };
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = client.run(towards_target) => {}
            }
        });
    }
}

struct Client {
    socket: Arc<UdpSocket>,
    from: SocketAddr,
    target: SocketAddr,
    line: Arc<Line>,
}

impl Client {
    async fn run(self, towards_target: mpsc::Receiver<(Instant, Vec<u8>)>) -> std::io::Result<()> {
        let any: IpAddr =
            if self.target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let out = bind(SocketAddr::new(any, 0))?;
        let (sender, towards_client) = mpsc::channel(UNDER_WAY_MAX);
        tokio::select! {
            ended = self.receive(&out, &sender) => ended,
            () = deliver(towards_target, &out, self.target) => Ok(()),
            () = deliver(towards_client, &self.socket, self.from) => Ok(()),
        }
    }

    async fn receive(&self, out: &UdpSocket, sender: &mpsc::Sender<(Instant, Vec<u8>)>) -> std::io::Result<()> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            match tokio::time::timeout(CLIENT_IDLE, out.recv_from(&mut buffer)).await {
                Err(_) => return Ok(()),
                // The target's port is closed just now; it may open again.
                Ok(Err(_)) => {}
                Ok(Ok((length, from))) if from == self.target && !self.line.loses() => {
                    let _ = sender.try_send((self.line.due(), buffer[..length].to_vec()));
                }
                Ok(Ok(_)) => {}
            }
        }
    }
}

/// Delivers what comes out of `under_way` when it is due, in order.
async fn deliver(mut under_way: mpsc::Receiver<(Instant, Vec<u8>)>, socket: &UdpSocket, to: SocketAddr) {
    let mut batch = Vec::new();
    let mut waiting = VecDeque::new();
    loop {
        let Some((due, _)) = waiting.front() else {
            if under_way.recv_many(&mut batch, 256).await == 0 {
                return;
            }
            waiting.extend(batch.drain(..));
            continue;
        };
        tokio::time::sleep_until(*due).await;
        let now = Instant::now();
        while let Some((_, datagram)) = waiting.pop_front_if(|(due, _)| *due <= now) {
            // A closed port loses it, as a network would.
            let _ = socket.send_to(&datagram, to).await;
        }
        while let Ok(more) = under_way.try_recv() {
            waiting.push_back(more);
        }
    }
}
