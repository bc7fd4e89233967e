//! Words and contracts of Causeway. Pure: no IO, no clock, no async, no floats in anything signed, applied or ranked.

pub mod crockford;
pub mod dictionary;
pub mod filter;
pub mod identifier;
pub mod ids;
pub mod measures;
pub mod reason;
pub mod resolve;
pub mod resource;
pub mod task;
pub mod units;
