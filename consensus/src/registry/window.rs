//! A sliding window of sequences per signing key: it removes duplicates and repeats their first outcome, nothing else.
//!
//! Sequences may arrive in any order; 8 before 7 makes 7 no replay.

use serde::{Deserialize, Serialize};

/// Sequences that are remembered.
pub const WINDOW: u64 = 1024;

/// What a sequence is to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not used yet.
    New,
    /// Used: its outcome is remembered.
    Before,
    /// Before the window.
    TooOld,
}

/// The used sequences of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// The largest used one.
    highest: u64,
    /// Bit `n` of the whole: `highest - n` was used. 16 words of 64.
    used: Vec<u64>,
}

const WORDS: usize = (WINDOW / 64) as usize;

impl Window {
    pub fn look(&self, sequence: u64) -> Seen {
        if self.used.is_empty() || sequence > self.highest {
            return Seen::New;
        }
        let back = self.highest - sequence;
        if back >= WINDOW {
            return Seen::TooOld;
        }
        if self.used[(back / 64) as usize] >> (back % 64) & 1 == 1 { Seen::Before } else { Seen::New }
    }

    /// Marks a new sequence; gives the range of used sequences that left the window (`from..until`).
    pub fn take(&mut self, sequence: u64) -> std::ops::Range<u64> {
        if self.used.is_empty() {
            self.used = vec![0; WORDS];
            self.highest = sequence;
            self.used[0] = 1;
            return 0..0;
        }
        if sequence <= self.highest {
            let back = self.highest - sequence;
            self.used[(back / 64) as usize] |= 1 << (back % 64);
            return 0..0;
        }
        let ahead = sequence - self.highest;
        let oldest = self.highest.saturating_sub(WINDOW - 1);
        self.shift(ahead);
        self.highest = sequence;
        self.used[0] |= 1;
        oldest..(sequence.saturating_sub(WINDOW - 1)).min(oldest + WINDOW)
    }

    fn shift(&mut self, by: u64) {
        let words = usize::try_from(by / 64).unwrap_or(WORDS).min(WORDS);
        let bits = by % 64;
        let old = self.used.clone();
        for (at, word) in self.used.iter_mut().enumerate() {
            let source = |index: Option<usize>| index.and_then(|index| old.get(index)).copied().unwrap_or(0);
            let low = source(at.checked_sub(words));
            let carried = if bits == 0 { 0 } else { source(at.checked_sub(words + 1)) >> (64 - bits) };
            *word = if bits == 0 { low } else { low << bits | carried };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_remembers_what_a_set_would(sequences in proptest::collection::vec(0u64..5000, 1..200)) {
            let mut window = Window::default();
            let mut used = BTreeSet::new();
            for sequence in sequences {
                let highest = used.last().copied().unwrap_or(sequence);
                let expected = if used.contains(&sequence) && highest - sequence < WINDOW { Seen::Before }
                    else if sequence + WINDOW <= highest { Seen::TooOld } else { Seen::New };
                prop_assert_eq!(window.look(sequence), expected);
                if expected == Seen::New {
                    window.take(sequence);
                    used.insert(sequence);
                }
            }
        }
    }
}
