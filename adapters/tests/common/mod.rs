//! What the tests of real runs share. Included by path, so that each test program has its own.

use adapters::contract::{Adapter as _, RunEnd, RunKey, RunRequest, RunState};
use adapters::local::{LocalAdapter, LocalConfig};
use cpi::ids::{Epoch, Fence, MemberId, TaskId};
use cpi::resource::{ComputeClass, Firmness, PoolSpec, PriceList, Quantity, ServerClass};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn pool(backend: &str) -> PoolSpec {
    PoolSpec {
        name: "pool".to_owned(),
        backend: backend.to_owned(),
        class: ComputeClass::General,
        identifiers: Vec::new(),
        classes: vec![ServerClass {
            name: "node".to_owned(),
            cpu_model: "INP8480".to_owned(),
            per_server: Quantity { cpu_milli: 64_000, memory_bytes: 256 << 30, storage_bytes: 1 << 40, chip_milli: 0 },
            servers: 1,
            chip: None,
        }],
        firmness: Firmness::Held,
        price: PriceList::default(),
        carbon_g_per_kwh: None,
        cordoned: false,
    }
}

#[allow(dead_code, reason = "not every test program uses it")]
pub fn config(runs_dir: &Path) -> LocalConfig {
    let mut config = LocalConfig::new(runs_dir, env!("CARGO_BIN_EXE_causeway-run-supervisor"), vec![pool("local")]);
    config.supervisor_args = Vec::new();
    config
}

#[allow(dead_code, reason = "not every test program uses it")]
pub async fn open(runs_dir: &Path) -> LocalAdapter {
    LocalAdapter::new(config(runs_dir)).await.expect("the backend opens")
}

#[allow(dead_code, reason = "not every test program uses it")]
pub fn request(command: &[&str]) -> RunRequest {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(u64::from(std::process::id()) & 0xffff).to_be_bytes());
    id[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    RunRequest {
        key: RunKey { task: TaskId(id), fence: Fence { epoch: Epoch { counter: 1, member: MemberId(1) }, attempt: 1 } },
        pool: "pool".to_owned(),
        class: "node".to_owned(),
        need: Quantity { cpu_milli: 2000, memory_bytes: 256 << 20, storage_bytes: 1 << 30, chip_milli: 8000 },
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        image: None,
        env: BTreeMap::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        max_runtime_ms: 60_000,
        lease_ttl_ms: 60_000,
        freeze_on_lapse: true,
    }
}

#[allow(dead_code, reason = "not every test program uses it")]
pub async fn until<T>(adapter: &LocalAdapter, key: RunKey, what: &str, wanted: impl Fn(&RunState) -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let state = adapter.status(key).await.expect("a status").expect("the run is known").state;
        if let Some(found) = wanted(&state) {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}, still {state:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[allow(dead_code, reason = "not every test program uses it")]
pub async fn end(adapter: &LocalAdapter, key: RunKey) -> RunEnd {
    let ended = |state: &RunState| match state {
        RunState::Ended(end) => Some(end.clone()),
        _ => None,
    };
    until(adapter, key, "the end", ended).await
}

/// Submits and waits for the end.
#[allow(dead_code, reason = "not every test program uses it")]
pub async fn run(adapter: &LocalAdapter, request: RunRequest) -> RunEnd {
    let key = request.key;
    adapter.submit(request).await.expect("submitted");
    end(adapter, key).await
}

#[allow(dead_code, reason = "not every test program uses it")]
pub async fn is(adapter: &LocalAdapter, key: RunKey, wanted: RunState) {
    until(adapter, key, &format!("{wanted:?}"), |state| (*state == wanted).then_some(())).await;
}

/// Waits until something outside holds.
#[allow(dead_code, reason = "not every test program uses it")]
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
