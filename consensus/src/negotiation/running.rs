//! Bound runs: their leases, progress and end. A result counts once it is recorded under the bound fence.

use super::action::Action;
use super::event::{Actor, EventKind, TaskState};
use super::message::{Attempt, Ended, Message, Progress, Renew, Renewed};
use super::origin::{Due, Origin};
use super::outbox::Outbox;
use super::outcome::RunOutcome;
use super::task::{Phase, Task};
use crate::custody::EndMark;
use crate::time::Now;
use cpi::ids::{MemberId, TaskId};
use cpi::reason::{Fault, Reason, ReasonCode};
use std::collections::BTreeSet;

/// Fetches that may fail before a run counts as lost.
const FETCHES_MAX: u32 = 8;

impl Origin {
    /// Enough disks have the binding: the provider may start.
    pub(super) fn take_effect(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let bound = match std::mem::replace(&mut task.phase, Phase::Ready) {
            Phase::Binding(bound, _) => bound,
            other => {
                task.phase = other;
                return;
            }
        };
        let attempt = Attempt { task: id, fence: bound.fence };
        let stopping = task.custody.cancel.is_some() || task.expired;
        out.send(bound.provider, if stopping { Message::Cancel(attempt) } else { Message::Bound(attempt) });
        task.phase = Phase::Bound(bound);
        let _ = now;
        self.rearm(id);
    }

    /// A bound run is due: its lease lapsed, something is to be repeated, or the fetch is tried again.
    pub(super) fn bound_due(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let resend_ms = self.config.resend_every_ms;
        let lease_ms = self.config.lease_ttl_ms;
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let stopping = task.custody.cancel.is_some() || task.expired;
        let finish = task.need.finish_on_partition && !stopping;
        let me = self.me;
        match &mut task.phase {
            Phase::Bound(bound) => {
                if bound.lease_until <= now.mono {
                    if finish {
                        // The run goes on by agreement: no other attempt until its end is known.
                        bound.lease_until = now.mono.plus_ms(lease_ms);
                        let member = Some(bound.provider);
                        if task.shown != Some(ReasonCode::PeerUnreachable) {
                            task.shown = Some(ReasonCode::PeerUnreachable);
                            let state = task.state;
                            let reason = Some(ReasonCode::PeerUnreachable.into());
                            task.tell(
                                now,
                                Actor::Origin(me),
                                EventKind::Waiting,
                                state,
                                reason,
                                member,
                                None,
                                String::new(),
                            );
                            out.persist(task.take_records());
                        }
                    } else {
                        let why = Reason::new(ReasonCode::RunLost, "its lease was not renewed in time");
                        self.lose(now, id, why, out);
                        return;
                    }
                } else if bound.repeat_at <= now.mono && (stopping || !bound.acknowledged) {
                    bound.repeat_at = now.mono.plus_ms(resend_ms);
                    // With the epoch, since the provider may answer to another custodian still.
                    let (to, fence) = (bound.provider, bound.fence);
                    out.send(to, Message::Adopt(task.adoption(fence)));
                }
            }
            Phase::Collecting(bound, outcome) if bound.repeat_at <= now.mono => {
                bound.repeat_at = now.mono.plus_ms(10 * resend_ms);
                fetch(id, bound.fence, bound.provider, outcome, out);
            }
            _ => {}
        }
        self.rearm(id);
    }

    /// A provider tells where a run stands.
    pub(super) fn progress(
        &mut self,
        now: Now,
        from: MemberId,
        attempt: Attempt,
        progress: Progress,
        out: &mut Outbox,
    ) {
        let lease_ms = self.config.lease_ttl_ms;
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        if !task.is_bound_to(from, &attempt) {
            return;
        }
        let target = task.custody.binding.as_ref().map(|b| b.target.clone());
        let inputs = task.need.input_bytes > 0;
        let Phase::Bound(bound) = &mut task.phase else { return };
        match progress {
            Progress::Staged => {
                if inputs && !bound.started {
                    task.tell(
                        now,
                        Actor::Provider(from),
                        EventKind::Staged,
                        TaskState::Staging,
                        None,
                        Some(from),
                        target,
                        String::new(),
                    );
                    out.persist(task.take_records());
                }
            }
            Progress::Started { .. } => {
                bound.acknowledged = true;
                if !bound.started {
                    bound.started = true;
                    if let Some(region) = self.directory.get_mut(from) {
                        region.learned.wait_ms.learn(now.mono.since_ms(bound.bound_at));
                    }
                    bound.lease_until = bound.lease_until.max(now.mono.plus_ms(lease_ms));
                    task.tell(
                        now,
                        Actor::Provider(from),
                        EventKind::Started,
                        TaskState::Running,
                        None,
                        Some(from),
                        target,
                        String::new(),
                    );
                    out.persist(task.take_records());
                }
            }
            Progress::Frozen => {
                let state = task.state;
                let reason = Some(ReasonCode::PeerUnreachable.into());
                task.tell(
                    now,
                    Actor::Provider(from),
                    EventKind::Frozen,
                    state,
                    reason,
                    Some(from),
                    target,
                    String::new(),
                );
                out.persist(task.take_records());
            }
        }
        self.rearm(attempt.task);
    }

