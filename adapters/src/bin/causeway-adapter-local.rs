//! The `local` backend as a plugin; with `run-supervisor FOLDER` the supervisor of its runs.

use adapters::local::{LocalBackend, supervisor};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (None, _) => adapters::plugin::main(LocalBackend),
        (Some(verb), Some(folder)) if verb == "run-supervisor" => supervisor::main(Path::new(&folder)),
        _ => {
            eprintln!("expected no argument: this program is started by a Causeway node");
            ExitCode::from(2)
        }
    }
}
