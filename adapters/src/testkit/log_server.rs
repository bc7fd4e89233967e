//! The kubelet's door for logs: HTTPS with a client certificate, `GET /containerLogs/NAMESPACE/POD/CONTAINER`.

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const HEAD_BYTES_MAX: u64 = 16 << 10;
const SLOW: Duration = Duration::from_secs(10);

/// Where the logs of pods lie, by namespace and pod.
pub(super) type Logs = Arc<Mutex<BTreeMap<(String, String), PathBuf>>>;

/// Certificates of the door.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs the API server's client certificate.
    pub clients: PathBuf,
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
}

fn acceptor(files: &Certificates) -> io::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let read = |path: &Path| -> io::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_file_iter(path).map_err(invalid)?.collect::<Result<_, _>>().map_err(invalid)
    };
    let mut roots = rustls::RootCertStore::empty();
    for one in read(&files.clients)? {
        roots.add(one).map_err(invalid)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(invalid)?
        .with_client_cert_verifier(clients.build().map_err(invalid)?)
        .with_single_cert(read(&files.certificate)?, PrivateKeyDer::from_pem_file(&files.key).map_err(invalid)?)
        .map_err(invalid)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, files: Certificates, logs: Logs) -> io::Result<()> {
    let acceptor = acceptor(&files)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, logs) = (acceptor.clone(), Arc::clone(&logs));
        tokio::spawn(async move {
            let served = tokio::time::timeout(6 * SLOW, async {
                let stream = tokio::time::timeout(SLOW, acceptor.accept(stream)).await??;
                answer(stream, &logs).await
            });
            if let Ok(Err(error)) = served.await {
                tracing::debug!(%error, "a reader of a log went away");
            }
        });
    }
}

/// One request, one answer.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, logs: &Logs) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    let mut head = (&mut stream).take(HEAD_BYTES_MAX);
    head.read_line(&mut first).await?;
    let mut line = String::new();
    while head.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let target = first.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let file = match parts.as_slice() {
        ["containerLogs", namespace, pod, _] => {
            let logs = logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.get(&((*namespace).to_owned(), (*pod).to_owned())).cloned()
        }
        _ => None,
    };
    let mut stream = stream.into_inner();
    let opened = match file {
        Some(file) => tokio::fs::File::open(file).await.ok(),
        None => None,
    };
    let Some(file) = opened else {
        let none = "no such log\n";
        let head =
            format!("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{none}", none.len());
        stream.write_all(head.as_bytes()).await?;
        return stream.shutdown().await;
    };
    let limit = query.split('&').find_map(|pair| pair.strip_prefix("limitBytes=")).and_then(|text| text.parse().ok());
    let length = file.metadata().await?.len().min(limit.unwrap_or(u64::MAX));
    let head =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    tokio::io::copy(&mut file.take(length), &mut stream).await?;
    stream.shutdown().await
}
