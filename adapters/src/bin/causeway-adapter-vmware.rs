//! The `vmware` backend as a plugin: one vCenter.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!("expected no argument: this program is started by a Causeway node");
        return ExitCode::from(2);
    }
    adapters::plugin::main(adapters::vmware::VmwareBackend)
}
