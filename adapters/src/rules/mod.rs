//! Conversion rules as data: what a field of the standard model is called on a platform, and the way back.
//!
//! A rule file is for one backend kind, platform version and pools. It has sections by direction (`south` to the platform,
//! `north` from it) and by what is converted (`submit`, `state`, `server`). A section's fields say where a value comes from,
//! how it changes (an expression in CEL, which always ends; or a table of names) and where it goes. What no field takes is an
//! error that names the rule to add: nothing is dropped in silence. (Answers of a platform may be ignored as a whole, by name
//! `*` and with a reason.) Each section carries pairs of examples, which are
//! checked whenever the file is read; a file whose examples fail is not used.

mod book;
mod convert;
mod expression;
mod file;
mod value;

pub use book::{BookProblem, RuleBook};
pub(crate) use convert::FILE_BYTES_MAX;
pub use convert::{ConvertError, Direction, Explanation, LoadRulesError, Rules, Step};
pub(crate) use expression::Expression;

#[cfg(test)]
mod tests;
