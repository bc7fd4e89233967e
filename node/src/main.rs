//! The `causeway` binary: daemon and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Two crypto providers are in the tree; the first call decides which one rustls uses.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: a crypto provider was installed before main");
        return ExitCode::FAILURE;
    }
    node::cli::main()
}
