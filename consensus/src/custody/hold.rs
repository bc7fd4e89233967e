//! The holder's part: sends each state to the other custodians until enough disks have it, gives tasks back to their
//! origins, and has lost custodians replaced.

use super::action::Action;
use super::custodian::{Custodian, Due};
use super::kept::{Copied, Holding, Kept, Role};
use super::message::{Message, Write};
use super::quorum::durability_of;
use super::record::CustodyRecord;
use super::ring::{self, CUSTODIANS};
use crate::negotiation::{RestoredTask, TaskEvent, TaskRecord};
use crate::time::Now;
use cpi::ids::{Epoch, MemberId, TaskId};
use cpi::task::Durability;
use std::collections::{BTreeMap, VecDeque};

/// Repeats slow down to so many times the first pause.
const PAUSE_GROWTH_MAX: u64 = 16;
/// A closed task is kept in memory so many times the longest pause for a custodian that does not answer.
const CLOSING_PAUSES: u64 = 8;
/// Sets of custodians changed in one scan.
const RESEATS_PER_SCAN: usize = 64;

impl Custodian {
    /// The node's origin part made a step.
    pub(super) fn step(
        &mut self,
        now: Now,
        record: CustodyRecord,
        task: Option<Box<TaskRecord>>,
        events: Vec<TaskEvent>,
    ) {
        let id = record.task;
        if !self.tasks.contains_key(&id) {
            if task.is_some() {
                self.take_in(now, record, task, events);
            }
            return;
        }
        let (me, history_ms) = (self.me, self.config.history_every_ms);
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        let Role::Holding(holding) = &mut kept.role else { return };
        if record.written != kept.record.written || record.revision <= kept.record.revision {
            return;
        }
        let before = std::mem::replace(&mut kept.record, record);
        let urgent = kept.record.differs(&before);
        let mut left = Vec::new();
        if kept.record.custodians != before.custodians || kept.record.former != before.former {
            holding.reseating = false;
            if before.former.is_none() && kept.record.former.is_some() {
                holding.joint = Some(kept.record.revision);
            }
            for seat in kept.record.seats().filter(|m| *m != me) {
                holding.others.entry(seat).or_default();
            }
            left.extend(before.seats().filter(|m| !kept.record.is_seated(*m)));
            holding.others.retain(|m, _| !left.contains(m));
        }
        if urgent {
            holding.pause_ms = 0;
        }
        kept.remember(events);
        let after = kept.record.clone();
        if !left.is_empty() || after.custodians != before.custodians {
            self.share(now, &before, false);
            self.share(now, &after, true);
        }
        for member in left {
            self.stats.reseated += 1;
            self.send(member, Message::Told { record: Box::new(after.clone()) }, None);
        }
        if !urgent {
            self.arm(id, now.mono.plus_ms(history_ms));
        }
    }

    /// A task is taken in here.
    fn take_in(&mut self, now: Now, record: CustodyRecord, task: Option<Box<TaskRecord>>, events: Vec<TaskEvent>) {
        let id = record.task;
        let mut holding = Holding { base: record.revision, working: true, fresh: true, ..Holding::default() };
        for seat in record.seats().filter(|m| *m != self.me) {
            holding.others.insert(seat, Copied::default());
        }
        let alone = holding.others.is_empty();
        let role = Role::Holding(holding);
        // Nobody else will need the document of a task that only this node keeps.
        let task = task.filter(|_| !alone);
        let mut kept = Kept { task, record, events: VecDeque::new(), role, persist: None, due: None, wished: None };
        if !alone {
            kept.remember(events);
            self.timers.arm(Due::Answer(id), now.mono.plus_ms(self.config.answer_after_ms));
        }
        self.share(now, &kept.record, true);
        self.tasks.insert(id, kept);
    }

    /// A state is on the own disk: it goes to the others.
    pub(super) fn stored(&mut self, now: Now, id: TaskId, revision: u64) {
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        let Role::Holding(holding) = &mut kept.role else { return };
        if revision < holding.base || revision > kept.record.revision {
            return;
        }
        holding.own = holding.own.max(Some(revision));
        let urgent = holding.pause_ms == 0;
        self.count(now, id);
        if urgent {
            self.spread(now, id, false);
        }
    }

