//! The follower's part: keeps the states that a holder writes, promises epochs, and notices silence.

use super::custodian::{Custodian, Due, Effect};
use super::kept::{Following, Kept, Role};
use super::message::{Claim, Message, Write};
use super::record::CustodyRecord;
use crate::negotiation::Record;
use crate::time::Now;
use cpi::ids::{Epoch, MemberId, TaskId};

/// A follower that heard nothing of one task for so many times the patience for a silent holder asks after it.
const ENQUIRE_PATIENCES: u64 = 20;
/// First states that wait for a witness at once; the writer says them again.
const UNVOUCHED_MAX: usize = 256;
/// Enquiries in one scan.
const ENQUIRIES_PER_SCAN: usize = 256;

impl Custodian {
    /// A member said something.
    pub(super) fn heard(&mut self, now: Now, from: MemberId, boot: Option<u64>) {
        let gap_ms = self.config.orphan_after_ms;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.alive_since.is_none() || now.mono.since_ms(peer.heard_at) > gap_ms {
            peer.alive_since = Some(now.mono);
        }
        peer.heard_at = now.mono;
        if boot.is_some() && peer.boot != boot {
            peer.boot = boot;
            peer.boot_at = now.mono;
            peer.alive_since = Some(now.mono);
        }
    }

    /// A holder writes a state of a task in memory.
    pub(super) fn write(&mut self, now: Now, from: MemberId, write: Write) {
        let id = write.record.task;
        let me = self.me;
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        if !kept.is_custodian(from) && kept.record.promised.member != from {
            // It has no seat any more, or one that this custodian has not heard of: then one that it knows will tell.
            let (record, after) = (Box::new(kept.record.clone()), kept.persist);
            self.send(from, Message::Told { record }, after);
            return;
        }
        if write.record.written < kept.record.promised {
            let (promised, after) = (kept.record.promised, kept.persist);
            self.send(from, Message::Refused { task: id, promised }, after);
            return;
        }
        if write.record.version() <= kept.record.version() {
            let (written, revision, events) = (kept.record.written, kept.record.revision, kept.record.events);
            let after = kept.persist;
            if let Role::Following(following) = &mut kept.role {
                following.boot = Some(write.boot);
                following.since = now.mono;
            }
            if kept.record.written == write.record.written {
                self.send(from, Message::Written { task: id, written, revision, events }, after);
            }
            return;
        }
        let mut record = write.record;
        record.promised = record.written;
        let before = std::mem::replace(&mut kept.record, record);
        if kept.task.is_none() {
            kept.task = write.task.map(Box::new);
        }
        let record = kept.record.clone();
        self.turn(id, Role::Following(Following { holder: from, boot: Some(write.boot), since: now.mono }));
        if before.custodians != record.custodians || before.former != record.former {
            self.share(now, &before, false);
            self.share(now, &record, true);
        }
        self.queue.remove(&id);
        let done = record.closed || !record.is_seated(me);
        let (written, revision, events) = (record.written, record.revision, record.events);
        let mut records: Vec<Record> = write.events.into_iter().map(Record::Event).collect();
        records.push(Record::Custody(Box::new(record)));
        let persist = self.persist(records, done.then_some(Effect::Closed(id)));
        if let Some(kept) = self.tasks.get_mut(&id) {
            kept.persist = Some(persist);
        }
        self.send(from, Message::Written { task: id, written, revision, events }, Some(persist));
    }

    /// A message about a task that this node never had.
    pub(super) fn about_new(&mut self, now: Now, from: MemberId, message: Message) {
        match message {
            Message::Write(write) if !self.knows_all(from, &write.record) => {}
            // Only its origin begins a task; a custodian that adopted one and names this node anew needs a witness.
            Message::Write(write) if write.record.origin != from => self.ask_to_vouch(from, *write),
            Message::Write(write) => self.take_written(now, from, *write),
            Message::Claim(claim) if !self.knows_all(from, &claim.record) || !claim.record.is_seated(from) => {}
            Message::Claim(claim) => {
                let id = claim.record.task;
                let before = self.tasks.len();
                // What the claimant has is what its holder wrote once: kept as if that had come late.
                let holder = claim.record.holder();
                self.take_over(now, holder, claim.boot, claim.record.clone(), claim.task.clone().map(Box::new), None);
                if self.tasks.len() > before {
                    self.claimed(now, from, *claim);
                } else if claim.task.is_none() {
                    self.send(from, Message::Lacks { task: id }, None);
                }
            }
            Message::Enquire { task } => self.send(from, Message::Unknown { task }, None),
            _ => {}
        }
    }

    /// Whether the sender and all who shall keep a task are members.
    fn knows_all(&self, from: MemberId, record: &CustodyRecord) -> bool {
        let known = |m: &MemberId| *m == self.me || self.members.contains_key(m);
        self.members.get(&from).is_some_and(|seat| seat.active) && record.custodians.iter().all(known)
    }

    /// Whether a message names this node again for a task that it kept once and gave away.
    pub(super) fn is_seated_anew(&self, message: &Message, kept: &CustodyRecord) -> bool {
        let Message::Write(write) = message else { return false };
        !kept.is_seated(self.me) && write.record.is_seated(self.me) && write.record.version() > kept.version()
    }

