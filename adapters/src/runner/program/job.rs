//! The command and what is kept of it: logs, limits, the lease, the end.

use super::spool::Spool;
use crate::contract::RunOutput;
use crate::local::outputs;
use crate::local::pids::{Descent, RunPids};
use crate::runner::proto;
use cpi::reason::{Reason, ReasonCode};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike as _;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Between the polite signal and the kill when the time is over.
const TIME_LIMIT_GRACE: Duration = Duration::from_secs(5);
/// Likewise when the platform wants the job to end; platforms kill after a few seconds themselves.
const PLATFORM_GRACE: Duration = Duration::from_secs(1);
/// How often memory is looked at, where there is a limit.
const MEMORY_LOOK: Duration = Duration::from_millis(500);
/// How long a pipe that something unkillable holds open is waited for after the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// Where programs are looked for unless platform or task say otherwise.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the desk asks of the command.
pub(super) enum Wish {
    Renew(Duration),
    Cancel(Duration),
    /// Kill it; nobody wants to know.
    Abandon,
}

/// Where the command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Running,
    Frozen,
    Ended,
}

/// The command from its start on.
pub(super) struct Job {
    wishes: mpsc::UnboundedSender<Wish>,
    pub order: proto::Order,
    pub logs: Vec<Spool>,
    pub work: PathBuf,
    /// Counts changes of anything that the desk wants to know.
    pub changed: watch::Receiver<u64>,
    stand: watch::Receiver<Stand>,
    end: Arc<Mutex<Option<Ended>>>,
    watching: JoinHandle<()>,
}

/// The end, kept until it is reported.
#[derive(Clone)]
pub(super) struct Ended {
    pub end: proto::End,
    pub at: Instant,
    /// The platform ended it, and knows better why.
    pub by_platform: bool,
}

impl Job {
    /// Starts the command in `folder`, where the inputs lie in `work`. A command that cannot be started has ended.
    pub fn start(folder: &Path, order: proto::Order, lease: Option<Duration>) -> Self {
        let (wishes, heard) = mpsc::unbounded_channel();
        let (told, changed) = watch::channel(0_u64);
        let told = Arc::new(told);
        let (standing, stand) = watch::channel(Stand::Running);
        let end = Arc::new(Mutex::new(None));
        let work = folder.join("work");
        let started = Instant::now();
        let mut logs = Vec::new();
        let watching = match launch(folder, &order, &told) {
            Ok((child, spools, pumps)) => {
                logs = spools;
                let lease = lease.unwrap_or(Duration::from_millis(order.lease_ttl_ms));
                let watcher = Watcher {
                    child,
                    order: order.clone(),
                    work: work.clone(),
                    started,
                    heard,
                    standing,
                    told,
                    end: Arc::clone(&end),
                    lease_until: started.checked_add(lease),
                    kill_at: None,
                    cause: None,
                    by_platform: false,
                };
                tokio::spawn(watcher.watch(pumps))
            }
            Err(error) => {
                let program = order.command.first().cloned().unwrap_or_default();
                let reason = Reason::new(ReasonCode::StartFailed, format!("{program}: {error}"));
                finish(&end, &standing, &told, end_of(None, Some(reason), started, Vec::new()), false);
                tokio::spawn(async {})
            }
        };
        Self { wishes, order, logs, work, changed, stand, end, watching }
    }

    /// A job that ended before its command began.
    pub fn never(order: proto::Order, reason: Reason) -> Self {
        let (wishes, _) = mpsc::unbounded_channel();
        let (told, changed) = watch::channel(0_u64);
        let (standing, stand) = watch::channel(Stand::Running);
        let end = Arc::new(Mutex::new(None));
        finish(&end, &standing, &told, end_of(None, Some(reason), Instant::now(), Vec::new()), false);
        Self {
            wishes,
            order,
            logs: Vec::new(),
            work: PathBuf::new(),
            changed,
            stand,
            end,
            watching: tokio::spawn(async {}),
        }
    }

    pub fn wish(&self, wish: Wish) {
        // one that ended has no ear
        let _ = self.wishes.send(wish);
    }

    pub fn stand(&self) -> Stand {
        *self.stand.borrow()
    }

    pub fn end(&self) -> Option<Ended> {
        crate::host::lock(&self.end).clone()
    }

    pub fn ended_for(&self) -> Option<Duration> {
        self.end().map(|ended| ended.at.elapsed())
    }

    pub fn linger(&self) -> Duration {
        Duration::from_millis(self.order.linger_ms)
    }

    /// Kills the command.
    pub async fn abandon(self) {
        self.wish(Wish::Abandon);
        let _ = self.watching.await;
    }

