//! slurmrestd: requests, their answers, and what went wrong.

use super::config::SlurmConfig;
use super::convert::Converter;
use crate::contract::AdapterError;
use crate::host::lock;
use crate::plugin::credential;
use crate::vault::Secret;
use cpi::reason::ReasonCode;
use serde::{Deserialize, Deserializer};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// slurmrestd itself waits 9 s for a controller that is down; the node waits 10 s for us.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// The largest answer: 20,000 jobs have some 120 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// API versions that this code speaks, best first.
const SPOKEN: [&str; 3] = ["v0.0.38", "v0.0.37", "v0.0.36"];

/// A number, where newer releases write an object.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Number(i64),
        Object { number: Option<i64> },
        Other(serde::de::IgnoredAny),
    }
    Ok(match Said::deserialize(deserializer)? {
        Said::Number(number) | Said::Object { number: Some(number) } => number,
        Said::Object { number: None } | Said::Other(_) => 0,
    })
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

/// A job, as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Job {
    #[serde(deserialize_with = "number")]
    pub job_id: i64,
    #[serde(default, deserialize_with = "text")]
    pub name: String,
    #[serde(default, deserialize_with = "text")]
    pub comment: String,
    #[serde(default, deserialize_with = "text")]
    pub job_state: String,
    #[serde(default, deserialize_with = "text")]
    pub state_reason: String,
    #[serde(default, deserialize_with = "number")]
    pub exit_code: i64,
    #[serde(default, deserialize_with = "number")]
    pub submit_time: i64,
}

/// A node, likewise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Node {
    pub name: String,
    #[serde(default, deserialize_with = "number")]
    pub cpus: i64,
    #[serde(default, deserialize_with = "number")]
    pub alloc_cpus: i64,
    #[serde(default, deserialize_with = "number")]
    pub real_memory: i64,
    #[serde(default, deserialize_with = "number")]
    pub alloc_memory: i64,
    #[serde(default, deserialize_with = "number")]
    pub temporary_disk: i64,
    #[serde(default, deserialize_with = "text")]
    pub gres: String,
    #[serde(default, deserialize_with = "text")]
    pub gres_used: String,
    #[serde(default, deserialize_with = "text")]
    pub features: String,
    #[serde(default, deserialize_with = "text")]
    pub state: String,
    #[serde(default)]
    pub state_flags: Vec<String>,
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    #[serde(default)]
    pub partitions: Vec<String>,
}

/// A partition, likewise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Partition {
    pub name: String,
    #[serde(default, deserialize_with = "text")]
    pub state: String,
}

#[derive(Debug, Default, Deserialize)]
struct Said {
    #[serde(default)]
    error_code: i64,
    #[serde(default)]
    error_number: i64,
    #[serde(default, deserialize_with = "text")]
    error: String,
    #[serde(default, deserialize_with = "text")]
    description: String,
}

/// Beside every answer.
#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Partitions {
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Submitted {
    #[serde(default)]
    job_id: Option<i64>,
}

#[derive(Deserialize)]
struct Nothing {}

pub(super) struct Rest {
    http: reqwest::Client,
    base: String,
    version: String,
    user: String,
    credential: Option<String>,
    /// The token of the newest call that brought one, for looks in between.
    token: Mutex<Option<Secret>>,
    converter: Arc<Converter>,
}

fn down(why: impl std::fmt::Display) -> AdapterError {
    AdapterError::passing(ReasonCode::AdapterDown, format!("slurmrestd: {why}"))
}

/// The whole chain of an error's causes: reqwest's own text says little.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn is_loopback(url: &reqwest::Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