    fn take_written(&mut self, now: Now, from: MemberId, write: Write) {
        let Write { boot, record, task, events } = write;
        self.take_over(now, from, boot, record, task.map(Box::new), Some(events));
    }

    /// Keeps a first state back until another custodian says that it promised its epoch.
    fn ask_to_vouch(&mut self, from: MemberId, write: Write) {
        let id = write.record.task;
        if write.task.is_none() {
            self.send(from, Message::Lacks { task: id }, None);
            return;
        }
        let epoch = write.record.written;
        let witnesses: Vec<MemberId> = write.record.seats().filter(|m| *m != from && *m != self.me).collect();
        if self.unvouched.len() >= UNVOUCHED_MAX && !self.unvouched.contains_key(&id) {
            self.unvouched.pop_first();
        }
        self.unvouched.insert(id, (from, write));
        for witness in witnesses {
            self.send(witness, Message::Vouch { task: id, epoch }, None);
        }
    }

    /// Another custodian asks whether this one promised an epoch.
    pub(super) fn vouch(&mut self, from: MemberId, id: TaskId, epoch: Epoch) {
        let Some(kept) = self.tasks.get(&id) else { return };
        let after = kept.persist;
        if kept.record.promised == epoch {
            self.send(from, Message::Vouched { task: id, epoch }, after);
        }
    }

    /// Another custodian promised the epoch of a state that was kept back.
    pub(super) fn vouched(&mut self, now: Now, from: MemberId, id: TaskId, epoch: Epoch) {
        let fits = |(writer, write): &(MemberId, Write)| {
            write.record.written == epoch && *writer != from && write.record.is_seated(from)
        };
        if self.unvouched.get(&id).is_some_and(fits)
            && let Some((writer, write)) = self.unvouched.remove(&id)
        {
            self.take_written(now, writer, write);
        }
    }

    /// Begins to keep a task; with `events`, the state is acknowledged to its holder.
    fn take_over(
        &mut self,
        now: Now,
        holder: MemberId,
        boot: u64,
        mut record: CustodyRecord,
        task: Option<Box<crate::negotiation::TaskRecord>>,
        events: Option<Vec<crate::negotiation::TaskEvent>>,
    ) {
        let id = record.task;
        if !record.is_seated(self.me) {
            return;
        }
        let Some(task) = task else {
            if events.is_some() {
                self.send(holder, Message::Lacks { task: id }, None);
            }
            return;
        };
        let kept_of_it = self.peers.get(&holder).map_or(0, |peer| peer.followed.len());
        if kept_of_it >= self.config.kept_per_member_max {
            self.stats.turned_away += 1;
            return;
        }
        record.promised = record.written;
        let mut records = vec![Record::Kept(task.clone())];
        let told = events.is_some();
        records.extend(events.unwrap_or_default().into_iter().map(Record::Event));
        records.push(Record::Custody(Box::new(record.clone())));
        let closed = record.closed;
        let (written, revision, events) = (record.written, record.revision, record.events);
        self.insert(now, Some(task), record, holder, told.then_some(boot));
        self.heard(now, holder, told.then_some(boot));
        let persist = self.persist(records, closed.then_some(Effect::Closed(id)));
        if let Some(kept) = self.tasks.get_mut(&id) {
            kept.persist = Some(persist);
        }
        if told {
            self.send(holder, Message::Written { task: id, written, revision, events }, Some(persist));
        }
    }

    /// A message about a task that is closed here, or kept no longer.
    pub(super) fn about_closed(&mut self, from: MemberId, message: &Message, record: &CustodyRecord) {
        let reply = match message {
            Message::Write(write) if write.record.version() <= record.version() && record.closed => Message::Written {
                task: record.task,
                written: record.written,
                revision: record.revision,
                events: record.events,
            },
            _ => Message::Told { record: Box::new(record.clone()) },
        };
        self.send(from, reply, None);
    }

    /// A custodian asks for a promise.
    pub(super) fn claimed(&mut self, now: Now, from: MemberId, claim: Claim) {
        let id = claim.record.task;
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        if kept.record.closed || !kept.record.is_seated(from) {
            let (record, after) = (Box::new(kept.record.clone()), kept.persist);
            self.send(from, Message::Told { record }, after);
            return;
        }
        let again = kept.record.promised == claim.epoch;
        if again {
            let (record, after) = (Box::new(kept.record.clone()), kept.persist);
            self.send(from, Message::Promise { task: id, epoch: claim.epoch, record }, after);
            return;
        }
        if kept.record.promise(claim.epoch).is_err() {
            let (promised, after) = (kept.record.promised, kept.persist);
            self.send(from, Message::Refused { task: id, promised }, after);
            return;
        }
        let record = kept.record.clone();
        self.turn(id, Role::Following(Following { holder: from, boot: Some(claim.boot), since: now.mono }));
        self.queue.remove(&id);
        let persist = self.persist(vec![Record::Custody(Box::new(record.clone()))], None);
        if let Some(kept) = self.tasks.get_mut(&id) {
            kept.persist = Some(persist);
        }
        self.send(from, Message::Promise { task: id, epoch: claim.epoch, record: Box::new(record) }, Some(persist));
    }

