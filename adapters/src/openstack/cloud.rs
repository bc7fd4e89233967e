//! One session with a cloud: requests with a token and the negotiated version, answers of bounded size, typed refusals.

use super::config::Config;
use super::keystone::{Credential, LoginAnswer, Service, Token};
use crate::contract::AdapterError;
use crate::rules::{Direction, Rules};
use crate::vault::Secret;
use cpi::reason::{Reason, ReasonCode};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest answer: the providers of some tens of thousands of hosts.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The longest refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Nova's microversions: flavours with their extra specs need the first; nothing after the second was looked at.
const COMPUTE_VERSIONS: (Version, Version) = (Version(2, 61), Version(2, 96));
/// Placement's: trees of providers need the first.
const PLACEMENT_VERSIONS: (Version, Version) = (Version(1, 29), Version(1, 39));

/// A microversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CloudError {
    /// No connection, no answer in time, an answer that cannot be read.
    #[error("{service}: {why}")]
    Unreachable { service: &'static str, why: String },
    /// The service says no.
    #[error("{service} answered {status}: {message}")]
    Refused { service: &'static str, status: u16, message: String },
    /// The catalogue has no such service.
    #[error("the catalogue has no {0}")]
    NoService(&'static str),
    /// The service is too old.
    #[error("{service}: expected at least version {expected}, it has {found}")]
    TooOld { service: &'static str, expected: Version, found: String },
    /// The vault gave no credential, or one that cannot be read, or the configuration does not fit the catalogue.
    #[error("{0}")]
    Setup(String),
}

impl CloudError {
    pub(super) fn is_status(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }
}

#[derive(Default)]
struct Session {
    credential: Option<Secret>,
    token: Option<Arc<Token>>,
    versions: BTreeMap<Service, Version>,
}

/// A cloud.
pub(super) struct Cloud {
    http: reqwest::Client,
    pub(super) config: Config,
    pub(super) rules: Rules,
    session: Mutex<Session>,
    /// One login at a time.
    logging_in: tokio::sync::Mutex<()>,
}

impl Cloud {
    pub(super) fn new(config: Config) -> Result<Self, String> {
        // the first one that is installed stays; it is the same one everywhere
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(Duration::from_millis(config.request_ms))
            // a token goes to the addresses of the catalogue and nowhere else
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = &config.ca_file {
            let wrong = |why: String| format!("ca_file: {}: {why}", path.display());
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
            if certificates.is_empty() {
                return Err(wrong("expected certificates in PEM".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| error.to_string())?;
        let rules = config.rules()?;
        Ok(Self { http, config, rules, session: Mutex::default(), logging_in: tokio::sync::Mutex::default() })
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the credential of the call that is being served; work that outlives calls goes on with the last one.
    pub(super) fn take_credential(&self) {
        let Some(secret) = crate::plugin::credential(&self.config.credential) else { return };
        let mut session = self.session();
        if session.credential.as_ref().is_none_or(|known| known.expose() != secret.expose()) {
            session.credential = Some(secret);
            session.token = None;
        }
    }

    /// A token that is good for a while. `refused` is one that a service does not take any more.
    async fn token(&self, refused: Option<&Arc<Token>>) -> Result<Arc<Token>, CloudError> {
        let usable = |session: &Session| {
            let token = session.token.as_ref()?;
            let old = refused.is_some_and(|refused| Arc::ptr_eq(refused, token));
            (!old && Instant::now() < token.renew_at).then(|| Arc::clone(token))
        };
        if let Some(token) = usable(&self.session()) {
            return Ok(token);
        }
        let _one_at_a_time = self.logging_in.lock().await;
        if let Some(token) = usable(&self.session()) {
            return Ok(token);
        }
        let secret = self.session().credential.clone();
        let name = &self.config.credential;
        let secret = secret.ok_or_else(|| CloudError::Setup(format!("credential: the call did not bring {name:?}")))?;
        let credential = Credential::parse(secret.expose()).ok_or_else(|| {
            CloudError::Setup(format!("credential: {name:?} is no application credential and no password in JSON"))
        })?;
        let url = format!("{}/auth/tokens", self.config.url);
        let request = self.http.post(url).json(&credential.login());
        let response = request.send().await.map_err(|error| unreachable("identity", &error))?;
        let id = response.headers().get("x-subject-token").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let body = body_of("identity", response).await?;
        let cannot = |why: String| CloudError::Unreachable { service: "identity", why };
        let answer: LoginAnswer = serde_json::from_slice(&body).map_err(|error| cannot(error.to_string()))?;
        let id = id.ok_or_else(|| cannot("no token in the answer".to_owned()))?;
        let token = Token::read(id, answer, &self.config, Instant::now()).map_err(CloudError::Setup)?;
        let token = Arc::new(token);
        self.session().token = Some(Arc::clone(&token));
        Ok(token)
    }

    /// Whether the catalogue has the service.
    pub(super) async fn has(&self, service: Service) -> Result<bool, CloudError> {
        Ok(self.token(None).await?.endpoints.contains_key(&service))
    }

    /// The version that is spoken with a service; asked for once.
    pub(super) async fn version(&self, service: Service) -> Result<Option<Version>, CloudError> {
        let (least, most) = match service {
            Service::Compute => COMPUTE_VERSIONS,
            Service::Placement => PLACEMENT_VERSIONS,
            _ => return Ok(None),
        };
        if let Some(version) = self.session().versions.get(&service) {
            return Ok(Some(*version));
        }
        let told: Value = self.request(service, Method::GET, "/", None, None).await?;
        // Nova tells `version`, Placement `versions`
        let one = told.get("version").or_else(|| told.get("versions")?.as_array()?.last());
        let text = |name: &str| one?.get(name)?.as_str();
        let found = text("max_version").or_else(|| text("version")).unwrap_or_default();
        let too_old = || CloudError::TooOld { service: service.name(), expected: least, found: found.to_owned() };
        let version = Version::parse(found).filter(|found| *found >= least).ok_or_else(too_old)?.min(most);
        self.session().versions.insert(service, version);
        Ok(Some(version))
    }

    /// Asks for something.
    pub(super) async fn get<T: DeserializeOwned>(&self, service: Service, path: &str) -> Result<T, CloudError> {
        let version = self.version(service).await?;
        self.request(service, Method::GET, path, None, version).await
    }

    /// Asks for something that may not be there.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        service: Service,
        path: &str,
    ) -> Result<Option<T>, CloudError> {
        match self.get(service, path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_status(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes or does something.
    pub(super) async fn post(&self, service: Service, path: &str, body: &Value) -> Result<Value, CloudError> {
        let version = self.version(service).await?;
        self.request(service, Method::POST, path, Some(body), version).await
    }

    /// Deletes something; it may be gone already.
    pub(super) async fn delete(&self, service: Service, path: &str) -> Result<(), CloudError> {
        let version = self.version(service).await?;
        match self.request::<Value>(service, Method::DELETE, path, None, version).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_status(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn request<T: DeserializeOwned>(
        &self,
        service: Service,
        method: Method,
        path: &str,
        body: Option<&Value>,
        version: Option<Version>,
    ) -> Result<T, CloudError> {
        let mut token = self.token(None).await?;
        let mut renewed = false;
        loop {
            let base = token.endpoints.get(&service).ok_or(CloudError::NoService(service.name()))?;
            let mut request = self.http.request(method.clone(), format!("{base}{path}"));
            request = request.header("X-Auth-Token", token.id.as_str()).header("Accept", "application/json");
            if let Some(version) = version {
                request = request.header("OpenStack-API-Version", format!("{} {version}", service.name()));
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await.map_err(|error| unreachable(service.name(), &error))?;
            if response.status() == StatusCode::UNAUTHORIZED && !renewed {
                // revoked, or its key is gone: one more login tells
                renewed = true;
                token = self.token(Some(&token)).await?;
                continue;
            }
            let body = body_of(service.name(), response).await?;
            let body: &[u8] = if body.is_empty() { b"null" } else { &body };
            return serde_json::from_slice(body).map_err(|error| CloudError::Unreachable {
                service: service.name(),
                why: format!("its answer to {} cannot be read: {error}", path.split('?').next().unwrap_or(path)),
            });
        }
    }

    /// What a person is told of an error: the rules say what a refusal means.
    pub(super) fn refusal(&self, error: &CloudError) -> AdapterError {
        match error {
            CloudError::Unreachable { .. } => AdapterError::passing(ReasonCode::AdapterDown, error.to_string()),
            CloudError::Refused { service, status, message } => {
                let code = self.code(service, *status, message);
                AdapterError { retryable: code.is_retryable(), reason: Reason::new(code, error.to_string()) }
            }
            CloudError::NoService(_) | CloudError::TooOld { .. } => {
                AdapterError::fatal(ReasonCode::BackendUnsupported, error.to_string())
            }
            CloudError::Setup(_) => AdapterError::fatal(ReasonCode::NotPermitted, error.to_string()),
        }
    }

    /// The code for a message of the platform. `service` is `server` for the fault of a server.
    pub(super) fn code(&self, service: &str, status: u16, message: &str) -> ReasonCode {
        let source = json!({ "service": service, "status": status, "message": message });
        match self.rules.convert(Direction::North, "fault", &source) {
            Ok(found) => {
                let code = found["code"].as_str().unwrap_or_default();
                ReasonCode::ALL.iter().copied().find(|known| known.code() == code).unwrap_or(ReasonCode::Internal)
            }
            Err(error) => {
                tracing::warn!(%error, "a refusal cannot be converted");
                ReasonCode::Internal
            }
        }
    }
}

fn unreachable(service: &'static str, error: &reqwest::Error) -> CloudError {
    let mut why = String::new();
    if error.is_timeout() {
        "no answer in time".clone_into(&mut why);
    } else {
        // the outermost text has the address, which may be long; the inner ones say what happened
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            why = inner.to_string();
            source = inner.source();
        }
        if why.is_empty() {
            why = error.to_string();
        }
    }
    CloudError::Unreachable { service, why }
}

/// The body of a good answer; of another one the message in it.
async fn body_of(service: &'static str, mut response: reqwest::Response) -> Result<Vec<u8>, CloudError> {
    let status = response.status();
    let limit = if status.is_success() { ANSWER_BYTES_MAX } else { REFUSAL_BYTES_MAX };
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| unreachable(service, &error))? {
        if body.len() + piece.len() > limit {
            if status.is_success() {
                let why = format!("its answer has more than {limit} bytes");
                return Err(CloudError::Unreachable { service, why });
            }
            break;
        }
        body.extend_from_slice(&piece);
    }
    if status.is_success() {
        return Ok(body);
    }
    Err(CloudError::Refused { service, status: status.as_u16(), message: message_of(&body) })
}

/// The sentence for people in a refusal; each service wraps it in its own way.
fn message_of(body: &[u8]) -> String {
    fn sentence(value: &Value, depth: u8) -> Option<String> {
        match value {
            Value::Object(pairs) => {
                let named = ["message", "detail"].iter().find_map(|name| pairs.get(*name)?.as_str());
                named.map(str::to_owned).or_else(|| {
                    let mut inner = pairs.values();
                    (depth > 0).then(|| inner.find_map(|value| sentence(value, depth - 1)))?
                })
            }
            Value::Array(items) if depth > 0 => items.iter().find_map(|value| sentence(value, depth - 1)),
            _ => None,
        }
    }
    let found = serde_json::from_slice(body).ok().and_then(|value: Value| sentence(&value, 3));
    let text = found.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}
