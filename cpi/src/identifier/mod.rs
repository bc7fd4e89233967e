//! The Computing Power Identifier: text form, check characters, identity, binary form.
//!
//! `cpi:1:X.Y.Y'/Z~extensions~check`, where X says who answers for the resource and where it stands, Y what it offers, Y'
//! what a server of it is, and Z the path to a node or chip. `docs/identifier.md` has the grammar and the rules. Codes are
//! checked for their shape here; whether they exist is the [dictionary's](crate::dictionary) question.

mod amount;
mod binary;
mod build;
mod canonical;
mod check;
mod cpi;
mod error;
pub mod extension;
mod field;
mod parse;
mod relay;
mod scan;

pub use amount::{Amount, Capacity, Unit};
pub use binary::{BINARY_BYTES_MAX, BinaryError};
pub use build::{ChipQuantity, CpiFields, PathFields};
pub use cpi::{Cpi, CpiPath};
pub use error::{CpiError, CpiErrorKind};
pub use extension::Extension;
pub use field::CpiField;
pub use parse::TEXT_BYTES_MAX;
pub use relay::{NewerCpi, Relayed};
