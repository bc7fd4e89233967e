//! The two calls that Rust cannot make safe by itself, each made where it is: the launcher and the supervisors have one
//! thread, so that a fork copies all of the program.
#![allow(unsafe_code, reason = "fork and signal dispositions, in processes of one thread")]

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid};

/// Forks; `None` in the child.
pub(super) fn fork() -> nix::Result<Option<Pid>> {
    // SAFETY: only called by processes of one thread (`supervisor::main` starts none), so no lock of another thread can be
    // held for ever in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Gives a signal its default meaning back; Rust ignores SIGPIPE, and programs inherit that.
pub(super) fn default_signal(which: Signal) {
    // SAFETY: SIG_DFL runs no code of ours.
    let _ = unsafe { signal(which, SigHandler::SigDfl) };
}
