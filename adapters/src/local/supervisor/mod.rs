//! The launcher and, forked from it, one supervisor per run. No threads, no runtime, no poll without an event.
//!
//! `main` is reached before the product sets anything else up. It reads its settings and then folder names from its
//! standard input, a socket to the node; it ends when the node does. Supervisors do not: see `run`.

mod child;
mod logs;
mod run;
mod sandbox;
mod sys;

use super::folder::{Notice, NoticeState};
use super::group::Controllers;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the node tells its launcher first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchSettings {
    pub cgroup_parent: String,
    pub read_paths: Vec<PathBuf>,
    pub isolation_required: bool,
    pub log_bytes_max: u64,
    pub processes_max: u32,
    pub time_limit_grace_ms: u64,
}

/// What the launcher answers: how runs are held here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchHello {
    /// Whether runs can be kept from the node's files at all.
    pub isolates: bool,
    pub notes: Vec<String>,
}

/// All that a supervisor needs to know beside its folder.
struct Launch {
    settings: LaunchSettings,
    runs_dir: PathBuf,
    controllers: Controllers,
    sandbox: sandbox::Sandbox,
}

/// Entry of the hidden subcommand `run-supervisor RUNS_DIR`. Standard input is the socket to the node.
pub fn main(runs_dir: &Path) -> ExitCode {
    match launch(runs_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("run-supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn launch(runs_dir: &Path) -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // a terminal's Ctrl-C belongs to the node
    let _ = nix::unistd::setsid();
    std::env::set_current_dir(runs_dir)?;
    let signals = block(Signal::SIGCHLD)?;
    let mut lines = Lines::default();
    let Some(first) = lines.read_blocking(&mut socket)? else { return Ok(()) };
    let settings: LaunchSettings = serde_json::from_str(&first).map_err(io::Error::other)?;
    let controllers = Controllers::detect(&settings.cgroup_parent);
    let sandbox = sandbox::Sandbox::prepare(&settings.read_paths, settings.isolation_required);
    let mut notes = vec![controllers.describe()];
    notes.extend(sandbox.describe());
    if let Some(group) = controllers.group_of(".supervisors") {
        // outside the node's own group; limits would hold for all supervisors together, so none are set
        if group.create_unlimited(&controllers).and_then(|()| group.add(std::process::id() as i32)).is_err() {
            notes.push("supervisors stay in the node's control group".to_owned());
        }
    }
    let hello = LaunchHello { isolates: sandbox.isolates(), notes };
    say(&mut socket, &hello)?;
    let mut launch = Launch { settings, runs_dir: runs_dir.to_owned(), controllers, sandbox };
    let mut living: BTreeMap<Pid, String> = BTreeMap::new();
    socket.set_nonblocking(true)?;
    loop {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        for name in reap(&mut living) {
            // the node may be gone already; then there is nobody to tell
            let _ = say(&mut socket, &Notice { run: name, state: NoticeState::Gone });
        }
        let open = lines.fill(&mut socket)?;
        while let Some(name) = lines.next() {
            match sys::fork() {
                Ok(Some(pid)) => {
                    living.insert(pid, name);
                }
                Ok(None) => {
                    drop((socket, signals, living));
                    run::main(&mut launch, &name);
                }
                Err(_) => say(&mut socket, &Notice { run: name, state: NoticeState::Gone })?,
            }
        }
        if !open {
            return Ok(());
        }
    }
}

/// Collects dead supervisors; the names of those that did not end in order.
fn reap(living: &mut BTreeMap<Pid, String>) -> Vec<String> {
    let mut gone = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, 0)) => {
                living.remove(&pid);
            }
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => gone.extend(living.remove(&pid)),
            Ok(WaitStatus::StillAlive) | Err(_) => return gone,
            Ok(_) => {}
        }
    }
}

/// Turns signals into something to poll.
fn block(which: Signal) -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(which);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn say<T: Serialize>(socket: &mut UnixStream, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::NONE)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lines out of a socket.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    fn next(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line = self.buffer.drain(..=end).take(end).collect();
        String::from_utf8(line).ok()
    }

    /// Reads what is there; `false` at the end.
    fn fill(&mut self, socket: &mut UnixStream) -> io::Result<bool> {
        let mut chunk = [0; 16 << 10];
        loop {
            match socket.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn read_blocking(&mut self, socket: &mut UnixStream) -> io::Result<Option<String>> {
        let mut chunk = [0; 4 << 10];
        loop {
            if let Some(line) = self.next() {
                return Ok(Some(line));
            }
            match socket.read(&mut chunk)? {
                0 => return Ok(None),
                count => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }
}
