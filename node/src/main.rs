//! The `causeway` binary: daemon and command line.

use std::path::Path;
use std::process::ExitCode;

/// RocksDB's memory too: the crate replaces the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // the supervisor of runs forks: it must come before anything that starts a thread
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "run-supervisor") {
        return match arguments.next() {
            Some(folder) => adapters::local::supervisor::main(Path::new(&folder)),
            None => ExitCode::from(2),
        };
    }
    // Two crypto providers are in the tree; the first call decides which one rustls uses.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: a crypto provider was installed before main");
        return ExitCode::FAILURE;
    }
    node::cli::main()
}
