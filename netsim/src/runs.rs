//! The executors of all regions: runs stage, start, freeze when their lease lapses, end, and are found again.

use crate::bug::Bug;
use crate::executor::{Run, RunPhase};
use crate::invariants::Fact;
use crate::world::{Event, World};
use consensus::negotiation::{Attempt, FileRef, Input, Learned, RunGrant, RunNotice, RunOrder, RunOutcome};
use cpi::ids::{ContentDigest, MemberId, TaskId};
use cpi::reason::ReasonCode;
use cpi::resource::Quantity;

/// What staging takes beside moving the inputs, in microseconds.
const STAGING_US: u64 = 5_000;

impl World {
    pub(crate) fn order_run(&mut self, index: usize, order: RunOrder) {
        let now_ms = self.now_ms;
        match order {
            RunOrder::Prepare(grant) => {
                let attempt = grant.attempt;
                self.stage(index, &grant);
                if self.bug == Some(Bug::StartUnbound) {
                    self.start_run(index, attempt);
                }
            }
            RunOrder::Start { attempt, until } => {
                let until_ms = self.nodes[index].clock.when(until) / 1000;
                let Some(run) = self.nodes[index].runs.get_mut(&attempt) else { return };
                if run.phase == RunPhase::Staged {
                    run.phase = RunPhase::Running;
                    run.since_ms = now_ms;
                    run.lease_until_ms = run.lease_until_ms.map(|_| until_ms);
                    let left = run.left_ms;
                    self.note("run", index, Some(attempt.task), u64::from(attempt.fence.attempt));
                    self.observe_start(index, attempt);
                    self.after_ms(left, Event::Run { node: index, attempt });
                }
                self.report(index, attempt, RunNotice::Started);
            }
            RunOrder::Reattach(grant) => {
                let attempt = grant.attempt;
                match self.nodes[index].runs.get(&attempt).map(|run| run.phase) {
                    None => self.report(index, attempt, RunNotice::Lost(ReasonCode::RunLost.into())),
                    Some(RunPhase::Staged) => self.start_run(index, attempt),
                    Some(RunPhase::Running) => self.report(index, attempt, RunNotice::Started),
                    Some(RunPhase::Ended { cancelled }) => self.report(index, attempt, ended(attempt, cancelled)),
                }
            }
            RunOrder::Renew { runs, until } => {
                let until_ms = self.nodes[index].clock.when(until) / 1000;
                for attempt in runs {
                    let Some(run) = self.nodes[index].runs.get_mut(&attempt) else { continue };
                    if run.lease_until_ms.is_some() {
                        let frozen = !run.is_active(now_ms);
                        run.advance(now_ms);
                        run.lease_until_ms = Some(until_ms);
                        let left = run.left_ms;
                        // A run that went on has its end planned already; only a thawed one ends later than that.
                        if frozen || now_ms + left > until_ms {
                            self.after_ms(left, Event::Run { node: index, attempt });
                        }
                        self.observe_active(attempt.task);
                    }
                }
            }
            RunOrder::Cancel(attempt) => {
                if self.bug == Some(Bug::IgnoreLease) {
                    return;
                }
                let Some(run) = self.nodes[index].runs.get_mut(&attempt) else { return };
                if !matches!(run.phase, RunPhase::Ended { .. }) {
                    run.phase = RunPhase::Ended { cancelled: true };
                    self.stopped(index, attempt);
                    self.report(index, attempt, ended(attempt, true));
                }
            }
            RunOrder::Release(attempt) => {
                if self.bug != Some(Bug::IgnoreLease) && self.nodes[index].runs.remove(&attempt).is_some() {
                    self.stopped(index, attempt);
                }
            }
        }
    }

    /// Starts a run under a whole lease.
    fn start_run(&mut self, index: usize, attempt: Attempt) {
        let now = self.nodes[index].clock.now(self.now_us);
        let until = now.mono.plus_ms(self.config.lease_ttl_ms);
        self.order_run(index, RunOrder::Start { attempt, until });
    }