    /// Sends the newest state to those who lack it; `again` also to those to whom it was sent before.
    fn spread(&mut self, now: Now, id: TaskId, again: bool) {
        let (boot, first_ms) = (self.boot, self.config.resend_every_ms.max(1));
        let Some(Kept { task, record, events, role: Role::Holding(holding), .. }) = self.tasks.get_mut(&id) else {
            return;
        };
        if holding.own != Some(record.revision) {
            // A newer state is on its way to the own disk. One that is not urgent does not go out with that alone.
            self.arm(id, now.mono.plus_ms(first_ms));
            return;
        }
        let mut writes = Vec::new();
        for (member, copy) in &mut holding.others {
            let lacks = copy.revision < Some(record.revision);
            if lacks && (again || copy.sent < Some(record.revision)) {
                copy.sent = Some(record.revision);
                writes.push((*member, write_for(boot, task.as_deref(), record, events, copy)));
            }
        }
        let behind = holding.others.values().any(|c| c.revision < Some(record.revision));
        holding.pause_ms = (holding.pause_ms * 2).clamp(first_ms, first_ms * PAUSE_GROWTH_MAX);
        let pause_ms = holding.pause_ms;
        for (member, write) in writes {
            self.send(member, write, None);
        }
        if behind {
            self.arm(id, now.mono.plus_ms(pause_ms));
        }
    }

    /// A held task's timer: what was not acknowledged is said again.
    pub(super) fn repeat_writes(&mut self, now: Now, id: TaskId) {
        let Some(Kept { role: Role::Holding(holding), .. }) = self.tasks.get(&id) else { return };
        if holding.closes_at.is_some_and(|at| at <= now.mono) {
            self.forget(now, id);
            return;
        }
        self.spread(now, id, true);
    }

    /// A custodian has a state on its disk.
    pub(super) fn written(&mut self, now: Now, from: MemberId, id: TaskId, version: (Epoch, u64), events: u32) {
        let Some(Kept { record, role: Role::Holding(holding), .. }) = self.tasks.get_mut(&id) else { return };
        let Some(copy) = holding.others.get_mut(&from) else { return };
        if version.0 != record.written || version.1 > record.revision {
            return;
        }
        copy.has_task = true;
        copy.revision = copy.revision.max(Some(version.1));
        copy.events = copy.events.max(events.min(record.events));
        self.count(now, id);
    }

    /// A custodian has no document of the task.
    pub(super) fn lacks(&mut self, from: MemberId, id: TaskId) {
        let boot = self.boot;
        let Some(Kept { task, record, events, role, .. }) = self.tasks.get_mut(&id) else { return };
        let reply = match role {
            Role::Holding(holding) if holding.own == Some(record.revision) => {
                let Some(copy) = holding.others.get_mut(&from) else { return };
                copy.has_task = false;
                copy.sent = Some(record.revision);
                write_for(boot, task.as_deref(), record, events, copy)
            }
            Role::Claiming(claiming) => {
                let epoch = claiming.epoch;
                let task = task.as_deref().cloned();
                Message::Claim(Box::new(super::message::Claim { boot, epoch, record: record.clone(), task }))
            }
            _ => return,
        };
        self.send(from, reply, None);
    }

    /// A follower asks whether the task goes on.
    pub(super) fn enquired(&mut self, from: MemberId, id: TaskId) {
        let boot = self.boot;
        let Some(Kept { task, record, events, role, .. }) = self.tasks.get_mut(&id) else { return };
        let reply = match role {
            Role::Holding(holding) => match holding.others.get_mut(&from) {
                Some(copy) if holding.own == Some(record.revision) => {
                    write_for(boot, task.as_deref(), record, events, copy)
                }
                _ => return,
            },
            _ => Message::Refused { task: id, promised: record.promised },
        };
        self.send(from, reply, None);
    }

    /// Looks how far a held task came: what counts takes effect.
    fn count(&mut self, now: Now, id: TaskId) {
        let me = self.me;
        let Some(Kept { task, record, events, role: Role::Holding(holding), wished, .. }) = self.tasks.get_mut(&id)
        else {
            return;
        };
        let Some(reached) = holding.reached(me, record) else { return };
        if holding.counted >= Some(reached) {
            self.close_if_done(now, id);
            return;
        }
        let first = holding.counted.is_none();
        holding.counted = Some(reached);
        let floor = holding.others.values().map(|c| c.events).min().unwrap_or(record.events);
        events.retain(|e| e.seq > floor);
        let mut actions = Vec::new();
        if !holding.working {
            // Adopted, and most custodians know: from here on this node decides.
            let Some(as_handed_in) = task.clone() else { return };
            holding.working = true;
            let (custody, events, state) = (record.clone(), record.events, record.state);
            if holding.others.is_empty() {
                *task = None;
            }
            actions.push(Action::Adopted(Box::new(RestoredTask { record: *as_handed_in, custody, events, state })));
            if let Some(principal) = wished.take() {
                actions.push(Action::Cancel { task: id, principal });
            }
        } else {
            if first && holding.fresh {
                let durability = durability_of(record.custodians.len());
                actions.push(Action::Durable { task: id, durability });
            }
            actions.push(Action::Counted { task: id, revision: reached });
        }
        if holding.joint.is_some_and(|joint| joint <= reached) {
            holding.joint = None;
            actions.push(Action::Reseat { task: id, custodians: record.custodians.clone(), former: None });
        }
        if first {
            self.timers.disarm(Due::Answer(id));
        }
        for action in actions {
            if matches!(action, Action::Adopted(_)) {
                self.stats.adopted += 1;
            }
            self.act(action);
        }
        self.close_if_done(now, id);
    }

