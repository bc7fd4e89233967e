//! Mutations: bits, bytes, numbers, pieces cut, doubled and moved, words of the target's language, and two inputs spliced.

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Values at which integers, lengths and varints change their shape.
const EDGES: &[u64] =
    &[0, 1, 127, 128, 250, 251, 252, 253, 255, 256, 65_535, 65_536, u32::MAX as u64, u64::MAX / 2, u64::MAX];

/// A seeded source of mutated inputs.
pub struct Mutator {
    random: ChaCha8Rng,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    /// `words` are pieces of the target's language.
    pub fn new(seed: u64, words: Vec<Vec<u8>>) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), words }
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound.max(1))
    }

    /// An input made from one of `corpus` by one to six changes.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let at = self.below(corpus.len());
        let mut input = corpus[at].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input, corpus);
        }
        input
    }

    fn word(&mut self) -> Vec<u8> {
        let at = self.below(self.words.len());
        self.words[at].clone()
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let length = input.len();
        let at = self.below(length + 1);
        match self.below(11) {
            0 if length > 0 => input[at.min(length - 1)] ^= 1 << self.below(8),
            1 if length > 0 => input[at.min(length - 1)] = self.random.next_u32() as u8,
            2 => input.insert(at, self.random.next_u32() as u8),
            3 if length > 0 => {
                let end = (at + 1 + self.below(8)).min(length);
                input.drain(at.min(end)..end);
            }
            4 => input.truncate(at),
            5 if length > 0 => {
                // a piece again, here or elsewhere
                let end = (at + 1 + self.below(32)).min(length);
                let piece = input[at.min(end)..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            6 if !self.words.is_empty() => {
                let word = self.word();
                input.splice(at..at, word);
            }
            7 if !self.words.is_empty() => {
                let word = self.word();
                let end = (at + word.len()).min(length);
                input.splice(at..end, word);
            }
            8 => {
                // the end of another input
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            9 => {
                let edge = EDGES[self.below(EDGES.len())];
                let bytes = edge.to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)];
                let end = (at + width).min(length);
                input.splice(at..end, bytes[..width].to_vec());
            }
            _ => {
                // a number in a text
                let edge = EDGES[self.below(EDGES.len())].to_string();
                let digits = input[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                input.splice(at..at + digits, edge.into_bytes());
            }
        }
    }
}
