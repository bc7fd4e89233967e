//! Custody beside the negotiation: the origin part makes the steps of held tasks, the custodian keeps them with others.

use super::action::{Action, PersistId};
use super::input::Input;
use super::message::{Attempt, Message};
use super::negotiator::Negotiator;
use super::outbox::Step;
use crate::custody::{self, Custodian};
use crate::time::Now;
use cpi::ids::TaskId;
use std::collections::VecDeque;

/// The custodian of this node, and which of its persists and steps wait for which persist of the whole machine.
pub(super) struct Keeping {
    pub custodian: Custodian,
    /// Persists of the machine with the custodian's own number.
    persists: VecDeque<(PersistId, PersistId)>,
    /// Steps that are on their way to the disk.
    steps: VecDeque<(PersistId, TaskId, u64)>,
}

impl Keeping {
    pub fn new(custodian: Custodian) -> Self {
        Self { custodian, persists: VecDeque::new(), steps: VecDeque::new() }
    }

    /// What is on disk by `up_to`.
    pub fn persisted(&mut self, now: Now, up_to: PersistId) {
        while self.steps.front().is_some_and(|(after, ..)| *after <= up_to) {
            let Some((_, task, revision)) = self.steps.pop_front() else { break };
            self.custodian.handle(now, custody::Input::Stored { task, revision });
        }
        let mut newest = None;
        while self.persists.front().is_some_and(|(after, _)| *after <= up_to) {
            newest = self.persists.pop_front().map(|(_, own)| own);
        }
        if let Some(up_to) = newest {
            self.custodian.handle(now, custody::Input::Persisted { up_to });
        }
    }

    fn stepped(&mut self, now: Now, step: Step) {
        self.steps.push_back((step.persist, step.record.task, step.record.revision));
        let Step { record, task, events, .. } = step;
        self.custodian.handle(now, custody::Input::Step { record, task, events });
    }
}

impl Negotiator {
    /// Whether this node keeps a task that another decides for.
    pub(super) fn tell_custodian(&mut self, now: Now, input: Input) {
        let keeping = &mut self.keeping;
        match input {
            Input::Custody { from, message } => {
                keeping.custodian.handle(now, custody::Input::Message { from, message: *message });
            }
            Input::Loaded { task, found } => keeping.custodian.handle(now, custody::Input::Loaded { task, found }),
            Input::Cancel { task, principal } => {
                keeping.custodian.handle(now, custody::Input::Cancel { task, principal });
            }
            _ => {}
        }
    }

    /// Carries steps to the custodian and its wishes back, until both are quiet.
    pub(super) fn settle_custody(&mut self, now: Now) {
        loop {
            let steps = self.out.take_steps();
            let quiet = steps.is_empty();
            for step in steps {
                self.keeping.stepped(now, step);
            }
            let Some(action) = self.keeping.custodian.poll_action() else {
                if quiet {
                    return;
                }
                continue;
            };
            match action {
                custody::Action::Persist { id, records } => {
                    let persist = self.out.keep(records);
                    self.keeping.persists.push_back((persist, id));
                }
                custody::Action::Send { to, message, after } => {
                    let waits = |own: PersistId| {
                        self.keeping.persists.iter().find(|(_, id)| *id == own).map(|(persist, _)| *persist)
                    };
                    let after = after.and_then(waits);
                    self.out.push(Action::Custody { to, message: Box::new(message), after });
                }
                custody::Action::Load { task } => self.out.push(Action::Load { task }),
                custody::Action::Durable { task, durability } => {
                    self.out.push(Action::Durable { task, durability });
                }
                custody::Action::Counted { task, revision } => {
                    self.origin.counted(now, task, revision, &mut self.out);
                }
                custody::Action::Adopted(task) => self.origin.restore(now, vec![*task], &mut self.out),
                custody::Action::Superseded { task, .. } => self.origin.give_up_task(now, task, &mut self.out),
                custody::Action::Reseat { task, custodians, former } => {
                    self.origin.reseat(task, custodians, former, &mut self.out);
                }
                custody::Action::Cancel { task, principal } => {
                    self.origin.cancel(now, task, principal, &mut self.out);
                }
            }
        }
    }

    /// Leaves out what a provider says about tasks that this node keeps and does not hold, or not yet: an answer would
    /// end a run whose task is being claimed. The provider says it again. Runs of such tasks are taken out of a question
    /// for renewal, and come back beside it.
    pub(super) fn unless_unclaimed(&self, message: Message) -> Option<(Message, Vec<Attempt>)> {
        let kept = |task| {
            let record = self.keeping.custodian.record(task);
            record.is_some_and(|record| !record.closed) && !self.origin.has(task)
        };
        match message {
            Message::Accepted(_) | Message::Progress(..) | Message::Ended(_) | Message::Gone(..)
                if message.attempt().is_some_and(|attempt| kept(attempt.task)) =>
            {
                None
            }
            Message::Renew(mut renew) => {
                let (unanswered, runs): (Vec<_>, _) = renew.runs.into_iter().partition(|attempt| kept(attempt.task));
                renew.runs = runs;
                Some((Message::Renew(renew), unanswered))
            }
            other => Some((other, Vec::new())),
        }
    }
}
