//! Valid defaults for stories and scenarios, to be changed by each.

use consensus::negotiation::{Input, Need, NegotiationConfig, OwnPool, PlanRequest, Submission, Wishes};
use cpi::dictionary::Dictionary;
use cpi::ids::{PlanId, TaskId};
use cpi::resource::{
    ChipKind, ChipModel, ComputeClass, Firmness, GIB, PoolSpec, PriceList, Quantity, RegionPlace, ServerClass,
};
use cpi::task::{ChipRequest, TaskSpec};

use crate::wan::Wan;
use crate::world::World;

/// A place by number.
pub fn place(index: usize) -> RegionPlace {
    let cities = [("beijing", "G110100"), ("dalian", "G210200"), ("jinhua", "G330700"), ("guangzhou", "G440100")];
    match cities.get(index) {
        Some((region, city)) => RegionPlace {
            region: region.parse().expect("a valid name"),
            city: (*city).to_owned(),
            country: "CN".to_owned(),
        },
        None => RegionPlace {
            region: format!("region-{index}").parse().expect("a valid name"),
            city: "UDEFRA".to_owned(),
            country: "DE".to_owned(),
        },
    }
}

/// A pool of `servers` servers with 8 cores, 32 GiB and `chips` chips of H800 each.
pub fn pool(name: &str, servers: u32, chips: u32) -> OwnPool {
    let chip = (chips > 0).then(|| ChipModel { model: "NVH800S80".to_owned(), kind: ChipKind::Gpu });
    let per_server = Quantity {
        cpu_milli: 8_000,
        memory_bytes: 32 * GIB,
        storage_bytes: 100 * GIB,
        chip_milli: u64::from(chips) * 1000,
    };
    let class = ServerClass { name: "s".to_owned(), cpu_model: "X".to_owned(), chip, per_server, servers };
    let price = PriceList { currency: "CNY".to_owned(), cpu_core_hour_micro: 200_000, ..PriceList::default() };
    let spec = PoolSpec {
        name: name.to_owned(),
        backend: "fake".to_owned(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: vec![class],
        firmness: Firmness::Held,
        price,
        carbon_g_per_kwh: None,
        cordoned: false,
    };
    OwnPool { spec, commands: true, images: true }
}

/// Regions `latency_ms` from each other, each with a pool of `servers` servers.
pub fn world(seed: u64, regions: usize, latency_ms: u64, servers: u32) -> World {
    let places = (0..regions).map(|i| (place(i), vec![pool("p", servers, 0)])).collect();
    World::new(seed, Wan::uniform(regions, latency_ms), NegotiationConfig::default(), places)
}

/// A task of one core that sleeps.
pub fn task() -> TaskSpec {
    serde_json::from_value(serde_json::json!({
        "name": "story",
        "command": ["/bin/true"],
    }))
    .expect("a valid task")
}

/// A task that needs `count` H800.
pub fn gpu_task(count: u32) -> TaskSpec {
    let mut task = task();
    let model = Some("NVH800S80".to_owned());
    task.resources.chips = Some(ChipRequest { model, kind: None, count: Some(count), milli: None });
    task
}

/// The id of the `n`th task.
pub fn task_id(n: u64) -> TaskId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    TaskId(id)
}

/// A submission of `spec` as the `n`th task.
pub fn submission(n: u64, spec: &TaskSpec) -> Submission {
    Submission {
        task: task_id(n),
        principal: "tester".to_owned(),
        idempotency_key: None,
        document: serde_json::to_vec(spec).expect("a task is JSON").into(),
        need: Need::of(spec, &Dictionary::first()),
        wishes: Wishes::of(spec).expect("a valid filter"),
        deadline_ms: spec.deadline.map(|d| d.ms),
        retry: spec.retry.clone(),
        plan: None,
    }
}

/// A plan for `spec`.
pub fn plan_request(n: u64, spec: &TaskSpec) -> PlanRequest {
    PlanRequest {
        plan: PlanId(task_id(n).0),
        document: serde_json::to_vec(spec).expect("a task is JSON").into(),
        need: Need::of(spec, &Dictionary::first()),
        wishes: Wishes::of(spec).expect("a valid filter"),
        deadline_ms: None,
        hold: true,
    }
}

impl World {
    /// Submits `spec` at a region as the `n`th task.
    pub fn submit(&mut self, node: usize, n: u64, spec: &TaskSpec) -> TaskId {
        self.feed(node, Input::Submit(Box::new(submission(n, spec))));
        task_id(n)
    }

    /// How a task ended at its origin: `None` while it has not, `Some(None)` for success.
    pub fn end(&self, node: usize, task: TaskId) -> Option<Option<cpi::reason::ReasonCode>> {
        let end = self.nodes[node].disk.custody(task)?.end.as_ref()?;
        Some(end.reason.as_ref().map(|r| r.code))
    }

    /// How a task ended by any custodian that has it as closed, or by its origin's disk. `None` while it has not.
    pub fn end_anywhere(&self, origin: usize, task: TaskId) -> Option<Option<cpi::reason::ReasonCode>> {
        let closed = self.nodes.iter().filter_map(|node| node.disk.custody(task)).find(|custody| custody.closed);
        let end = closed.and_then(|custody| custody.end.as_ref());
        end.map(|end| end.reason.as_ref().map(|r| r.code)).or_else(|| self.end(origin, task))
    }

    /// Which region is bound to a task, by its origin's disk.
    pub fn holder(&self, node: usize, task: TaskId) -> Option<usize> {
        let binding = self.nodes[node].disk.custody(task)?.binding.as_ref()?;
        Some(self.index(binding.provider))
    }
}