impl Rest {
    /// Connects and agrees on an API version.
    pub async fn open(config: &SlurmConfig, converter: Arc<Converter>) -> Result<Self, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config.{why}"));
        // already there is fine
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).pool_max_idle_per_host(4);
        let base = if let Some(path) = config.url.strip_prefix("unix:") {
            builder = builder.unix_socket(path);
            "http://localhost".to_owned()
        } else {
            let url = reqwest::Url::parse(&config.url).map_err(|error| wrong(format!("url: {error}")))?;
            match url.scheme() {
                "https" => {}
                "http" if is_loopback(&url) => {}
                "http" if config.insecure => {
                    eprintln!("config.url is plain HTTP beyond loopback: tokens can be read on the way");
                }
                _ => {
                    let why = "expected unix:, https:, or http: on loopback (or insecure = true)";
                    return Err(wrong(format!("url: {why}")));
                }
            }
            config.url.trim_end_matches('/').to_owned()
        };
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|error| wrong(format!("ca_file: {}: {error}", path.display())))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem);
            builder = builder.tls_certs_only(authorities.map_err(|error| wrong(format!("ca_file: {error}")))?);
        }
        let http = builder.build().map_err(|error| wrong(format!("url: {}", chain(&error))))?;
        let mut rest = Self {
            http,
            base,
            version: String::new(),
            user: config.user.clone(),
            credential: config.credential.clone(),
            token: Mutex::new(None),
            converter,
        };
        rest.version = rest.agree().await?;
        Ok(rest)
    }

    /// The API version, for example `v0.0.38`.
    pub fn version(&self) -> &str {
        &self.version
    }

    async fn agree(&self) -> Result<String, AdapterError> {
        #[derive(Deserialize)]
        struct Document {
            paths: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
        }
        let (_, body) = self.send(reqwest::Method::GET, "/openapi/v3", None).await?;
        let document: Document =
            serde_json::from_slice(&body).map_err(|error| down(format!("its API document: {error}")))?;
        let offered: std::collections::BTreeSet<&str> =
            document.paths.keys().filter_map(|path| path.strip_prefix("/slurm/")?.split('/').next()).collect();
        let best = SPOKEN.iter().find(|version| offered.contains(**version));
        best.map(|version| (*version).to_owned()).ok_or_else(|| {
            let why = format!(
                "slurmrestd offers {}: expected one of {}; start it with -s openapi/{}",
                offered.into_iter().collect::<Vec<_>>().join(", "),
                SPOKEN.join(", "),
                SPOKEN[0]
            );
            AdapterError::fatal(ReasonCode::BackendUnsupported, why)
        })
    }

    fn token(&self) -> Result<Option<Secret>, AdapterError> {
        let Some(name) = &self.credential else { return Ok(None) };
        let mut kept = lock(&self.token);
        if let Some(given) = credential(name) {
            *kept = Some(given);
        }
        kept.clone().map(Some).ok_or_else(|| {
            AdapterError::passing(ReasonCode::NotPermitted, format!("the call did not bring the credential {name:?}"))
        })
    }

    async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(reqwest::StatusCode, Vec<u8>), AdapterError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = self.token()? {
            let mut value = reqwest::header::HeaderValue::from_bytes(token.expose().trim_ascii())
                .map_err(|_| AdapterError::passing(ReasonCode::NotPermitted, "the token is no header"))?;
            value.set_sensitive(true);
            request = request.header("X-SLURM-USER-NAME", &self.user).header("X-SLURM-USER-TOKEN", value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut answer = request.send().await.map_err(|error| down(chain(&error)))?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| down(chain(&error)))? {
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(down(format!("it answers more than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        if status == reqwest::StatusCode::UNAUTHORIZED || status == reqwest::StatusCode::FORBIDDEN {
            return Err(AdapterError::passing(ReasonCode::NotPermitted, "slurmrestd refuses the token"));
        }
        Ok((status, bytes))
    }

    /// What was asked for. Errors beside it count: a list without entries that comes with one is no empty list.
    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Result<T, AdapterError>, AdapterError> {
        let path = format!("/slurm/{}{path}", self.version);
        let (status, bytes) = self.send(method, &path, body).await?;
        let unread = |error: serde_json::Error| down(format!("{path} answered {status}: {error}"));
        let errors = serde_json::from_slice::<Errors>(&bytes).map_err(unread)?.errors;
        if errors.is_empty() && status.is_success() {
            return serde_json::from_slice(&bytes).map(Ok).map_err(unread);
        }
        Ok(Err(self.refusal(&path, status, &errors)))
    }

    fn refusal(&self, path: &str, status: reqwest::StatusCode, errors: &[Said]) -> AdapterError {
        let code = |said: &Said| if said.error_code == 0 { said.error_number } else { said.error_code };
        let said = errors.iter().find(|said| code(said) != 0).or(errors.first());
        let texts: Vec<&str> = errors
            .iter()
            .flat_map(|said| [said.error.as_str(), said.description.as_str()])
            .filter(|text| !text.is_empty())
            .collect();
        let text = if texts.is_empty() { format!("{path} answered {status}") } else { texts.join("; ") };
        self.converter.refusal(said.map_or(0, code), &text)
    }

    pub async fn jobs(&self) -> Result<Vec<Job>, AdapterError> {
        Ok(self.call::<Jobs>(reqwest::Method::GET, "/jobs", None).await??.jobs)
    }

    pub async fn nodes(&self) -> Result<Vec<Node>, AdapterError> {
        Ok(self.call::<Nodes>(reqwest::Method::GET, "/nodes", None).await??.nodes)
    }

    pub async fn partitions(&self) -> Result<Vec<Partition>, AdapterError> {
        Ok(self.call::<Partitions>(reqwest::Method::GET, "/partitions", None).await??.partitions)
    }

    /// The job's number. The outer error means that nobody knows whether there is a job now.
    pub async fn submit(&self, document: &serde_json::Value) -> Result<Result<i64, AdapterError>, AdapterError> {
        let path = format!("/slurm/{}/job/submit", self.version);
        let (status, bytes) = self.send(reqwest::Method::POST, &path, Some(document)).await?;
        let unread = |error: serde_json::Error| down(format!("{path} answered {status}: {error}"));
        let errors = serde_json::from_slice::<Errors>(&bytes).map_err(unread)?.errors;
        match serde_json::from_slice::<Submitted>(&bytes).map_err(unread)?.job_id {
            // also beside a warning, such as a partition that is not available just now
            Some(job) if job > 0 => Ok(Ok(job)),
            _ if errors.is_empty() => Err(down("it took a job and told no number")),
            _ => {
                let refused = self.refusal(&path, status, &errors);
                if refused.reason.code == ReasonCode::AdapterDown { Err(refused) } else { Ok(Err(refused)) }
            }
        }
    }

    /// Kills a job. One that is not there is fine.
    pub async fn delete(&self, job: i64) -> Result<(), AdapterError> {
        match self.call::<Nothing>(reqwest::Method::DELETE, &format!("/job/{job}"), None).await? {
            Ok(Nothing {}) => Ok(()),
            Err(refused) if refused.reason.detail.contains("Invalid job id") => Ok(()),
            Err(refused) if refused.reason.detail.contains("already") => Ok(()),
            Err(refused) => Err(refused),
        }
    }
}
