//! Keystone: a credential, the token it is worth, and the addresses of the services.

use super::config::{Config, Interface};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// A token is renewed this long before its end.
const RENEW_BEFORE: Duration = Duration::from_secs(120);

/// The services that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Compute,
    Placement,
    Image,
    Network,
    Volume,
    Accelerator,
}

impl Service {
    pub(super) const ALL: [Self; 6] =
        [Self::Compute, Self::Placement, Self::Image, Self::Network, Self::Volume, Self::Accelerator];

    /// The types of it in a catalogue.
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &["compute"],
            Self::Placement => &["placement"],
            Self::Image => &["image"],
            Self::Network => &["network"],
            Self::Volume => &["block-storage", "volumev3"],
            Self::Accelerator => &["accelerator"],
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.types()[0]
    }
}

/// What the vault has. Its own `Debug` is missing on purpose.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged)]
pub(super) enum Credential {
    Application {
        application_credential_id: String,
        #[serde(deserialize_with = "wiped")]
        application_credential_secret: Zeroizing<String>,
    },
    Password {
        username: String,
        user_domain: String,
        #[serde(deserialize_with = "wiped")]
        password: Zeroizing<String>,
        project: String,
        project_domain: String,
    },
}

fn wiped<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl Credential {
    /// `None` for what is neither.
    pub(super) fn parse(secret: &[u8]) -> Option<Self> {
        serde_json::from_slice(secret).ok()
    }

    /// The body of a request for a token.
    pub(super) fn login(&self) -> Value {
        match self {
            Self::Application { application_credential_id, application_credential_secret } => json!({ "auth": {
                "identity": {
                    "methods": ["application_credential"],
                    "application_credential": {
                        "id": application_credential_id, "secret": application_credential_secret.as_str(),
                    },
                },
            }}),
            Self::Password { username, user_domain, password, project, project_domain } => json!({ "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": { "user": {
                        "name": username, "domain": { "name": user_domain }, "password": password.as_str(),
                    }},
                },
                "scope": { "project": { "name": project, "domain": { "name": project_domain } } },
            }}),
        }
    }
}

/// A token with what came along.
pub(super) struct Token {
    pub(super) id: Zeroizing<String>,
    /// From when on it is to be renewed.
    pub(super) renew_at: Instant,
    pub(super) endpoints: BTreeMap<Service, String>,
}

#[derive(Deserialize)]
pub(super) struct LoginAnswer {
    token: LoginToken,
}

#[derive(Deserialize)]
struct LoginToken {
    issued_at: jiff::Timestamp,
    expires_at: jiff::Timestamp,
    #[serde(default)]
    catalog: Vec<CatalogEntry>,
}

#[derive(Deserialize)]
struct CatalogEntry {
    r#type: String,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region_id: Option<String>,
    url: String,
}

impl Token {
    /// Reads an answer. The token's life is counted from now by how long it is valid, so that clocks may differ.
    ///
    /// # Errors
    /// What of the catalogue cannot be used.
    pub(super) fn read(id: String, answer: LoginAnswer, config: &Config, now: Instant) -> Result<Self, String> {
        let life = answer.token.expires_at.duration_since(answer.token.issued_at);
        let life = Duration::try_from(life).unwrap_or_default();
        let endpoints = choose(&answer.token.catalog, config)?;
        Ok(Self { id: Zeroizing::new(id), renew_at: now + life.saturating_sub(RENEW_BEFORE), endpoints })
    }
}

fn choose(catalogue: &[CatalogEntry], config: &Config) -> Result<BTreeMap<Service, String>, String> {
    let mut chosen = BTreeMap::new();
    for service in Service::ALL {
        let fits = |endpoint: &&Endpoint, interface: Interface| {
            endpoint.interface == interface.name()
                && config.region.as_ref().is_none_or(|region| endpoint.region_id.as_ref() == Some(region))
        };
        let of = |kind: &str| catalogue.iter().find(|entry| entry.r#type == kind);
        let Some(entry) = service.types().iter().find_map(|kind| of(kind)) else { continue };
        let found: Vec<&Endpoint> = entry.endpoints.iter().filter(|one| fits(one, config.interface)).collect();
        match found.as_slice() {
            [] => {}
            [one] => {
                config.check_address(&format!("the catalogue's {}", service.name()), &one.url)?;
                chosen.insert(service, one.url.trim_end_matches('/').to_owned());
            }
            _ => return Err(format!("region: the catalogue has several regions with {}: name one", service.name())),
        }
    }
    Ok(chosen)
}
