//! What the end-to-end tests, the fuzz driver and the load generators share.

pub mod bench;
pub mod chaos;
pub mod fuzz;
pub mod ring;
