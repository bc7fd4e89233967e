//! Which tasks this origin keeps, by state: ids alone, in memory, so that a page of a list costs a page.
//!
//! An id begins with the time of its submission, so the order of ids is the order in which tasks came.

use consensus::negotiation::TaskState;
use cpi::ids::TaskId;
use std::collections::{BTreeMap, BTreeSet};

/// Ids of tasks by state. Sixteen bytes and some overhead a task.
#[derive(Debug, Default)]
pub(super) struct TaskIndex {
    by_state: BTreeMap<TaskState, BTreeSet<TaskId>>,
}

impl TaskIndex {
    /// A task is in `state` now; it was in `before`, if it was known.
    pub fn place(&mut self, id: TaskId, before: Option<TaskState>, state: TaskState) {
        if let Some(before) = before.filter(|before| *before != state) {
            self.remove(id, before);
        }
        self.by_state.entry(state).or_default().insert(id);
    }

    /// A task is kept no longer.
    pub fn remove(&mut self, id: TaskId, state: TaskState) {
        if let Some(ids) = self.by_state.get_mut(&state) {
            ids.remove(&id);
        }
    }

    /// How many tasks are in states that are `wanted`.
    pub fn count(&self, wanted: impl Fn(TaskState) -> bool) -> usize {
        self.of(wanted).map(BTreeSet::len).sum()
    }

    /// Tasks older than `before` (from the newest for `None`) in states that are `wanted`, newest first, at most `limit`.
    pub fn page(&self, wanted: impl Fn(TaskState) -> bool, before: Option<TaskId>, limit: usize) -> Vec<TaskId> {
        let mut page: Vec<TaskId> = Vec::new();
        for ids in self.of(wanted) {
            match before {
                None => page.extend(ids.iter().rev().take(limit)),
                Some(before) => page.extend(ids.range(..before).rev().take(limit)),
            }
        }
        page.sort_unstable_by(|a, b| b.cmp(a));
        page.truncate(limit);
        page
    }

    /// The oldest tasks younger than `after` that have ended, oldest first, at most `limit`.
    pub fn oldest_ended(&self, after: Option<TaskId>, limit: usize) -> Vec<TaskId> {
        let mut oldest: Vec<TaskId> = Vec::new();
        for ids in self.of(TaskState::is_ended) {
            match after {
                None => oldest.extend(ids.iter().take(limit)),
                Some(after) => {
                    oldest
                        .extend(ids.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)).take(limit));
                }
            }
        }
        oldest.sort_unstable();
        oldest.truncate(limit);
        oldest
    }

    fn of(&self, wanted: impl Fn(TaskState) -> bool) -> impl Iterator<Item = &BTreeSet<TaskId>> {
        self.by_state.iter().filter(move |(state, _)| wanted(**state)).map(|(_, ids)| ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> TaskId {
        TaskId([n; 16])
    }

    #[test]
    fn pages_walk_all_states_newest_first() {
        let mut index = TaskIndex::default();
        for n in 1..=9 {
            index.place(id(n), None, TaskState::Pending);
        }
        for n in [2, 4, 6] {
            index.place(id(n), Some(TaskState::Pending), TaskState::Succeeded);
        }
        index.place(id(3), Some(TaskState::Pending), TaskState::Failed);
        assert_eq!(index.count(|_| true), 9);
        assert_eq!(index.count(TaskState::is_ended), 4);
        assert_eq!(index.page(|_| true, None, 4), [9, 8, 7, 6].map(id));
        assert_eq!(index.page(|_| true, Some(id(6)), 9), [5, 4, 3, 2, 1].map(id));
        assert_eq!(index.page(|state| state == TaskState::Succeeded, None, 2), [6, 4].map(id));
        assert_eq!(index.oldest_ended(None, 3), [2, 3, 4].map(id));
        assert_eq!(index.oldest_ended(Some(id(3)), 3), [4, 6].map(id));
        index.remove(id(2), TaskState::Succeeded);
        assert_eq!(index.count(TaskState::is_ended), 3);
    }
}
