//! Stand-ins for parts of platforms that this machine cannot have. They are named as such wherever their results are shown.
//!
//! [`pod_runner`] is in the place of kubelets: it registers nodes with whatever capacity it is told, and runs the pods bound
//! to them as plain processes of this machine. It has no images, no pod network and no volumes of its own.

mod container;
mod log_server;
pub mod pod_runner;
