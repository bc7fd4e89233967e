//! Machines: Nova servers that somebody asked for by a tag of his own.

use super::adapter::{OpenStackAdapter, WAIT, WAIT_STEP};
use super::cloud::CloudError;
use super::keystone::Service;
use super::nova::{KIND, NovaServer, ServerTag};
use crate::contract::AdapterError;
use crate::resources::{PowerAction, ProvisionRequest, Resource, ResourceState, ResourceTag};
use crate::rules::Direction;
use cpi::reason::ReasonCode;
use cpi::resource::Quantity;
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::time::Instant;

/// Metadata `causeway.kind` of machines.
const MACHINE: &str = "machine";
/// The most that Nova takes as user data, after base64.
pub(super) const USER_DATA_BYTES_MAX: usize = 65_535;

fn tag_of(tag: ResourceTag) -> ServerTag {
    let text = format!("causeway-m-{tag}");
    ServerTag { tag: text.clone(), lookup: text }
}

impl OpenStackAdapter {
    fn told(&self, tag: ResourceTag, server: &NovaServer, has: Quantity) -> Result<Resource, AdapterError> {
        let state = match server.stands(&self.cloud).map_err(unmapped)?.machine.as_str() {
            "ready" => ResourceState::Ready,
            "stopped" => ResourceState::Stopped,
            "released" => ResourceState::Released,
            "failed" => ResourceState::Failed(server.reason(&self.cloud)),
            _ => ResourceState::Pending,
        };
        let addresses = server.addresses.values().flatten().map(|address| address.addr.clone()).collect();
        Ok(Resource { tag, state, handle: server.id.clone(), has, addresses })
    }

    async fn has(&self, server: &NovaServer) -> Result<Quantity, AdapterError> {
        let list = self.flavours.list(&self.cloud).await.map_err(|error| self.cloud.refusal(&error))?;
        list.has(&self.cloud, &server.flavor)
            .map_err(|error| AdapterError::fatal(ReasonCode::Internal, error.to_string()))
    }

    async fn whole(&self, tag: ResourceTag, server: &NovaServer) -> Result<Resource, AdapterError> {
        self.told(tag, server, self.has(server).await?)
    }

    /// Waits until a server was given a host, or failed to get one, for a while.
    pub(super) async fn placed(&self, server: NovaServer) -> Result<NovaServer, AdapterError> {
        self.until(server, |server| server.host.is_some() || server.status != "BUILD").await.map(|(server, _)| server)
    }

    /// Waits until a server is made, or could not be, for a while.
    pub(super) async fn made(&self, server: NovaServer) -> Result<NovaServer, AdapterError> {
        self.until(server, |server| server.status != "BUILD").await.map(|(server, _)| server)
    }

    /// Waits for a while until `wanted` holds; also says whether it does.
    async fn until(
        &self,
        mut server: NovaServer,
        wanted: impl Fn(&NovaServer) -> bool,
    ) -> Result<(NovaServer, bool), AdapterError> {
        let deadline = Instant::now() + WAIT;
        while !wanted(&server) {
            if Instant::now() >= deadline {
                return Ok((server, false));
            }
            tokio::time::sleep(WAIT_STEP).await;
            let now = self.cloud.server(&server.id).await.map_err(|error| self.cloud.refusal(&error))?;
            server = now.ok_or_else(|| AdapterError::fatal(ReasonCode::RunLost, "the server was deleted meanwhile"))?;
        }
        Ok((server, true))
    }

    /// Makes the server of `source` (see the rules' section `server`), or finds it.
    pub(super) async fn make(&self, tag: &ServerTag, source: &Value) -> Result<NovaServer, AdapterError> {
        let body = self.cloud.rules.convert(Direction::South, "server", source).map_err(unmapped)?;
        let made = self.cloud.make_once(tag, &body).await.map_err(|error| self.cloud.refusal(&error))?;
        self.placed(made).await
    }

