//! One supervisor: starts the run, keeps its logs, its limits and its lease, and writes how it ended.

use super::child::{self, Child};
use super::logs::LogPump;
use super::{Launch, block, sys};
use crate::contract::{RunEnd, Usage};
use crate::local::clock;
use crate::local::folder::{self, Control, Notice, NoticeState, RunFolder, RunRecord, SupervisorId};
use crate::local::group::RunGroup;
use crate::local::outputs;
use crate::local::pids::{Descent, RunPids};
use cpi::reason::{Reason, ReasonCode};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// How often memory is looked at where no control group limits it.
const MEMORY_LOOK_MS: u64 = 200;
/// How long a new supervisor waits for somebody who only looks at the lock.
const LOCK_TRIES: u32 = 100;
/// How long telling the node may take; it reads the folder anyway.
const NOTICE_TIMEOUT: Duration = Duration::from_millis(500);

/// Supervises the run in the folder `name`, from the forked launcher. Does not return.
pub(super) fn main(launch: &mut Launch, name: &str) -> ! {
    let code = match supervise(launch, name) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("run-supervisor {name}: {error}");
            1
        }
    };
    sys::exit_now(code)
}

fn supervise(launch: &Launch, name: &str) -> io::Result<()> {
    // the launcher's socket must not stay open through us
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::setsid()?;
    prctl::set_child_subreaper(true)?;
    let folder = RunFolder(launch.runs_dir.join(name));
    let Some(_lock) = take_lock(&folder)? else { return Ok(()) };
    let record = folder.read_record()?;
    let mut supervision = match Supervision::begin(launch, name, folder.clone(), record)? {
        Begun::Running(supervision) => supervision,
        Begun::Over => return Ok(()),
    };
    supervision.watch()?;
    supervision.finish()
}

/// Takes the lock of the run. `None` where it has or had a supervisor already: a run is never started twice.
fn take_lock(folder: &RunFolder) -> io::Result<Option<File>> {
    let mut lock = File::options().create(true).read(true).append(true).open(folder.path(folder::LOCK))?;
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Ok(()) => {
                if lock.metadata()?.len() > 0 {
                    return Ok(None);
                }
                lock.write_all(&serde_json::to_vec(&SupervisorId::own()).map_err(io::Error::other)?)?;
                return Ok(Some(lock));
            }
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

enum Begun<'a> {
    Running(Box<Supervision<'a>>),
    Over,
}

struct Supervision<'a> {
    launch: &'a Launch,
    name: &'a str,
    folder: RunFolder,
    record: RunRecord,
    group: Option<RunGroup>,
    control: UnixDatagram,
    signals: SignalFd,
    timer: TimerFd,
    logs: [LogPump; 2],
    main: Pid,
    status: Option<WaitStatus>,
    /// Why the supervisor itself ended the run.
    cause: Option<Reason>,
    started_ms: u64,
    time_limit_ms: u64,
    lease_until_ms: u64,
    /// A polite signal was sent; the kill follows then.
    kill_at_ms: Option<u64>,
    frozen: bool,
    /// Frozen by SIGSTOP, because no freezer was there.
    stopped: bool,
}

