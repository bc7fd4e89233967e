//! Nova's servers: as they are told, found by our tag, made once, changed by actions.

use super::cloud::{Cloud, CloudError};
use super::keystone::Service;
use crate::rules::{ConvertError, Direction};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Metadata with the whole tag.
pub(super) const TAG: &str = "causeway.tag";
/// Metadata with `run` or `machine`.
pub(super) const KIND: &str = "causeway.kind";
/// Metadata with our site.
const SITE: &str = "causeway.site";
/// Servers of one page.
const PAGE: usize = 500;
/// For how long a deleted server is looked for.
const DELETED_SEEN: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// A server, as `/servers/detail` tells it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct NovaServer {
    pub(super) id: String,
    pub(super) status: String,
    #[serde(rename = "OS-EXT-STS:task_state", default)]
    pub(super) task_state: Option<String>,
    #[serde(rename = "OS-SRV-USG:launched_at", default)]
    pub(super) launched_at: Option<String>,
    #[serde(rename = "OS-EXT-SRV-ATTR:host", default)]
    pub(super) host: Option<String>,
    pub(super) created: Timestamp,
    #[serde(default)]
    pub(super) fault: Option<NovaFault>,
    pub(super) flavor: ServerFlavour,
    #[serde(default)]
    pub(super) addresses: BTreeMap<String, Vec<Address>>,
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct NovaFault {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) message: String,
}

/// The flavour that a server was made of, embedded in it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ServerFlavour {
    pub(super) original_name: String,
    pub(super) vcpus: u64,
    pub(super) ram: u64,
    pub(super) disk: u64,
    #[serde(default)]
    pub(super) ephemeral: u64,
    #[serde(default)]
    pub(super) extra_specs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Address {
    pub(super) addr: String,
}

#[derive(Deserialize)]
struct Servers {
    servers: Vec<NovaServer>,
}

#[derive(Deserialize)]
struct One {
    server: NovaServer,
}

/// Where a server stands, as the rules say it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Stands {
    pub(super) machine: String,
    pub(super) run: String,
}

impl NovaServer {
    /// Whether it is there and will stay.
    fn lives(&self) -> bool {
        !matches!(self.status.as_str(), "DELETED" | "SOFT_DELETED") && !self.leaves()
    }

    /// Whether it is being deleted.
    pub(super) fn leaves(&self) -> bool {
        self.task_state.as_deref().is_some_and(|task| matches!(task, "deleting" | "soft-deleting"))
    }

    pub(super) fn stands(&self, cloud: &Cloud) -> Result<Stands, ConvertError> {
        let source = json!({ "status": self.status, "task_state": self.task_state });
        let made = cloud.rules.convert(Direction::North, "server", &source)?;
        let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        Ok(Stands { machine: text("machine"), run: text("run") })
    }

    /// Its fault in our taxonomy.
    pub(super) fn reason(&self, cloud: &Cloud) -> cpi::reason::Reason {
        let (code, message) = self.fault.as_ref().map_or((500, "no fault is told"), |f| (f.code, f.message.as_str()));
        cpi::reason::Reason::new(cloud.code("server", code, message), message)
    }

    /// When it began to run; its making where that is not told.
    pub(super) fn began(&self) -> Timestamp {
        // Nova leaves the zone out here
        let told = self.launched_at.as_ref().and_then(|text| format!("{}Z", text.trim_end_matches('Z')).parse().ok());
        told.unwrap_or(self.created)
    }
}

/// What a server is known by: `lookup` is Nova's tag (at most 60 characters), `tag` the whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerTag {
    pub(super) tag: String,
    pub(super) lookup: String,
}

impl Cloud {
    /// The servers of a query, page by page.
    async fn servers_where(&self, query: &str) -> Result<Vec<NovaServer>, CloudError> {
        let mut all: Vec<NovaServer> = Vec::new();
        loop {
            let marker = all.last().map(|server| format!("&marker={}", server.id)).unwrap_or_default();
            let path = format!("/servers/detail?limit={PAGE}&{query}{marker}");
            let page: Servers = self.get(Service::Compute, &path).await?;
            let whole = page.servers.len() == PAGE;
            all.extend(page.servers);
            if !whole {
                return Ok(all);
            }
        }
    }

