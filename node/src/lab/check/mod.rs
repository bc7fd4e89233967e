//! Checks of the main job's results, written apart from the programs that compute them (`bin/causeway-demo`): not a line is
//! shared. What the two have in common is a definition in words, written down beside each checker.
//!
//! Every check is also tried on a damaged copy of the result ([`Verdict::trips`]): one that cannot fail proves nothing.

mod digest;
mod loss;
mod residual;

pub use digest::{BATCH_DIGEST, LOGITS_DIGEST, check_digest};
pub use loss::check_model;
pub use residual::check_solution;

/// Why a result was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file is not of the shape that the program writes.
    #[error("{file} is not readable: {problem}")]
    Shape {
        /// Which result.
        file: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// It is readable, and wrong.
    #[error("{what} is {found}, expected {expected}")]
    Wrong {
        /// The quantity that was recomputed.
        what: &'static str,
        /// Its value.
        found: String,
        /// What a right result has.
        expected: String,
    },
}

impl CheckError {
    fn shape(file: &'static str, problem: impl ToString) -> Self {
        Self::Shape { file, problem: problem.to_string() }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The recomputed fact, for people: `scaled residual 0.0027, below 16`.
    pub fact: String,
    /// Why a damaged copy of the same result was refused.
    pub trips: String,
}

/// Runs `check` on a result and then on a copy that `damage` spoilt.
///
/// # Errors
/// The check's own error, or [`CheckError::Wrong`] where the spoilt copy passes.
pub fn check_and_trip<R>(
    result: R,
    check: impl Fn(&R) -> Result<String, CheckError>,
    damage: impl FnOnce(&mut R),
) -> Result<Verdict, CheckError> {
    let fact = check(&result)?;
    let mut spoilt = result;
    damage(&mut spoilt);
    match check(&spoilt) {
        Err(refusal) => Ok(Verdict { fact, trips: refusal.to_string() }),
        Ok(_) => Err(CheckError::Wrong {
            what: "the check of a damaged copy",
            found: "a pass".to_owned(),
            expected: "a refusal".to_owned(),
        }),
    }
}
