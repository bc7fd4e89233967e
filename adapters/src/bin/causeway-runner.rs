//! What a platform's job executes for a run: see `adapters/proto/causeway/run/v1/run.proto`.

use std::process::ExitCode;

fn main() -> ExitCode {
    adapters::runner::program::main()
}
