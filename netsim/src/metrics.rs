//! Figures of a run, gathered at the boundary of the machines: what was said, what was written, what ran.

use crate::trace::number;
use consensus::negotiation::{AskMode, Attempt, EventKind, LeasePhase, Message, Record, Submission, TaskState};
use cpi::ids::TaskId;
use cpi::reason::ReasonCode;
use cpi::resource::Quantity;
use std::collections::BTreeMap;

/// Task numbers beyond this are no tasks of the run.
const TASKS_MAX: u64 = 16_000_000;
/// Power of one busy chip and of one busy core, in watts: an assumption, for energy and carbon.
const CHIP_W: f64 = 500.0;
const CORE_W: f64 = 5.0;

/// What became of one task.
#[derive(Debug, Clone, Default)]
pub struct TaskFacts {
    /// Where it was handed in.
    pub origin: u32,
    /// When, in microseconds.
    pub submitted_us: u64,
    /// Whether the oracle found room then; `None` where it was not asked.
    pub feasible: Option<bool>,
    /// When the first acceptance came; 0 for never.
    pub accepted_us: u64,
    /// When that binding was on the custodians' disks; 0 for never.
    pub bound_us: u64,
    /// Who accepted first.
    pub winner: u32,
    /// Round trip to the first winner, in microseconds.
    pub winner_rtt_us: u64,
    /// The longest round trip to a region that was asked before the first acceptance; once offers are compared, of those
    /// that were asked for one.
    pub asked_rtt_us: u64,
    /// Regions asked before the first acceptance.
    pub asked: u32,
    /// Whether offers were compared before the first acceptance.
    pub compared: bool,
    /// When the first region was asked for an offer to compare; 0 for never.
    pub compared_us: u64,
    /// Negotiation messages until now: ask, offer, decline, award, accepted, release, bound.
    pub messages: u32,
    /// The same up to the first binding.
    pub messages_placing: u32,
    /// When its first run began; 0 for never.
    pub started_us: u64,
    /// When its newest run began.
    pub restarted_us: u64,
    /// Bindings.
    pub bindings: u32,
    /// Which variant the newest lease serves.
    pub variant: u16,
    /// How many ways to run it there are.
    pub variants: u16,
    /// When it ended; 0 for not yet.
    pub ended_us: u64,
    /// From its first binding to its start in ms, as its origin expected it: by fixed assumptions, and as learned.
    pub expected_start: Option<(f64, f64)>,
    /// Why it failed or was refused.
    pub failed: Option<ReasonCode>,
    /// Where its newest run is or was.
    pub placed_at: u32,
}

#[derive(Debug, Clone)]
struct Granted {
    quantity: Quantity,
    price_hour_micro: u64,
}

/// One moment of the run, for plots.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Virtual seconds.
    pub at_s: f64,
    /// Leases.
    pub leases: u64,
    /// Tasks that are handed in and neither ended nor leased.
    pub waiting: i64,
    /// Share of all chips that is leased.
    pub chips: f64,
    /// Share of all cores that is leased.
    pub cores: f64,
    /// Messages between regions so far.
    pub messages: u64,
}

/// Figures so far.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// By the task's number; number 0 is unused.
    pub tasks: Vec<TaskFacts>,
    /// Moments.
    pub samples: Vec<Sample>,
    /// Messages by kind.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// Leased now, per region.
    pub leased: Vec<Quantity>,
    /// Thousandths of chips x milliseconds that were leased, per region.
    pub chip_ms: Vec<u128>,
    /// Thousandths of cores x milliseconds that were leased, per region.
    pub core_ms: Vec<u128>,
    /// The largest digest, in bytes.
    pub digest_bytes: u64,
    /// What runs cost in all, in millionths of the currency.
    pub cost_micro: u128,
    /// Carbon of all runs, in grams.
    pub carbon_g: f64,
    /// Bytes moved between regions before runs.
    pub moved_bytes: u128,
    /// What moving cost, in millionths.
    pub egress_micro: u128,
    /// Price of moving a GB from site to site, in millionths.
    pub egress_price: BTreeMap<(usize, usize), u64>,
    /// Grams of carbon per kWh, per region.
    pub carbon: Vec<u32>,
    /// Runs that were lost or given up.
    pub attempts_lost: u64,
    granted: BTreeMap<(u32, Attempt), Granted>,
    changed_us: Vec<u64>,
    running: BTreeMap<(u32, TaskId), u64>,
}

