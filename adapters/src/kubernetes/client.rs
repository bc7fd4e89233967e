//! The connection to an API server: where it is, the token of the calls, and what its errors mean.

use crate::contract::AdapterError;
use crate::rules::{Direction, Rules};
use crate::vault::Secret;
use cpi::reason::{Reason, ReasonCode};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long one call may take; below the host's own patience.
const CALL_MAX: Duration = Duration::from_secs(8);

/// Where the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// An address, and the certificates that its server's must be signed by (PEM).
    Server { url: String, ca_file: Option<PathBuf>, insecure: bool },
    /// The cluster of a kubeconfig's context; its users are not read.
    Kubeconfig { file: PathBuf, context: Option<String> },
    /// The cluster whose pod this is, with the pod's own service account.
    InCluster,
}

/// The token of the last call that brought one. Long watches go on with the token they began with, and begin again with
/// the newest.
#[derive(Clone, Default)]
pub(super) struct Token(Arc<RwLock<Option<Secret>>>);

impl Token {
    pub(super) fn set(&self, secret: Secret) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(secret);
    }

    fn header(&self) -> Option<HeaderValue> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let token = held.as_ref()?.expose().trim_ascii();
        let mut header = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// A client for `place` whose requests carry `token`.
///
/// # Errors
/// What is wrong with `place`, with the field's name.
pub(super) async fn connect(place: &Place, token: Token) -> Result<Client, AdapterError> {
    let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"));
    let mut config = match place {
        Place::Server { url, ca_file, insecure } => {
            let parsed: tonic::codegen::http::Uri =
                url.parse().map_err(|error| wrong(format!("server: expected a URL: {error}")))?;
            match parsed.scheme_str() {
                Some("https") => {}
                Some("http") if *insecure => {
                    tracing::warn!(server = url, "the API server is spoken to without encryption");
                }
                Some("http") => return Err(wrong("server: plain http needs insecure = true".to_owned())),
                _ => return Err(wrong(format!("server: {url:?}: expected https://HOST:PORT"))),
            }
            let mut config = kube::Config::new(parsed);
            if let Some(file) = ca_file {
                config.root_cert = Some(certificates(file).await.map_err(|why| wrong(format!("ca_file: {why}")))?);
            }
            config
        }
        Place::Kubeconfig { file, context } => {
            let mut read = kube::config::Kubeconfig::read_from(file)
                .map_err(|error| wrong(format!("kubeconfig: {}: {error}", file.display())))?;
            // credentials come from the vault, never from a file
            for user in &mut read.auth_infos {
                user.auth_info = Some(kube::config::AuthInfo::default());
            }
            let options = kube::config::KubeConfigOptions { context: context.clone(), ..Default::default() };
            let config = kube::Config::from_custom_kubeconfig(read, &options).await;
            config.map_err(|error| wrong(format!("kubeconfig: {}: {error}", file.display())))?
        }
        Place::InCluster => kube::Config::incluster().map_err(|error| wrong(format!("in_cluster: {error}")))?,
    };
    config.connect_timeout = Some(CALL_MAX);
    let builder = ClientBuilder::try_from(config).map_err(|error| wrong(format!("TLS: {error}")))?;
    let with_token = tower::util::MapRequestLayer::new(move |mut request: tonic::codegen::http::Request<Body>| {
        if let Some(header) = token.header() {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        request
    });
    Ok(builder.with_layer(&with_token).build())
}

async fn certificates(file: &std::path::Path) -> Result<Vec<Vec<u8>>, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = tokio::fs::read(file).await.map_err(|error| said(&error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found: Vec<Vec<u8>> = found.map_err(|error| said(&error))?.iter().map(|one| one.to_vec()).collect();
    if found.is_empty() { Err(said(&"expected certificates in PEM")) } else { Ok(found) }
}

/// Waits for an answer of the server, as long as a call may take.
pub(super) async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("no answer within 8 s".into())),
    }
}

/// The HTTP status of a refusal.
pub(super) fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(refusal) => Some(refusal.code),
        _ => None,
    }
}

/// What a server's answer means, by the rules.
pub(super) fn meaning(rules: &Rules, error: &kube::Error) -> AdapterError {
    let kube::Error::Api(refusal) = error else {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(deeper) = cause {
            let text = deeper.to_string();
            if !why.contains(&text) {
                why = format!("{why}: {text}");
            }
            cause = deeper.source();
        }
        return AdapterError::passing(ReasonCode::AdapterDown, format!("the API server: {why}"));
    };
    let source = json!({ "code": refusal.code, "reason": refusal.reason, "message": refusal.message });
    let said = match rules.convert(Direction::North, "refusal", &source) {
        Ok(said) => said,
        Err(error) => return AdapterError::fatal(ReasonCode::Internal, error.to_string()),
    };
    let code = serde_json::from_value(said["code"].clone()).unwrap_or(ReasonCode::Internal);
    AdapterError {
        retryable: said["retryable"].as_bool().unwrap_or(false),
        reason: Reason::new(code, format!("{} {}: {}", refusal.code, refusal.reason, refusal.message)),
    }
}
