//! The trace of a run: one line per step for people, and a digest over all of them. The same seed gives the same bytes.

use cpi::ids::{ContentDigest, TaskId};

/// What is kept of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing: the largest runs.
    Off,
    /// The digest.
    Digest,
    /// The digest and every line.
    Lines,
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What kind.
    pub kind: &'static str,
    /// Where.
    pub node: usize,
    /// The other node, where there is one.
    pub other: Option<usize>,
    /// About which task.
    pub task: Option<TaskId>,
    /// Anything that tells two such steps apart: a fence, a reason, a number.
    pub what: u64,
}

/// A trace so far.
#[derive(Debug, Clone)]
pub struct Trace {
    detail: Detail,
    hash: [u64; 2],
    lines: Vec<String>,
}

/// FNV-1a, 64 bits, in two lanes with different starts. Source: RFC 9923.
const PRIME: u64 = 0x0000_0100_0000_01b3;

impl Trace {
    /// An empty trace for a seed.
    pub fn new(seed: u64, detail: Detail) -> Self {
        Self { detail, hash: [0xcbf2_9ce4_8422_2325 ^ seed, 0x9e37_79b9_7f4a_7c15 ^ seed], lines: Vec::new() }
    }

    /// What is kept.
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// Keeps more or less from here on.
    pub fn set_detail(&mut self, detail: Detail) {
        self.detail = detail;
    }

    /// Adds a step; `words` is called only where lines are kept.
    pub fn note(&mut self, us: u64, step: Step, words: impl FnOnce() -> String) {
        if self.detail == Detail::Off {
            return;
        }
        self.mix(us);
        step.kind.as_bytes().iter().for_each(|byte| self.mix(u64::from(*byte)));
        self.mix(step.node as u64 + 1);
        self.mix(step.other.map_or(0, |other| other as u64 + 1));
        self.mix(step.task.map_or(0, number));
        self.mix(step.what);
        if self.detail == Detail::Lines {
            let other = step.other.map(|other| format!(">{other}")).unwrap_or_default();
            let task = step.task.map(|task| format!(" task {}", number(task))).unwrap_or_default();
            let ms = us / 1000;
            let words = words();
            self.lines.push(format!(
                "{:>6}.{:03} {:03} {:<9} {}{other}{task} {words}",
                ms / 1000,
                ms % 1000,
                us % 1000,
                step.kind,
                step.node
            ));
        }
    }

    fn mix(&mut self, value: u64) {
        let [a, b] = &mut self.hash;
        *a = (*a ^ value).wrapping_mul(PRIME);
        *b = (b.rotate_left(23) ^ value).wrapping_mul(PRIME) ^ *a >> 32;
    }

    /// The digest over all steps and, where they are kept, over the bytes of all lines.
    pub fn digest(&self) -> ContentDigest {
        let mut bytes = Vec::new();
        bytes.extend(self.hash[0].to_be_bytes());
        bytes.extend(self.hash[1].to_be_bytes());
        ContentDigest::of(&bytes)
    }

    /// The lines kept.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// A task's number in its run: the low 8 bytes of its id, which the simulator hands out.
pub fn number(task: TaskId) -> u64 {
    u64::from_be_bytes(task.0[8..].try_into().expect("an id has 16 bytes"))
}

/// The revision that a custody message is about, 0 for none.
pub(crate) fn revision_of(message: &consensus::custody::Message) -> u64 {
    use consensus::custody::Message;
    match message {
        Message::Write(write) => write.record.revision,
        Message::Written { revision, .. } => *revision,
        Message::Claim(claim) => claim.record.revision,
        Message::Promise { record, .. } | Message::Told { record } => record.revision,
        _ => 0,
    }
}