    pub(super) async fn provision_machine(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        let tag = tag_of(request.tag);
        let _alone = self.locks.hold(&tag.tag).await;
        if let Some(there) = self.cloud.server_with(&tag).await.map_err(|error| self.cloud.refusal(&error))? {
            return self.whole(request.tag, &there).await;
        }
        let flavour = self.flavour_for(&request.pool, &request.class, &request.need).await?;
        if !request.volumes.is_empty()
            && !self.cloud.has(Service::Volume).await.map_err(|error| self.cloud.refusal(&error))?
        {
            return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, "volumes: the cloud has no Cinder"));
        }
        let user_data = BASE64.encode(request.user_data.as_bytes());
        if user_data.len() > USER_DATA_BYTES_MAX {
            let why = format!("user_data: expected at most {} bytes", USER_DATA_BYTES_MAX / 4 * 3);
            return Err(AdapterError::fatal(ReasonCode::InvalidTask, why));
        }
        let volumes: Vec<Value> = request
            .volumes
            .iter()
            .map(|volume| json!({ "name": volume.name, "class": volume.class, "size_bytes": volume.size_bytes }))
            .collect();
        let source = json!({
            "tag": tag.tag, "lookup": tag.lookup, "site": self.cloud.config.site, "kind": MACHINE, "pool": request.pool,
            "flavour": flavour.id,
            "image": self.image(request.image.as_deref()).await?,
            "network": self.network().await?,
            "zone": self.cloud.config.availability_zone,
            "user_data_base64": (!user_data.is_empty()).then_some(user_data),
            "volumes": volumes,
        });
        let server = self.make(&tag, &source).await?;
        self.whole(request.tag, &server).await
    }

    async fn machine(&self, tag: ResourceTag) -> Result<NovaServer, AdapterError> {
        let there = self.cloud.server_with(&tag_of(tag)).await.map_err(|error| self.cloud.refusal(&error))?;
        let there = there.filter(|server| server.metadata.get(KIND).is_some_and(|kind| kind == MACHINE));
        there.ok_or_else(|| AdapterError::fatal(ReasonCode::RunLost, format!("no machine {tag} is here")))
    }

    /// A machine that does nothing at the moment; `asked` is what for.
    async fn idle(&self, tag: ResourceTag, asked: &str) -> Result<NovaServer, AdapterError> {
        let rests =
            |server: &NovaServer| server.task_state.is_none() && !matches!(server.status.as_str(), "BUILD" | "RESIZE");
        let (server, is) = self.until(self.machine(tag).await?, rests).await?;
        let server = self.confirmed(server).await?;
        if is && server.task_state.is_none() && server.status != "VERIFY_RESIZE" {
            return Ok(server);
        }
        let why = format!("the machine is still {:?}, so it cannot be {asked}", server.status);
        Err(AdapterError::passing(ReasonCode::Busy, why))
    }

    /// Confirms a change of flavour that waits for it. A machine whose change began in another process gets here too.
    async fn confirmed(&self, server: NovaServer) -> Result<NovaServer, AdapterError> {
        if server.status != "VERIFY_RESIZE" || server.task_state.is_some() {
            return Ok(server);
        }
        match self.cloud.act(&server.id, &json!({ "confirmResize": null })).await {
            Ok(_) => {}
            // somebody else was first
            Err(error) if error.is_status(409) || error.is_status(400) => {}
            Err(error) => return Err(self.cloud.refusal(&error)),
        }
        self.until(server, |server| server.status != "VERIFY_RESIZE").await.map(|(server, _)| server)
    }

    pub(super) async fn modify_machine(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        let _alone = self.locks.hold(&tag_of(tag).tag).await;
        let server = self.idle(tag, "changed").await?;
        let list = self.flavours.list(&self.cloud).await.map_err(|error| self.cloud.refusal(&error))?;
        let chip = list
            .of_name(&server.flavor.original_name)
            .and_then(|flavour| flavour.chips.as_ref().and_then(super::parts::Accelerators::chip));
        let flavour = list.choose(&need, chip.as_ref())?;
        if flavour.name == server.flavor.original_name {
            return self.whole(tag, &server).await;
        }
        let resize = json!({ "resize": { "flavorRef": flavour.id } });
        self.cloud.act(&server.id, &resize).await.map_err(|error| self.cloud.refusal(&error))?;
        let ready = |server: &NovaServer| {
            server.task_state.is_none() && !matches!(server.status.as_str(), "RESIZE" | "ACTIVE" | "SHUTOFF")
        };
        let before = server.flavor.original_name.clone();
        let (server, _) = self.until(server, ready).await?;
        let server = self.confirmed(server).await?;
        if server.status == "ERROR" {
            let reason = server.reason(&self.cloud);
            return Err(AdapterError { retryable: reason.code.is_retryable(), reason });
        }
        if server.flavor.original_name == before && server.task_state.is_none() && server.status != "VERIFY_RESIZE" {
            // Nova goes back silently where no host takes it
            return Err(AdapterError::passing(ReasonCode::NoCapacityNow, "no host took the machine in its new shape"));
        }
        self.whole(tag, &server).await
    }

    pub(super) async fn power_machine(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        let _alone = self.locks.hold(&tag_of(tag).tag).await;
        let server = self.idle(tag, "switched").await?;
        let on = server.status == "ACTIVE";
        let asked = match action {
            PowerAction::Start if on => None,
            PowerAction::Stop if server.status == "SHUTOFF" => None,
            PowerAction::Stop => Some(json!({ "os-stop": null })),
            PowerAction::Restart if on => Some(json!({ "reboot": { "type": "HARD" } })),
            PowerAction::Start | PowerAction::Restart => Some(json!({ "os-start": null })),
        };
        if let Some(asked) = asked {
            self.cloud.act(&server.id, &asked).await.map_err(|error| self.cloud.refusal(&error))?;
        }
        let server = self.machine(tag).await?;
        self.whole(tag, &server).await
    }

    pub(super) async fn release_machine(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        let _alone = self.locks.hold(&tag_of(tag).tag).await;
        let server = match self.machine(tag).await {
            Ok(server) => server,
            Err(error) if error.reason.code == ReasonCode::RunLost => return Ok(released(tag, String::new())),
            Err(error) => return Err(error),
        };
        let path = format!("/servers/{}", server.id);
        self.cloud.delete(Service::Compute, &path).await.map_err(|error| self.cloud.refusal(&error))?;
        Ok(Resource { state: ResourceState::Pending, ..released(tag, server.id) })
    }

    pub(super) async fn find_machine(&self, tag: ResourceTag) -> Result<Option<Resource>, AdapterError> {
        let refusal = |error: CloudError| self.cloud.refusal(&error);
        match self.machine(tag).await {
            Ok(server) => {
                let server = self.confirmed(server).await?;
                return self.whole(tag, &server).await.map(Some);
            }
            Err(error) if error.reason.code == ReasonCode::RunLost => {}
            Err(error) => return Err(error),
        }
        let Some((id, gone)) = self.cloud.deleted_with(&tag_of(tag)).await.map_err(refusal)? else {
            return Ok(None);
        };
        // released means that its capacity is back
        let state = if gone && !self.cloud.holds_capacity(&id).await.map_err(refusal)? {
            ResourceState::Released
        } else {
            ResourceState::Pending
        };
        Ok(Some(Resource { state, ..released(tag, id) }))
    }
}

fn released(tag: ResourceTag, handle: String) -> Resource {
    Resource { tag, state: ResourceState::Released, handle, has: Quantity::default(), addresses: Vec::new() }
}

/// Rules that lack something are the operator's to mend.
pub(super) fn unmapped(error: crate::rules::ConvertError) -> AdapterError {
    AdapterError::fatal(ReasonCode::Internal, error.to_string())
}