impl<'a> Supervision<'a> {
    fn begin(launch: &'a Launch, name: &'a str, folder: RunFolder, record: RunRecord) -> io::Result<Begun<'a>> {
        let started_ms = clock::boot_ms();
        let request = &record.request;
        // relative to the runs folder, where this process stands: socket names hold 107 bytes only
        let control = UnixDatagram::bind(std::path::Path::new(name).join(folder::CONTROL))?;
        control.set_nonblocking(true)?;
        let signals = block(Signal::SIGCHLD)?;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let failed = |code: ReasonCode, detail: String| -> io::Result<Begun<'a>> {
            let end = RunEnd {
                exit_code: None,
                signal: None,
                reason: Some(Reason::new(code, detail)),
                usage: Usage::default(),
                outputs: Vec::new(),
            };
            folder.write_end(&end)?;
            tell(name, NoticeState::Ended);
            Ok(Begun::Over)
        };
        if !launch.sandbox.isolates() {
            return failed(
                ReasonCode::StartFailed,
                "this machine does not isolate runs as far as is required; see the adapter's notes".to_owned(),
            );
        }
        if let Ok(Control::Cancel { .. }) = folder::read_json(&folder.path(folder::CANCEL)) {
            return failed(ReasonCode::Cancelled, "before it began".to_owned());
        }
        let group = launch.controllers.group_of(name);
        if let Some(group) = &group
            && let Err(error) = group.create(&launch.controllers, &request.need, launch.settings.processes_max)
        {
            group.delete();
            return failed(ReasonCode::StartFailed, format!("no control group could be made: {error}"));
        }
        let (out, out_end) = LogPump::open(&folder.path(folder::STDOUT), launch.settings.log_bytes_max)?;
        let (err, err_end) = LogPump::open(&folder.path(folder::STDERR), launch.settings.log_bytes_max)?;
        if let Some(uid) = record.uid {
            // so that the run may open /dev/stdout
            for end in [&out_end, &err_end] {
                nix::unistd::fchown(end, Some(uid.into()), Some(uid.into()))?;
            }
        }
        let (work, tmp) = (folder.path(folder::WORK), folder.path(folder::TMP));
        let (failure, failure_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let supervisor = nix::unistd::getpid();
        let main = match sys::fork()? {
            Some(pid) => pid,
            None => {
                drop((failure, control, timer, out, err));
                let error = child::exec(Child {
                    request,
                    uid: record.uid,
                    work: &work,
                    tmp: &tmp,
                    group: group.as_ref(),
                    sandbox: &launch.sandbox,
                    processes_max: launch.settings.processes_max,
                    supervisor,
                    stdout: out_end,
                    stderr: err_end,
                });
                let _ = File::from(failure_end).write_all(error.to_string().as_bytes());
                sys::exit_now(127)
            }
        };
        drop((out_end, err_end));
        if let Some(why) = failure_of(failure, failure_end) {
            let _ = waitpid(main, None);
            if let Some(group) = &group {
                group.delete();
            }
            return failed(ReasonCode::StartFailed, why);
        }
        let time_limit_ms = started_ms.saturating_add(request.max_runtime_ms);
        let lease_until_ms = started_ms.saturating_add(request.lease_ttl_ms);
        tell(name, NoticeState::Running);
        Ok(Begun::Running(Box::new(Self {
            launch,
            name,
            folder,
            record,
            group,
            control,
            signals,
            timer,
            logs: [out, err],
            main,
            status: None,
            cause: None,
            started_ms,
            time_limit_ms,
            lease_until_ms,
            kill_at_ms: None,
            frozen: false,
            stopped: false,
        })))
    }

    /// Waits and acts until the main process has ended.
    fn watch(&mut self) -> io::Result<()> {
        // a cancel may have come between the look at its file and the socket's birth
        if let Ok(Control::Cancel { grace_ms }) = folder::read_json(&self.folder.path(folder::CANCEL)) {
            self.stop(ReasonCode::Cancelled, "by its owner", grace_ms);
        }
        self.reap();
        while self.status.is_none() {
            self.arm()?;
            let mut fds = vec![
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(self.logs.iter().filter_map(LogPump::source).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            drop(fds);
            while let Ok(Some(_)) = self.signals.read_signal() {}
            let _ = self.timer.wait();
            for log in &mut self.logs {
                log.pump();
            }
            self.hear();
            self.reap();
            if self.status.is_none() {
                self.judge_time();
            }
        }
        Ok(())
    }

    fn arm(&self) -> io::Result<()> {
        let lease = (self.record.request.freeze_on_lapse && !self.frozen).then_some(self.lease_until_ms);
        // the time limit has done its work once a kill is planned
        let limit = self.kill_at_ms.is_none().then_some(self.time_limit_ms);
        let look = (!self.limits_memory()).then(|| clock::boot_ms() + MEMORY_LOOK_MS);
        let next = [lease, limit, self.kill_at_ms, look].into_iter().flatten().min();
        match next {
            Some(at) => {
                let at = TimeSpec::milliseconds(i64::try_from(at.max(1)).unwrap_or(i64::MAX / 2_000_000));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        Ok(())
    }

    fn limits_memory(&self) -> bool {
        self.group.is_some() && self.launch.controllers.limits_memory()
    }

    fn judge_time(&mut self) {
        let now = clock::boot_ms();
        if self.kill_at_ms.is_some_and(|at| now >= at) {
            self.pids().kill_all();
            // what is left lingers in the kernel; look again, not at once
            self.kill_at_ms = Some(now + 100);
        } else if self.kill_at_ms.is_none() && now >= self.time_limit_ms {
            let detail = format!("{} ms", self.record.request.max_runtime_ms);
            self.stop(ReasonCode::TimeLimit, &detail, self.launch.settings.time_limit_grace_ms);
        } else if self.record.request.freeze_on_lapse && !self.frozen && now >= self.lease_until_ms {
            self.freeze();
        }
        let memory_bytes = self.record.request.need.memory_bytes;
        if !self.limits_memory() && memory_bytes > 0 && self.kill_at_ms.is_none() {
            let held = self.pids().resident_bytes();
            if held > memory_bytes {
                self.cause = Some(Reason::new(ReasonCode::Oom, format!("{held} bytes of {memory_bytes}")));
                self.kill_at_ms = Some(now);
                self.pids().kill_all();
            }
        }
    }

    /// Reads what the node says.
    fn hear(&mut self) {
        let mut buffer = [0; 256];
        while let Ok(count) = self.control.recv(&mut buffer) {
            match serde_json::from_slice(&buffer[..count]) {
                Ok(Control::Renew { ttl_ms }) => {
                    self.lease_until_ms = clock::boot_ms().saturating_add(ttl_ms);
                    self.thaw(true);
                }
                Ok(Control::Cancel { grace_ms }) => self.stop(ReasonCode::Cancelled, "by its owner", grace_ms),
                Err(_) => {}
            }
        }
    }

    fn pids(&self) -> RunPids<'_> {
        RunPids {
            group: self.group.as_ref(),
            uid: self.record.uid,
            descent: Descent::Of(nix::unistd::getpid().as_raw()),
        }
    }

    fn freeze(&mut self) {
        if let Some(group) = &mut self.group {
            self.stopped = group.freeze().is_err();
        } else {
            self.stopped = true;
        }
        if self.stopped {
            self.pids().signal(Signal::SIGSTOP);
        }
        self.frozen = true;
        tell(self.name, NoticeState::Frozen);
    }

    fn thaw(&mut self, say: bool) {
        if !self.frozen {
            return;
        }
        if self.stopped {
            self.pids().signal(Signal::SIGCONT);
        } else if let Some(group) = &self.group {
            group.thaw();
        }
        self.frozen = false;
        self.stopped = false;
        if say {
            tell(self.name, NoticeState::Running);
        }
    }

    /// Ends the run: politely, and by force after `grace_ms`. The first cause stays.
    fn stop(&mut self, code: ReasonCode, detail: &str, grace_ms: u64) {
        let at = clock::boot_ms().saturating_add(grace_ms);
        if self.cause.is_some() {
            self.kill_at_ms = self.kill_at_ms.map(|earlier| earlier.min(at));
            return;
        }
        self.cause = Some(Reason::new(code, detail));
        self.kill_at_ms = Some(at);
        if grace_ms > 0 {
            self.pids().signal(Signal::SIGTERM);
        } else {
            self.pids().kill_all();
        }
        self.thaw(false);
        // it must not freeze again on its way out
        self.lease_until_ms = u64::MAX;
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) if status.pid() == Some(self.main) => {
                    if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                        self.status = Some(status);
                    }
                }
                Ok(_) => {}
            }
        }
    }

    /// Ends what the main process left behind, gathers logs and outputs, writes the end.
    fn finish(&mut self) -> io::Result<()> {
        self.reap();
        self.pids().kill_all();
        self.reap();
        for log in &mut self.logs {
            log.drain();
        }
        let end = self.end();
        let written = self.folder.write_end(&end);
        tell(self.name, NoticeState::Ended);
        if let Some(group) = &self.group {
            group.delete();
        }
        written
    }

    fn end(&self) -> RunEnd {
        let (exit_code, signal) = match self.status {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal)),
            _ => (None, None),
        };
        let request = &self.record.request;
        let (outputs, missing) = outputs::collect(&self.folder.path(folder::WORK), &request.outputs);
        let failed = exit_code != Some(0);
        let oom_kills = if failed { self.group.as_ref().map_or(0, RunGroup::oom_kills) } else { 0 };
        let reason = self.cause.clone().or_else(|| {
            if failed && oom_kills > 0 {
                Some(Reason::new(ReasonCode::Oom, format!("limit {} bytes", request.need.memory_bytes)))
            } else if let Some(signal) = signal {
                Some(Reason::new(ReasonCode::KilledBySignal, signal.as_str()))
            } else if failed {
                Some(Reason::new(ReasonCode::ExitNonzero, format!("exit code {}", exit_code.unwrap_or(-1))))
            } else if missing.is_empty() {
                None
            } else {
                Some(Reason::new(ReasonCode::OutputMissing, missing.join("; ")))
            }
        });
        let (cpu_ms, resident_peak) = children_usage();
        let memory_peak_bytes = self.group.as_ref().and_then(RunGroup::memory_peak).unwrap_or(resident_peak);
        let wall_ms = clock::boot_ms().saturating_sub(self.started_ms);
        let usage = Usage { wall_ms, cpu_ms, memory_peak_bytes };
        RunEnd { exit_code, signal: signal.map(|signal| signal as i32), reason, usage, outputs }
    }
}

