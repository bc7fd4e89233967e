//! Cases about servers, reservations and machines; only for backends that say that they can.

use super::{Outcome, Suite, ensure, text};
use crate::contract::AdapterError;
use crate::resources::{
    InventoryEvent, PowerAction, ProvisionRequest, ReserveRequest, ResourceState, ResourceTag, Server,
};
use cpi::reason::ReasonCode;
use cpi::resource::Quantity;
use std::collections::BTreeMap;

/// Quantities of one small machine.
const SMALL: Quantity = Quantity { cpu_milli: 1000, memory_bytes: 64 << 20, storage_bytes: 0, chip_milli: 0 };

impl Suite<'_> {
    fn machine(&self) -> ProvisionRequest {
        ProvisionRequest {
            tag: ResourceTag(self.key().task),
            pool: self.options.pool.clone(),
            class: self.options.class.clone(),
            need: SMALL,
            image: None,
            user_data: String::new(),
            volumes: Vec::new(),
        }
    }

    async fn servers(&self) -> Result<BTreeMap<String, Server>, String> {
        let mut events = self.adapter.servers(false).await.map_err(text)?;
        let mut servers = BTreeMap::new();
        let mut synced = false;
        while let Some(event) = events.recv().await {
            match event {
                InventoryEvent::Server(server) => drop(servers.insert(server.id.clone(), server)),
                InventoryEvent::Gone(id) => drop(servers.remove(&id)),
                InventoryEvent::Synced => synced = true,
                InventoryEvent::Volume(_) => {}
            }
        }
        ensure(synced, || "the end of what was there was not told".to_owned())?;
        Ok(servers)
    }

    async fn free_cpu(&self) -> Result<u64, String> {
        let mine = |server: &&Server| server.pool == self.options.pool && server.class == self.options.class;
        Ok(self.servers().await?.values().filter(mine).map(|server| server.free.cpu_milli).sum())
    }

    /// What is not offered is refused with the code for it, and not ignored.
    pub(super) async fn what_it_cannot_is_refused_as_unsupported(&self) -> Outcome {
        let can = self.adapter.capabilities();
        let refused = |said: Result<(), AdapterError>, verb: &str| match said {
            Err(error) if error.reason.code == ReasonCode::BackendUnsupported && !error.retryable => Ok(()),
            other => Err(format!("{verb}: {other:?}")),
        };
        if !can.streams_inventory {
            refused(self.adapter.servers(false).await.map(drop), "servers")?;
        }
        if !can.reserves {
            refused(self.adapter.unreserve(self.key()).await, "unreserve")?;
        }
        if !can.provisions {
            refused(self.adapter.provision(self.machine()).await.map(drop), "provision")?;
            refused(self.adapter.release(self.machine().tag).await.map(drop), "release")?;
        }
        Ok(())
    }

    pub(super) async fn every_server_of_the_pool_is_told_once(&self) -> Outcome {
        if !self.adapter.capabilities().streams_inventory {
            return self.not_offered();
        }
        let servers = self.servers().await?;
        let pools = self.adapter.inventory().await.map_err(text)?;
        let classes = pools.iter().flat_map(|pool| &pool.classes);
        let expected: u64 = classes.map(|class| u64::from(class.servers)).sum();
        ensure(servers.len() as u64 == expected, || format!("{} of {expected}", servers.len()))?;
        ensure(servers.values().all(|server| server.total.fits(&server.free)), || "more free than there is".to_owned())
    }

    pub(super) async fn a_followed_inventory_tells_changes(&self) -> Outcome {
        let can = self.adapter.capabilities();
        if !can.streams_inventory || !can.reserves {
            return self.not_offered();
        }
        let mut events = self.adapter.servers(true).await.map_err(text)?;
        loop {
            match tokio::time::timeout(self.options.patience, events.recv()).await {
                Ok(Some(InventoryEvent::Synced)) => break,
                Ok(Some(_)) => {}
                _ => return Err("it never was complete".to_owned()),
            }
        }
        let asked = self.reservation();
        self.adapter.reserve(asked.clone()).await.map_err(text)?;
        // what was under way before may be told first
        let deadline = tokio::time::Instant::now() + self.options.patience;
        let told = loop {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(InventoryEvent::Server(server))) if server.free.cpu_milli < server.total.cpu_milli => {
                    break Ok(());
                }
                Ok(Some(_)) => {}
                other => break Err(format!("the change was not told: {other:?}")),
            }
        };
        self.adapter.unreserve(asked.key).await.map_err(text)?;
        told
    }

    fn reservation(&self) -> ReserveRequest {
        ReserveRequest {
            key: self.key(),
            pool: self.options.pool.clone(),
            class: self.options.class.clone(),
            need: SMALL,
            ttl_ms: 60_000,
        }
    }

    pub(super) async fn a_reservation_takes_capacity_once_and_gives_it_back(&self) -> Outcome {
        if !self.adapter.capabilities().reserves {
            return self.not_offered();
        }
        let before = self.free_cpu().await?;
        let asked = self.reservation();
        for _ in 0..2 {
            let got = self.adapter.reserve(asked.clone()).await.map_err(text)?;
            ensure(got.key == asked.key && got.ttl_ms > 0, || format!("{got:?}"))?;
        }
        let during = self.free_cpu().await?;
        ensure(during == before - SMALL.cpu_milli, || format!("{before} before, {during} during"))?;
        for _ in 0..2 {
            self.adapter.unreserve(asked.key).await.map_err(text)?;
        }
        let after = self.free_cpu().await?;
        ensure(after == before, || format!("{before} before, {after} after"))
    }

    pub(super) async fn a_reservation_lapses_by_itself(&self) -> Outcome {
        if !self.adapter.capabilities().reserves {
            return self.not_offered();
        }
        let mut asked = self.reservation();
        asked.ttl_ms = 1;
        self.adapter.reserve(asked).await.map_err(text)?;
        // another one makes room by what has lapsed
        let deadline = tokio::time::Instant::now() + self.options.patience;
        let mut all = self.reservation();
        let servers = self.servers().await?;
        let whole = servers.values().find(|server| server.class == self.options.class).map(|server| server.total);
        all.need = whole.ok_or("no server of the class")?;
        loop {
            match self.adapter.reserve(all.clone()).await {
                Ok(_) => return self.adapter.unreserve(all.key).await.map_err(text),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    }

    pub(super) async fn more_than_there_is_is_refused(&self) -> Outcome {
        if !self.adapter.capabilities().reserves {
            return self.not_offered();
        }
        let mut asked = self.reservation();
        asked.need.cpu_milli = u64::MAX;
        let refused = self.adapter.reserve(asked).await;
        let code = refused.as_ref().err().map(|error| error.reason.code);
        ensure(code == Some(ReasonCode::ShapeTooLarge), || format!("{refused:?}"))?;
        let mut nowhere = self.reservation();
        nowhere.pool = "there-is-no-such-pool".to_owned();
        ensure(self.adapter.reserve(nowhere).await.is_err(), || "a pool that is not there".to_owned())
    }

    pub(super) async fn the_same_tag_is_the_same_machine(&self) -> Outcome {
        if !self.adapter.capabilities().provisions {
            return self.not_offered();
        }
        let asked = self.machine();
        let (one, two) = tokio::join!(self.adapter.provision(asked.clone()), self.adapter.provision(asked.clone()));
        let (one, two) = (one.map_err(text)?, two.map_err(text)?);
        ensure(one.handle == two.handle, || format!("{one:?} and {two:?}"))?;
        let there = self.adapter.resource(asked.tag).await.map_err(text)?;
        ensure(there.is_some_and(|there| there.has == SMALL), || "it has another shape".to_owned())?;
        self.adapter.release(asked.tag).await.map(drop).map_err(text)
    }

    pub(super) async fn a_machine_is_changed_and_switched(&self) -> Outcome {
        if !self.adapter.capabilities().provisions {
            return self.not_offered();
        }
        let asked = self.machine();
        self.adapter.provision(asked.clone()).await.map_err(text)?;
        let larger = Quantity { cpu_milli: 2000, ..SMALL };
        self.adapter.modify(asked.tag, larger).await.map_err(text)?;
        for (action, state) in [
            (PowerAction::Stop, ResourceState::Stopped),
            (PowerAction::Stop, ResourceState::Stopped),
            (PowerAction::Start, ResourceState::Ready),
            (PowerAction::Restart, ResourceState::Ready),
        ] {
            self.adapter.power(asked.tag, action).await.map_err(text)?;
            self.until_machine(asked.tag, &state).await?;
        }
        let there = self.adapter.resource(asked.tag).await.map_err(text)?;
        ensure(there.is_some_and(|there| there.has == larger), || "it has not the new shape".to_owned())?;
        self.adapter.release(asked.tag).await.map(drop).map_err(text)
    }

    async fn until_machine(&self, tag: ResourceTag, wanted: &ResourceState) -> Outcome {
        let deadline = tokio::time::Instant::now() + self.options.patience;
        loop {
            let there = self.adapter.resource(tag).await.map_err(text)?;
            if there.as_ref().is_some_and(|there| there.state == *wanted) {
                return self.not_offered();
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("waited for {wanted:?}: {there:?}"));
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn a_released_machine_gives_its_capacity_back(&self) -> Outcome {
        let can = self.adapter.capabilities();
        if !can.provisions || !can.streams_inventory {
            return self.not_offered();
        }
        let before = self.free_cpu().await?;
        let asked = self.machine();
        self.adapter.provision(asked.clone()).await.map_err(text)?;
        ensure(self.free_cpu().await? < before, || "it takes nothing".to_owned())?;
        for _ in 0..2 {
            self.adapter.release(asked.tag).await.map_err(text)?;
        }
        self.until_machine(asked.tag, &ResourceState::Released).await?;
        ensure(self.free_cpu().await? == before, || "its capacity is not back".to_owned())
    }

    pub(super) async fn nothing_is_known_of_an_unknown_machine(&self) -> Outcome {
        if !self.adapter.capabilities().provisions {
            let refused = self.adapter.resource(self.machine().tag).await;
            let code = refused.as_ref().err().map(|error| error.reason.code);
            return ensure(code == Some(ReasonCode::BackendUnsupported), || format!("{refused:?}"));
        }
        let tag = self.machine().tag;
        ensure(self.adapter.resource(tag).await.map_err(text)?.is_none(), || "it is known".to_owned())?;
        ensure(self.adapter.modify(tag, SMALL).await.is_err(), || "it was changed".to_owned())?;
        ensure(self.adapter.power(tag, PowerAction::Start).await.is_err(), || "it was switched".to_owned())?;
        self.adapter.release(tag).await.map(drop).map_err(text)
    }
}
