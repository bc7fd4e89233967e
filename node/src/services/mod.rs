//! What HTTP and the command line call: one service per noun. Services turn requests into inputs of the drivers and read
//! views; they decide nothing themselves.

pub mod adapter_tests;
pub mod adapter_views;
pub mod artifacts;
pub mod dictionary;
pub mod disk;
mod identifier_sums;
pub mod identifier_views;
pub mod identifiers;
pub mod logs;
pub mod member_views;
pub mod members;
pub mod operation_views;
pub mod plans;
pub mod pool_views;
pub mod pools;
pub mod registry;
mod task_error;
mod task_explain;
mod task_list;
pub mod task_metrics;
mod task_render;
mod task_results;
pub mod task_retention;
pub mod task_views;
pub mod tasks;
