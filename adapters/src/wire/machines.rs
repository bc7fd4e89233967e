//! Servers, volumes, reservations and resources: contract to wire and back.

use super::fault::{reason_from_wire, reason_to_wire};
use super::{WireError, list, proto, text, there};
use crate::resources::{
    InventoryEvent, Partition, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceState,
    ResourceTag, Server, Volume, VolumeNeed,
};
use cpi::reason::{Reason, ReasonCode};

impl From<InventoryEvent> for proto::InventoryEvent {
    fn from(event: InventoryEvent) -> Self {
        use proto::inventory_event::Event;
        let event = match event {
            InventoryEvent::Server(server) => Event::Server(server.into()),
            InventoryEvent::Volume(volume) => Event::Volume(volume.into()),
            InventoryEvent::Gone(id) => Event::Gone(id),
            InventoryEvent::Synced => Event::Synced(proto::Synced {}),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<proto::InventoryEvent> for InventoryEvent {
    type Error = WireError;
    fn try_from(event: proto::InventoryEvent) -> Result<Self, WireError> {
        use proto::inventory_event::Event;
        Ok(match there("event", event.event)? {
            Event::Server(server) => Self::Server(server.try_into()?),
            Event::Volume(volume) => Self::Volume(volume.try_into()?),
            Event::Gone(id) => Self::Gone(text("gone", id)?),
            Event::Synced(_) => Self::Synced,
        })
    }
}

impl From<Server> for proto::Server {
    fn from(server: Server) -> Self {
        let partition = |part: Partition| proto::Partition {
            profile: part.profile,
            chip_milli: part.chip_milli,
            total: part.total,
            free: part.free,
        };
        Self {
            id: server.id,
            pool: server.pool,
            class: server.class,
            total: Some(server.total.into()),
            free: Some(server.free.into()),
            chip: server.chip.map(Into::into),
            partitions: server.partitions.into_iter().map(partition).collect(),
            topology: server.topology,
            schedulable: server.schedulable,
            note: server.note,
        }
    }
}

impl TryFrom<proto::Server> for Server {
    type Error = WireError;
    fn try_from(server: proto::Server) -> Result<Self, WireError> {
        let partition = |part: proto::Partition| {
            if part.chip_milli == 0 || part.free > part.total {
                return Err(WireError::new("server.partitions", "chip_milli of at least 1, and free up to total"));
            }
            Ok(Partition {
                profile: text("server.partitions.profile", part.profile)?,
                chip_milli: part.chip_milli,
                total: part.total,
                free: part.free,
            })
        };
        let server = Self {
            id: text("server.id", server.id)?,
            pool: text("server.pool", server.pool)?,
            class: text("server.class", server.class)?,
            total: there("server.total", server.total)?.into(),
            free: there("server.free", server.free)?.into(),
            chip: server.chip.map(TryInto::try_into).transpose()?,
            partitions: list("server.partitions", server.partitions, partition)?,
            topology: list("server.topology", server.topology, |level| text("server.topology", level))?,
            schedulable: server.schedulable,
            note: text("server.note", server.note)?,
        };
        if !server.total.fits(&server.free) {
            return Err(WireError::new("server.free", "at most what `total` has"));
        }
        Ok(server)
    }
}

impl From<Volume> for proto::Volume {
    fn from(volume: Volume) -> Self {
        let Volume { id, pool, class, size_bytes, free_bytes } = volume;
        Self { id, pool, class, size_bytes, free_bytes }
    }
}

impl TryFrom<proto::Volume> for Volume {
    type Error = WireError;
    fn try_from(volume: proto::Volume) -> Result<Self, WireError> {
        if volume.free_bytes > volume.size_bytes {
            return Err(WireError::new("volume.free_bytes", "at most `size_bytes`"));
        }
        Ok(Self {
            id: text("volume.id", volume.id)?,
            pool: text("volume.pool", volume.pool)?,
            class: text("volume.class", volume.class)?,
            size_bytes: volume.size_bytes,
            free_bytes: volume.free_bytes,
        })
    }
}

impl From<ReserveRequest> for proto::ReserveRequest {
    fn from(request: ReserveRequest) -> Self {
        let ReserveRequest { key, pool, class, need, ttl_ms } = request;
        Self { key: Some(key.into()), pool, class, need: Some(need.into()), ttl_ms }
    }
}

impl TryFrom<proto::ReserveRequest> for ReserveRequest {
    type Error = WireError;
    fn try_from(request: proto::ReserveRequest) -> Result<Self, WireError> {
        Ok(Self {
            key: there("key", request.key)?.try_into()?,
            pool: text("pool", request.pool)?,
            class: text("class", request.class)?,
            need: there("need", request.need)?.into(),
            ttl_ms: request.ttl_ms,
        })
    }
}

impl From<Reservation> for proto::Reservation {
    fn from(reservation: Reservation) -> Self {
        Self {
            key: Some(reservation.key.into()),
            firmness: proto::Firmness::from(reservation.firmness).into(),
            ttl_ms: reservation.ttl_ms,
        }
    }
}

impl TryFrom<proto::Reservation> for Reservation {
    type Error = WireError;
    fn try_from(reservation: proto::Reservation) -> Result<Self, WireError> {
        Ok(Self {
            firmness: reservation.firmness().try_into()?,
            key: there("key", reservation.key)?.try_into()?,
            ttl_ms: reservation.ttl_ms,
        })
    }
}

impl From<ResourceTag> for proto::ResourceTag {
    fn from(tag: ResourceTag) -> Self {
        Self { id: tag.to_string() }
    }
}

impl TryFrom<proto::ResourceTag> for ResourceTag {
    type Error = WireError;
    fn try_from(tag: proto::ResourceTag) -> Result<Self, WireError> {
        tag.id.parse().map(Self).map_err(|_| WireError::new("tag.id", "26 characters of Crockford base32"))
    }
}

impl From<ProvisionRequest> for proto::ProvisionRequest {
    fn from(request: ProvisionRequest) -> Self {
        let volume =
            |need: VolumeNeed| proto::VolumeNeed { name: need.name, class: need.class, size_bytes: need.size_bytes };
        Self {
            tag: Some(request.tag.into()),
            pool: request.pool,
            class: request.class,
            need: Some(request.need.into()),
            image: request.image,
            user_data: request.user_data,
            volumes: request.volumes.into_iter().map(volume).collect(),
        }
    }
}

impl TryFrom<proto::ProvisionRequest> for ProvisionRequest {
    type Error = WireError;
    fn try_from(request: proto::ProvisionRequest) -> Result<Self, WireError> {
        let volume = |need: proto::VolumeNeed| {
            Ok(VolumeNeed {
                name: text("volumes.name", need.name)?,
                class: text("volumes.class", need.class)?,
                size_bytes: need.size_bytes,
            })
        };
        Ok(Self {
            tag: there("tag", request.tag)?.try_into()?,
            pool: text("pool", request.pool)?,
            class: text("class", request.class)?,
            need: there("need", request.need)?.into(),
            image: request.image.map(|image| text("image", image)).transpose()?,
            user_data: text("user_data", request.user_data)?,
            volumes: list("volumes", request.volumes, volume)?,
        })
    }
}

impl From<Resource> for proto::Resource {
    fn from(resource: Resource) -> Self {
        let (state, reason) = match resource.state {
            ResourceState::Pending => (proto::ResourceState::Pending, None),
            ResourceState::Ready => (proto::ResourceState::Ready, None),
            ResourceState::Stopped => (proto::ResourceState::Stopped, None),
            ResourceState::Released => (proto::ResourceState::Released, None),
            ResourceState::Failed(reason) => (proto::ResourceState::Failed, Some(reason_to_wire(&reason))),
        };
        Self {
            tag: Some(resource.tag.into()),
            state: state.into(),
            handle: resource.handle,
            has: Some(resource.has.into()),
            addresses: resource.addresses,
            reason,
        }
    }
}

impl TryFrom<proto::Resource> for Resource {
    type Error = WireError;
    fn try_from(resource: proto::Resource) -> Result<Self, WireError> {
        let state = match resource.state() {
            proto::ResourceState::Pending => ResourceState::Pending,
            proto::ResourceState::Ready => ResourceState::Ready,
            proto::ResourceState::Stopped => ResourceState::Stopped,
            proto::ResourceState::Released => ResourceState::Released,
            proto::ResourceState::Failed => ResourceState::Failed(
                resource.reason.map_or_else(|| Reason::from(ReasonCode::Internal), reason_from_wire),
            ),
            proto::ResourceState::Unspecified => return Err(WireError::new("state", "a state of this protocol")),
        };
        Ok(Self {
            tag: there("tag", resource.tag)?.try_into()?,
            state,
            handle: text("handle", resource.handle)?,
            has: there("has", resource.has)?.into(),
            addresses: list("addresses", resource.addresses, |address| text("addresses", address))?,
        })
    }
}

impl From<PowerAction> for proto::PowerAction {
    fn from(action: PowerAction) -> Self {
        match action {
            PowerAction::Start => Self::Start,
            PowerAction::Stop => Self::Stop,
            PowerAction::Restart => Self::Restart,
        }
    }
}

impl TryFrom<proto::PowerAction> for PowerAction {
    type Error = WireError;
    fn try_from(action: proto::PowerAction) -> Result<Self, WireError> {
        match action {
            proto::PowerAction::Start => Ok(Self::Start),
            proto::PowerAction::Stop => Ok(Self::Stop),
            proto::PowerAction::Restart => Ok(Self::Restart),
            proto::PowerAction::Unspecified => Err(WireError::new("action", "start, stop or restart")),
        }
    }
}