    /// All servers of our site of one kind that are not being deleted.
    pub(super) async fn servers_of_kind(&self, kind: &str) -> Result<Vec<NovaServer>, CloudError> {
        let mut servers = self.servers_where(&format!("tags=causeway-site-{}", self.config.site)).await?;
        servers.retain(|server| server.lives() && server.metadata.get(KIND).is_some_and(|of| of == kind));
        Ok(servers)
    }

    /// All servers with this tag, the one that counts first: the oldest.
    async fn servers_with(&self, tag: &ServerTag) -> Result<Vec<NovaServer>, CloudError> {
        let mut servers = self.servers_where(&format!("tags={}", tag.lookup)).await?;
        servers.retain(|server| {
            server.lives()
                && server.metadata.get(TAG) == Some(&tag.tag)
                && server.metadata.get(SITE) == Some(&self.config.site)
        });
        servers.sort_by(|one, two| (one.created, &one.id).cmp(&(two.created, &two.id)));
        Ok(servers)
    }

    /// The server with this tag.
    pub(super) async fn server_with(&self, tag: &ServerTag) -> Result<Option<NovaServer>, CloudError> {
        Ok(self.servers_with(tag).await?.into_iter().next())
    }

    /// Whether a server with this tag was deleted, or is being deleted, not long ago: `Some(id)`, and whether it is gone.
    pub(super) async fn deleted_with(&self, tag: &ServerTag) -> Result<Option<(String, bool)>, CloudError> {
        // tags do not outlive a server; its name and its metadata do
        let since = (Timestamp::now() - DELETED_SEEN).strftime("%Y-%m-%dT%H:%M:%SZ");
        let query = format!("name=%5E{}%24&changes-since={since}", tag.tag.replace('.', "%5C."));
        let servers = self.servers_where(&query).await?;
        let mut gone = servers.into_iter().filter(|server| !server.lives());
        Ok(gone.next().map(|server| (server.id.clone(), !server.leaves())))
    }

    /// A server by its id.
    pub(super) async fn server(&self, id: &str) -> Result<Option<NovaServer>, CloudError> {
        Ok(self.find::<One>(Service::Compute, &format!("/servers/{id}")).await?.map(|one| one.server))
    }

    /// Makes the server of `body`, which carries `tag`, or finds the one that is there. Nova knows no idempotency key: it
    /// is looked up before, after an answer that was lost, and afterwards, when the oldest stays where two were made.
    pub(super) async fn make_once(&self, tag: &ServerTag, body: &Value) -> Result<NovaServer, CloudError> {
        if let Some(there) = self.server_with(tag).await? {
            return Ok(there);
        }
        match self.post(Service::Compute, "/servers", body).await {
            Ok(_) => {}
            Err(error @ CloudError::Unreachable { .. }) => {
                return self.server_with(tag).await?.ok_or(error);
            }
            Err(error) => return Err(error),
        }
        let mut servers = self.servers_with(tag).await?.into_iter();
        let first = servers.next().ok_or(CloudError::Unreachable {
            service: Service::Compute.name(),
            why: "a server that was just made is not told".to_owned(),
        })?;
        for double in servers {
            tracing::warn!(
                tag = tag.tag,
                server = double.id,
                "another server was made for the same tag, it is deleted"
            );
            self.delete(Service::Compute, &format!("/servers/{}", double.id)).await?;
        }
        Ok(first)
    }

    /// An action of a server.
    pub(super) async fn act(&self, id: &str, action: &Value) -> Result<Value, CloudError> {
        self.post(Service::Compute, &format!("/servers/{id}/action"), action).await
    }

    /// Keeps something in a server's metadata.
    pub(super) async fn note(&self, id: &str, name: &str, value: &str) -> Result<(), CloudError> {
        let body = json!({ "metadata": { name: value } });
        self.post(Service::Compute, &format!("/servers/{id}/metadata"), &body).await.map(drop)
    }

    /// What a server wrote to its console.
    pub(super) async fn console(&self, id: &str) -> Result<String, CloudError> {
        let told = self.act(id, &json!({ "os-getConsoleOutput": {} })).await?;
        Ok(told["output"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether Placement still has something taken for a server. Without the right to ask: nothing.
    pub(super) async fn holds_capacity(&self, id: &str) -> Result<bool, CloudError> {
        match self.get::<Value>(Service::Placement, &format!("/allocations/{id}")).await {
            Ok(told) => Ok(told["allocations"].as_object().is_some_and(|taken| !taken.is_empty())),
            Err(CloudError::NoService(_)) => Ok(false),
            Err(error) if error.is_status(403) || error.is_status(404) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