impl Metrics {
    /// Figures of a run that has not begun.
    pub fn new(regions: usize) -> Self {
        Self {
            tasks: vec![TaskFacts::default()],
            leased: vec![Quantity::default(); regions],
            chip_ms: vec![0; regions],
            core_ms: vec![0; regions],
            carbon: vec![500; regions],
            changed_us: vec![0; regions],
            ..Self::default()
        }
    }

    fn task(&mut self, task: TaskId) -> Option<&mut TaskFacts> {
        self.tasks.get_mut(number(task) as usize)
    }

    /// A task is handed in.
    pub fn submitted(&mut self, us: u64, node: usize, submission: &Submission, feasible: Option<bool>) {
        let number = number(submission.task);
        if number >= TASKS_MAX {
            return;
        }
        if self.tasks.len() <= number as usize {
            self.tasks.resize(number as usize + 1, TaskFacts::default());
        }
        let facts = &mut self.tasks[number as usize];
        if facts.submitted_us == 0 {
            *facts = TaskFacts {
                origin: node as u32,
                submitted_us: us.max(1),
                feasible,
                variants: submission.need.variants.len() as u16,
                ..TaskFacts::default()
            };
        }
    }

    /// A task is refused at the door.
    pub fn refused(&mut self, task: TaskId, code: ReasonCode) {
        if let Some(facts) = self.task(task) {
            facts.failed = Some(code);
        }
    }

    /// A message left for another region.
    pub fn sent(&mut self, us: u64, message: &Message, rtt_us: u64) {
        *self.by_kind.entry(crate::world::name_of(message)).or_default() += 1;
        let Some(attempt) = message.attempt() else { return };
        let Some(facts) = self.task(attempt.task) else { return };
        let negotiates = match message {
            Message::Ask(ask) => {
                if facts.accepted_us == 0 {
                    facts.asked += 1;
                    if ask.mode != AskMode::CommitIf && !facts.compared {
                        facts.compared = true;
                        facts.compared_us = us;
                        facts.asked_rtt_us = 0;
                    }
                    facts.asked_rtt_us = facts.asked_rtt_us.max(rtt_us);
                }
                true
            }
            Message::Offer(_)
            | Message::Decline(_)
            | Message::Award(_)
            | Message::Accepted(_)
            | Message::Release(_)
            | Message::Bound(_) => true,
            _ => false,
        };
        if negotiates {
            facts.messages += 1;
            if facts.bindings <= 1 && facts.started_us == 0 {
                facts.messages_placing += 1;
            }
        }
    }

    fn change(&mut self, us: u64, node: usize, old: &Quantity, new: &Quantity) {
        let ms = u128::from((us - self.changed_us[node]) / 1000);
        let leased = self.leased[node];
        if ms > 0 {
            self.chip_ms[node] += u128::from(leased.chip_milli) * ms;
            self.core_ms[node] += u128::from(leased.cpu_milli) * ms;
            self.changed_us[node] += ms as u64 * 1000;
        }
        self.leased[node] = leased.checked_sub(old).unwrap_or_default().saturating_add(new);
    }

    /// Brings the integrals up to a moment.
    pub fn settle(&mut self, us: u64) {
        for node in 0..self.leased.len() {
            self.change(us, node, &Quantity::default(), &Quantity::default());
        }
    }