    fn stage(&mut self, index: usize, grant: &RunGrant) {
        let attempt = grant.attempt;
        let job = self.job(attempt.task);
        let origin = self.index(grant.origin);
        let site = job.input_site.unwrap_or(origin);
        let left_ms = if job.run_ms > 0 { job.run_ms } else { self.nodes[index].run_ms };
        let now_ms = self.now_ms;
        let freezes = grant.freeze_on_lapse && self.bug != Some(Bug::IgnoreLease);
        self.nodes[index].runs.entry(attempt).or_insert_with(|| Run {
            phase: RunPhase::Staged,
            left_ms,
            since_ms: now_ms,
            lease_until_ms: freezes.then_some(now_ms + grant.lease_ttl_ms),
            quantity: grant.quantity,
            target: grant.target.clone(),
        });
        let mut us = STAGING_US;
        if site != index && job.input_bytes > 0 {
            let per_s = self.throughput.get(&(site, index)).copied().unwrap_or(self.throughput_default).max(1);
            us += self.wan.rtt_us(site, index) + (u128::from(job.input_bytes) * 1_000_000 / u128::from(per_s)) as u64;
        }
        self.metrics.staged(attempt.task, site, index, job.input_bytes);
        self.at_us(self.now_us + us, Event::Staged { node: index, attempt });
    }

    /// Fetching a result shows the origin how fast the line is, as if the result were as long as the inputs.
    pub(crate) fn measure_line(&mut self, origin: usize, provider: usize, attempt: Attempt) {
        let bytes = self.job(attempt.task).input_bytes;
        if bytes == 0 || origin == provider {
            return;
        }
        let per_s = self.throughput.get(&(provider, origin)).copied().unwrap_or(self.throughput_default).max(1);
        let ms = (u128::from(bytes) * 1_000 / u128::from(per_s)) as u64;
        self.feed(origin, Input::Moved { member: self.nodes[provider].member, bytes, ms });
    }

    /// What an origin expects of the start of a run that it just bound, in ms from now: by the fixed assumptions, and by
    /// what it learned; `None` before it learned anything of that region.
    pub(crate) fn expected_start(&self, origin: usize, provider: usize, attempt: Attempt) -> Option<(f64, f64)> {
        let member = self.nodes[provider].member;
        let region = self.nodes[origin].machine.as_ref()?.directory().get(member)?;
        let waited = region.learned.wait_ms.mean()?;
        let bytes = self.job(attempt.task).input_bytes;
        let rtt_ms = self.wan.rtt_us(origin, provider) as f64 / 1000.0;
        let fixed = rtt_ms + Learned::default().transfer_ms(bytes) as f64;
        let learned = if bytes == 0 { waited as f64 } else { rtt_ms + region.learned.transfer_ms(bytes) as f64 };
        Some((fixed, learned))
    }

    pub(crate) fn run_due(&mut self, index: usize, attempt: Attempt) {
        let now_ms = self.now_ms;
        if let Some(run) = self.nodes[index].runs.get_mut(&attempt)
            && run.advance(now_ms)
        {
            run.phase = RunPhase::Ended { cancelled: false };
            self.note("ran", index, Some(attempt.task), u64::from(attempt.fence.attempt));
            self.stopped(index, attempt);
            self.report(index, attempt, ended(attempt, false));
            self.perform(index);
        }
    }

    fn observe_start(&mut self, node: usize, attempt: Attempt) {
        let member = self.nodes[node].member;
        let bound = self.is_bound(attempt, member);
        let now_us = self.now_us;
        let (taken, target) = match self.nodes[node].runs.get(&attempt) {
            Some(run) => (run.quantity, run.target.clone()),
            None => return,
        };
        let pools = self.nodes[node].pools.iter().filter(|pool| pool.spec.name == target.pool);
        let class = pools.flat_map(|pool| &pool.spec.classes).find(|class| class.name == target.class);
        let total = class.map_or(Quantity::default(), |class| {
            let times = |each: u64| each * u64::from(class.servers);
            Quantity {
                cpu_milli: times(class.per_server.cpu_milli),
                memory_bytes: times(class.per_server.memory_bytes),
                storage_bytes: times(class.per_server.storage_bytes),
                chip_milli: times(class.per_server.chip_milli),
            }
        });
        self.metrics.run_started(now_us, node, attempt.task, &taken);
        let place = (target.pool.as_str(), target.class.as_str());
        self.invariants.observe(self.now_ms, &Fact::RunStarted { node, attempt, bound, taken, total, place });
        let runs = self.runs_of.entry(attempt.task).or_default();
        runs.push((node, attempt));
        if runs.len() > 1 {
            self.twice.insert(attempt.task);
            self.observe_active(attempt.task);
        }
    }

