//! Listening: plain on loopback, TLS anywhere, graceful stop.

use super::state::AppState;
use super::{auth, router};
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Why the interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is no address.
    #[error("`http.listen` {listen:?} is no address")]
    Address {
        /// As configured.
        listen: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}")]
    Listen {
        /// As configured.
        listen: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Other machines could reach an interface without encryption.
    #[error(
        "refusing to listen on {listen} without TLS: set `http.tls_cert` and `http.tls_key`, or listen on 127.0.0.1"
    )]
    NoTls {
        /// As configured.
        listen: SocketAddr,
    },
    /// Certificate or key cannot be used.
    #[error("the certificate or key of `http.tls_cert`, `http.tls_key` cannot be used")]
    Tls(#[source] std::io::Error),
    /// The API key's file cannot be used.
    #[error(transparent)]
    Key(#[from] auth::ApiKeyError),
}

/// A served interface; stops when told to.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    tls: bool,
    handle: Handle<SocketAddr>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Serves `state` as its limits say, until [`HttpServer::stop`].
///
/// # Errors
/// [`ServeError`]; nothing listens then.
pub async fn serve(state: AppState) -> Result<HttpServer, ServeError> {
    let limits = state.limits().clone();
    let listen: SocketAddr =
        limits.listen.parse().map_err(|_| ServeError::Address { listen: limits.listen.clone() })?;
    if !listen.ip().is_loopback() && !limits.tls() {
        return Err(ServeError::NoTls { listen });
    }
    let io = |source| ServeError::Listen { listen: limits.listen.clone(), source };
    let listener = TcpListener::bind(listen).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    let handle = Handle::new();
    let app = router(state).into_make_service();
    let mut server = axum_server::from_tcp(listener).map_err(io)?.handle(handle.clone());
    server.http_builder().http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(Duration::from_secs(15));
    let task = if limits.tls() {
        let config = RustlsConfig::from_pem_file(&limits.tls_cert, &limits.tls_key).await.map_err(ServeError::Tls)?;
        let acceptor = RustlsAcceptor::new(config).acceptor(NoDelayAcceptor::new());
        tokio::spawn(server.acceptor(acceptor).serve(app))
    } else {
        tokio::spawn(server.acceptor(NoDelayAcceptor::new()).serve(app))
    };
    Ok(HttpServer { address, tls: limits.tls(), handle, task })
}

impl HttpServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The interface's URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Stops accepting, waits up to `grace` for requests under way, then closes what is left.
    pub async fn stop(self, grace: Duration) {
        self.handle.graceful_shutdown(Some(grace));
        let _ = self.task.await;
    }
}
