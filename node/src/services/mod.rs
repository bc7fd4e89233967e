//! What HTTP and the command line call: one service per noun. Services turn requests into inputs of the drivers and read
//! views; they decide nothing themselves.

pub mod artifacts;
pub mod identifier_views;
pub mod logs;
pub mod member_views;
pub mod pool_views;
pub mod task_views;
