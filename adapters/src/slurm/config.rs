//! What an operator says of a Slurm cluster.

use crate::contract::AdapterError;
use cpi::reason::ReasonCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Configuration of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmConfig {
    /// `unix:/path/of/a/socket`, `http://127.0.0.1:6820` or `https://host:port`.
    pub url: String,
    /// Allows plain HTTP beyond loopback.
    #[serde(default)]
    pub insecure: bool,
    /// PEM file of an authority for `https`, beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The user that jobs run as; sent with a token.
    #[serde(default = "root")]
    pub user: String,
    /// The vault's name of the token (`scontrol token`); absent for a socket that needs none.
    #[serde(default)]
    pub credential: Option<String>,
    /// Where `causeway-runner` lies on the cluster's nodes.
    #[serde(default = "runner")]
    pub runner: String,
    /// Where runs may make their folders on the cluster's nodes.
    #[serde(default = "tmp")]
    pub run_dir: String,
    /// Where the jobs' own output goes, on the cluster's nodes; Slurm replaces `%j` and the like.
    #[serde(default = "null")]
    pub job_output: String,
    /// Tells jobs of this node from those of other nodes with the same user.
    #[serde(default = "owner")]
    pub owner: String,
    /// Sent with each job, where set.
    #[serde(default)]
    pub account: Option<String>,
    /// Likewise.
    #[serde(default)]
    pub qos: Option<String>,
    /// Pool = partition, where they have different names.
    #[serde(default)]
    pub partitions: BTreeMap<String, String>,
    /// Between two looks at jobs and nodes, in ms; 100 to 60,000.
    #[serde(default = "poll_ms")]
    pub poll_ms: u64,
    /// Scratch space of a node whose TmpDisk is not configured.
    #[serde(default = "scratch_bytes")]
    pub scratch_bytes: u64,
    /// Dictionary code of the processors, for classes that are discovered.
    #[serde(default)]
    pub cpu_model: String,
    /// A folder of rule files to use instead of those that are built in; read again when they change.
    #[serde(default)]
    pub rules_dir: Option<PathBuf>,
}

fn root() -> String {
    "root".to_owned()
}

fn runner() -> String {
    "/usr/local/bin/causeway-runner".to_owned()
}

fn tmp() -> String {
    "/tmp".to_owned()
}

fn null() -> String {
    "/dev/null".to_owned()
}

fn owner() -> String {
    "causeway".to_owned()
}

fn poll_ms() -> u64 {
    1000
}

fn scratch_bytes() -> u64 {
    64 << 30
}

impl SlurmConfig {
    /// JSON Schema of it.
    pub fn schema() -> serde_json::Value {
        let text = |what: &str| serde_json::json!({ "type": "string", "description": what });
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "required": ["url"],
            "properties": {
                "url": text("Of slurmrestd: unix:/path, http://127.0.0.1:6820 or https://host:port."),
                "insecure": { "type": "boolean", "default": false, "description": "Allows plain HTTP beyond loopback." },
                "ca_file": text("PEM file of an authority for https."),
                "user": text("The user that jobs run as. Default root."),
                "credential": text("The vault's name of the token that scontrol token prints."),
                "runner": text("Path of causeway-runner on the cluster's nodes. Default /usr/local/bin/causeway-runner."),
                "run_dir": text("Where runs make their folders on the cluster's nodes. Default /tmp."),
                "job_output": text("Where the jobs' own output goes. Default /dev/null."),
                "owner": text("Tells this node's jobs from others' with the same user: 1 to 32 of a-z, 0-9, '-'."),
                "account": text("Account of each job."),
                "qos": text("Quality of service of each job."),
                "partitions": { "type": "object", "additionalProperties": { "type": "string" },
                    "description": "Pool = partition, where they have different names." },
                "poll_ms": { "type": "integer", "minimum": 100, "maximum": 60000, "default": 1000 },
                "scratch_bytes": { "type": "integer", "minimum": 0, "default": 68_719_476_736_u64 },
                "cpu_model": text("Dictionary code of the processors, for discovered classes."),
                "rules_dir": text("A folder of rule files instead of the built-in ones.")
            }
        })
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// `invalid_task` with the field and what was expected.
    pub fn read(value: serde_json::Value) -> Result<Self, AdapterError> {
        let wrong = |why: String| AdapterError::fatal(ReasonCode::InvalidTask, format!("config: {why}"));
        let config: Self = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        if !(100..=60_000).contains(&config.poll_ms) {
            return Err(wrong(format!("poll_ms {}: expected 100 to 60000", config.poll_ms)));
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if config.owner.is_empty() || config.owner.len() > 32 || !config.owner.chars().all(plain) {
            return Err(wrong(format!("owner {:?}: expected 1 to 32 of a-z, 0-9 and '-'", config.owner)));
        }
        for (field, path) in
            [("runner", &config.runner), ("run_dir", &config.run_dir), ("job_output", &config.job_output)]
        {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(wrong(format!("{field} {path:?}: expected an absolute path")));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_named() {
        let said = |value| SlurmConfig::read(value).unwrap_err().to_string();
        assert!(said(json!({})).contains("url"));
        assert!(said(json!({ "url": "unix:/s", "pol_ms": 1 })).contains("pol_ms"));
        assert!(said(json!({ "url": "unix:/s", "poll_ms": 1 })).contains("expected 100 to 60000"));
        assert!(said(json!({ "url": "unix:/s", "owner": "Me!" })).contains("owner"));
        assert!(said(json!({ "url": "unix:/s", "runner": "runner" })).contains("absolute"));
        let config = SlurmConfig::read(json!({ "url": "unix:/s" })).unwrap();
        assert_eq!(config.poll_ms, SlurmConfig::schema()["properties"]["poll_ms"]["default"].as_u64().unwrap());
    }
}
