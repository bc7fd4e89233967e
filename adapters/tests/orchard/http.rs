//! HTTP/1.1 as far as the provider needs it, over TLS or not.

use super::Orchard;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

pub struct Request {
    pub method: String,
    /// Decoded parts.
    pub path: Vec<String>,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Sent instead of `body`, without a length.
    endless: usize,
}

impl Answer {
    pub fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), body, endless: 0 }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, body.to_string().into_bytes()).header("content-type", "application/json")
    }

    pub fn problem(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({ "error": { "code": code, "message": message } }))
    }

    pub fn huge(bytes: usize) -> Self {
        Self { endless: bytes, ..Self::new(200, Vec::new()) }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

fn decode(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `a=1&b=2`, decoded.
pub fn pairs(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (decode(name), decode(value)));
    text.split('&').filter_map(pair).collect()
}

/// Serves until the test ends.
pub async fn serve(orchard: Arc<Orchard>, tls: bool) -> (String, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    if !tls {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(Arc::clone(&orchard), stream));
            }
        });
        return (format!("http://127.0.0.1:{port}"), String::new());
    }
    let (pem, acceptor) = authority();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (orchard, acceptor) = (Arc::clone(&orchard), acceptor.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    talk(orchard, stream).await;
                }
            });
        }
    });
    (format!("https://localhost:{port}"), pem)
}

/// A certificate authority of its own, and a server certificate of it.
fn authority() -> (String, tokio_rustls::TlsAcceptor) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "orchard authority");
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, &ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    (ca.pem(), tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(orchard: Arc<Orchard>, stream: S) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let Some(answer) = orchard.answer(request).await else { return };
        let length = if answer.endless > 0 { answer.endless } else { answer.body.len() };
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if answer.endless > 0 {
            // the length is not told, so that only counting helps
            head.push_str("connection: close\r\n\r\n");
        } else if answer.status != 204 {
            head.push_str(&format!("content-length: {length}\r\n\r\n"));
        } else {
            head.push_str("\r\n");
        }
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&answer.body).await.is_err() {
            return;
        }
        let piece = vec![b'x'; 1 << 16];
        let mut left = answer.endless;
        while left > 0 {
            if stream.write_all(&piece[..left.min(piece.len())]).await.is_err() {
                return;
            }
            left = left.saturating_sub(piece.len());
        }
        if stream.flush().await.is_err() || answer.endless > 0 {
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    Some(Request { method, path, query: pairs(query), headers, body })
}
