//! The calls that Rust cannot make safe by itself, each made so by where it is made: the launcher and the supervisors have one
//! thread, so that a fork copies all of the program.
#![allow(unsafe_code, reason = "fork, signal dispositions and _exit, in processes of one thread")]

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

/// Ends this process without the exit handlers of the whole program: a forked copy shares them with its parent and has
/// nothing of its own to clean up.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: files are written through unbuffered descriptors, so nothing is left to flush.
    unsafe { nix::libc::_exit(code) }
}
