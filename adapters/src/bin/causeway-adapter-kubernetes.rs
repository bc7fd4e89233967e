//! The `kubernetes` backend as a plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    adapters::plugin::main(adapters::kubernetes::KubernetesBackend)
}
