//! What a provider answered, so that the same question gets the same answer, and a release outlives what it releases.

use super::message::{AskMode, Attempt, Decline};
use crate::time::Monotonic;
use std::collections::{BTreeMap, VecDeque};

/// How long answers are remembered: longer than any ask lives on the way.
const REMEMBERED_MS: u64 = 60_000;
/// The most that is remembered; beyond, the oldest goes first.
const ANSWERS_MAX: usize = 200_000;

/// A remembered answer.
#[derive(Debug, Clone)]
pub enum Remembered {
    /// It was declined in this mode and round.
    Declined(AskMode, u8, Box<Decline>),
    /// It was released or settled: nothing under this attempt is ever granted again.
    Released,
}

/// Answers by attempt.
#[derive(Debug, Default)]
pub struct Answers {
    by_attempt: BTreeMap<Attempt, Remembered>,
    order: VecDeque<(Monotonic, Attempt)>,
}

impl Answers {
    /// What is remembered of an attempt.
    pub fn get(&self, attempt: &Attempt) -> Option<&Remembered> {
        self.by_attempt.get(attempt)
    }

    /// Whether the attempt was released.
    pub fn is_released(&self, attempt: &Attempt) -> bool {
        matches!(self.by_attempt.get(attempt), Some(Remembered::Released))
    }

    /// Remembers an answer, and forgets what is too old. A release is never overwritten.
    pub fn remember(&mut self, now: Monotonic, attempt: Attempt, answer: Remembered) {
        self.forget(now);
        if self.is_released(&attempt) {
            return;
        }
        if self.by_attempt.insert(attempt, answer).is_none() {
            self.order.push_back((now.plus_ms(REMEMBERED_MS), attempt));
        }
    }

    fn forget(&mut self, now: Monotonic) {
        while let Some(&(until, attempt)) = self.order.front() {
            if until > now && self.order.len() < ANSWERS_MAX {
                break;
            }
            self.order.pop_front();
            self.by_attempt.remove(&attempt);
        }
    }
}
