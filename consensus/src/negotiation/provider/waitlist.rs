//! Who lately asked in vain for what, and when capacity may come free: what a region says to those it must turn away.
//!
//! Nothing is promised here: the tasks wait at their origins, which ask again.

use super::super::peer::Estimate;
use crate::time::Monotonic;
use cpi::ids::TaskId;
use std::collections::BTreeMap;

/// How long one counts as waiting after it asked in vain.
pub const WAITING_MS: u64 = 15_000;
/// The most that are counted per class.
const WAITING_MAX: usize = 1_000;

/// Those who wait for one server class.
#[derive(Debug, Clone, Default)]
pub struct Waitlist {
    /// Since when, and when it last asked.
    tasks: BTreeMap<TaskId, (Monotonic, Monotonic)>,
}

impl Waitlist {
    /// Counts a task that was turned away; returns how many came before it.
    pub fn turn_away(&mut self, now: Monotonic, task: TaskId) -> u32 {
        if self.tasks.len() >= WAITING_MAX {
            self.forget(now);
        }
        let room = self.tasks.len() < WAITING_MAX;
        let since = match self.tasks.get_mut(&task) {
            Some((since, asked)) => {
                *asked = now;
                *since
            }
            None if room => {
                self.tasks.insert(task, (now, now));
                now
            }
            None => now,
        };
        let before = |other: &(&TaskId, &(Monotonic, Monotonic))| {
            let (id, (first, asked)) = other;
            now.since_ms(*asked) <= WAITING_MS && (*first, **id) < (since, task)
        };
        self.tasks.iter().filter(before).count() as u32
    }

    /// A task found its place.
    pub fn placed(&mut self, task: TaskId) {
        self.tasks.remove(&task);
    }

    /// How many wait, as of the last that came or was forgotten.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Forgets those that have not asked for a while.
    pub fn forget(&mut self, now: Monotonic) {
        self.tasks.retain(|_, (_, asked)| now.since_ms(*asked) <= WAITING_MS);
    }
}

/// When the task at `position` may start, in ms from now: `running` runs end one after the other, each after what `runs`
/// says of them; `elapsed_ms` is the mean time that they have run already.
pub fn start_between(position: u32, running: usize, elapsed_ms: u64, runs: &Estimate) -> (u64, u64) {
    let (low, high) = runs.interval();
    let (low, high) = (low.saturating_sub(elapsed_ms), high.saturating_sub(elapsed_ms / 2));
    let turns = u64::from(position) / running.max(1) as u64;
    let within = (u64::from(position) % running.max(1) as u64 + 1).min(running.max(1) as u64);
    // Ends are spread over a run's length: the n-th of them comes after n parts of it.
    let (whole_low, whole_high) = runs.interval();
    let first = low * within / (running.max(1) as u64 + 1);
    (first + turns * whole_low, (high + turns * whole_high).max(first + turns * whole_low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(n: u8) -> TaskId {
        TaskId([n; 16])
    }

    #[test]
    fn the_longer_one_waits_the_further_in_front() {
        let mut list = Waitlist::default();
        assert_eq!(list.turn_away(Monotonic(0), task(9)), 0);
        assert_eq!(list.turn_away(Monotonic(1), task(1)), 1);
        assert_eq!(list.turn_away(Monotonic(2), task(9)), 0);
        list.placed(task(9));
        assert_eq!(list.turn_away(Monotonic(3), task(1)), 0);
        assert_eq!(list.len(), 1);
        list.forget(Monotonic(30_000));
        assert_eq!(list.len(), 0);
    }

    #[test]
    fn the_start_is_later_for_those_behind() {
        let mut runs = Estimate::default();
        for _ in 0..20 {
            runs.learn(60_000);
        }
        let first = start_between(0, 4, 10_000, &runs);
        let fifth = start_between(4, 4, 10_000, &runs);
        assert!(first.0 <= first.1 && first.0 < 60_000, "{first:?}");
        assert!(fifth.0 >= first.0 + 40_000, "{first:?} {fifth:?}");
    }
}
