//! Doing what a machine asks for: disk, network, executor; nothing is said before the disk has what it rests on.

use crate::bug::Bug;
use crate::invariants::Fact;
use crate::node::UNSYNCED_MAX;
use crate::trace::{Step, number};
use crate::world::{Event, World};
use consensus::negotiation::{Action, Input, Message, Record};
use cpi::ids::{MemberId, TaskId};
use cpi::task::Durability;
use std::collections::{BTreeSet, VecDeque};

impl World {
    pub(crate) fn perform(&mut self, index: usize) {
        self.steps += 1;
        let mut inbox = VecDeque::new();
        loop {
            let action = match self.nodes[index].machine.as_mut().and_then(|machine| machine.poll_action()) {
                Some(action) => action,
                None => match inbox.pop_front() {
                    Some((from, message)) => {
                        let now = self.nodes[index].clock.now(self.now_us);
                        if let Some(machine) = &mut self.nodes[index].machine {
                            machine.handle(now, Input::Message { from, message });
                        }
                        continue;
                    }
                    None => break,
                },
            };
            match action {
                Action::Persist { id, records } => {
                    let records = self.tampered(index, records);
                    for record in &records {
                        let (kind, task, what) = kind_of(record);
                        let step = Step { kind, node: index, other: None, task: Some(task), what };
                        self.trace.note(self.now_us, step, || in_words(record));
                        if !self.is_copy(index, record) {
                            self.metrics.told(self.now_us, index, record);
                        }
                        self.invariants.observe(self.now_ms, &Fact::Told { node: index, record });
                    }
                    self.nodes[index].newest = id;
                    if self.nodes[index].disk.write(id, records) {
                        self.nodes[index].disk.begin_sync();
                        self.sync_later(index);
                    }
                }
                Action::Send { to, message, after } => {
                    self.invariants.observe(self.now_ms, &Fact::Said { node: index, to, message: &message });
                    let node = &mut self.nodes[index];
                    match after.filter(|after| *after > node.synced) {
                        Some(after) => node.held_back.push_back((after, to, message)),
                        None if to == node.member => {
                            if let Message::Bound(attempt) = &message {
                                self.metrics.bound(self.now_us, attempt.task, 0, None);
                            }
                            inbox.push_back((to, message));
                        }
                        None => self.transmit(index, to, message),
                    }
                }
                Action::Admitted { task, result } => match result {
                    Ok(persist) => {
                        if self.bug == Some(Bug::AckEarly) {
                            self.acknowledge(index, task, Durability::Local);
                        }
                        self.nodes[index].admitted.push_back((persist, task));
                    }
                    Err(reason) => {
                        self.note("refused", index, Some(task), reason.code as u64);
                        self.metrics.refused(task, reason.code);
                        self.answers.insert(task, Err(reason));
                    }
                },
                Action::Custody { to, message, after } => {
                    let node = &mut self.nodes[index];
                    match after.filter(|after| *after > node.synced) {
                        Some(after) => node.custody_back.push_back((after, to, message)),
                        None => self.transmit_custody(index, to, message),
                    }
                }
                Action::Load { task } => {
                    let node = &mut self.nodes[index];
                    let (found, now) = (node.disk.find(task), node.clock.now(self.now_us));
                    if let Some(machine) = &mut node.machine {
                        machine.handle(now, Input::Loaded { task, found });
                    }
                }
                Action::Durable { task, durability } => {
                    self.note("durable", index, Some(task), durability as u64);
                    let custody = self.nodes[index].machine.as_ref().and_then(|m| m.custodian().record(task));
                    if custody.is_some_and(|custody| custody.custodians.len() > 1) {
                        self.worth.insert(task, durability);
                        self.acknowledge(index, task, durability);
                    }
                }
                Action::Planned(plan) => self.plans.push(*plan),
                Action::Run { order, after } => {
                    let node = &mut self.nodes[index];
                    let after = after.unwrap_or_default().max(node.order_of(&order));
                    if after > node.synced {
                        node.orders.push((after, order));
                    } else {
                        self.order_run(index, order);
                    }
                }
                Action::Fetch { attempt, from, .. } => {
                    let other = self.index(from);
                    let us = self.now_us + self.wan.rtt_us(index, other) + 5_000;
                    let incarnation = self.nodes[index].incarnation;
                    self.at_us(us, Event::Fetched { node: index, from: other, attempt, incarnation });
                }
            }
        }
        self.observe_step(index);
        self.arm(index);
    }

