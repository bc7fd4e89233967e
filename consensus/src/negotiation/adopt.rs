//! The provider's answer to an adoption: its lease follows the task to whoever decides for it now.

use super::message::{Adopt, Message, Progress};
use super::outbox::Outbox;
use super::provider::{Due, Provider};
use super::record::{LeasePhase, Record};
use crate::time::Now;
use cpi::ids::MemberId;

impl Provider {
    /// A custodian decides for the task from here on, or its origin after a restart: the lease answers to it.
    pub fn adopt(&mut self, now: Now, from: MemberId, adopt: Adopt, out: &mut Outbox) {
        let attempt = adopt.attempt;
        if let Some(lease) = self.leases.get_mut(&attempt) {
            let before = lease.record.origin;
            let may = if before == from {
                adopt.epoch >= lease.record.epoch
            } else {
                adopt.epoch > lease.record.epoch && lease.record.custodians.contains(&from)
            };
            if !may || adopt.epoch.member != from {
                return;
            }
            let changes = lease.record.epoch != adopt.epoch || lease.record.custodians != adopt.custodians;
            lease.record.origin = from;
            lease.record.epoch = adopt.epoch;
            lease.record.custodians = adopt.custodians;
            let phase = lease.record.phase;
            if changes && phase != LeasePhase::Accepted {
                lease.persist = out.persist(vec![Record::Lease(Box::new(lease.record.clone()))]);
            }
            if before != from {
                if let Some(account) = self.accounts.get_mut(&before) {
                    account.leases.remove(&attempt);
                }
                self.accounts.entry(from).or_default().leases.insert(attempt);
                self.timers.arm(Due::Renew(from), now.mono);
            }
            if lease.running && phase == LeasePhase::Started {
                out.send(from, Message::Progress(attempt, Progress::Started { since_ms: 0 }));
            }
        }
        if adopt.stop {
            self.cancel(now, from, attempt, out);
        } else {
            self.bound(now, from, attempt, out);
        }
    }
}
