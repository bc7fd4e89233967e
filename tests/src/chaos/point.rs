//! A point of chaos: what is going on, who is killed, and how long after the stage opened. All of it from the seed.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// What is going on when nodes are killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Identifiers are being registered.
    Registration,
    /// Identifiers are being revised.
    Revision,
    /// Identifiers are registered without a quorum, then their own node is killed as well.
    Pending,
    /// A task is being handed in.
    Submission,
    /// A task is about to get the event of this name, some milliseconds after it was handed in: too soon to be seen.
    Aim(&'static str),
    /// A task has just got the event of this name.
    After(&'static str),
}

/// All stages with the names that people know them by, in the order in which points go through them.
pub const STAGES: &[(&str, Stage)] = &[
    ("registration", Stage::Registration),
    ("submission", Stage::Submission),
    ("hold", Stage::Aim("asked")),
    ("award", Stage::Aim("offered")),
    ("bind", Stage::Aim("accepted")),
    ("revision", Stage::Revision),
    ("staging", Stage::Aim("bound")),
    ("start", Stage::After("staged")),
    ("run", Stage::After("started")),
    ("result", Stage::After("run_ended")),
    ("end", Stage::After("collected")),
    ("pending", Stage::Pending),
];

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The node that was asked.
    Origin,
    /// The node that runs the task.
    Provider,
    /// The registry's leader.
    Leader,
    /// Both sides of the contract at once.
    Both,
    /// All nodes at once.
    Everyone,
}

/// One point.
#[derive(Debug, Clone)]
pub struct Point {
    /// Counts from 0.
    pub number: u64,
    /// The stage's name.
    pub name: &'static str,
    /// What is going on.
    pub stage: Stage,
    /// Who is killed.
    pub role: Role,
    /// The node that is asked.
    pub origin: usize,
    /// The node that must run the task.
    pub provider: usize,
    /// From the opening of the stage to the kill; registrations, of which several follow each other, are given 20 times as
    /// long.
    pub delay: Duration,
}

impl Point {
    /// The `number`th point of a ring of `nodes`.
    pub fn draw(random: &mut ChaCha8Rng, number: u64, nodes: usize) -> Self {
        let (name, stage) = STAGES[(number % STAGES.len() as u64) as usize];
        let role = match random.random_range(0..10u32) {
            0..3 => Role::Origin,
            3..6 => Role::Provider,
            6..8 => Role::Leader,
            8 => Role::Both,
            _ => Role::Everyone,
        };
        let origin = random.random_range(0..nodes);
        let provider = (origin + 1 + random.random_range(0..nodes - 1)) % nodes;
        // Short ones are likelier: most stages last for a few milliseconds.
        let scale_us = [500, 3_000, 30_000][random.random_range(0..3usize)];
        let delay = Duration::from_micros(random.random_range(0..scale_us));
        Self { number, name, stage, role, origin, provider, delay }
    }

    /// In words, for a failure.
    pub fn words(&self) -> String {
        let Self { name, role, origin, provider, delay, .. } = self;
        format!("{name}: {role:?} killed after {delay:?}, origin r{origin}, provider r{provider}")
    }
}