    /// Lets a closed task go once all custodians have its end, or after a while.
    fn close_if_done(&mut self, now: Now, id: TaskId) {
        let longest = self.config.resend_every_ms.max(1) * PAUSE_GROWTH_MAX;
        let Some(Kept { record, role: Role::Holding(holding), .. }) = self.tasks.get_mut(&id) else { return };
        if !record.closed || holding.counted != Some(record.revision) {
            return;
        }
        if holding.others.values().all(|c| c.revision == Some(record.revision)) {
            self.forget(now, id);
        } else {
            holding.closes_at.get_or_insert(now.mono.plus_ms(longest * CLOSING_PAUSES));
        }
    }

    /// A submission waited long enough for a second disk.
    pub(super) fn answer(&mut self, id: TaskId) {
        if let Some(Kept { role: Role::Holding(holding), .. }) = self.tasks.get(&id)
            && holding.counted.is_none()
        {
            self.act(Action::Durable { task: id, durability: Durability::Local });
        }
    }

    /// Adopted tasks whose origin is back are handed back: the origin is invited to claim them.
    pub(super) fn give_back(&mut self, now: Now) {
        let (return_ms, resend_ms) = (self.config.return_after_ms, self.config.orphan_after_ms);
        let mut invitations = Vec::new();
        for id in &self.adopted {
            let Some(Kept { record, role: Role::Holding(holding), .. }) = self.tasks.get_mut(id) else { continue };
            let origin = record.origin;
            let back = self.peers.get(&origin).is_some_and(|peer| {
                peer.alive_since.is_some_and(|since| now.mono.since_ms(since) >= return_ms)
                    && now.mono.since_ms(peer.heard_at) < return_ms
            });
            let has_all = holding.others.get(&origin).is_some_and(|c| c.revision == Some(record.revision));
            let invited = holding.returned_at.is_some_and(|at| now.mono.since_ms(at) < resend_ms);
            if back && has_all && holding.working && !invited && record.end.is_none() {
                holding.returned_at = Some(now.mono);
                invitations.push((origin, Message::Return { task: *id, epoch: record.written }));
            }
        }
        for (origin, message) in invitations {
            self.send(origin, message, None);
        }
    }

    /// Custodians that are lost for long are replaced, by most of the old set and then most of the new.
    pub(super) fn replace_lost(&mut self, now: Now) {
        let replace_ms = self.config.replace_after_ms;
        let lost: Vec<MemberId> = self
            .peers
            .iter()
            .filter(|(member, peer)| {
                let left = self.members.get(member).is_none_or(|seat| !seat.active);
                peer.shared > 0 && now.mono.since_ms(peer.heard_at) >= if left { replace_ms / 10 } else { replace_ms }
            })
            .map(|(member, _)| *member)
            .collect();
        if lost.is_empty() {
            return;
        }
        let mut changes = Vec::new();
        for (id, kept) in &mut self.tasks {
            let Kept { task: Some(task), record, role: Role::Holding(holding), .. } = kept else { continue };
            let ready = holding.working && !holding.reseating && record.former.is_none() && record.end.is_none();
            if !ready || record.custodians.len() < CUSTODIANS || !record.custodians.iter().any(|m| lost.contains(m)) {
                continue;
            }
            let left = record.custodians.iter().filter(|m| !lost.contains(m)).copied().collect();
            let Some(set) = ring::complete(record.origin, left, &lost, &task.need.residency, &self.members) else {
                continue;
            };
            holding.reseating = true;
            let former = Some(record.custodians.clone());
            changes.push(Action::Reseat { task: *id, custodians: set, former });
            if changes.len() >= RESEATS_PER_SCAN {
                break;
            }
        }
        for change in changes {
            self.act(change);
        }
    }

    /// This node holds a task from now on, in the state `record` that it is about to write.
    pub(super) fn begin_holding(&mut self, id: TaskId) {
        let me = self.me;
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        let mut others = BTreeMap::new();
        for seat in kept.record.seats().filter(|m| *m != me) {
            others.insert(seat, Copied { has_task: true, ..Copied::default() });
        }
        let base = kept.record.revision;
        let joint = kept.record.former.as_ref().map(|_| base);
        self.turn(id, Role::Holding(Holding { base, others, joint, ..Holding::default() }));
    }
}

fn write_for(
    boot: u64,
    task: Option<&TaskRecord>,
    record: &CustodyRecord,
    events: &VecDeque<TaskEvent>,
    copy: &Copied,
) -> Message {
    let task = task.filter(|_| !copy.has_task).cloned();
    let events = events.iter().filter(|e| e.seq > copy.events).cloned().collect();
    Message::Write(Box::new(Write { boot, record: record.clone(), task, events }))
}