    fn sync_later(&mut self, index: usize) {
        let incarnation = self.nodes[index].incarnation;
        let us = self.nodes[index].sync_us.unwrap_or(self.sync_ms * 1000);
        self.at_us(self.now_us + us, Event::Synced { node: index, incarnation });
    }

    pub(crate) fn transmit(&mut self, from: usize, to: MemberId, message: Message) {
        let to = self.index(to);
        self.messages += 1;
        let rtt_us = self.wan.rtt_us(from, to);
        self.metrics.sent(self.now_us, &message, rtt_us);
        if let Message::Bound(attempt) = &message {
            let expected = self.expected_start(from, to, *attempt);
            self.metrics.bound(self.now_us, attempt.task, rtt_us, expected);
        }
        let manners = self.nodes[from].manners;
        let phantom = message.attempt().is_some_and(|a| number(a.task) >= crate::faults::PHANTOM);
        let kept = (manners.hides_ends && matches!(message, Message::Ended(_)))
            || (manners.hides_renewals && matches!(message, Message::Renewed(_)))
            || (manners.greedy_per_s > 0 && phantom && matches!(message, Message::Release(_)));
        if kept {
            return;
        }
        let arrivals = self.wan.arrivals(from, to, self.now_us, &mut self.rng);
        if let Some(again) = arrivals[1] {
            self.at_us(again, Event::Deliver { from, to, message: Box::new(message.clone()) });
        }
        if let Some(us) = arrivals[0] {
            self.at_us(us, Event::Deliver { from, to, message: Box::new(message) });
        }
    }

    fn transmit_custody(&mut self, from: usize, to: MemberId, message: Box<consensus::custody::Message>) {
        let to = self.index(to);
        self.custody_messages += 1;
        for us in self.wan.arrivals(from, to, self.now_us, &mut self.rng).into_iter().flatten() {
            self.at_us(us, Event::Custody { from, to, message: message.clone() });
        }
    }

    /// Whether a record is another region's history, copied by one of its custodians.
    fn is_copy(&self, index: usize, record: &Record) -> bool {
        let Record::Event(event) = record else { return false };
        let node = &self.nodes[index];
        let holder = node.machine.as_ref().and_then(|machine| machine.custodian().holder(event.task));
        holder.is_some_and(|holder| holder != node.member)
    }

    fn acknowledge(&mut self, index: usize, task: TaskId, durability: Durability) {
        if !self.forgetful {
            self.answers.insert(task, Ok(()));
        }
        let disks = if durability == Durability::Quorum { 2 } else { 1 };
        self.invariants.observe(self.now_ms, &Fact::Acknowledged { node: index, task, disks });
    }

    pub(crate) fn synced(&mut self, index: usize, incarnation: u64) {
        if self.nodes[index].incarnation != incarnation || self.nodes[index].machine.is_none() {
            return;
        }
        let node = &mut self.nodes[index];
        let safe = node.disk.end_sync();
        let up_to = node.disk.synced_to();
        for record in &safe {
            self.invariants.observe(self.now_ms, &Fact::Synced { node: index, record });
            if let Record::Custody(custody) = record
                && custody.custodians.len() > 1
                && let Some(binding) = &custody.binding
            {
                let bound = self.bound_on.entry((custody.task, binding.fence));
                bound.or_insert_with(|| (binding.provider, BTreeSet::new())).1.insert(index);
            }
        }
        if self.nodes[index].disk.begin_sync().is_some() {
            self.sync_later(index);
        }
        self.nodes[index].synced = up_to;
        while self.nodes[index].admitted.front().is_some_and(|(persist, _)| *persist <= up_to) {
            let Some((_, task)) = self.nodes[index].admitted.pop_front() else { break };
            if self.bug == Some(Bug::LoseTasks) {
                self.nodes[index].disk.lose(task);
            }
            // One that others keep, too, is answered once they have it.
            if self.nodes[index].disk.custody(task).is_none_or(|custody| custody.custodians.len() < 2) {
                self.acknowledge(index, task, Durability::Local);
            }
        }
        while self.nodes[index].held_back.front().is_some_and(|(after, ..)| *after <= up_to) {
            let Some((_, to, message)) = self.nodes[index].held_back.pop_front() else { break };
            if to == self.nodes[index].member {
                self.at_us(self.now_us, Event::Deliver { from: index, to: index, message: Box::new(message) });
            } else {
                self.transmit(index, to, message);
            }
        }
        let orders = std::mem::take(&mut self.nodes[index].orders);
        let (ready, waiting): (Vec<_>, Vec<_>) = orders.into_iter().partition(|(after, _)| *after <= up_to);
        self.nodes[index].orders = waiting;
        for (_, order) in ready {
            self.order_run(index, order);
        }
        while self.nodes[index].custody_back.front().is_some_and(|(after, ..)| *after <= up_to) {
            let Some((_, to, message)) = self.nodes[index].custody_back.pop_front() else { break };
            self.transmit_custody(index, to, message);
        }
        self.handle(index, Input::Persisted { up_to });
        if self.forgetful {
            self.nodes[index].disk.forget_ended();
        }
        while self.nodes[index].unsynced() <= UNSYNCED_MAX {
            let Some(input) = self.nodes[index].backlog.pop_front() else { break };
            self.handle(index, input);
        }
    }

