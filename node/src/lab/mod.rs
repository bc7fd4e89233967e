//! The lab: a ring of real processes on one machine, the main job that runs across it, and the checks of its results.

pub mod check;
