//! The Kubernetes backend as a plugin: what it is told.

use super::adapter::KubernetesAdapter;
use super::client::Place;
use crate::contract::{Adapter, AdapterError};
use crate::plugin::Backend;
use crate::rules::{RuleBook, Rules};
use async_trait::async_trait;
use cpi::reason::ReasonCode;
use cpi::resource::{ComputeClass, Firmness, PoolSpec, PriceList};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// The rules that come with the program.
const RULES: &str = include_str!("../../../configs/rules/kubernetes.toml");

/// Opens a namespace of a cluster in a plugin's process.
#[derive(Debug, Clone, Copy, Default)]
pub struct KubernetesBackend;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    server: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    insecure: bool,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    #[serde(default)]
    in_cluster: bool,
    pub credential: Option<String>,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    pub image: Option<String>,
    #[serde(default)]
    pub tolerations: Vec<serde_json::Value>,
    #[serde(default = "one_minute")]
    pub start_patience_ms: u64,
    #[serde(default)]
    pub schedule_patience_ms: u64,
    rules_dir: Option<PathBuf>,
    pub runner: Option<String>,
    #[serde(default)]
    pub work: super::job::Work,
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn one_minute() -> u64 {
    60_000
}

fn wrong(why: impl std::fmt::Display) -> AdapterError {
    AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"))
}

impl Config {
    /// Where the cluster is.
    ///
    /// # Errors
    /// Unless exactly one place is named, with what belongs to it.
    pub(super) fn place(&self) -> Result<Place, AdapterError> {
        let place = match (&self.server, &self.kubeconfig, self.in_cluster) {
            (Some(url), None, false) => {
                Place::Server { url: url.clone(), ca_file: self.ca_file.clone(), insecure: self.insecure }
            }
            (None, Some(file), false) => Place::Kubeconfig { file: file.clone(), context: self.context.clone() },
            (None, None, true) => Place::InCluster,
            _ => return Err(wrong("expected one of server, kubeconfig, and in_cluster = true")),
        };
        if self.credential.is_none() && place != Place::InCluster {
            return Err(wrong("credential: expected the name of the vault's secret with a bearer token"));
        }
        Ok(place)
    }
}

#[async_trait]
impl Backend for KubernetesBackend {
    fn kind(&self) -> String {
        "kubernetes".to_owned()
    }

    fn config_schema(&self) -> serde_json::Value {
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "oneOf": [{ "required": ["server"] }, { "required": ["kubeconfig"] }, { "required": ["in_cluster"] }],
            "properties": {
                "server": { "type": "string", "description": "The API server, https://HOST:PORT." },
                "ca_file": { "type": "string", "description": "PEM file with the authority of the server's certificate." },
                "insecure": { "type": "boolean", "default": false, "description": "Allow plain http; tokens can be read under way." },
                "kubeconfig": { "type": "string", "description": "File whose context names the cluster; its users are not read." },
                "context": { "type": "string", "description": "Context of the kubeconfig; its current one by default." },
                "in_cluster": { "type": "boolean", "default": false,
                    "description": "The plugin is a pod, and uses its own service account." },
                "credential": { "type": "string", "description": "The vault's secret with a bearer token." },
                "namespace": { "type": "string", "default": "default", "description": "Where Jobs are made." },
                "image": { "type": "string", "description": "Image for tasks that name none; without it they are refused." },
                "tolerations": { "type": "array", "items": { "type": "object" }, "description": "Given to every pod." },
                "start_patience_ms": { "type": "integer", "minimum": 0, "default": 60000,
                    "description": "A run whose container cannot be started for so long is ended; 0 waits for ever." },
                "schedule_patience_ms": { "type": "integer", "minimum": 0, "default": 0,
                    "description": "Likewise for a run that no node has room for." },
                "runner": { "type": "string",
                    "description": "Where causeway-runner lies in the pod: in its image, or on a volume of `work`. Without it there are no inputs, outputs and exact usage." },
                "work": { "type": "object", "additionalProperties": false, "description": "Given to every pod, as Kubernetes writes it.",
                    "properties": {
                        "volumes": { "type": "array", "items": { "type": "object" } },
                        "mounts": { "type": "array", "items": { "type": "object" } },
                        "path": { "type": "string", "description": "Working directory." } } },
                "rules_dir": { "type": "string", "description": "Folder of rule files instead of the built-in ones; read again when they change." }
            }
        })
    }

    async fn open(&self, config: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let config: Config = serde_json::from_value(config).map_err(wrong)?;
        let pools = if pools.is_empty() { vec![discovered(&config.namespace)] } else { pools };
        let (rules, book) = match &config.rules_dir {
            None => (Arc::new(Rules::parse(RULES).map_err(wrong)?), None),
            Some(folder) => {
                let (book, problems) = RuleBook::open(folder);
                for problem in problems {
                    tracing::warn!(path = %problem.path.display(), why = problem.why, "conversion rules cannot be used");
                }
                let rules = book.choose("kubernetes", "1.", "").or_else(|| book.choose("kubernetes", "", ""));
                let rules = rules.ok_or_else(|| {
                    wrong(format!("rules_dir: no usable rules for kubernetes in {}", folder.display()))
                })?;
                (rules, Some(book))
            }
        };
        Ok(Arc::new(KubernetesAdapter::open(config, pools, rules, book).await?))
    }
}

/// The pool of a cluster for which the operator declared none.
fn discovered(namespace: &str) -> PoolSpec {
    PoolSpec {
        name: namespace.to_owned(),
        backend: "kubernetes".to_owned(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: Vec::new(),
        firmness: Firmness::Estimate,
        price: PriceList::default(),
        carbon_g_per_kwh: None,
        cordoned: false,
    }
}