    /// A custodian promised a higher epoch than this node asked or wrote under.
    pub(super) fn refused(&mut self, now: Now, from: MemberId, id: TaskId, promised: Epoch) {
        let me = self.me;
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        if !kept.is_custodian(from) || kept.record.closed || kept.record.promise(promised).is_err() {
            return;
        }
        let mine = match &kept.role {
            Role::Holding(_) => kept.record.written,
            Role::Claiming(claiming) => claiming.epoch,
            Role::Following(_) => Epoch { counter: 0, member: me },
        };
        if promised <= mine {
            return;
        }
        let record = kept.record.clone();
        self.turn(id, Role::Following(Following { holder: promised.member, boot: None, since: now.mono }));
        let persist = self.persist(vec![Record::Custody(Box::new(record))], None);
        if let Some(kept) = self.tasks.get_mut(&id) {
            kept.persist = Some(persist);
        }
        if promised.member == me {
            // An epoch of an earlier life of this node: a higher one is claimed.
            self.queue.insert(id);
            self.begin_claims(now);
        }
    }

    /// A custodian tells what it has of a task that is closed, or that this node keeps no longer.
    pub(super) fn told(&mut self, now: Now, from: MemberId, mut record: CustodyRecord) {
        let id = record.task;
        let me = self.me;
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        let newer = record.version() > kept.record.version();
        let over = record.closed || !record.is_seated(me);
        if !kept.is_custodian(from) || kept.record.closed || !newer || !over {
            return;
        }
        record.promised = record.written.max(kept.record.promised);
        let before = std::mem::replace(&mut kept.record, record.clone());
        let holder = record.promised.member;
        self.turn(id, Role::Following(Following { holder, boot: None, since: now.mono }));
        self.share(now, &before, false);
        self.share(now, &record, true);
        let persist = self.persist(vec![Record::Custody(Box::new(record))], Some(Effect::Closed(id)));
        if let Some(kept) = self.tasks.get_mut(&id) {
            kept.persist = Some(persist);
        }
    }

    /// The holder invites this origin to claim its task.
    pub(super) fn returned(&mut self, now: Now, from: MemberId, id: TaskId, epoch: Epoch) {
        let Some(kept) = self.tasks.get(&id) else { return };
        let following = matches!(&kept.role, Role::Following(f) if f.holder == from);
        if following && kept.record.origin == self.me && kept.record.promised == epoch && !kept.record.closed {
            self.queue.insert(id);
            self.begin_claims(now);
        }
    }

    /// The holder has lost the task.
    pub(super) fn unknown(&mut self, now: Now, from: MemberId, id: TaskId) {
        let Some(kept) = self.tasks.get(&id) else { return };
        if matches!(&kept.role, Role::Following(f) if f.holder == from) && !kept.record.closed {
            self.queue.insert(id);
            self.begin_claims(now);
        }
    }

    /// The regular look round: signs of life, silent holders, tasks to give back, custodians to replace.
    pub(super) fn scan(&mut self, now: Now) {
        let boot = self.boot;
        let together: Vec<MemberId> = self.peers.iter().filter(|(_, p)| p.shared > 0).map(|(m, _)| *m).collect();
        for member in together {
            self.send(member, Message::Beat { boot }, None);
        }
        self.peers.retain(|_, peer| peer.shared > 0 || !peer.followed.is_empty());
        if !self.peers.is_empty() {
            self.timers.arm(Due::Scan, now.mono.plus_ms(self.config.beat_every_ms.max(1)));
        }
        let (me, orphan_ms) = (self.me, self.config.orphan_after_ms);
        let mut enquiries = Vec::new();
        for (holder, peer) in &self.peers {
            if *holder == me {
                continue;
            }
            for id in &peer.followed {
                let Some(kept @ Kept { role: Role::Following(following), .. }) = self.tasks.get(id) else { continue };
                if kept.record.closed || self.queue.contains(id) {
                    continue;
                }
                // A holder in another life than that which wrote may have lost the task.
                let same = following.boot.is_none() || following.boot == peer.boot;
                let heard = following.since.max(if same { peer.heard_at } else { peer.boot_at });
                if now.mono.since_ms(heard) >= kept.patience_ms(me, *holder, orphan_ms) {
                    self.queue.insert(*id);
                } else if now.mono.since_ms(following.since) >= orphan_ms * ENQUIRE_PATIENCES
                    && enquiries.len() < ENQUIRIES_PER_SCAN
                {
                    enquiries.push((*holder, *id));
                }
            }
        }
        for (holder, id) in enquiries {
            if let Some(Kept { role: Role::Following(following), .. }) = self.tasks.get_mut(&id) {
                // Asked once in that time; a holder that answers writes, and so counts as heard.
                following.since = now.mono;
            }
            self.send(holder, Message::Enquire { task: id }, None);
        }
        self.give_back(now);
        self.replace_lost(now);
        self.begin_claims(now);
    }
}
