//! What an operator says of a vCenter.

use crate::southbound::EndpointConfig;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// For example `https://vcenter.example.net/sdk`.
    url: String,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    insecure: bool,
    /// Who signs in.
    pub(super) user: String,
    /// Name of the vault's secret with the password.
    pub(super) credential: String,
    /// Path of `causeway-runner` in the templates.
    pub(super) runner: String,
    /// Which cluster and template make which class.
    pub(super) classes: Vec<Class>,
    /// For one answer, in ms. Default 5,000.
    #[serde(default = "request_ms")]
    pub(super) request_ms: u64,
    /// For one verb with all it takes, in ms. Default 9,000.
    #[serde(default = "verb_ms")]
    pub(super) verb_ms: u64,
    /// Between two looks at runs and servers, in ms. Default 2,000.
    #[serde(default = "poll_ms")]
    pub(super) poll_ms: u64,
    /// The largest answer in bytes. Default 32 MiB.
    #[serde(default = "answer_bytes_max")]
    pub(super) answer_bytes_max: usize,
}

/// A server class of a pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    pub(super) pool: String,
    pub(super) class: String,
    /// Name of the cluster whose hosts are its servers.
    pub(super) cluster: String,
    /// Name of the template or machine that is cloned.
    pub(super) template: String,
    /// vGPU profile of one chip, for classes with chips.
    #[serde(default)]
    pub(super) vgpu: Option<String>,
    /// PCI vendor and device of one chip, instead of `vgpu`.
    #[serde(default)]
    pub(super) pci: Option<Pci>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pci {
    pub(super) vendor_id: u16,
    pub(super) device_id: u16,
}

fn request_ms() -> u64 {
    5_000
}

fn verb_ms() -> u64 {
    9_000
}

fn poll_ms() -> u64 {
    2_000
}

fn answer_bytes_max() -> usize {
    32 << 20
}

impl Config {
    pub(super) fn endpoint(&self) -> EndpointConfig {
        EndpointConfig { url: self.url.clone(), ca_file: self.ca_file.clone(), insecure: self.insecure }
    }
}

/// JSON Schema of [`Config`].
pub(super) fn schema() -> serde_json::Value {
    let ms = |default: u64| serde_json::json!({ "type": "integer", "minimum": 10, "default": default });
    serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "required": ["url", "user", "credential", "runner", "classes"],
        "properties": {
            "url": { "type": "string", "description": "For example https://vcenter.example.net/sdk." },
            "ca_file": { "type": "string", "description": "PEM file with the only certificates that are trusted; without it those of the system." },
            "insecure": { "type": "boolean", "default": false, "description": "Allows plain HTTP, and is warned about." },
            "user": { "type": "string", "description": "Who signs in." },
            "credential": { "type": "string", "description": "Name of the vault's secret with the password." },
            "runner": { "type": "string", "description": "Path of causeway-runner in the templates." },
            "classes": { "type": "array", "items": { "type": "object", "additionalProperties": false,
                "required": ["pool", "class", "cluster", "template"],
                "properties": {
                    "pool": { "type": "string" }, "class": { "type": "string" },
                    "cluster": { "type": "string", "description": "Cluster whose hosts are the class's servers." },
                    "template": { "type": "string", "description": "Template or machine that is cloned." },
                    "vgpu": { "type": "string", "description": "vGPU profile of one chip." },
                    "pci": { "type": "object", "additionalProperties": false, "required": ["vendor_id", "device_id"],
                        "properties": { "vendor_id": { "type": "integer" }, "device_id": { "type": "integer" } } }
                } } },
            "request_ms": ms(5_000), "verb_ms": ms(9_000), "poll_ms": ms(2_000),
            "answer_bytes_max": { "type": "integer", "minimum": 1024, "default": 33_554_432 }
        }
    })
}