    /// A provider asks to renew its runs. Those that this node keeps and does not decide for are `unanswered`: neither
    /// renewed nor superseded by it.
    pub(super) fn renew(&mut self, now: Now, from: MemberId, renew: Renew, unanswered: Vec<Attempt>, out: &mut Outbox) {
        let until = now.mono.plus_ms(self.config.lease_ttl_ms);
        let mut superseded = Vec::new();
        let mut seen = BTreeSet::new();
        for attempt in &renew.runs {
            let Some(task) = self.tasks.get_mut(&attempt.task) else {
                superseded.push(*attempt);
                continue;
            };
            if task.is_bound_to(from, attempt) {
                if let Some(bound) = task.bound_mut() {
                    bound.lease_until = bound.lease_until.max(until);
                }
                seen.insert(attempt.task);
                if task.shown == Some(ReasonCode::PeerUnreachable) {
                    task.shown = None;
                }
                continue;
            }
            let in_hand = matches!(&task.phase, Phase::Placing(round) if round.fence == attempt.fence);
            if !in_hand {
                superseded.push(*attempt);
            }
        }
        out.send(from, Message::Renewed(Renewed { round: renew.round, superseded, unanswered }));
        if !renew.complete {
            return;
        }
        // A bound run that the provider does not list: said again, and it answers that it knows of none.
        let Some(mine) = self.by_provider.get(&from) else { return };
        for id in mine.difference(&seen) {
            if let Some(Task { phase: Phase::Bound(bound), .. }) = self.tasks.get(id) {
                out.send(from, Message::Bound(Attempt { task: *id, fence: bound.fence }));
            }
        }
    }

    /// A provider has no such lease.
    pub(super) fn gone(&mut self, now: Now, from: MemberId, attempt: Attempt, reason: Reason, out: &mut Outbox) {
        let Some(task) = self.tasks.get(&attempt.task) else { return };
        if task.is_bound_to(from, &attempt) && matches!(task.phase, Phase::Bound(_)) {
            self.lose(now, attempt.task, reason, out);
        }
    }

    /// A run ended: its results are brought here first, then its end is recorded.
    pub(super) fn ended(&mut self, now: Now, from: MemberId, ended: Ended, out: &mut Outbox) {
        let attempt = Attempt { task: ended.task, fence: ended.fence };
        let Some(task) = self.tasks.get_mut(&ended.task) else {
            out.send(from, Message::EndAck(attempt));
            return;
        };
        if !task.is_bound_to(from, &attempt) {
            // A fenced-off run, or a round that this run's acceptance never reached: its result does not count.
            let in_hand = matches!(&task.phase, Phase::Placing(round) if round.fence == attempt.fence);
            let ending = matches!(&task.phase, Phase::Ending(..));
            if !in_hand && !ending {
                out.send(from, Message::EndAck(attempt));
            }
            return;
        }
        let mut bound = match std::mem::replace(&mut task.phase, Phase::Ready) {
            Phase::Binding(bound, _) | Phase::Bound(bound) => bound,
            other => {
                task.phase = other;
                return;
            }
        };
        bound.acknowledged = true;
        let outcome = ended.outcome;
        if let Some(region) = self.directory.get_mut(from) {
            region.learned.run_ms.learn(outcome.wall_ms);
            let theirs = outcome.reason.as_ref().is_some_and(|reason| reason.code.fault() == Fault::Provider);
            region.learned.failure.learn(!theirs);
        }
        let target = task.custody.binding.as_ref().map(|b| b.target.clone());
        let detail = in_words(&outcome);
        let reason = outcome.reason.clone();
        let kind = EventKind::RunEnded;
        task.tell(now, Actor::Provider(from), kind, TaskState::Finishing, reason, Some(from), target, detail);
        if outcome.has_files() {
            out.persist(task.take_records());
            bound.repeat_at = now.mono.plus_ms(10 * self.config.resend_every_ms);
            fetch(ended.task, bound.fence, from, &outcome, out);
            task.phase = Phase::Collecting(bound, Box::new(outcome));
            self.rearm(ended.task);
        } else {
            task.phase = Phase::Collecting(bound, Box::new(outcome));
            self.conclude(now, ended.task, out);
        }
    }

    /// The results are here, or could not be had this time.
    pub(super) fn fetched(&mut self, now: Now, attempt: Attempt, result: Result<(), Reason>, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        let Phase::Collecting(bound, _) = &mut task.phase else { return };
        if bound.fence != attempt.fence {
            return;
        }
        match result {
            Ok(()) => {
                let provider = bound.provider;
                let me = self.me;
                task.tell(
                    now,
                    Actor::Origin(me),
                    EventKind::Collected,
                    TaskState::Finishing,
                    None,
                    Some(provider),
                    None,
                    String::new(),
                );
                self.conclude(now, attempt.task, out);
            }
            Err(why) => {
                bound.fetches_failed += 1;
                if bound.fetches_failed > FETCHES_MAX || !why.code.is_retryable() {
                    self.lose(now, attempt.task, why, out);
                } else {
                    let pause = self.config.backoff_ms_min << bound.fetches_failed;
                    bound.repeat_at = now.mono.plus_ms(pause);
                    self.rearm(attempt.task);
                }
            }
        }
    }

