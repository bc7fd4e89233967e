//! A region's disk: what was synced survives a crash, the rest does not.

use consensus::custody::{CustodyRecord, Found};
use consensus::negotiation::{Attempt, LeaseRecord, PersistId, Record, Restored, RestoredTask, TaskRecord};
use cpi::ids::TaskId;
use std::collections::{BTreeMap, VecDeque};

/// A disk with one sync at a time, as a log with group commit has.
#[derive(Debug, Default)]
pub struct Disk {
    tasks: BTreeMap<TaskId, TaskRecord>,
    custody: BTreeMap<TaskId, CustodyRecord>,
    leases: BTreeMap<Attempt, LeaseRecord>,
    first: BTreeMap<TaskId, CustodyRecord>,
    ended: Vec<TaskId>,
    unsynced: VecDeque<(PersistId, Vec<Record>)>,
    syncing: Option<PersistId>,
    synced: PersistId,
}

impl Disk {
    /// Takes records in; they are not safe yet. Says whether a sync has to be started.
    pub fn write(&mut self, id: PersistId, records: Vec<Record>) -> bool {
        self.unsynced.push_back((id, records));
        self.syncing.is_none()
    }

    /// Begins a sync of all that is unsynced; returns its last persist.
    pub fn begin_sync(&mut self) -> Option<PersistId> {
        self.syncing = self.unsynced.back().map(|(id, _)| *id);
        self.syncing
    }

    /// A sync ended: its records are safe. Returns them.
    pub fn end_sync(&mut self) -> Vec<Record> {
        let mut safe = Vec::new();
        let Some(up_to) = self.syncing.take() else { return safe };
        self.synced = up_to;
        while self.unsynced.front().is_some_and(|(id, _)| *id <= up_to) {
            let Some((_, records)) = self.unsynced.pop_front() else { break };
            for record in records {
                self.apply(&record);
                safe.push(record);
            }
        }
        safe
    }

    /// The newest persist of this incarnation that is safe.
    pub fn synced_to(&self) -> PersistId {
        self.synced
    }

    /// The node crashed: what was not synced is lost.
    pub fn crash(&mut self) {
        self.unsynced.clear();
        self.syncing = None;
        self.synced = PersistId(0);
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Task(task) | Record::Kept(task) => {
                self.tasks.insert(task.task, (**task).clone());
            }
            Record::Custody(custody) => {
                if custody.closed {
                    self.ended.push(custody.task);
                    self.first.remove(&custody.task);
                } else {
                    self.first.entry(custody.task).or_insert_with(|| (**custody).clone());
                }
                self.custody.insert(custody.task, (**custody).clone());
            }
            Record::Event(_) | Record::Decision(_) => {}
            Record::Lease(lease) => {
                self.leases.insert(lease.attempt, (**lease).clone());
            }
            Record::LeaseSettled(attempt) => {
                self.leases.remove(attempt);
            }
        }
    }

    /// Forgets tasks that ended: for runs too large to keep every one.
    pub fn forget_ended(&mut self) {
        for task in std::mem::take(&mut self.ended) {
            self.tasks.remove(&task);
            self.custody.remove(&task);
        }
    }

    /// Loses a task that it had: a planted bug.
    pub fn lose(&mut self, task: TaskId) {
        self.tasks.remove(&task);
        self.custody.remove(&task);
    }

    /// What a restarted node reads; `stale` is a planted bug that shows the first version of custody records.
    pub fn restored(&self, stale: bool) -> Restored {
        let custody = if stale { &self.first } else { &self.custody };
        let open = custody.values().filter(|c| !c.closed);
        let tasks = open.filter_map(|custody| {
            let record = self.tasks.get(&custody.task)?.clone();
            let (events, state) = (custody.events, custody.state);
            Some(RestoredTask { record, custody: custody.clone(), events, state })
        });
        Restored { tasks: tasks.collect(), leases: self.leases.values().cloned().collect() }
    }

    /// A task as last written, synced or not.
    pub fn find(&self, task: TaskId) -> Option<Found> {
        let (mut record, mut custody) = (self.tasks.get(&task).cloned(), self.custody.get(&task).cloned());
        for written in self.unsynced.iter().flat_map(|(_, records)| records) {
            match written {
                Record::Task(r) | Record::Kept(r) if r.task == task => record = Some((**r).clone()),
                Record::Custody(c) if c.task == task => custody = Some((**c).clone()),
                _ => {}
            }
        }
        let (record, custody) = (record?, custody?);
        let (events, state) = (custody.events, custody.state);
        Some(Found::Task(Box::new(RestoredTask { record, custody, events, state })))
    }

    /// A task's custody record, as synced.
    pub fn custody(&self, task: TaskId) -> Option<&CustodyRecord> {
        self.custody.get(&task)
    }

    /// All tasks, as synced.
    pub fn tasks(&self) -> impl Iterator<Item = &CustodyRecord> {
        self.custody.values()
    }

    /// Leases, as synced.
    pub fn leases(&self) -> impl Iterator<Item = &LeaseRecord> {
        self.leases.values()
    }
}
