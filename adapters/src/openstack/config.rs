//! What the `openstack` backend is told.

use serde::Deserialize;
use std::path::PathBuf;

/// The rules that are used unless `rules_file` names others.
const RULES: &str = include_str!("../../../configs/rules/openstack.toml");

/// The longest rule file.
const RULES_BYTES_MAX: u64 = 1 << 20;

/// Settings of one cloud (or one region of it).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// Keystone's address, for example `https://keystone.example:5000/v3`.
    pub(super) url: String,
    /// The credential's name in the vault. It is JSON: an application credential (`application_credential_id`,
    /// `application_credential_secret`), or `username`, `user_domain`, `password`, `project`, `project_domain`.
    pub(super) credential: String,
    /// The catalogue's region; needed where it has several.
    #[serde(default)]
    pub(super) region: Option<String>,
    /// Which of the catalogue's endpoints.
    #[serde(default)]
    pub(super) interface: Interface,
    /// PEM certificates to trust instead of the system's.
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
    /// Allows plain HTTP.
    #[serde(default)]
    pub(super) insecure: bool,
    /// Tells apart what several nodes make in one project.
    #[serde(default = "site")]
    pub(super) site: String,
    /// Image (name or id) of machines and runs that name none.
    #[serde(default)]
    pub(super) image: Option<String>,
    /// Network (name or id), `auto` or `none`.
    #[serde(default = "network")]
    pub(super) network: String,
    /// Path of `causeway-runner` in the image. Runs then report to the node's run desk themselves, with inputs, outputs and
    /// leases; without it only the console tells of them.
    #[serde(default)]
    pub(super) runner: Option<String>,
    /// Where servers are made; the platform's choice by default.
    #[serde(default)]
    pub(super) availability_zone: Option<String>,
    /// Dictionary code of the hosts' processors.
    #[serde(default = "cpu_model")]
    pub(super) cpu_model: String,
    /// How often the platform is asked what changed, in ms.
    #[serde(default = "poll_ms")]
    pub(super) poll_ms: u64,
    /// How long one request may take, in ms.
    #[serde(default = "request_ms")]
    pub(super) request_ms: u64,
    /// Conversion rules instead of the built-in ones.
    #[serde(default)]
    pub(super) rules_file: Option<PathBuf>,
}

/// An interface of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Interface {
    #[default]
    Public,
    Internal,
    Admin,
}

impl Interface {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

fn site() -> String {
    "causeway".to_owned()
}

fn network() -> String {
    "auto".to_owned()
}

fn cpu_model() -> String {
    "INP8480".to_owned()
}

fn poll_ms() -> u64 {
    3_000
}

fn request_ms() -> u64 {
    30_000
}

impl Config {
    pub(super) fn parse(value: serde_json::Value) -> Result<Self, String> {
        let mut config: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let name = |text: &str| {
            (1..=32).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if !name(&config.site) {
            return Err("site: expected 1 to 32 letters, digits, hyphens and underscores".to_owned());
        }
        if !(100..=3_600_000).contains(&config.poll_ms) {
            return Err("poll_ms: expected 100 to 3600000".to_owned());
        }
        if !(100..=600_000).contains(&config.request_ms) {
            return Err("request_ms: expected 100 to 600000".to_owned());
        }
        config.url.truncate(config.url.trim_end_matches('/').len());
        config.check_address("url", &config.url)?;
        Ok(config)
    }

    /// Refuses plain HTTP that was not allowed; `what` names where the address came from.
    pub(super) fn check_address(&self, what: &str, url: &str) -> Result<(), String> {
        let parsed = reqwest::Url::parse(url).map_err(|error| format!("{what}: {error}"))?;
        match parsed.scheme() {
            "https" => Ok(()),
            "http" if self.insecure => Ok(()),
            "http" => Err(format!("{what}: expected https, or insecure = true for plain HTTP")),
            _ => Err(format!("{what}: expected an http or https address")),
        }
    }

    pub(super) fn rules(&self) -> Result<crate::rules::Rules, String> {
        let Some(path) = &self.rules_file else {
            return crate::rules::Rules::parse(RULES).map_err(|error| error.to_string());
        };
        let wrong = |why: String| format!("rules_file: {}: {why}", path.display());
        let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if size > RULES_BYTES_MAX {
            return Err(wrong("expected at most 1 MiB".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        crate::rules::Rules::parse(&text).map_err(|error| wrong(error.to_string()))
    }

    pub(super) fn schema() -> serde_json::Value {
        let text = |description: &str| serde_json::json!({ "type": "string", "description": description });
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "required": ["url", "credential"],
            "properties": {
                "url": text("Keystone's address, for example https://keystone.example:5000/v3."),
                "credential": text("The credential's name in the vault: JSON with application_credential_id and \
                    application_credential_secret, or username, user_domain, password, project and project_domain."),
                "region": text("The catalogue's region; needed where it has several."),
                "interface": { "enum": ["public", "internal", "admin"], "default": "public" },
                "ca_file": text("PEM certificates to trust instead of the system's."),
                "insecure": { "type": "boolean", "default": false, "description": "Allows plain HTTP." },
                "site": { "type": "string", "default": site(), "description": "Tells apart what several nodes make in one project." },
                "image": text("Image (name or id) of machines and runs that name none."),
                "network": { "type": "string", "default": network(), "description": "Network (name or id), auto or none." },
                "runner": text("Path of causeway-runner in the image: runs report to the node's run desk. Without it the console tells."),
                "availability_zone": text("Where servers are made."),
                "cpu_model": { "type": "string", "default": cpu_model(), "description": "Dictionary code of the hosts' processors." },
                "poll_ms": { "type": "integer", "minimum": 100, "default": poll_ms(), "description": "How often the platform is asked what changed." },
                "request_ms": { "type": "integer", "minimum": 100, "default": request_ms(), "description": "How long one request may take." },
                "rules_file": text("Conversion rules instead of the built-in ones.")
            }
        })
    }
}
