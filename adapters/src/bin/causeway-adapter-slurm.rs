//! The `slurm` backend as a plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    adapters::plugin::main(adapters::slurm::SlurmBackend)
}
