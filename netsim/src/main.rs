//! `netsim`: see `docs/netsim.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match netsim::cli::run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("netsim: {error:#}");
            ExitCode::from(2)
        }
    }
}
