//! Keeping leases alive: one question per origin and period, whose answer counts from when the question was sent.

use super::super::action::RunOrder;
use super::super::message::{Attempt, Message, RENEW_ITEMS_MAX, Renew, Renewed};
use super::super::outbox::Outbox;
use super::super::record::LeasePhase;
use super::{Due, Provider};
use crate::time::Now;
use cpi::ids::MemberId;
use std::collections::BTreeSet;

/// Renewal rounds that may be answered late.
const ROUNDS_KEPT: usize = 4;

impl Provider {
    /// The origin renewed a round.
    pub fn renewed(&mut self, now: Now, from: MemberId, renewed: Renewed, out: &mut Outbox) {
        let Some(account) = self.accounts.get_mut(&from) else { return };
        let Some(position) = account.rounds.iter().position(|(round, ..)| *round == renewed.round) else { return };
        let Some((_, sent, runs)) = account.rounds.remove(position) else { return };
        let superseded: BTreeSet<Attempt> = renewed.superseded.into_iter().collect();
        let unanswered: BTreeSet<Attempt> = renewed.unanswered.into_iter().collect();
        let until = sent.plus_ms(self.config.lease_ttl_ms);
        let mut alive = Vec::new();
        for attempt in runs.into_iter().filter(|attempt| !unanswered.contains(attempt)) {
            let Some(lease) = self.leases.get_mut(&attempt) else { continue };
            if superseded.contains(&attempt) {
                lease.superseded = true;
                match lease.record.phase {
                    LeasePhase::Started => out.run(RunOrder::Cancel(attempt)),
                    _ => self.settle(now, attempt, out),
                }
                continue;
            }
            lease.until = lease.until.max(until);
            lease.frozen = false;
            if lease.record.phase == LeasePhase::Started {
                alive.push(attempt);
            }
        }
        if !alive.is_empty() && until > now.mono {
            out.run(RunOrder::Renew { runs: alive, until });
        }
    }

    /// Asks an origin to renew all its leases here.
    pub(super) fn ask_renewal(&mut self, now: Now, origin: MemberId, out: &mut Outbox) {
        let Some(account) = self.accounts.get_mut(&origin) else { return };
        if account.leases.is_empty() {
            account.rounds.clear();
            return;
        }
        let complete = account.leases.len() <= RENEW_ITEMS_MAX;
        let leases: Vec<Attempt> = account.leases.iter().copied().collect();
        for runs in leases.chunks(RENEW_ITEMS_MAX) {
            account.round += 1;
            let round = account.round;
            account.rounds.push_back((round, now.mono, runs.to_vec()));
            let renew = Renew { round, incarnation: self.incarnation, runs: runs.to_vec(), complete };
            out.send(origin, Message::Renew(renew));
        }
        let kept = ROUNDS_KEPT * leases.len().div_ceil(RENEW_ITEMS_MAX);
        while account.rounds.len() > kept {
            account.rounds.pop_front();
        }
        self.timers.arm(Due::Renew(origin), now.mono.plus_ms(self.config.renew_every_ms));
    }
}
