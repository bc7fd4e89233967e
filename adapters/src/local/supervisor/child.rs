//! From the fork to the program: the process gives up, one after the other, everything that the program must not have.

use super::sandbox::{self, Sandbox};
use super::sys;
use crate::contract::RunRequest;
use crate::local::group::RunGroup;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{self, Gid, Pid, Uid};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where programs are looked for unless the task says otherwise.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the child needs; the pipe ends are moved in.
pub(super) struct Child<'a> {
    pub request: &'a RunRequest,
    pub uid: Option<u32>,
    pub work: &'a Path,
    pub tmp: &'a Path,
    pub group: Option<&'a RunGroup>,
    pub sandbox: &'a Sandbox,
    pub processes_max: u32,
    pub supervisor: Pid,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A step that failed and why.
pub(super) struct ChildError {
    step: String,
    error: io::Error,
}

impl std::fmt::Display for ChildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

trait Step<T> {
    fn step(self, what: &str) -> Result<T, ChildError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: &str) -> Result<T, ChildError> {
        self.map_err(|error| ChildError { step: what.to_owned(), error: error.into() })
    }
}

/// Becomes the program. Returns only where that failed.
pub(super) fn exec(child: Child<'_>) -> ChildError {
    match prepare_and_exec(child) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn prepare_and_exec(child: Child<'_>) -> Result<std::convert::Infallible, ChildError> {
    unistd::setsid().step("own session")?;
    let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).step("/dev/null")?;
    unistd::dup2_stdin(&null).step("standard input")?;
    unistd::dup2_stdout(&child.stdout).step("standard output")?;
    unistd::dup2_stderr(&child.stderr).step("standard error")?;
    if let Some(group) = child.group {
        group.add(unistd::getpid().as_raw()).step("control group")?;
    }
    // when the machine runs out of memory, runs go before the node does
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    limit_resources(&child)?;
    let here = child.sandbox.enter_view(child.work, child.tmp).step("own view of the file system")?;
    // before the run's folder is entered: a new view may replace what the path leads to
    let namespace = child.uid.is_none().then(|| sandbox::enter_user_namespace(child.work, child.tmp)).flatten();
    // counted per user id and user namespace, so it can only be used where the run has one of them to itself
    if child.uid.is_some() || namespace.is_some() {
        set_limit(Resource::RLIMIT_NPROC, u64::from(child.processes_max), "limit of processes")?;
    }
    let own_tmp = here != child.work || namespace.is_some_and(|namespace| namespace.own_tmp);
    let tmp = if own_tmp { PathBuf::from("/tmp") } else { child.tmp.to_owned() };
    unistd::chdir(&here).step("the run's folder")?;
    prctl::set_no_new_privs().step("no new privileges")?;
    child.sandbox.close(&[&here, &tmp]).step("Landlock")?;
    if let Some(uid) = child.uid {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        unistd::setgroups(&[]).step("groups")?;
        unistd::setresgid(group, group, group).step("group id")?;
        unistd::setresuid(user, user, user).step("user id")?;
    }
    // forgotten at a change of the user id, so it comes after it
    prctl::set_pdeathsig(Signal::SIGKILL).step("death signal")?;
    if unistd::getppid() != child.supervisor {
        return Err(io::Error::other("it died before the run began")).step("supervisor");
    }
    sys::default_signal(Signal::SIGPIPE);
    SigSet::empty().thread_set_mask().step("signal mask")?;
    let environment = environment(child.request, &here, &tmp);
    exec_program(&child.request.command, &environment)
}

fn limit_resources(child: &Child<'_>) -> Result<(), ChildError> {
    set_limit(Resource::RLIMIT_CORE, 0, "limit of core files")?;
    // one file cannot be larger than all of the scratch storage
    if child.request.need.storage_bytes > 0 {
        set_limit(Resource::RLIMIT_FSIZE, child.request.need.storage_bytes, "limit of file sizes")?;
    }
    Ok(())
}

fn set_limit(resource: Resource, value: u64, what: &str) -> Result<(), ChildError> {
    let (_, hard) = getrlimit(resource).step(what)?;
    let value = rlim_t::min(value, hard);
    setrlimit(resource, value, value).step(what)
}

fn environment(request: &RunRequest, work: &Path, tmp: &Path) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), PATH_DEFAULT.to_owned()),
        ("HOME".to_owned(), work.display().to_string()),
        ("PWD".to_owned(), work.display().to_string()),
        ("TMPDIR".to_owned(), tmp.display().to_string()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    environment.extend(request.env.clone());
    environment.insert("CAUSEWAY_TASK".to_owned(), request.key.task.to_string());
    environment.insert("CAUSEWAY_FENCE".to_owned(), request.key.fence.to_string());
    environment.insert("CAUSEWAY_CHIPS".to_owned(), chips(request.need.chip_milli));
    environment
}

/// Thousandths of a chip as a decimal: `8`, `0.25`.
fn chips(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn exec_program(
    command: &[String],
    environment: &BTreeMap<String, String>,
) -> Result<std::convert::Infallible, ChildError> {
    let text = |text: &str| CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let program = command.first().map(String::as_str).unwrap_or_default();
    let arguments: Vec<CString> = command.iter().map(|part| text(part)).collect::<Result<_, _>>().step(program)?;
    let environment_texts: Vec<CString> = environment
        .iter()
        .map(|(name, value)| text(&format!("{name}={value}")))
        .collect::<Result<_, _>>()
        .step(program)?;
    let try_exec = |path: &str| -> Result<std::convert::Infallible, io::Error> {
        unistd::execve(&text(path)?, &arguments, &environment_texts).map_err(io::Error::from)
    };
    if program.contains('/') {
        return try_exec(program).step(program);
    }
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for folder in environment.get("PATH").map_or(PATH_DEFAULT, String::as_str).split(':') {
        let Err(this) = try_exec(&format!("{}/{program}", if folder.is_empty() { "." } else { folder }));
        // a program that is there and may not be run says more than one that is not there
        if this.kind() != io::ErrorKind::NotFound && this.kind() != io::ErrorKind::NotADirectory {
            error = this;
        }
    }
    Err(error).step(program)
}

#[cfg(test)]
mod tests {
    #[test]
    fn chips_read_as_decimals() {
        assert_eq!([8000, 250, 0, 1500, 1].map(super::chips), ["8", "0.25", "0", "1.5", "0.001"]);
    }
}
