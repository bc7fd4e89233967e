//! One region in the simulation: its machine, disk, runs and clock, and what waits for them.

use crate::disk::Disk;
use crate::executor::Runs;
use consensus::negotiation::{Input, Message, Negotiator, OwnPool, PersistId, RunOrder};
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::ids::{MemberId, TaskId};
use cpi::resource::RegionPlace;
use std::collections::VecDeque;

/// Wall clock at the beginning, in ms.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Persists on their way to the disk beyond which new work waits, as in the node's driver.
pub const UNSYNCED_MAX: usize = 64;
/// New work that may wait; beyond, it is refused as busy. As in the node's driver.
pub const BACKLOG_MAX: usize = 4_096;

/// A region's two clocks against true time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// How much faster than true time its monotonic clock goes, in millionths.
    pub rate_ppm: i32,
    /// Since which true moment, in microseconds.
    pub since_us: u64,
    /// What the monotonic clock showed then, in microseconds.
    pub shown_us: u64,
    /// How far ahead its wall clock is, in ms.
    pub wall_ahead_ms: i64,
}

impl Clock {
    /// Both times at a true moment.
    pub fn now(&self, us: u64) -> Now {
        let gone = i128::from(us.saturating_sub(self.since_us)) * (1_000_000 + i128::from(self.rate_ppm)) / 1_000_000;
        let mono = (self.shown_us + gone as u64) / 1000;
        let wall = (EPOCH_MS + mono).saturating_add_signed(self.wall_ahead_ms);
        Now { mono: Monotonic(mono), wall: Timestamp(wall) }
    }

    /// Goes at another rate from a true moment on; what it shows does not jump.
    pub fn set_rate(&mut self, us: u64, rate_ppm: i32) {
        let gone = i128::from(us.saturating_sub(self.since_us)) * (1_000_000 + i128::from(self.rate_ppm)) / 1_000_000;
        self.shown_us += gone as u64;
        self.since_us = us;
        self.rate_ppm = rate_ppm;
    }

    /// The first true moment in microseconds at which the monotonic clock shows `at`.
    pub fn when(&self, at: Monotonic) -> u64 {
        let rate = 1_000_000 + i128::from(self.rate_ppm);
        let left = (i128::from(at.0) * 1000 - i128::from(self.shown_us)).max(0);
        let us = i128::from(self.since_us) + (left * 1_000_000 + rate - 1) / rate;
        u64::try_from(us).unwrap_or(u64::MAX)
    }
}

/// How a region misbehaves towards others. All false and zero for an honest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manners {
    /// Its digests say that every server is empty.
    pub praises_itself: bool,
    /// It answers no ask.
    pub ignores_asks: bool,
    /// It never says that a run ended.
    pub hides_ends: bool,
    /// It renews no leases of others at its own origin: answers to renewals are not sent.
    pub hides_renewals: bool,
    /// Asks of so many tasks that do not exist each second, to hold what others need.
    pub greedy_per_s: u32,
}

/// One region.
pub struct Node {
    /// Its member.
    pub member: MemberId,
    /// Where it is.
    pub place: RegionPlace,
    /// Its pools.
    pub pools: Vec<OwnPool>,
    /// Its machine; `None` while it is down.
    pub machine: Option<Box<Negotiator>>,
    /// Its disk.
    pub disk: Disk,
    /// Its runs.
    pub runs: Runs,
    /// How long this region's runs last where the task does not say, in ms.
    pub run_ms: u64,
    /// How long a sync takes, in microseconds; `None` for the world's.
    pub sync_us: Option<u64>,
    /// Its clocks.
    pub clock: Clock,
    /// How it behaves.
    pub manners: Manners,
    /// Whom it knows and tells its digests; `None` for everybody.
    pub peers: Option<Vec<usize>>,
    pub(crate) incarnation: u64,
    pub(crate) synced: PersistId,
    pub(crate) newest: PersistId,
    pub(crate) custody_back: VecDeque<(PersistId, MemberId, Box<consensus::custody::Message>)>,
    pub(crate) held_back: VecDeque<(PersistId, MemberId, Message)>,
    /// Orders to the executor with what they rest on.
    pub(crate) orders: Vec<(PersistId, RunOrder)>,
    pub(crate) admitted: VecDeque<(PersistId, TaskId)>,
    pub(crate) backlog: VecDeque<Input>,
    pub(crate) digests: u64,
    pub(crate) told_changes: u64,
    pub(crate) told_us: u64,
    pub(crate) armed_us: Option<u64>,
}

impl Node {
    /// A region that has not started yet.
    pub fn new(member: MemberId, place: RegionPlace, pools: Vec<OwnPool>) -> Self {
        Self {
            member,
            place,
            pools,
            machine: None,
            disk: Disk::default(),
            runs: Runs::new(),
            run_ms: 1_000,
            sync_us: None,
            clock: Clock::default(),
            manners: Manners::default(),
            peers: None,
            incarnation: 0,
            synced: PersistId(0),
            newest: PersistId(0),
            custody_back: VecDeque::new(),
            held_back: VecDeque::new(),
            orders: Vec::new(),
            admitted: VecDeque::new(),
            backlog: VecDeque::new(),
            digests: 0,
            told_changes: u64::MAX,
            told_us: 0,
            armed_us: None,
        }
    }

    /// The newest persist that a waiting order about the same run rests on: orders about one run keep their order.
    pub(crate) fn order_of(&self, order: &RunOrder) -> PersistId {
        if matches!(order, RunOrder::Renew { .. }) {
            return PersistId::default();
        }
        let same = self.orders.iter().filter(|(_, waiting)| waiting.attempts() == order.attempts());
        same.map(|(after, _)| *after).max().unwrap_or_default()
    }

    /// Persists on their way to the disk.
    pub fn unsynced(&self) -> usize {
        (self.newest.0 - self.synced.0) as usize
    }
}