    /// What the job's own exit code is to be.
    pub fn exit_code(&self) -> u8 {
        match self.end().map(|ended| ended.end) {
            Some(proto::End { exit_code: Some(0), reason_code, .. }) if !reason_code.is_empty() => 1,
            Some(proto::End { exit_code: Some(code), .. }) => u8::try_from(code).unwrap_or(1),
            Some(proto::End { signal: Some(signal), .. }) => u8::try_from(128 + signal).unwrap_or(1),
            _ => 1,
        }
    }
}

type Launched = (Child, Vec<Spool>, Vec<JoinHandle<()>>);

fn launch(folder: &Path, order: &proto::Order, told: &Arc<watch::Sender<u64>>) -> std::io::Result<Launched> {
    let (work, tmp) = (folder.join("work"), folder.join("tmp"));
    std::fs::create_dir_all(&tmp)?;
    let program = order.command.first().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| std::io::Error::other("the order names no program"))?;
    let mut command = Command::new(program);
    for name in
        [super::URL_VARIABLE, super::TOKEN_VARIABLE, super::CA_VARIABLE, super::RUN_VARIABLE, super::DIR_VARIABLE]
    {
        command.env_remove(name);
    }
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", PATH_DEFAULT);
    }
    let mut child = command
        .args(&order.command[1..])
        .env("HOME", &work)
        .env("PWD", &work)
        .env("TMPDIR", &tmp)
        .env("LANG", "C.UTF-8")
        .envs(&order.env)
        .current_dir(&work)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let missing = || std::io::Error::other("no pipe");
    let (out, err) = (child.stdout.take().ok_or_else(missing)?, child.stderr.take().ok_or_else(missing)?);
    let (out, out_pump) = Spool::start(folder.join("stdout"), order.log_bytes_max, out, Arc::clone(told))?;
    let (err, err_pump) = Spool::start(folder.join("stderr"), order.log_bytes_max, err, Arc::clone(told))?;
    Ok((child, vec![out, err], vec![out_pump, err_pump]))
}

struct Watcher {
    child: Child,
    order: proto::Order,
    work: PathBuf,
    started: Instant,
    heard: mpsc::UnboundedReceiver<Wish>,
    standing: watch::Sender<Stand>,
    told: Arc<watch::Sender<u64>>,
    end: Arc<Mutex<Option<Ended>>>,
    /// `None` for never.
    lease_until: Option<Instant>,
    kill_at: Option<Instant>,
    cause: Option<Reason>,
    by_platform: bool,
}

fn pids() -> RunPids<'static> {
    RunPids { group: None, uid: None, descent: Descent::Of(nix::unistd::getpid().as_raw()) }
}

