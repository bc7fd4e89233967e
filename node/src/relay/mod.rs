//! A userspace relay that puts a wide-area round trip between nodes of one machine.
//!
//! Each [`Route`] listens on a UDP and a TCP port of the same number (QUIC and TCP+Noise) and passes everything on to a
//! target, late by half the round trip each way. A node is pointed at it by `mesh.dial_map`. It changes no byte, knows no
//! protocol, and is no model of bandwidth. Precision is that of the runtime's timer, about a millisecond.

mod line;
mod tcp;
mod udp;

pub use line::LineSettings;

use line::Line;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Attempts to find a port that is free for UDP and for TCP.
const PORT_ATTEMPTS: usize = 64;

/// One way through the relay.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where to listen; port 0 takes one that is free for both UDP and TCP.
    pub listen: SocketAddr,
    /// Where to pass on to.
    pub target: SocketAddr,
    /// How late.
    pub line: LineSettings,
}

/// Why a relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A port cannot be listened on.
    #[error("the relay cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// A running relay. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    routes: Vec<(SocketAddr, Arc<Line>)>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Relay {
    /// Starts relaying on all routes.
    ///
    /// # Errors
    /// [`RelayError`]; nothing is relayed then.
    pub async fn start(routes: &[Route]) -> Result<Self, RelayError> {
        let mut relay = Self { routes: Vec::new(), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        for route in routes {
            let (datagrams, connections, address) =
                bind(route.listen).await.map_err(|source| RelayError::Listen { listen: route.listen, source })?;
            let line = Arc::new(Line::new(route.line));
            relay.routes.push((address, Arc::clone(&line)));
            let stop = relay.stop.clone();
            relay.tasks.spawn(udp::relay(datagrams, route.target, Arc::clone(&line), stop.clone()));
            relay.tasks.spawn(tcp::relay(connections, route.target, line, stop));
        }
        Ok(relay)
    }

    /// Where each route listens, in the order they were given.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.routes.iter().map(|(address, _)| *address).collect()
    }

    /// Changes how late a route is; what is under way keeps its time.
    pub fn set_line(&self, route: usize, settings: LineSettings) {
        if let Some((_, line)) = self.routes.get(route) {
            line.set(settings);
        }
    }

    /// Cuts a route (nothing passes, connections break) or mends it.
    pub fn set_cut(&self, route: usize, cut: bool) {
        if let Some((_, line)) = self.routes.get(route) {
            line.set_cut(cut);
        }
    }

    /// Stops and waits until all sockets are closed.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bind(listen: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener, SocketAddr)> {
    let mut attempts = if listen.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let datagrams = udp::bind(listen)?;
        let address = datagrams.local_addr()?;
        match TcpListener::bind(address).await {
            Ok(connections) => return Ok((datagrams, connections, address)),
            Err(error) if attempts == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
    const RTT: Duration = Duration::from_millis(40);

    async fn echo() -> SocketAddr {
        let (datagrams, connections, address) = bind(ANYWHERE).await.expect("a port");
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = datagrams.recv_from(&mut buffer).await {
                let _ = datagrams.send_to(&buffer[..length], from).await;
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = connections.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn relay(line: LineSettings) -> (Relay, SocketAddr) {
        let relay = Relay::start(&[Route { listen: ANYWHERE, target: echo().await, line }]).await.expect("it starts");
        let address = relay.addresses()[0];
        (relay, address)
    }

    fn about(measured: Duration, expected: Duration) -> bool {
        // Late by the scheduler's whim at most; never early by more than the timer's grain.
        measured + Duration::from_millis(1) >= expected && measured < expected + Duration::from_millis(200)
    }

    #[tokio::test]
    async fn datagrams_are_late_by_the_round_trip() {
        let (relay, at) = relay(LineSettings { rtt: RTT, ..LineSettings::default() }).await;
        let socket = UdpSocket::bind(ANYWHERE).await.expect("a port");
        socket.connect(at).await.expect("an address");
        let mut trips = Vec::new();
        for n in 0..10u8 {
            let sent = Instant::now();
            socket.send(&[n]).await.expect("sent");
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).await.expect("back");
            assert_eq!(&buffer[..length], [n]);
            trips.push(sent.elapsed());
        }
        assert!(trips.iter().all(|trip| about(*trip, RTT)), "{trips:?}");
        trips.sort();
        println!("median round trip {:?} of {RTT:?}", trips[5]);
        relay.set_cut(0, true);
        socket.send(b"lost").await.expect("sent");
        let mut buffer = [0; 16];
        assert!(tokio::time::timeout(RTT * 3, socket.recv(&mut buffer)).await.is_err(), "the line is cut");
        relay.set_cut(0, false);
        socket.send(b"mended").await.expect("sent");
        assert_eq!(socket.recv(&mut buffer).await.expect("back"), 6);
        relay.stop().await;
    }

    #[tokio::test]
    async fn connections_are_late_too_and_keep_every_byte() {
        let (relay, at) = relay(LineSettings { rtt: RTT, ..LineSettings::default() }).await;
        let began = Instant::now();
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("connects");
        stream.write_all(b"x").await.expect("sent");
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("back");
        assert!(about(began.elapsed(), RTT * 2), "the handshake takes a round trip as well: {:?}", began.elapsed());
        let content: Vec<u8> = (0..3u32 << 20).map(|n| (n % 253) as u8).collect();
        let (mut read, mut write) = stream.into_split();
        let sent = content.clone();
        let writer = tokio::spawn(async move {
            write.write_all(&sent).await.expect("sent");
            write.shutdown().await.expect("sent");
        });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.expect("back");
        writer.await.expect("no panic");
        assert!(back == content);
        relay.set_cut(0, true);
        let mut refused = tokio::net::TcpStream::connect(at).await.expect("accepted, then closed");
        assert!(matches!(refused.read(&mut byte).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn lost_datagrams_do_not_come() {
        let (_relay, at) = relay(LineSettings { loss_permille: 1_000, ..LineSettings::default() }).await;
        let socket = UdpSocket::bind(ANYWHERE).await.expect("a port");
        socket.send_to(b"gone", at).await.expect("sent");
        let mut buffer = [0; 16];
        assert!(tokio::time::timeout(RTT, socket.recv(&mut buffer)).await.is_err());
    }
}