    /// Whether enough custodians' disks have bound a provider under a fence.
    fn is_bound(&self, attempt: Attempt, provider: MemberId) -> bool {
        if let Some((bound, disks)) = self.bound_on.get(&(attempt.task, attempt.fence)) {
            return *bound == provider && disks.len() > 1;
        }
        let mut have = 0;
        let mut custodians = 1;
        let epoch_member = attempt.fence.epoch.member;
        let likely = self.nodes.get(epoch_member.0 as usize - 1).and_then(|n| n.disk.custody(attempt.task));
        let nodes: Vec<usize> = match likely {
            Some(record) => record.custodians.iter().map(|member| self.index(*member)).collect(),
            None => (0..self.nodes.len()).collect(),
        };
        for node in nodes {
            let Some(record) = self.nodes[node].disk.custody(attempt.task) else { continue };
            custodians = record.custodians.len().max(1);
            let holds = record.binding.as_ref().is_some_and(|b| b.fence == attempt.fence && b.provider == provider);
            have += usize::from(holds);
        }
        have > custodians / 2
    }

    pub(crate) fn stopped(&mut self, node: usize, attempt: Attempt) {
        if let Some(runs) = self.runs_of.get_mut(&attempt.task) {
            let before = runs.len();
            runs.retain(|(n, a)| (*n, *a) != (node, attempt));
            if runs.len() < before {
                self.metrics.run_stopped(self.now_us, node, attempt.task);
            }
            if runs.len() < 2 {
                self.twice.remove(&attempt.task);
                self.invariants.observe(self.now_ms, &Fact::Active { task: attempt.task, runs: 0 });
            }
            if self.runs_of.get(&attempt.task).is_some_and(Vec::is_empty) {
                self.runs_of.remove(&attempt.task);
            }
        }
        self.invariants.observe(self.now_ms, &Fact::RunStopped { node, attempt });
    }

    /// How many runs of a task make progress at this moment.
    pub fn active_runs(&self, task: TaskId) -> usize {
        let runs = self.runs_of.get(&task).into_iter().flatten();
        runs.filter(|(node, attempt)| self.nodes[*node].runs.get(attempt).is_some_and(|run| run.is_active(self.now_ms)))
            .count()
    }

    fn observe_active(&mut self, task: TaskId) {
        if self.twice.contains(&task) {
            let runs = self.active_runs(task);
            self.invariants.observe(self.now_ms, &Fact::Active { task, runs });
        }
    }

    pub(crate) fn observe_twice(&mut self) {
        let tasks: Vec<TaskId> = self.twice.iter().copied().collect();
        for task in tasks {
            self.observe_active(task);
        }
    }

    /// Reports to the machine; what it asks for is done by the caller's `perform`.
    pub(crate) fn report(&mut self, index: usize, attempt: Attempt, notice: RunNotice) {
        let node = &mut self.nodes[index];
        let now = node.clock.now(self.now_us);
        if let Some(machine) = &mut node.machine {
            machine.handle(now, consensus::negotiation::Input::Run(attempt, notice));
        }
    }
}

fn ended(attempt: Attempt, cancelled: bool) -> RunNotice {
    let reason = cancelled.then(|| ReasonCode::Cancelled.into());
    let exit_code = (!cancelled).then_some(0);
    let digest = ContentDigest::of(attempt.fence.to_string().as_bytes());
    let file = FileRef { path: "stdout".into(), digest, size_bytes: 3 };
    RunNotice::Ended(Box::new(RunOutcome { exit_code, reason, logs: vec![file], ..RunOutcome::default() }))
}