    /// Records the end of a run, or makes another attempt where the task allows it.
    fn conclude(&mut self, now: Now, id: TaskId, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Phase::Collecting(bound, outcome) = &task.phase else { return };
        let (bound, outcome) = (bound.clone(), (**outcome).clone());
        let attempt = Attempt { task: id, fence: bound.fence };
        let stopping = task.custody.cancel.is_some() || task.expired;
        if let Some(reason) = outcome.reason.clone().filter(|_| !stopping && may_cure(task, &outcome))
            && task.custody.runs < task.retry.max_attempts
        {
            self.place_again(now, id, reason, Some((bound.provider, attempt)), out);
            return;
        }
        let reason = if stopping && !outcome.is_success() {
            Some(if task.expired { ReasonCode::DeadlinePassed } else { ReasonCode::Cancelled }.into())
        } else {
            outcome.reason.clone().map(|reason| {
                if task.custody.runs > 1 && may_cure(task, &outcome) {
                    Reason::new(
                        ReasonCode::AttemptsExhausted,
                        format!("{} runs; the last: {reason}", task.custody.runs),
                    )
                } else {
                    reason
                }
            })
        };
        let mark = EndMark {
            fence: Some(bound.fence),
            digest: outcome.digest(),
            reason: reason.clone(),
            outcome: Some(outcome),
            at: now.wall,
        };
        if task.custody.end(mark).is_err() {
            return;
        }
        self.unbind(id, &bound);
        self.record_end(id, Some((bound.provider, attempt)), out);
    }

    /// A bound run is gone: another attempt, or the end if none is left.
    pub(super) fn lose(&mut self, now: Now, id: TaskId, why: Reason, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Some(bound) = task.bound().cloned() else { return };
        self.stats.lost += 1;
        if let Some(region) = self.directory.get_mut(bound.provider) {
            region.breaks();
            region.learned.failure.learn(false);
        }
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.custody.cancel.is_some() || task.expired {
            let code = if task.expired { ReasonCode::DeadlinePassed } else { ReasonCode::Cancelled };
            self.end_without_run(now, id, Reason::new(code, why.to_string()), out);
        } else if task.custody.runs < task.retry.max_attempts {
            task.displaced = true;
            self.place_again(now, id, why, None, out);
        } else {
            let reason =
                Reason::new(ReasonCode::AttemptsExhausted, format!("{} runs; the last: {why}", task.custody.runs));
            self.end_without_run(now, id, reason, out);
        }
    }

    /// Gives a run up and places the task again under the next fence.
    fn place_again(&mut self, now: Now, id: TaskId, why: Reason, ack: Option<(MemberId, Attempt)>, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let bound = task.bound().cloned();
        let me = self.me;
        let member = bound.as_ref().map(|b| b.provider);
        task.last_failure = Some(why.clone());
        task.shown = None;
        task.custody.unbind();
        task.tell(
            now,
            Actor::Origin(me),
            EventKind::AttemptEnded,
            TaskState::Pending,
            Some(why),
            member,
            None,
            String::new(),
        );
        task.phase = Phase::Waiting;
        let persist = out.persist(task.take_records());
        let rank = task.rank();
        let pause = task.backoff_ms;
        if let Some(bound) = &bound {
            self.unbind(id, bound);
        }
        if let Some((to, attempt)) = ack {
            out.send_after(persist, to, Message::EndAck(attempt));
        }
        self.waiting.insert(rank);
        self.timers.arm(Due::Task(id), now.mono.plus_ms(pause));
    }
}

/// Whether another attempt may do better: the region's or the network's fault, or an exit code that the task names.
fn may_cure(task: &Task, outcome: &RunOutcome) -> bool {
    let Some(reason) = &outcome.reason else { return false };
    let by_code = outcome.exit_code.is_some_and(|code| task.retry.on_exit.contains(&code));
    by_code || matches!(reason.code.fault(), Fault::Provider | Fault::Network | Fault::Federation)
}

fn fetch(id: TaskId, fence: cpi::ids::Fence, from: MemberId, outcome: &RunOutcome, out: &mut Outbox) {
    let files = outcome.outputs.iter().chain(&outcome.logs).cloned().collect();
    out.push(Action::Fetch { attempt: Attempt { task: id, fence }, from, files });
}

fn in_words(outcome: &RunOutcome) -> String {
    let how = match (outcome.exit_code, outcome.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "did not run to an exit".to_owned(),
    };
    format!("{how} after {} ms, {} ms of processor time", outcome.wall_ms, outcome.cpu_ms)
}
