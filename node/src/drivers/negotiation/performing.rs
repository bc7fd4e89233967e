//! What the machine asks for, done: records gathered and written once a tick, messages held until their records are on
//! disk, orders handed to the executor. Nothing here waits.

use super::driver::{Driver, Fetched, Switch};
use crate::drivers::custody::TaskRecords;
use crate::drivers::run_channel::{RunCommand, RunLease};
use crate::trace::TraceId;
use adapters::contract::RunKey;
use consensus::negotiation::{Action, AskMode, Attempt, FileRef, Input, Message, PersistId, RunGrant, RunOrder};
use consensus::store::RecordBatch;
use consensus::time::Monotonic;
use cpi::ids::MemberId;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Driver {
    /// Does what the machine asks for; nothing here waits.
    pub(super) fn perform(&mut self) {
        loop {
            let Some(action) = self.machine.poll_action() else {
                let Some(message) = self.loopback.pop_front() else { return };
                let now = self.now();
                self.machine.handle(now, Input::Message { from: self.me, message });
                continue;
            };
            match action {
                Action::Persist { id, records } => {
                    self.written = id;
                    self.writing.extend(records);
                }
                Action::Send { to, message, after } => match after.filter(|after| *after > self.synced) {
                    Some(after) => self.held.push(after, to, message),
                    None => self.send(to, message),
                },
                Action::Custody { to, message, after } => {
                    self.custody.push(to, *message, after.filter(|after| *after > self.synced));
                }
                Action::Load { task } => {
                    let found = self.records.find(task).unwrap_or_else(|error| {
                        // Rows that cannot be read are not known to be none: the node must not promise on them.
                        tracing::error!(task_id = %task, %error, "a task's rows cannot be read");
                        self.stop.cancel();
                        None
                    });
                    if !self.stop.is_cancelled() {
                        let now = self.now();
                        self.machine.handle(now, Input::Loaded { task, found });
                    }
                }
                Action::Durable { task, durability } => {
                    self.board.note_durable(task, durability);
                    if let Some(answer) = self.submits.remove(&task) {
                        let _ = answer.send(Ok(durability));
                    }
                }
                // Answered once it is durable.
                Action::Admitted { result: Ok(_), .. } => {}
                Action::Admitted { task, result: Err(reason) } => {
                    if let Some(answer) = self.submits.remove(&task) {
                        let _ = answer.send(Err(reason));
                    }
                }
                Action::Planned(plan) => {
                    if let Some(answer) = self.plans.remove(&plan.plan) {
                        let _ = answer.send(*plan);
                    }
                }
                Action::Run { order, after } => self.orders.push(order, after),
                Action::Fetch { attempt, from, files } => self.fetch(attempt, from, files),
            }
        }
    }

    pub(super) fn send(&mut self, to: MemberId, message: Message) {
        match &message {
            Message::Ask(ask) if ask.mode == AskMode::CommitIf => self.board.note_asked(ask.task, to),
            Message::Award(award) => self.board.note_asked(award.task, to),
            _ => {}
        }
        if to == self.me {
            self.loopback.push_back(message);
        } else {
            let trace = message.attempt().map_or(TraceId::NONE, |attempt| self.traces.of(attempt.task));
            self.outgoing.push(to, trace, message);
        }
    }

    pub(super) fn fetch(&self, attempt: Attempt, from: MemberId, files: Vec<FileRef>) {
        let results = Arc::clone(&self.results);
        let fetched = self.fetched.clone();
        let bytes = files.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add);
        tokio::spawn(async move {
            let begun = Instant::now();
            let result = results.fetch_results(attempt.task, from, files).await;
            let moved = result.is_ok().then(|| (from, bytes, begun.elapsed().as_millis() as u64));
            // A driver that stopped needs no answer.
            let _ = fetched.send(Fetched { attempt, result, moved });
        });
    }

    /// The order as the executor is told it now: what is left of a lease counts from this moment.
    pub(super) fn command(&self, order: RunOrder) -> RunCommand {
        let key = |a: Attempt| RunKey { task: a.task, fence: a.fence };
        let now = self.now().mono;
        let at = |until: Monotonic| Instant::now() + Duration::from_millis(until.since_ms(now));
        let lease = |grant: RunGrant| {
            Box::new(RunLease {
                key: key(grant.attempt),
                trace: self.traces.of(grant.attempt.task),
                lease: grant.lease,
                origin: grant.origin,
                custodians: grant.custodians,
                pool: grant.target.pool,
                class: grant.target.class,
                variant: grant.target.variant,
                need: grant.quantity,
                document: grant.document,
                lease_ttl_ms: grant.lease_ttl_ms,
                freeze_on_lapse: grant.freeze_on_lapse,
            })
        };
        match order {
            RunOrder::Prepare(grant) => RunCommand::Prepare(lease(*grant)),
            RunOrder::Start { attempt, until } => RunCommand::Start { key: key(attempt), until: at(until) },
            RunOrder::Reattach(grant) => RunCommand::Reattach(lease(*grant)),
            RunOrder::Renew { runs, until } => {
                RunCommand::Renew { keys: runs.into_iter().map(key).collect(), until: at(until) }
            }
            RunOrder::Cancel(attempt) => RunCommand::Cancel(key(attempt)),
            RunOrder::Release(attempt) => RunCommand::Release(key(attempt)),
        }
    }

    /// Ends the tick: one write, one frame per peer and class, orders to the executor.
    pub(super) fn flush(&mut self) {
        while self.orders.is_ready(self.synced) {
            let Ok(permit) = self.runs.clone().try_reserve_owned() else { break };
            if let Some(order) = self.orders.pop(self.synced) {
                permit.send(self.command(order));
            }
        }
        // What could not be sent counts as silence; it may cause more actions, once.
        let unsent = self.outgoing.flush(self.peers.as_ref(), &self.seal);
        for (member, messages) in unsent {
            for message in messages {
                if let Message::Ask(ask) = message {
                    let attempt = Some(Attempt { task: ask.task, fence: ask.fence });
                    self.input(Input::PeerBusy { member, attempt, question: true });
                }
            }
        }
        self.outgoing.flush(self.peers.as_ref(), &self.seal);
        self.custody.flush(self.peers.as_ref());
        self.write();
    }

    pub(super) fn write(&mut self) {
        if self.writing.is_empty() && self.switched.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.writing);
        let mut batch = RecordBatch::default();
        for record in &records {
            TaskRecords::put(&mut batch, record);
        }
        self.board.summarise(&mut batch, &records);
        let mut answers = Vec::new();
        for (switch, answer) in std::mem::take(&mut self.switched) {
            match &switch {
                Switch::Cordon { pool, on } => {
                    let configured = self.configured.get(pool).copied().unwrap_or(false);
                    TaskRecords::put_cordon(&mut batch, pool, *on, configured);
                }
                Switch::Draining { on } => TaskRecords::put_draining(&mut batch, *on),
            }
            answers.push(answer);
        }
        let id = self.written;
        self.unsynced.push_back((id, records));
        let synced = self.synced_out.clone();
        self.records.records().write_then(batch, move |result| {
            if result.is_ok() {
                for answer in answers {
                    let _ = answer.send(());
                }
            }
            // A driver that stopped needs no answer.
            let _ = synced.send(result.map(|()| id));
        });
    }

    /// Records are on disk: they are shown, answers are given, held messages go out.
    pub(super) fn on_disk(&mut self, up_to: PersistId) {
        self.synced = self.synced.max(up_to);
        while self.unsynced.front().is_some_and(|(id, _)| *id <= up_to) {
            let Some((_, records)) = self.unsynced.pop_front() else { break };
            self.copies.look(&records, &self.board);
            self.board.show(records);
        }
        self.custody.on_disk(up_to);
        while let Some((to, message)) = self.held.pop(self.synced) {
            self.send(to, message);
        }
        self.input(Input::Persisted { up_to });
    }
}