impl Watcher {
    async fn watch(mut self, pumps: Vec<JoinHandle<()>>) {
        // a platform that ends a job says so first
        let mut terminate = signal(SignalKind::terminate()).ok();
        let limit = self.started.checked_add(Duration::from_millis(self.order.max_runtime_ms));
        let status = loop {
            let lease = self.lease_until.filter(|_| self.order.freeze_on_lapse && !self.is_frozen());
            let limit = limit.filter(|_| self.kill_at.is_none());
            let look = (self.order.memory_bytes > 0).then(|| Instant::now() + MEMORY_LOOK);
            let next = [lease, limit, self.kill_at, look].into_iter().flatten().min();
            let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                status = self.child.wait() => break status.ok(),
                wish = self.heard.recv() => self.heed(wish.unwrap_or(Wish::Abandon)),
                () = tokio::time::sleep_until(next.into()) => self.judge(limit),
                true = asked_to_end(terminate.as_mut()) => {
                    self.by_platform = true;
                    self.stop(Reason::new(ReasonCode::RunLost, "its platform ended the job"), PLATFORM_GRACE);
                }
            }
        };
        // what it left behind, and then what that wrote
        let _ = tokio::task::spawn_blocking(|| pids().kill_all()).await;
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        let _ = tokio::time::timeout(DRAIN_WITHIN, futures::future::join_all(pumps)).await;
        let (work, wanted) = (self.work.clone(), self.order.outputs.clone());
        let collect = move || {
            let wanted: Vec<RunOutput> =
                wanted.into_iter().map(|output| RunOutput { path: output.path, optional: output.optional }).collect();
            let (found, missing) = outputs::collect(&work, &wanted);
            let index = |path: &str| wanted.iter().position(|output| output.path == path).unwrap_or(0);
            let found = found.into_iter().map(|output| proto::OutputFound {
                index: u32::try_from(index(&output.path)).unwrap_or(0),
                digest: output.digest.0.to_vec(),
                size_bytes: output.size_bytes,
            });
            (found.collect::<Vec<_>>(), missing)
        };
        let (found, missing) = tokio::task::spawn_blocking(collect).await.unwrap_or_default();
        let reason = self.cause.clone().or_else(|| reason_of(status, &missing));
        finish(&self.end, &self.standing, &self.told, end_of(status, reason, self.started, found), self.by_platform);
    }

    fn is_frozen(&self) -> bool {
        *self.standing.borrow() == Stand::Frozen
    }

    fn stand(&self, stand: Stand) {
        self.standing.send_replace(stand);
        self.told.send_modify(|count| *count += 1);
    }

    fn heed(&mut self, wish: Wish) {
        match wish {
            Wish::Renew(ttl) => {
                if self.kill_at.is_none() {
                    self.lease_until = Instant::now().checked_add(ttl);
                    self.thaw();
                }
            }
            Wish::Cancel(grace) => self.stop(Reason::new(ReasonCode::Cancelled, "by its owner"), grace),
            Wish::Abandon => self.stop(Reason::new(ReasonCode::Fenced, "nobody wants it"), Duration::ZERO),
        }
    }

    fn judge(&mut self, limit: Option<Instant>) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| now >= at) {
            pids().kill_all();
            self.kill_at = Some(now + Duration::from_millis(100));
        } else if limit.is_some_and(|at| now >= at) {
            let detail = format!("{} ms", self.order.max_runtime_ms);
            self.stop(Reason::new(ReasonCode::TimeLimit, detail), TIME_LIMIT_GRACE);
        } else if self.order.freeze_on_lapse && !self.is_frozen() && self.lease_until.is_some_and(|at| now >= at) {
            // twice: a fork may have been under way
            pids().signal(Signal::SIGSTOP);
            pids().signal(Signal::SIGSTOP);
            self.stand(Stand::Frozen);
        }
        let limit_bytes = self.order.memory_bytes;
        if limit_bytes > 0 && self.kill_at.is_none() {
            let held = pids().resident_bytes();
            if held > limit_bytes {
                self.stop(Reason::new(ReasonCode::Oom, format!("{held} bytes of {limit_bytes}")), Duration::ZERO);
            }
        }
    }

    /// Ends the command: politely, and by force after `grace`. The first cause stays.
    fn stop(&mut self, cause: Reason, grace: Duration) {
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        if self.cause.is_none() {
            self.cause = Some(cause);
            if !grace.is_zero() {
                pids().signal(Signal::SIGTERM);
            }
        }
        if grace.is_zero() {
            pids().kill_all();
        }
        // a stopped process hears no polite signal, and must not be stopped again on its way out
        self.lease_until = None;
        self.thaw();
    }

    fn thaw(&self) {
        if self.is_frozen() {
            pids().signal(Signal::SIGCONT);
            self.stand(Stand::Running);
        }
    }
}

async fn asked_to_end(terminate: Option<&mut tokio::signal::unix::Signal>) -> bool {
    match terminate {
        Some(terminate) => terminate.recv().await.is_some(),
        None => std::future::pending().await,
    }
}

fn finish(
    end: &Mutex<Option<Ended>>,
    standing: &watch::Sender<Stand>,
    told: &watch::Sender<u64>,
    ended: proto::End,
    by_platform: bool,
) {
    *crate::host::lock(end) = Some(Ended { end: ended, at: Instant::now(), by_platform });
    standing.send_replace(Stand::Ended);
    told.send_modify(|count| *count += 1);
}

fn reason_of(status: Option<ExitStatus>, missing: &[String]) -> Option<Reason> {
    let Some(status) = status else { return Some(Reason::new(ReasonCode::Internal, "its end cannot be read")) };
    if let Some(number) = status.signal() {
        let name = Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned());
        return Some(Reason::new(ReasonCode::KilledBySignal, name));
    }
    match status.code() {
        Some(0) if missing.is_empty() => None,
        Some(0) => Some(Reason::new(ReasonCode::OutputMissing, missing.join("; "))),
        code => Some(Reason::new(ReasonCode::ExitNonzero, format!("exit code {}", code.unwrap_or(-1)))),
    }
}

fn end_of(
    status: Option<ExitStatus>,
    reason: Option<Reason>,
    started: Instant,
    outputs: Vec<proto::OutputFound>,
) -> proto::End {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
    let cpu_ms = usage.map_or(0, |usage| (usage.user_time() + usage.system_time()).num_milliseconds());
    proto::End {
        exit_code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        reason_code: reason.as_ref().map(|reason| reason.code.code().to_owned()).unwrap_or_default(),
        reason_detail: reason.map(|reason| reason.detail).unwrap_or_default(),
        wall_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        cpu_ms: u64::try_from(cpu_ms).unwrap_or(0),
        memory_peak_bytes: usage.map_or(0, |usage| u64::try_from(usage.max_rss()).unwrap_or(0) * 1024),
        outputs,
    }
}
