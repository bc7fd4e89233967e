//! What the machine asks for, in order, until the driver takes it.

use super::action::{Action, PersistId, RunOrder};
use super::event::TaskEvent;
use super::message::Message;
use super::record::Record;
use super::record::TaskRecord;
use crate::custody::CustodyRecord;
use cpi::ids::MemberId;
use std::collections::VecDeque;

/// Actions not taken yet, and the numbering of persists.
#[derive(Debug, Default)]
pub struct Outbox {
    actions: VecDeque<Action>,
    last: PersistId,
    steps: Vec<Step>,
}

/// A new state of a held task, for its custodians.
#[derive(Debug)]
pub(super) struct Step {
    /// The persist that puts it on the own disk.
    pub persist: PersistId,
    pub record: Box<CustodyRecord>,
    pub task: Option<Box<TaskRecord>>,
    pub events: Vec<TaskEvent>,
}

impl Outbox {
    /// Asks for records on disk. A custody record among them is a step of a held task: its custodians get it, too.
    pub fn persist(&mut self, records: Vec<Record>) -> PersistId {
        let record = records.iter().find_map(|r| match r {
            Record::Custody(custody) => Some(custody.clone()),
            _ => None,
        });
        if let Some(record) = record {
            let task = records.iter().find_map(|r| match r {
                Record::Task(task) => Some(task.clone()),
                _ => None,
            });
            let events = records.iter().filter_map(|r| match r {
                Record::Event(event) if record.custodians.len() > 1 => Some(event.clone()),
                _ => None,
            });
            let persist = PersistId(self.last.0 + 1);
            self.steps.push(Step { persist, events: events.collect(), record, task });
        }
        self.keep(records)
    }

    /// The steps since the last call.
    pub(super) fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    /// Asks for records on disk that are no step.
    pub(super) fn keep(&mut self, records: Vec<Record>) -> PersistId {
        self.last.0 += 1;
        self.actions.push_back(Action::Persist { id: self.last, records });
        self.last
    }

    /// Says something at once.
    pub fn send(&mut self, to: MemberId, message: Message) {
        self.actions.push_back(Action::Send { to, message, after: None });
    }

    /// Says something once `after` is on disk.
    pub fn send_after(&mut self, after: PersistId, to: MemberId, message: Message) {
        self.actions.push_back(Action::Send { to, message, after: Some(after) });
    }

    /// Orders something from the executor at once.
    pub fn run(&mut self, order: RunOrder) {
        self.actions.push_back(Action::Run { order, after: None });
    }

    /// Orders something from the executor once `after` is on disk.
    pub fn run_after(&mut self, after: PersistId, order: RunOrder) {
        self.actions.push_back(Action::Run { order, after: Some(after) });
    }

    /// Anything else.
    pub fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// The next action.
    pub fn pop(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