impl Drop for Supervision<'_> {
    fn drop(&mut self) {
        if self.status.is_none() {
            // the supervisor itself failed: nothing of the run may stay behind without one
            let _ = kill(self.main, Signal::SIGKILL);
            self.pids().kill_all();
        }
    }
}

/// Processor time and the largest resident set of all that was waited for.
fn children_usage() -> (u64, u64) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return (0, 0) };
    let cpu = usage.user_time() + usage.system_time();
    let cpu_ms = u64::try_from(cpu.num_milliseconds()).unwrap_or(0);
    (cpu_ms, u64::try_from(usage.max_rss()).unwrap_or(0) * 1024)
}

/// What the child said before it failed to become the program; `None` where it did.
fn failure_of(failure: OwnedFd, theirs: OwnedFd) -> Option<String> {
    drop(theirs);
    let mut text = String::new();
    let _ = File::from(failure).take(4096).read_to_string(&mut text);
    (!text.is_empty()).then_some(text)
}

/// Tells the node, if there is one; the truth is in the folder.
fn tell(name: &str, state: NoticeState) {
    let notice = Notice { run: name.to_owned(), state };
    let Ok(bytes) = serde_json::to_vec(&notice) else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    let _ = socket.set_write_timeout(Some(NOTICE_TIMEOUT));
    // the launcher stands in the runs folder, and so do its children
    let _ = socket.send_to(&bytes, folder::EVENTS);
}
