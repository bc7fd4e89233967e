//! Orders and messages that wait for the disk: each for what it rests on, and for nothing else.

use consensus::negotiation::{Attempt, Message, PersistId, RunOrder};
use consensus::time::Monotonic;
use cpi::ids::MemberId;
use std::collections::BTreeMap;

/// Orders to the executor. Orders about one run keep their order; those about different runs do not wait for each other.
#[derive(Default)]
pub struct Orders {
    waiting: BTreeMap<(PersistId, u64), RunOrder>,
    /// The newest persist that a waiting order of a run rests on, and how many wait.
    of_run: BTreeMap<Attempt, (PersistId, u32)>,
    counted: u64,
}

impl Orders {
    /// Takes an order in that rests on `after`.
    pub fn push(&mut self, order: RunOrder, after: Option<PersistId>) {
        let mut after = after.unwrap_or_default();
        if let RunOrder::Renew { runs, until } = order {
            self.renew(runs, until);
            return;
        }
        for attempt in order.attempts() {
            let (newest, count) = self.of_run.entry(*attempt).or_default();
            after = after.max(*newest);
            *newest = after;
            *count += 1;
        }
        self.put(order, after);
    }

    /// A renewal reaches runs that wait for their start as a later end of their lease, and the others at once.
    fn renew(&mut self, runs: Vec<Attempt>, until: Monotonic) {
        let (waiting, running): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| self.of_run.contains_key(run));
        for order in self.waiting.values_mut() {
            if let RunOrder::Start { attempt, until: start } = order
                && waiting.contains(attempt)
            {
                *start = (*start).max(until);
            }
        }
        if !running.is_empty() {
            self.put(RunOrder::Renew { runs: running, until }, PersistId::default());
        }
    }

    fn put(&mut self, order: RunOrder, after: PersistId) {
        self.counted += 1;
        self.waiting.insert((after, self.counted), order);
    }

    /// Whether the next order rests on nothing that is newer than `synced`.
    pub fn is_ready(&self, synced: PersistId) -> bool {
        self.waiting.first_key_value().is_some_and(|((after, _), _)| *after <= synced)
    }

    /// The next order that may go.
    pub fn pop(&mut self, synced: PersistId) -> Option<RunOrder> {
        if !self.is_ready(synced) {
            return None;
        }
        let (_, order) = self.waiting.pop_first()?;
        if !matches!(order, RunOrder::Renew { .. }) {
            for attempt in order.attempts() {
                if let Some((_, count)) = self.of_run.get_mut(attempt) {
                    *count -= 1;
                    if *count == 0 {
                        self.of_run.remove(attempt);
                    }
                }
            }
        }
        Some(order)
    }
}

/// Messages that are not said before what they rest on is on disk.
#[derive(Default)]
pub struct Held {
    waiting: BTreeMap<(PersistId, u64), (MemberId, Message)>,
    counted: u64,
}

impl Held {
    /// Keeps a message until `after` is on disk.
    pub fn push(&mut self, after: PersistId, to: MemberId, message: Message) {
        self.counted += 1;
        self.waiting.insert((after, self.counted), (to, message));
    }

    /// The next message whose persist is on disk.
    pub fn pop(&mut self, synced: PersistId) -> Option<(MemberId, Message)> {
        let ready = self.waiting.first_key_value().is_some_and(|((after, _), _)| *after <= synced);
        ready.then(|| self.waiting.pop_first()).flatten().map(|(_, held)| held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpi::ids::{Epoch, Fence, TaskId};

    fn run(n: u8) -> Attempt {
        Attempt { task: TaskId([n; 16]), fence: Fence { epoch: Epoch { counter: 1, member: MemberId(1) }, attempt: 1 } }
    }

    fn start(n: u8, until: u64) -> RunOrder {
        RunOrder::Start { attempt: run(n), until: Monotonic(until) }
    }

    #[test]
    fn an_order_waits_for_its_own_persist_only() {
        let mut orders = Orders::default();
        orders.push(start(1, 10), Some(PersistId(7)));
        orders.push(RunOrder::Cancel(run(2)), None);
        assert!(matches!(orders.pop(PersistId(0)), Some(RunOrder::Cancel(a)) if a == run(2)));
        assert!(orders.pop(PersistId(6)).is_none());
        assert!(matches!(orders.pop(PersistId(7)), Some(RunOrder::Start { .. })));
    }

    #[test]
    fn a_cancel_never_overtakes_the_start_of_its_run() {
        let mut orders = Orders::default();
        orders.push(start(1, 10), Some(PersistId(7)));
        orders.push(RunOrder::Cancel(run(1)), None);
        assert!(orders.pop(PersistId(6)).is_none());
        assert!(matches!(orders.pop(PersistId(7)), Some(RunOrder::Start { .. })));
        assert!(matches!(orders.pop(PersistId(7)), Some(RunOrder::Cancel(_))));
    }

    #[test]
    fn a_renewal_goes_at_once_and_reaches_a_waiting_start_as_its_new_end() {
        let mut orders = Orders::default();
        orders.push(start(1, 10), Some(PersistId(7)));
        orders.push(RunOrder::Renew { runs: vec![run(1), run(2)], until: Monotonic(50) }, None);
        let Some(RunOrder::Renew { runs, until }) = orders.pop(PersistId(0)) else {
            panic!("a renewal waits for no disk")
        };
        assert_eq!((runs, until), (vec![run(2)], Monotonic(50)));
        assert!(matches!(orders.pop(PersistId(7)), Some(RunOrder::Start { until: Monotonic(50), .. })));
    }

    #[test]
    fn a_message_waits_for_its_own_persist_only() {
        let mut held = Held::default();
        held.push(PersistId(9), MemberId(1), Message::Bound(run(1)));
        held.push(PersistId(3), MemberId(1), Message::Bound(run(2)));
        assert!(held.pop(PersistId(2)).is_none());
        assert!(matches!(held.pop(PersistId(3)), Some((_, Message::Bound(a))) if a == run(2)));
        assert!(held.pop(PersistId(8)).is_none());
        assert!(held.pop(PersistId(9)).is_some());
    }
}
