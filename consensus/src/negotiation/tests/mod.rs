//! Stories and properties of the whole machine, both sides, on a network that loses, doubles and reorders, with disks that
//! forget what was not synced.

mod net;
mod persisting;
mod random;
mod stories;

use super::*;
use cpi::dictionary::Dictionary;
use cpi::ids::TaskId;
use cpi::resource::{
    ChipKind, ChipModel, ComputeClass, Firmness, GIB, PoolSpec, PriceList, Quantity, RegionPlace, ServerClass,
};
use cpi::task::{ChipRequest, TaskSpec};

fn place(index: usize) -> RegionPlace {
    RegionPlace {
        region: format!("region-{index}").parse().unwrap(),
        city: "G110100".to_owned(),
        country: if index == 3 { "DE" } else { "CN" }.to_owned(),
    }
}

/// `servers` servers with 8 cores and `chips` chips each.
fn pool(servers: u32, chips: u64) -> OwnPool {
    let chip = (chips > 0).then(|| ChipModel { model: "NVH800S80".to_owned(), kind: ChipKind::Gpu });
    let per_server =
        Quantity { cpu_milli: 8_000, memory_bytes: 64 * GIB, storage_bytes: 100 * GIB, chip_milli: chips * 1000 };
    let class = ServerClass { name: "s".to_owned(), cpu_model: "X".to_owned(), chip, per_server, servers };
    let spec = PoolSpec {
        name: "p".to_owned(),
        backend: "fake".to_owned(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: vec![class],
        firmness: Firmness::Held,
        price: PriceList { currency: "CNY".to_owned(), cpu_core_hour_micro: 200_000, ..PriceList::default() },
        carbon_g_per_kwh: None,
        cordoned: false,
    };
    OwnPool { spec, commands: true, images: false }
}

fn task() -> TaskSpec {
    serde_json::from_value(serde_json::json!({ "name": "story", "command": ["/bin/true"] })).unwrap()
}

fn chips(count: Option<u32>, milli: Option<u64>) -> TaskSpec {
    let mut spec = task();
    spec.resources.chips = Some(ChipRequest { model: Some("NVH800S80".to_owned()), kind: None, count, milli });
    spec
}

fn task_id(n: u64) -> TaskId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    TaskId(id)
}

fn submission(n: u64, spec: &TaskSpec) -> Submission {
    Submission {
        task: task_id(n),
        principal: "tester".to_owned(),
        idempotency_key: None,
        document: serde_json::to_vec(spec).unwrap().into(),
        need: Need::of(spec, &Dictionary::first()),
        wishes: Wishes::of(spec).unwrap(),
        deadline_ms: spec.deadline.map(|d| d.ms),
        retry: spec.retry.clone(),
        plan: None,
    }
}
