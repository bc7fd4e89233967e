//! The plugin's process: listens where it was told, ends when the node is gone.

use super::Backend;
use super::service::Service;
use crate::wire::proto::adapter_server::{self, AdapterServer};
use crate::wire::{MESSAGE_BYTES_MAX, SOCKET_VARIABLE};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long calls may take to end after the plugin was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Room for credentials, which come in a header.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Why a plugin cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServePluginError {
    /// It was not started by a node.
    #[error("CAUSEWAY_PLUGIN_SOCKET is not set: this program is started by a Causeway node")]
    NoSocket,
    /// The socket cannot be made.
    #[error("the socket {path} cannot be made")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Serving ended badly.
    #[error("serving ended badly")]
    Serve(#[from] tonic::transport::Error),
    /// No runtime, no signals.
    #[error("the plugin cannot be set up")]
    Setup(#[source] std::io::Error),
}

/// The whole `main` of a plugin.
pub fn main(backend: impl Backend) -> ExitCode {
    let ran = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(ServePluginError::Setup)
        .and_then(|runtime| {
            let ran = runtime.block_on(run(backend));
            // a call that hangs in a platform does not keep the process
            runtime.shutdown_background();
            ran
        });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            // the host keeps what plugins write here
            eprintln!("{error}{source}");
            ExitCode::FAILURE
        }
    }
}

async fn run(backend: impl Backend) -> Result<(), ServePluginError> {
    let path = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from).ok_or(ServePluginError::NoSocket)?;
    let stop = CancellationToken::new();
    let node_gone = stop.clone();
    // a thread of its own: reading a pipe blocks
    std::thread::spawn(move || {
        let mut rest = [0; 64];
        while matches!(std::io::stdin().read(&mut rest), Ok(count) if count > 0) {}
        node_gone.cancel();
    });
    let mut terminate = signal(SignalKind::terminate()).map_err(ServePluginError::Setup)?;
    let told = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        told.cancel();
    });
    let serving = serve(backend, &path, stop.clone());
    tokio::select! {
        served = serving => served,
        () = async { stop.cancelled().await; tokio::time::sleep(STOP_WITHIN).await } => Ok(()),
    }
}

/// Serves `backend` on the socket `path` until `stop`. Exposed for tests, and for plugins with a `main` of their own.
///
/// # Errors
/// [`ServePluginError`].
pub async fn serve(backend: impl Backend, path: &Path, stop: CancellationToken) -> Result<(), ServePluginError> {
    let listener =
        UnixListener::bind(path).map_err(|source| ServePluginError::Listen { path: path.to_owned(), source })?;
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    tonic::transport::Server::builder()
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .add_service(service(backend, stop.clone()))
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await?;
    Ok(())
}

/// The verbs of `backend` as a gRPC service, for plugins with a server of their own.
pub fn service(backend: impl Backend, stop: CancellationToken) -> AdapterServer<impl adapter_server::Adapter> {
    AdapterServer::new(Service::new(backend, stop))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
