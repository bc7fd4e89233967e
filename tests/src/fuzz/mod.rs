//! Fuzzing that the stable toolchain can run: seeds from the vectors, mutations by a seeded generator, and a target that
//! looks for broken promises, not only for panics.
//!
//! Without coverage from the compiler, an input is kept when the target answers something that was not seen before (which
//! error, at which field, how far it came): that steers into the parser nearly as well for grammars of this size. The same
//! seed gives the same run; a finding is written to a file and printed with its seed.

mod mutate;
mod targets;

pub use targets::{TARGETS, Target};

use mutate::Mutator;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Inputs kept of one target; a newer one replaces a random older one.
const CORPUS_MAX: usize = 4_096;
/// Inputs longer than this are cut, except that a target may allow more.
const INPUT_BYTES_MAX: usize = 16 << 10;

/// What a target says of one input.
pub enum Verdict {
    /// All promises held; the text names what happened, and is short and of few kinds.
    Held(String),
    /// A promise was broken.
    Broken(String),
}

/// How long to go on.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// Until this time is over.
    Time(Duration),
    /// So many inputs.
    Inputs(u64),
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Inputs tried.
    pub inputs: u64,
    /// Different answers seen.
    pub answers: usize,
    /// Inputs kept.
    pub corpus: usize,
    /// The broken promise, with the input that shows it.
    pub finding: Option<Finding>,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What went wrong.
    pub problem: String,
    /// The input.
    pub input: Vec<u8>,
}

/// Runs one target.
pub fn run(target: &Target, seed: u64, budget: Budget) -> Outcome {
    let mut corpus = (target.seeds)();
    let mut mutator = Mutator::new(seed, (target.words)());
    let mut seen = BTreeSet::new();
    let mut outcome = Outcome::default();
    let begin = Instant::now();
    for seed in corpus.clone() {
        if let Some(finding) = try_one(target, seed, &mut seen, None) {
            return Outcome { finding: Some(finding), ..outcome };
        }
    }
    loop {
        let done = match budget {
            Budget::Time(time) => outcome.inputs.is_multiple_of(256) && begin.elapsed() >= time,
            Budget::Inputs(count) => outcome.inputs >= count,
        };
        if done {
            break;
        }
        let mut input = mutator.mutate(&corpus);
        input.truncate(INPUT_BYTES_MAX);
        outcome.inputs += 1;
        let mut keep = |input: Vec<u8>| {
            if corpus.len() < CORPUS_MAX {
                corpus.push(input);
            } else {
                let at = mutator.below(corpus.len());
                corpus[at] = input;
            }
        };
        if let Some(finding) = try_one(target, input, &mut seen, Some(&mut keep)) {
            outcome.finding = Some(finding);
            break;
        }
    }
    outcome.answers = seen.len();
    outcome.corpus = corpus.len();
    outcome
}

type Keep<'a> = &'a mut dyn FnMut(Vec<u8>);

fn try_one(target: &Target, input: Vec<u8>, seen: &mut BTreeSet<String>, keep: Option<Keep<'_>>) -> Option<Finding> {
    match catch_unwind(AssertUnwindSafe(|| (target.try_input)(&input))) {
        Ok(Verdict::Held(answer)) => {
            if seen.len() < 1 << 16
                && seen.insert(answer)
                && let Some(keep) = keep
            {
                keep(input);
            }
            None
        }
        Ok(Verdict::Broken(problem)) => Some(Finding { problem, input }),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(Finding { problem: format!("panicked: {}", words.unwrap_or_default()), input })
        }
    }
}

impl Finding {
    /// Writes the input where a person finds it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, target: &str) -> std::io::Result<PathBuf> {
        let folder = std::env::temp_dir().join("causeway-fuzz");
        std::fs::create_dir_all(&folder)?;
        let digest = cpi::ids::ContentDigest::of(&self.input).hex();
        let path = folder.join(format!("{target}-{}", &digest[..16]));
        std::fs::write(&path, &self.input)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bounded run of every target; `make fuzz` runs each for minutes.
    #[test]
    fn no_target_has_a_finding_in_a_short_run() {
        for target in TARGETS {
            let outcome = run(target, 1, Budget::Inputs(20_000));
            if let Some(finding) = outcome.finding {
                panic!("{}: {} on {:?}", target.name, finding.problem, String::from_utf8_lossy(&finding.input));
            }
            assert!(outcome.answers > 5, "{} sees {} answers only", target.name, outcome.answers);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for target in TARGETS {
            let (a, b) = (run(target, 9, Budget::Inputs(2_000)), run(target, 9, Budget::Inputs(2_000)));
            assert_eq!((a.answers, a.corpus), (b.answers, b.corpus), "{}", target.name);
        }
    }

    #[test]
    fn a_broken_promise_is_found() {
        let target = Target {
            name: "broken",
            seeds: || vec![b"seed".to_vec()],
            words: || vec![b"needle".to_vec()],
            try_input: |input| {
                if input.windows(6).any(|part| part == b"needle") {
                    Verdict::Broken("needle".to_owned())
                } else {
                    Verdict::Held(String::new())
                }
            },
        };
        assert!(run(&target, 1, Budget::Inputs(10_000)).finding.is_some());
    }
}
