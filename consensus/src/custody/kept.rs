//! One task as its custodian has it in memory, and what it knows of the other custodians.

use super::message::EVENTS_MAX;
use super::record::CustodyRecord;
use crate::negotiation::{PersistId, TaskEvent, TaskRecord};
use crate::time::Monotonic;
use cpi::ids::{Epoch, MemberId, TaskId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A task that is not closed, or whose close is not known to all yet.
#[derive(Debug)]
pub(super) struct Kept {
    /// As it was handed in. Left out where nobody else will ever need it.
    pub task: Option<Box<TaskRecord>>,
    /// The newest state, perhaps not on disk yet.
    pub record: CustodyRecord,
    /// The newest lines of history, for custodians that lack them.
    pub events: VecDeque<TaskEvent>,
    /// What this node is to the task.
    pub role: Role,
    /// The newest persist of this room for the task: nothing is acknowledged before it.
    pub persist: Option<PersistId>,
    /// When its timer is due.
    pub due: Option<Monotonic>,
    /// Who wanted it ended while it was being claimed here: done once this node, or another, decides for it.
    pub wished: Option<String>,
}

/// What a custodian is to a task.
#[derive(Debug)]
pub(super) enum Role {
    /// It decides.
    Holding(Holding),
    /// It gathers promises for a higher epoch.
    Claiming(Box<Claiming>),
    /// Another decides.
    Following(Following),
}

/// The holder's side.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// The first revision that this holding wrote; reports of earlier ones belong to another holding.
    pub base: u64,
    /// The newest revision on the own disk.
    pub own: Option<u64>,
    /// The other custodians' copies.
    pub others: BTreeMap<MemberId, Copied>,
    /// The newest revision that counts.
    pub counted: Option<u64>,
    /// Whether the node's origin part has the task.
    pub working: bool,
    /// Whether the task was taken in here in this life.
    pub fresh: bool,
    /// The pause before the next repeat, in ms.
    pub pause_ms: u64,
    /// The revision that began a change of the set.
    pub joint: Option<u64>,
    /// Whether a change of the set was asked for.
    pub reseating: bool,
    /// When the origin was last invited to claim its task.
    pub returned_at: Option<Monotonic>,
    /// When a closed task is let go though a custodian did not answer.
    pub closes_at: Option<Monotonic>,
}

/// What the holder knows of another custodian's copy.
#[derive(Debug, Default, Clone)]
pub(super) struct Copied {
    /// The newest revision on its disk.
    pub revision: Option<u64>,
    /// The newest revision sent.
    pub sent: Option<u64>,
    /// Whether it has the task as it was handed in.
    pub has_task: bool,
    /// The newest event on its disk.
    pub events: u32,
}

/// The claimant's side.
#[derive(Debug)]
pub(super) struct Claiming {
    /// What is claimed.
    pub epoch: Epoch,
    /// Who promised; the claimant itself once its promise is on its disk.
    pub promises: BTreeSet<MemberId>,
    /// The newest state among them.
    pub newest: CustodyRecord,
    /// The pause before the next repeat, in ms.
    pub pause_ms: u64,
}

/// The follower's side.
#[derive(Debug)]
pub(super) struct Following {
    /// Who decides.
    pub holder: MemberId,
    /// Its life at that time; `None` if not heard yet.
    pub boot: Option<u64>,
    /// Since when.
    pub since: Monotonic,
}

/// Another member that keeps tasks with this one.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Its life.
    pub boot: Option<u64>,
    /// When its life began, as far as heard.
    pub boot_at: Monotonic,
    /// When it was last heard.
    pub heard_at: Monotonic,
    /// Since when it is heard without a long break; `None` before the first word.
    pub alive_since: Option<Monotonic>,
    /// Tasks kept together.
    pub shared: usize,
    /// Tasks that it holds and this node follows.
    pub followed: BTreeSet<TaskId>,
}

impl Kept {
    /// Remembers lines of history, the newest only.
    pub fn remember(&mut self, events: Vec<TaskEvent>) {
        self.events.extend(events);
        while self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    /// The others who keep it.
    pub fn others(&self, me: MemberId) -> Vec<MemberId> {
        self.record.seats().filter(|m| *m != me).collect()
    }

    /// Whether `member` may speak for the task: it has a seat in the newest state known here, or decides for it.
    pub fn is_custodian(&self, member: MemberId) -> bool {
        self.record.is_seated(member)
            || match &self.role {
                Role::Holding(_) => false,
                // Promises may name a newer set; its members are asked, too.
                Role::Claiming(claiming) => claiming.newest.is_seated(member),
                Role::Following(following) => following.holder == member,
            }
    }

    /// How long this custodian waits before it adopts the task of a silent holder: one after the other.
    pub fn patience_ms(&self, me: MemberId, holder: MemberId, orphan_after_ms: u64) -> u64 {
        let rank = self.record.seats().filter(|m| *m != holder).position(|m| m == me).unwrap_or(2) as u64;
        orphan_after_ms + rank * orphan_after_ms / 2
    }
}

impl Holding {
    /// The newest revision that enough disks have.
    pub fn reached(&self, me: MemberId, record: &CustodyRecord) -> Option<u64> {
        let most = |set: &[MemberId]| {
            let have = |m: &MemberId| if *m == me { self.own } else { self.others.get(m).and_then(|c| c.revision) };
            let mut revisions: Vec<u64> = set.iter().filter_map(have).collect();
            revisions.sort_unstable_by(|a, b| b.cmp(a));
            revisions.get(set.len() / 2).copied()
        };
        let reached = most(&record.custodians)?;
        match &record.former {
            Some(former) => Some(reached.min(most(former)?)),
            None => Some(reached),
        }
    }
}
