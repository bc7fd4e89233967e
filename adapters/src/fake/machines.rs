//! Servers, reservations and machines of the fake backend: kept in memory, at once or after a while, refused where full.

use super::adapter::FakeAdapter;
use crate::contract::{AdapterError, RunKey};
use crate::resources::{
    InventoryEvent, PowerAction, ProvisionRequest, Reservation, ReserveRequest, Resource, ResourceState, ResourceTag,
    Server,
};
use cpi::reason::ReasonCode;
use cpi::resource::{Firmness, PoolSpec, Quantity};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant};

/// A server by pool, class and number in the class.
type Place = (String, String, u32);

/// What the fake platform has given away.
#[derive(Default)]
struct Given {
    reserved: BTreeMap<RunKey, (Place, Quantity, Instant)>,
    machines: BTreeMap<ResourceTag, (Place, Resource)>,
}

/// The fake platform's machines.
pub(super) struct Machines {
    pools: Vec<PoolSpec>,
    given: Mutex<Given>,
    /// Grows with each change.
    changes: watch::Sender<u64>,
}

impl Machines {
    pub(super) fn new(pools: Vec<PoolSpec>) -> Self {
        Self { pools, given: Mutex::default(), changes: watch::channel(0).0 }
    }

    fn given(&self) -> std::sync::MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn free_of(given: &Given, place: &Place, total: Quantity) -> Quantity {
        let reserved = given.reserved.values().filter(|(at, ..)| at == place).map(|(_, need, _)| *need);
        let gone = |resource: &Resource| resource.state == ResourceState::Released;
        let made = given.machines.values().filter(|(at, made)| at == place && !gone(made)).map(|(_, made)| made.has);
        reserved.chain(made).fold(total, |free, taken| free.checked_sub(&taken).unwrap_or_default())
    }

    /// The first server of the class with room.
    fn room(&self, given: &Given, pool: &str, class: &str, need: Quantity) -> Result<Place, AdapterError> {
        let known = self.pools.iter().find(|known| known.name == pool);
        let classes = known.ok_or_else(|| AdapterError::fatal(ReasonCode::InvalidTask, "pool: no such pool"))?;
        let class = classes
            .classes
            .iter()
            .find(|known| known.name == class)
            .ok_or_else(|| AdapterError::fatal(ReasonCode::InvalidTask, "class: no such server class"))?;
        if !class.per_server.fits(&need) {
            return Err(AdapterError::fatal(ReasonCode::ShapeTooLarge, "need: no server has as much"));
        }
        (0..class.servers)
            .map(|number| (pool.to_owned(), class.name.clone(), number))
            .find(|place| Self::free_of(given, place, class.per_server).fits(&need))
            .ok_or_else(|| AdapterError::passing(ReasonCode::NoCapacityNow, "every server of the class is taken"))
    }

    pub(super) fn reserve(&self, request: ReserveRequest) -> Result<Reservation, AdapterError> {
        let mut given = self.given();
        let now = Instant::now();
        given.reserved.retain(|_, (_, _, until)| *until > now);
        let until = now + Duration::from_millis(request.ttl_ms);
        if let Some(there) = given.reserved.get_mut(&request.key) {
            there.2 = until;
        } else {
            let place = self.room(&given, &request.pool, &request.class, request.need)?;
            given.reserved.insert(request.key, (place, request.need, until));
        }
        drop(given);
        self.changed();
        Ok(Reservation { key: request.key, firmness: Firmness::Reserved, ttl_ms: request.ttl_ms })
    }

    pub(super) fn unreserve(&self, key: RunKey) {
        if self.given().reserved.remove(&key).is_some() {
            self.changed();
        }
    }

    pub(super) fn provision(&self, request: ProvisionRequest) -> Result<Resource, AdapterError> {
        let mut given = self.given();
        if let Some((_, there)) = given.machines.get(&request.tag) {
            return Ok(there.clone());
        }
        let place = self.room(&given, &request.pool, &request.class, request.need)?;
        let made = Resource {
            tag: request.tag,
            state: ResourceState::Ready,
            handle: format!("fake-{}", request.tag),
            has: request.need,
            addresses: vec!["192.0.2.1".to_owned()],
        };
        given.machines.insert(request.tag, (place, made.clone()));
        drop(given);
        self.changed();
        Ok(made)
    }

