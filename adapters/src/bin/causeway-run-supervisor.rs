//! The supervisor of the `local` backend as a program of its own, for tests of this crate. The product reaches the same
//! entry by `causeway run-supervisor`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(runs_dir) => adapters::local::supervisor::main(std::path::Path::new(&runs_dir)),
        None => ExitCode::from(2),
    }
}
