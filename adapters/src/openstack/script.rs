//! The user data of a run, and what its console says afterwards.
//!
//! The script runs the command, writes what it says between two lines to the console, and switches the server off. The
//! second line has the exit code and the time that was used. That is all a console can carry: inputs and outputs need the
//! runner, which dials out to the node.

use crate::contract::{RunRequest, Usage};
use crate::runner::DeskTicket;
use std::fmt::Write as _;

/// What `timeout` ends with when the time is over.
const TIMED_OUT: i32 = 124;
/// Between the polite signal and the kill at the time limit, in s.
const GRACE_S: u32 = 5;

/// How a run ended, as its console says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConsoleEnd {
    pub(super) exit_code: i32,
    pub(super) timed_out: bool,
    pub(super) usage: Usage,
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A word that a run's log will not have by chance, the same each time.
fn word(tag: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("causeway console {tag}"));
    data_encoding::HEXLOWER.encode(&digest[..8])
}

/// The script for `request`.
pub(super) fn user_data(tag: &str, request: &RunRequest) -> String {
    let word = word(tag);
    let mut script = format!("#!/bin/sh\n# Causeway's run {tag}. The server switches itself off at the end.\n");
    let chips = request.need.chip_milli.to_string();
    let own = [
        ("CAUSEWAY_TASK", request.key.task.to_string()),
        ("CAUSEWAY_FENCE", request.key.fence.to_string()),
        ("CAUSEWAY_CHIPS", chips),
    ];
    for (name, value) in request.env.iter().map(|(name, value)| (name.as_str(), value.clone())).chain(own) {
        let _ = writeln!(script, "export {name}={}", quoted(&value));
    }
    let command: Vec<String> = request.command.iter().map(|part| quoted(part)).collect();
    let seconds = format!("{}.{:03}", request.max_runtime_ms / 1000, request.max_runtime_ms % 1000);
    let _ = write!(
        script,
        r#"tty=${{CAUSEWAY_CONSOLE:-/dev/console}}
folder=$(mktemp -d) && cd "$folder" || exit 1
now() {{ cut -d ' ' -f 1 /proc/uptime | tr -d .; }}
begun=$(now)
printf '\ncauseway-begin {word}\n' >>"$tty"
timeout -k {GRACE_S} {seconds} {command} >>"$tty" 2>&1
code=$?
printf '\ncauseway-end {word} %s %s\n' "$code" "$(( ($(now) - begun) * 10 ))" >>"$tty"
poweroff
"#,
        command = command.join(" "),
    );
    script
}

/// The script of a run that the one runner reports: nothing of the run is in it but the way to the node's desk.
pub(super) fn runner_data(tag: &str, runner: &str, desk: &DeskTicket) -> String {
    let mut script = format!("#!/bin/sh\n# Causeway's run {tag}. The server switches itself off at the end.\n");
    for (name, value) in desk.variables() {
        let _ = writeln!(script, "export {name}={}", quoted(&value));
    }
    let _ = write!(
        script,
        r#"CAUSEWAY_RUN_DIR=$(mktemp -d) && export CAUSEWAY_RUN_DIR && cd "$CAUSEWAY_RUN_DIR" || exit 1
{runner} >>"${{CAUSEWAY_CONSOLE:-/dev/console}}" 2>&1
poweroff
"#,
        runner = quoted(runner),
    );
    script
}

/// The run's own part of a console, and how it ended; `None` before it began.
pub(super) fn read_console<'a>(tag: &str, console: &'a str) -> Option<(&'a str, Option<ConsoleEnd>)> {
    let word = word(tag);
    let begin = format!("causeway-begin {word}\n");
    // a console keeps its end only: where the beginning is lost, all that is left counts
    let start = console.find(&begin).map(|at| at + begin.len());
    let end = format!("\ncauseway-end {word} ");
    let Some(at) = console.rfind(&end) else {
        return start.map(|start| (&console[start..], None));
    };
    let said = &console[start.unwrap_or(0).min(at)..at];
    let mut numbers = console[at + end.len()..].split_whitespace();
    let exit_code = numbers.next().and_then(|code| code.parse().ok());
    let wall_ms = numbers.next().and_then(|wall| wall.parse().ok());
    let end = exit_code.zip(wall_ms).map(|(exit_code, wall_ms)| ConsoleEnd {
        exit_code,
        // 137 is the kill after it
        timed_out: exit_code == TIMED_OUT,
        usage: Usage { wall_ms, ..Usage::default() },
    });
    Some((said, end))
}
