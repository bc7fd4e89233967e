//! Where a platform is, and a client that only goes there: TLS verified, no redirects, no proxy of the environment.

use crate::contract::AdapterError;
use cpi::reason::ReasonCode;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// What an operator says of a platform's address.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointConfig {
    /// For example `https://api.example.net/base`.
    pub(crate) url: String,
    /// PEM file with the only certificates that are trusted. Default: those of the operating system.
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Allows plain HTTP.
    #[serde(default)]
    pub(crate) insecure: bool,
}

/// A platform's address and the client for it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) url: reqwest::Url,
    pub(crate) http: reqwest::Client,
    /// What an operator should know of it.
    pub(crate) notes: Vec<String>,
}

impl Endpoint {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// The address or the certificates cannot be used, or plain HTTP was not allowed.
    pub(crate) fn new(config: &EndpointConfig, connect: Duration) -> Result<Self, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"));
        let url =
            reqwest::Url::parse(config.url.trim_end_matches('/')).map_err(|error| wrong(format!("url: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("url: credentials belong into the vault, not into the address".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() || url.host_str().is_none() {
            return Err(wrong("url: expected scheme, host and path only".to_owned()));
        }
        let mut notes = Vec::new();
        match url.scheme() {
            "https" => {}
            "http" if config.insecure => {
                let host = url.host_str().unwrap_or_default();
                tracing::warn!(host, "plain HTTP: everybody on the way can read and change what is said");
                notes.push(format!("insecure: {host} is spoken to by plain HTTP, credentials included"));
            }
            "http" => {
                let why = "url: plain HTTP needs `insecure = true`, as everybody on the way can read the credentials";
                return Err(wrong(why.to_owned()));
            }
            other => return Err(wrong(format!("url: expected https, found {other}"))),
        }
        // the process may have installed one already
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(connect)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(8)
            .user_agent(concat!("causeway/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|error| wrong(format!("ca_file {}: {error}", path.display())))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| wrong(format!("ca_file {}: {error}", path.display())))?;
            if certificates.is_empty() {
                return Err(wrong(format!("ca_file {}: it holds no certificate", path.display())));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| wrong(format!("the HTTP client: {error}")))?;
        Ok(Self { url, http, notes })
    }
}
