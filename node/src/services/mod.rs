//! What HTTP and the command line call: one service per noun. Services turn requests into inputs of the drivers and read
//! views; they decide nothing themselves.

pub mod artifacts;
pub mod dictionary;
mod identifier_sums;
pub mod identifier_views;
pub mod identifiers;
pub mod logs;
pub mod member_views;
pub mod pool_views;
pub mod registry;
pub mod task_views;
