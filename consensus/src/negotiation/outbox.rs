//! What the machine asks for, in order, until the driver takes it.

use super::action::{Action, PersistId, RunOrder};
use super::message::Message;
use super::record::Record;
use cpi::ids::MemberId;
use std::collections::VecDeque;

/// Actions not taken yet, and the numbering of persists.
#[derive(Debug, Default)]
pub struct Outbox {
    actions: VecDeque<Action>,
    last: PersistId,
}

impl Outbox {
    /// Asks for records on disk.
    pub fn persist(&mut self, records: Vec<Record>) -> PersistId {
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