    /// Records as a planted bug lets them through.
    fn tampered(&mut self, index: usize, mut records: Vec<Record>) -> Vec<Record> {
        let Some(bug) = self.bug else { return records };
        let members = self.nodes.len() as u64;
        match bug {
            Bug::LoseLeases => records.retain(|record| !matches!(record, Record::Lease(_))),
            Bug::SwapProvider => {
                for record in &mut records {
                    let Record::Custody(custody) = record else { continue };
                    let again = self.nodes[index].disk.custody(custody.task).is_some_and(|c| c.binding.is_some());
                    if let Some(binding) = custody.binding.as_mut().filter(|_| again) {
                        binding.provider = MemberId(binding.provider.0 % members + 1);
                    }
                }
            }
            Bug::ChangeResult => {
                let mut more = Vec::new();
                for record in &records {
                    let Record::Custody(custody) = record else { continue };
                    if let Some(end) = &custody.end {
                        let mut other = (**custody).clone();
                        let digest = cpi::ids::ContentDigest::of(&end.digest.0);
                        other.end = Some(consensus::custody::EndMark { digest, ..end.clone() });
                        more.push(Record::Custody(Box::new(other)));
                    }
                }
                records.extend(more);
            }
            Bug::NoReasons => {
                for record in &mut records {
                    if let Record::Event(event) = record {
                        event.reason = None;
                    }
                }
            }
            _ => {}
        }
        records
    }

    /// Whether a region's machine has anything of a task.
    pub fn knows(&self, node: usize, task: TaskId) -> bool {
        self.nodes[node].machine.as_ref().is_some_and(|machine| machine.has_task(task))
    }
}

fn kind_of(record: &Record) -> (&'static str, TaskId, u64) {
    match record {
        Record::Task(task) => ("submitted", task.task, 0),
        Record::Kept(task) => ("kept", task.task, 0),
        Record::Custody(custody) => ("custody", custody.task, u64::from(custody.fence.attempt)),
        Record::Event(event) => ("event", event.task, event.kind as u64),
        Record::Decision(decision) => ("decision", decision.task, decision.took_ms),
        Record::Lease(lease) => ("lease", lease.attempt.task, lease.phase as u64),
        Record::LeaseSettled(attempt) => ("settled", attempt.task, u64::from(attempt.fence.attempt)),
        #[allow(unreachable_patterns, reason = "records that later releases add")]
        _ => ("record", TaskId([0; 16]), 0),
    }
}

/// A record for people.
fn in_words(record: &Record) -> String {
    match record {
        Record::Custody(custody) => {
            let bound = custody.binding.as_ref().map(|b| format!(" bound to {}", b.provider)).unwrap_or_default();
            let end = if custody.end.is_some() { " ended" } else { "" };
            format!("fence {}{bound}{end}", custody.fence)
        }
        Record::Event(event) => {
            let member = event.member.map(|m| format!(" {m}")).unwrap_or_default();
            let reason = event.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
            format!("{:?}{member} -> {}{reason} {}", event.kind, event.state.as_str(), event.detail)
        }
        Record::Lease(lease) => format!("{:?} for {} on server {}", lease.phase, lease.origin, lease.server),
        Record::Decision(decision) => {
            format!("{} candidates, {} refusals", decision.candidates.len(), decision.refusals.len())
        }
        _ => String::new(),
    }
}
