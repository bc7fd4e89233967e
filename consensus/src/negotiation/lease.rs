//! A provider's lease: committed capacity for one attempt, from the acceptance until the origin has the end.
//!
//! `Accepted -> Bound/Started -> Ended -> settled`. The record is on disk before the acceptance is said; the rest here is
//! rebuilt after a restart. The provider holds the right to run: it asks for renewals and counts from when it sent them.
//!
//! Source: Gray & Cheriton, "Leases", SOSP 1989.

use super::action::PersistId;
use super::capacity::Slot;
use super::record::LeaseRecord;
use crate::time::Monotonic;

/// One lease in memory.
#[derive(Debug, Clone)]
pub struct Lease {
    /// What is on disk.
    pub record: LeaseRecord,
    /// Where its capacity is taken; `None` once given back, or if the pool is gone since a restart.
    pub slot: Option<Slot>,
    /// The persist that carries its newest promise.
    pub persist: PersistId,
    /// When it was granted, for the mean age of runs.
    pub granted: Monotonic,
    /// When its start was ordered, until the program was seen running.
    pub starting: Option<Monotonic>,
    /// Until when it may run without a renewal.
    pub until: Monotonic,
    /// The origin wants it no longer: its end is not reported.
    pub superseded: bool,
    /// Its program runs, or ran: the executor said so.
    pub running: bool,
    /// It lapsed and the supervisor froze its run.
    pub frozen: bool,
    /// Pause before the end is sent again.
    pub resend_ms: u64,
    /// When its end was first sent.
    pub ended_at: Monotonic,
}