    /// Records were handed to a disk.
    pub fn told(&mut self, us: u64, node: usize, record: &Record) {
        match record {
            Record::Event(event) => {
                let code = event.reason.as_ref().map(|reason| reason.code);
                let lost = event.kind == EventKind::AttemptEnded;
                self.attempts_lost += u64::from(lost);
                let Some(facts) = self.task(event.task) else { return };
                match event.kind {
                    EventKind::Accepted => {
                        facts.bindings += 1;
                        if facts.accepted_us == 0 {
                            facts.accepted_us = us;
                            facts.winner = event.member.map_or(node as u32, |member| member.0 as u32 - 1);
                        }
                    }
                    EventKind::Ended if facts.ended_us == 0 => {
                        facts.ended_us = us;
                        facts.failed = if event.state == TaskState::Succeeded { None } else { code };
                    }
                    _ => {}
                }
            }
            Record::Lease(lease) => {
                let key = (node as u32, lease.attempt);
                if let Some(facts) = self.task(lease.attempt.task) {
                    facts.variant = lease.target.variant;
                    facts.placed_at = node as u32;
                }
                if lease.phase == LeasePhase::Ended {
                    self.give_back(us, key);
                } else if !self.granted.contains_key(&key) {
                    self.change(us, node, &Quantity::default(), &lease.quantity);
                    let granted = Granted { quantity: lease.quantity, price_hour_micro: lease.price_hour_micro };
                    self.granted.insert(key, granted);
                }
            }
            Record::LeaseSettled(attempt) => self.give_back(us, (node as u32, *attempt)),
            _ => {}
        }
    }

    fn give_back(&mut self, us: u64, key: (u32, Attempt)) {
        if let Some(granted) = self.granted.remove(&key) {
            self.change(us, key.0 as usize, &granted.quantity, &Quantity::default());
        }
    }

    /// A binding is on its custodians' disks: the provider is told.
    /// `expected` is the start as the origin expects it, in ms from now: by fixed assumptions, and as learned.
    pub fn bound(&mut self, us: u64, task: TaskId, winner_rtt_us: u64, expected: Option<(f64, f64)>) {
        if let Some(facts) = self.task(task)
            && facts.bound_us == 0
        {
            facts.bound_us = us;
            facts.winner_rtt_us = winner_rtt_us;
            facts.expected_start = expected;
        }
    }

    /// Inputs are on their way.
    pub fn staged(&mut self, _: TaskId, from: usize, to: usize, bytes: u64) {
        if from != to && bytes > 0 {
            self.moved_bytes += u128::from(bytes);
            let price = self.egress_price.get(&(from, to)).copied().unwrap_or(0);
            self.egress_micro += u128::from(bytes) * u128::from(price) / 1_000_000_000;
        }
    }

    /// A run began.
    pub fn run_started(&mut self, us: u64, node: usize, task: TaskId, _: &Quantity) {
        self.running.insert((node as u32, task), us);
        if let Some(facts) = self.task(task) {
            facts.restarted_us = us;
            if facts.started_us == 0 {
                facts.started_us = us;
            }
        }
    }

    /// A run stopped: what it cost.
    pub fn run_stopped(&mut self, us: u64, node: usize, task: TaskId) {
        let Some(began) = self.running.remove(&(node as u32, task)) else { return };
        let low = Attempt { task, fence: cpi::ids::Fence { epoch: LOWEST, attempt: 0 } };
        let granted = self.granted.range((node as u32, low)..).find(|((n, a), _)| *n == node as u32 && a.task == task);
        let Some((_, granted)) = granted else { return };
        let ms = (us - began) / 1000;
        self.cost_micro += u128::from(granted.price_hour_micro) * u128::from(ms) / 3_600_000;
        let watts =
            granted.quantity.chip_milli as f64 / 1000.0 * CHIP_W + granted.quantity.cpu_milli as f64 / 1000.0 * CORE_W;
        let kwh = watts * ms as f64 / 3.6e9;
        self.carbon_g += kwh * f64::from(self.carbon[node]);
    }

    /// Leases that are in force.
    pub fn leases(&self) -> usize {
        self.granted.len()
    }

    /// All that is leased now.
    pub fn leased_sum(&self) -> Quantity {
        self.leased.iter().fold(Quantity::default(), |sum, one| sum.saturating_add(one))
    }
}

const LOWEST: cpi::ids::Epoch = cpi::ids::Epoch { counter: 0, member: cpi::ids::MemberId(0) };
