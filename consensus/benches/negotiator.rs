//! The negotiator alone, without network, disk and signatures: placements a second on one core, from the submission to the
//! recorded end, and the memory of pending tasks.

use consensus::negotiation::{
    Action, Input, Message, Need, NegotiationConfig, Negotiator, OwnPool, PersistId, RunNotice, RunOrder, RunOutcome,
    Submission, Wishes,
};
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{MemberId, TaskId};
use cpi::resource::{ComputeClass, Firmness, GIB, PoolSpec, PriceList, Quantity, RegionPlace, ServerClass};
use cpi::task::TaskSpec;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tasks placed in one measured go.
const TASKS: u64 = 2_000;
/// Regions, the origin included.
const REGIONS: usize = 5;

fn pool(servers: u32) -> OwnPool {
    let per_server = Quantity { cpu_milli: 8_000, memory_bytes: 32 * GIB, storage_bytes: 100 * GIB, chip_milli: 0 };
    let class = ServerClass { name: "s".to_owned(), cpu_model: "X".to_owned(), chip: None, per_server, servers };
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

fn place(index: usize) -> RegionPlace {
    RegionPlace {
        region: format!("region-{index}").parse().expect("a valid name"),
        city: "G110100".to_owned(),
        country: "CN".to_owned(),
    }
}

fn submission() -> Submission {
    let spec: TaskSpec =
        serde_json::from_value(serde_json::json!({ "name": "bench", "command": ["/bin/true"] })).expect("a valid task");
    Submission {
        task: TaskId([0; 16]),
        principal: "bench".to_owned(),
        idempotency_key: None,
        document: serde_json::to_vec(&spec).expect("a task is JSON").into(),
        need: Need::of(&spec, &Dictionary::first()),
        wishes: Wishes::of(&spec).expect("no filter"),
        deadline_ms: None,
        retry: spec.retry,
        plan: None,
    }
}

fn numbered(template: &Submission, n: u64) -> Input {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    Input::Submit(Box::new(Submission { task: TaskId(id), ..template.clone() }))
}

struct Regions {
    machines: Vec<Negotiator>,
    now_ms: u64,
    ended: u64,
}

impl Regions {
    fn new(servers: u32) -> Self {
        let machine = |index: usize| {
            let me = MemberId(index as u64 + 1);
            let mut machine = Negotiator::new(me, 1, NegotiationConfig::default(), Dictionary::first(), index as u64);
            machine.handle(Now::default(), Input::Pools(vec![pool(if index == 0 { 0 } else { servers })]));
            machine
        };
        let mut regions = Self { machines: (0..REGIONS).map(machine).collect(), now_ms: 0, ended: 0 };
        for to in 0..REGIONS {
            for about in 0..REGIONS {
                let member = MemberId(about as u64 + 1);
                regions.feed(to, Input::Member { member, place: place(about), active: true });
                regions.feed(to, Input::Rtt { member, rtt_ms: Some(1) });
                let digest = regions.machines[about].digest(1, u64::MAX);
                regions.feed(to, Input::Digest(Arc::new(digest)));
            }
        }
        regions
    }

    /// Hands an input in and does all that follows from it, as if network and disk took no time.
    fn feed(&mut self, index: usize, input: Input) {
        let mut inbox: VecDeque<(usize, Input)> = VecDeque::from([(index, input)]);
        while let Some((index, input)) = inbox.pop_front() {
            let now = Now { mono: Monotonic(self.now_ms), wall: Timestamp(self.now_ms) };
            self.machines[index].handle(now, input);
            let mut written: Option<PersistId> = None;
            let from = self.machines[index].me();
            while let Some(action) = self.machines[index].poll_action() {
                match action {
                    Action::Persist { id, .. } => written = Some(id),
                    Action::Send { to, message, .. } => {
                        self.ended += u64::from(matches!(message, Message::EndAck(_)));
                        inbox.push_back((to.0 as usize - 1, Input::Message { from, message }));
                    }
                    Action::Run { order: RunOrder::Start { attempt, .. }, .. } => {
                        inbox.push_back((index, Input::Run(attempt, RunNotice::Started)));
                        let outcome = RunOutcome { exit_code: Some(0), ..RunOutcome::default() };
                        inbox.push_back((index, Input::Run(attempt, RunNotice::Ended(Box::new(outcome)))));
                    }
                    _ => {}
                }
            }
            if let Some(up_to) = written {
                inbox.push_back((index, Input::Persisted { up_to }));
            }
        }
    }
}

fn placements(c: &mut Criterion) {
    let mut group = c.benchmark_group("negotiator");
    group.throughput(Throughput::Elements(TASKS)).sample_size(20).measurement_time(Duration::from_secs(10));
    let template = submission();
    let mut regions = Regions::new(64);
    let mut next = 0;
    group.bench_function("placements", |bencher| {
        bencher.iter_custom(|times| {
            let began = Instant::now();
            for _ in 0..times * TASKS {
                next += 1;
                // Fifty tasks a millisecond, so that timers and remembered answers are as in real life.
                regions.now_ms = next / 50;
                regions.feed(0, numbered(&template, next));
            }
            began.elapsed()
        });
    });
    assert_eq!(regions.ended, next, "every task was placed and ended");
    group.finish();
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn pending(_: &mut Criterion) {
    let template = submission();
    // Nobody has a server: everything waits.
    let mut regions = Regions::new(1);
    let whole = Quantity { cpu_milli: 8_000, memory_bytes: GIB, storage_bytes: GIB, chip_milli: 0 };
    let mut large = template.clone();
    large.need.variants[0].base = whole;
    let before = resident_kib();
    for n in 0..100_000 {
        if n % 100 == 0 {
            regions.now_ms += 1;
        }
        let index = 0;
        let now = Now { mono: Monotonic(regions.now_ms), wall: Timestamp(regions.now_ms) };
        let machine = &mut regions.machines[index];
        machine.handle(now, numbered(&large, n));
        while machine.poll_action().is_some() {}
    }
    let stats = regions.machines[0].origin_stats();
    assert_eq!(stats.open, 100_000, "every task is pending");
    println!("negotiator/pending: {} MiB for 100000 pending tasks", (resident_kib() - before) / 1024);
}

criterion_group!(benches, placements, pending);
criterion_main!(benches);
