//! The fake backend as a plugin. `--protocol 1` makes it speak the oldest protocol number only.

use adapters::fake::FakeBackend;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut backend = FakeBackend::default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        ["--protocol", number] if number.parse::<u32>().is_ok() => {
            let number = number.parse().expect("it was parsed a moment ago");
            backend.protocols = (number, number);
        }
        _ => {
            eprintln!("expected no argument, or --protocol NUMBER");
            return ExitCode::from(2);
        }
    }
    adapters::plugin::main(backend)
}
