//! The `openstack` backend as a plugin.

use adapters::openstack::OpenStackBackend;
use std::process::ExitCode;

fn main() -> ExitCode {
    adapters::plugin::main(OpenStackBackend)
}