    /// Changes a machine that is there.
    pub(super) fn change(
        &self,
        tag: ResourceTag,
        change: impl FnOnce(&mut Resource, Quantity) -> Result<(), AdapterError>,
    ) -> Result<Resource, AdapterError> {
        let unknown = || AdapterError::fatal(ReasonCode::RunLost, format!("no machine {tag} is here"));
        let mut given = self.given();
        let (place, made) = given.machines.get(&tag).cloned().ok_or_else(unknown)?;
        let total = self.total_of(&place);
        let free = Self::free_of(&given, &place, total).saturating_add(&made.has);
        let mut changed = made;
        change(&mut changed, free)?;
        given.machines.insert(tag, (place, changed.clone()));
        drop(given);
        self.changed();
        Ok(changed)
    }

    fn total_of(&self, (pool, class, _): &Place) -> Quantity {
        let pool = self.pools.iter().find(|known| known.name == *pool);
        let class = pool.and_then(|pool| pool.classes.iter().find(|known| known.name == *class));
        class.map_or_else(Quantity::default, |class| class.per_server)
    }

    pub(super) fn modify(&self, tag: ResourceTag, need: Quantity) -> Result<Resource, AdapterError> {
        self.change(tag, |made, free| {
            if !free.fits(&need) {
                return Err(AdapterError::passing(ReasonCode::NoCapacityNow, "its server has not as much free"));
            }
            made.has = need;
            Ok(())
        })
    }

    pub(super) fn power(&self, tag: ResourceTag, action: PowerAction) -> Result<Resource, AdapterError> {
        self.change(tag, |made, _| {
            if made.state == ResourceState::Released {
                return Err(AdapterError::fatal(ReasonCode::RunLost, "the machine was deleted"));
            }
            made.state = match action {
                PowerAction::Stop => ResourceState::Stopped,
                PowerAction::Start | PowerAction::Restart => ResourceState::Ready,
            };
            Ok(())
        })
    }

    pub(super) fn release(&self, tag: ResourceTag) -> Result<Resource, AdapterError> {
        let none = Resource {
            tag,
            state: ResourceState::Released,
            handle: String::new(),
            has: Quantity::default(),
            addresses: Vec::new(),
        };
        if self.resource(tag).is_none() {
            return Ok(none);
        }
        self.change(tag, |made, _| {
            made.state = ResourceState::Released;
            made.addresses.clear();
            Ok(())
        })
    }

    pub(super) fn resource(&self, tag: ResourceTag) -> Option<Resource> {
        self.given().machines.get(&tag).map(|(_, made)| made.clone())
    }

    fn servers_now(&self) -> Vec<Server> {
        let given = self.given();
        let mut servers = Vec::new();
        for pool in &self.pools {
            for class in &pool.classes {
                for number in 0..class.servers {
                    let place = (pool.name.clone(), class.name.clone(), number);
                    servers.push(Server {
                        id: format!("{}/{}/{number}", pool.name, class.name),
                        pool: pool.name.clone(),
                        class: class.name.clone(),
                        total: class.per_server,
                        free: Self::free_of(&given, &place, class.per_server),
                        chip: class.chip.clone(),
                        partitions: Vec::new(),
                        topology: vec![format!("rack-{}", number / 8)],
                        schedulable: !pool.cordoned,
                        note: if pool.cordoned { "the pool is cordoned".to_owned() } else { String::new() },
                    });
                }
            }
        }
        servers
    }

    /// Tells all servers, then with `follow` those that change.
    pub(super) fn tell(self: Arc<Self>, follow: bool) -> mpsc::Receiver<InventoryEvent> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut changes = self.changes.subscribe();
            let mut told: BTreeMap<String, Server> = BTreeMap::new();
            let mut synced = false;
            loop {
                changes.mark_unchanged();
                for server in self.servers_now() {
                    if told.get(&server.id) != Some(&server) {
                        told.insert(server.id.clone(), server.clone());
                        if sender.send(InventoryEvent::Server(server)).await.is_err() {
                            return;
                        }
                    }
                }
                if !synced {
                    synced = true;
                    if sender.send(InventoryEvent::Synced).await.is_err() {
                        return;
                    }
                }
                if !follow {
                    return;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }
}

impl FakeAdapter {
    /// A machine's making fails from now on, as on a platform that accepts and then finds no host.
    pub fn fail_machine(&self, tag: ResourceTag, code: ReasonCode) -> Result<Resource, AdapterError> {
        self.machines().change(tag, |made, _| {
            made.state = ResourceState::Failed(code.into());
            Ok(())
        })
    }
}
