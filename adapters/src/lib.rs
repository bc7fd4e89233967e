//! The heterogeneous resource adapter: the northbound contract and the backends behind it.

pub mod contract;
