//! Which request each task came with, so that what is sent and run for a task carries its trace id.
//!
//! A hint for people who read logs: bounded, in memory only, and forgotten by a restart.

use crate::trace::TraceId;
use cpi::ids::TaskId;
use std::collections::{BTreeMap, VecDeque};

/// Tasks whose trace is remembered; the oldest are forgotten first.
const TASKS_MAX: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Traces {
    by_task: BTreeMap<TaskId, TraceId>,
    order: VecDeque<TaskId>,
}

impl Traces {
    /// Remembers the first trace that a task comes with.
    pub fn note(&mut self, task: TaskId, trace: TraceId) {
        if !trace.is_some() || self.by_task.contains_key(&task) {
            return;
        }
        if self.order.len() >= TASKS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_task.remove(&oldest);
        }
        self.by_task.insert(task, trace);
        self.order.push_back(task);
    }

    /// The trace of a task, or none.
    pub fn of(&self, task: TaskId) -> TraceId {
        self.by_task.get(&task).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_trace_of_a_task_stays_and_the_oldest_tasks_are_forgotten() {
        let task = |n: usize| TaskId((n as u128).to_be_bytes());
        let mut traces = Traces::default();
        traces.note(task(0), TraceId::NONE);
        traces.note(task(0), TraceId([1; 16]));
        traces.note(task(0), TraceId([2; 16]));
        assert_eq!(traces.of(task(0)), TraceId([1; 16]));
        for n in 1..=TASKS_MAX {
            traces.note(task(n), TraceId([3; 16]));
        }
        assert_eq!(traces.of(task(0)), TraceId::NONE);
        assert_eq!(traces.of(task(1)), TraceId([3; 16]));
        assert_eq!((traces.by_task.len(), traces.order.len()), (TASKS_MAX, TASKS_MAX));
    }
}
