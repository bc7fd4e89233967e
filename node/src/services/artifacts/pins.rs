//! Who needs which content: a pin keeps contents from the collector, and names the members that may fetch them.

use adapters::contract::RunKey;
use cpi::ids::{ContentDigest, MemberId, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// On whose behalf contents are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PinOwner {
    /// A task of this origin: its inputs, its outputs and logs once they are here.
    Task(TaskId),
    /// A run in this region: its outputs and logs until the origin has them.
    Run(RunKey),
}

impl PinOwner {
    /// The task that the pin is about.
    pub fn task(&self) -> TaskId {
        match self {
            Self::Task(task) => *task,
            Self::Run(key) => key.task,
        }
    }

    /// The name of its file.
    pub(super) fn file_name(&self) -> String {
        match self {
            Self::Task(task) => format!("task-{task}.json"),
            Self::Run(key) => format!("run-{}-{}.json", key.task, key.fence),
        }
    }
}

/// A pin as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Pin {
    pub task: Option<TaskId>,
    pub run: Option<RunKey>,
    pub digests: BTreeSet<ContentDigest>,
    /// Members that may fetch these contents.
    pub readers: BTreeSet<MemberId>,
    /// Milliseconds since 1970, for the bound on how long results wait.
    pub made_ms: u64,
}

impl Pin {
    pub fn owner(&self) -> Option<PinOwner> {
        match (self.task, self.run) {
            (Some(task), None) => Some(PinOwner::Task(task)),
            (None, Some(key)) => Some(PinOwner::Run(key)),
            _ => None,
        }
    }
}

/// All pins, and how often each content is pinned.
#[derive(Debug, Default)]
pub struct Pins {
    pins: BTreeMap<PinOwner, Pin>,
    counts: BTreeMap<ContentDigest, usize>,
}

impl Pins {
    pub(super) fn get(&self, owner: &PinOwner) -> Option<&Pin> {
        self.pins.get(owner)
    }

    pub(super) fn insert(&mut self, owner: PinOwner, pin: Pin) {
        self.remove(&owner);
        for digest in &pin.digests {
            *self.counts.entry(*digest).or_default() += 1;
        }
        self.pins.insert(owner, pin);
    }

    pub(super) fn remove(&mut self, owner: &PinOwner) -> bool {
        let Some(pin) = self.pins.remove(owner) else { return false };
        for digest in &pin.digests {
            if let Some(count) = self.counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(digest);
                }
            }
        }
        true
    }

    /// Whether any pin names `digest`.
    pub fn is_pinned(&self, digest: &ContentDigest) -> bool {
        self.counts.contains_key(digest)
    }

    /// Whether `member` may fetch `digest` for `task`: a pin of that task names both.
    pub(super) fn may_read(&self, member: MemberId, task: TaskId, digest: &ContentDigest) -> bool {
        self.of_task(task).any(|pin| pin.digests.contains(digest) && pin.readers.contains(&member))
    }

    /// Whether a pin of `task` names `digest`.
    pub(super) fn names(&self, task: TaskId, digest: &ContentDigest) -> bool {
        self.of_task(task).any(|pin| pin.digests.contains(digest))
    }

    fn of_task(&self, task: TaskId) -> impl Iterator<Item = &Pin> {
        use cpi::ids::{Epoch, Fence};
        let fence = |counter, member, attempt| Fence { epoch: Epoch { counter, member: MemberId(member) }, attempt };
        let first = PinOwner::Run(RunKey { task, fence: fence(0, 0, 0) });
        let last = PinOwner::Run(RunKey { task, fence: fence(u64::MAX, u64::MAX, u32::MAX) });
        self.pins.get(&PinOwner::Task(task)).into_iter().chain(self.pins.range(first..=last).map(|(_, pin)| pin))
    }

    /// Pins of runs that were made before `ms`.
    pub(super) fn runs_before(&self, ms: u64) -> Vec<PinOwner> {
        let old =
            |(owner, pin): (&PinOwner, &Pin)| (matches!(owner, PinOwner::Run(_)) && pin.made_ms < ms).then_some(*owner);
        self.pins.iter().filter_map(old).collect()
    }

    /// Tasks with pins that were made before `ms`.
    pub(super) fn tasks_before(&self, ms: u64) -> Vec<TaskId> {
        let old = |(owner, pin): (&PinOwner, &Pin)| match owner {
            PinOwner::Task(task) => (pin.made_ms <= ms).then_some(*task),
            PinOwner::Run(_) => None,
        };
        self.pins.iter().filter_map(old).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.pins.len()
    }
}
