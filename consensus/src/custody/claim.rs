//! The claimant's part: gathers promises of a higher epoch from most custodians, takes their newest state, writes it
//! under that epoch, and holds the task once most have it.

use super::custodian::{Custodian, Effect};
use super::kept::{Claiming, Following, Kept, Role};
use super::message::{Claim, Message};
use super::record::CustodyRecord;
use crate::negotiation::Record;
use crate::time::Now;
use cpi::ids::{Epoch, MemberId, TaskId};
use std::collections::BTreeSet;

/// Repeats slow down to so many times the first pause.
const PAUSE_GROWTH_MAX: u64 = 4;

impl Custodian {
    /// Begins claims while there is room for more.
    pub(super) fn begin_claims(&mut self, now: Now) {
        while self.claiming < self.config.claims_max.max(1) {
            let Some(id) = self.queue.pop_first() else { return };
            let follows = matches!(self.tasks.get(&id), Some(Kept { role: Role::Following(_), .. }));
            if follows {
                self.claim(now, id);
            }
        }
    }

    fn claim(&mut self, now: Now, id: TaskId) {
        let (me, boot, pause_ms) = (self.me, self.boot, self.config.resend_every_ms.max(1));
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        if kept.record.closed {
            return;
        }
        // Bounded where it comes in; past the last epoch there is none to claim.
        let Some(counter) = kept.record.promised.counter.checked_add(1) else { return };
        let epoch = Epoch { counter, member: me };
        kept.record.promised = epoch;
        let newest = kept.record.clone();
        let others = kept.others(me);
        let claiming = Claiming { epoch, promises: BTreeSet::new(), newest: newest.clone(), pause_ms };
        self.turn(id, Role::Claiming(Box::new(claiming)));
        if others.is_empty() {
            // Nobody else to ask: the promise and the state that rests on it go to the own disk together.
            if let Some(Kept { role: Role::Claiming(claiming), .. }) = self.tasks.get_mut(&id) {
                claiming.promises.insert(me);
            }
            self.complete(now, id);
            return;
        }
        let persist = self.persist(vec![Record::Custody(Box::new(newest.clone()))], Some(Effect::Promised(id, epoch)));
        if let Some(kept) = self.tasks.get_mut(&id) {
            kept.persist = Some(persist);
        }
        for member in others {
            let claim = Claim { boot, epoch, record: newest.clone(), task: None };
            self.send(member, Message::Claim(Box::new(claim)), Some(persist));
        }
        self.arm(id, now.mono.plus_ms(pause_ms));
    }

    /// The own promise is on disk.
    pub(super) fn promised_to_self(&mut self, now: Now, id: TaskId, epoch: Epoch) {
        let me = self.me;
        let Some(Kept { role: Role::Claiming(claiming), .. }) = self.tasks.get_mut(&id) else { return };
        if claiming.epoch == epoch {
            claiming.promises.insert(me);
            self.complete(now, id);
            self.begin_claims(now);
        }
    }

    /// A custodian promised.
    pub(super) fn promised(&mut self, now: Now, from: MemberId, id: TaskId, epoch: Epoch, record: CustodyRecord) {
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        let seated = kept.is_custodian(from);
        let Role::Claiming(claiming) = &mut kept.role else { return };
        if !seated || claiming.epoch != epoch {
            return;
        }
        if record.version() > claiming.newest.version() {
            claiming.newest = CustodyRecord { promised: epoch, ..record };
        }
        claiming.promises.insert(from);
        self.complete(now, id);
        self.begin_claims(now);
    }

    /// Enough promises: the newest state among them is written under the new epoch.
    fn complete(&mut self, now: Now, id: TaskId) {
        let me = self.me;
        let Some(kept) = self.tasks.get_mut(&id) else { return };
        let Role::Claiming(claiming) = &kept.role else { return };
        let mut quorum = claiming.newest.quorum();
        for member in &claiming.promises {
            quorum.synced_by(*member);
        }
        if !quorum.is_reached() {
            return;
        }
        let epoch = claiming.epoch;
        let mut record = claiming.newest.clone();
        let before = kept.record.clone();
        let (effect, holds) = if record.closed || !record.is_seated(me) {
            (Effect::Closed(id), false)
        } else {
            record.written = epoch;
            record.promised = epoch;
            record.revision = record.revision.saturating_add(1);
            (Effect::Own(id, record.revision), true)
        };
        kept.record = record.clone();
        if holds {
            self.begin_holding(id);
        } else {
            let holder = record.holder();
            self.turn(id, Role::Following(Following { holder, boot: None, since: now.mono }));
        }
        self.share(now, &before, false);
        self.share(now, &record, true);
        let persist = self.persist(vec![Record::Custody(Box::new(record))], Some(effect));
        if let Some(kept) = self.tasks.get_mut(&id) {
            kept.persist = Some(persist);
        }
    }

    /// A claim's timer: those who did not answer are asked again, and those whom the newest state names.
    pub(super) fn repeat_claim(&mut self, now: Now, id: TaskId) {
        let (me, boot, first_ms) = (self.me, self.boot, self.config.resend_every_ms.max(1));
        let Some(Kept { record, role: Role::Claiming(claiming), persist, .. }) = self.tasks.get_mut(&id) else {
            return;
        };
        let mut asked: BTreeSet<MemberId> = record.seats().collect();
        asked.extend(claiming.newest.seats());
        asked.remove(&me);
        asked.retain(|member| !claiming.promises.contains(member));
        claiming.pause_ms = (claiming.pause_ms * 2).min(first_ms * PAUSE_GROWTH_MAX);
        let (pause_ms, epoch, after) = (claiming.pause_ms, claiming.epoch, *persist);
        let record = record.clone();
        for member in asked {
            let claim = Claim { boot, epoch, record: record.clone(), task: None };
            self.send(member, Message::Claim(Box::new(claim)), after);
        }
        self.arm(id, now.mono.plus_ms(pause_ms));
    }
}
