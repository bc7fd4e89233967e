//! The heterogeneous resource adapter: the northbound contract and the backends behind it.
//!
//! `contract` is what the node sees of every backend; `local` runs processes on this machine; `fake` plays runs by script
//! for benchmarks and fault tests; `conformance` is the one suite that every backend passes.

pub mod conformance;
pub mod contract;
pub mod fake;
pub mod local;
