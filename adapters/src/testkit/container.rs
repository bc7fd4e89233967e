//! One container as a process of this machine: its command, its log, its control group, its end.

use crate::local::group::{Controllers, RunGroup};
use cpi::resource::Quantity;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// Where programs without a path are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is run.
#[derive(Debug, Clone)]
pub(super) struct ContainerSpec {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Where it runs; its log lies beside.
    pub folder: PathBuf,
    pub memory_bytes: Option<u64>,
    pub cpu_milli: Option<u64>,
}

/// A running container.
pub(super) struct Container {
    child: Child,
    pid: Pid,
    group: Option<RunGroup>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub exit_code: i32,
    pub oom: bool,
}

/// `text` with the variables of Kubernetes (`$(NAME)`, and `$$` for one dollar).
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(more) = after.strip_prefix('$') {
            out.push('$');
            rest = more;
        } else if let Some((name, more)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = more;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Whether the program can be found.
pub(super) fn program_exists(name: &str, folder: &Path) -> bool {
    if name.contains('/') {
        return folder.join(name).is_file();
    }
    PATH.split(':').any(|place| Path::new(place).join(name).is_file())
}

impl Container {
    /// Starts it in a control group with its limits, where this machine has any.
    pub fn start(spec: &ContainerSpec, controllers: &Controllers, id: &str) -> io::Result<Self> {
        let group = controllers.group_of(id);
        let mut join = String::new();
        if let Some(group) = &group {
            let need = Quantity {
                cpu_milli: spec.cpu_milli.unwrap_or(1_000_000),
                memory_bytes: spec.memory_bytes.unwrap_or(1 << 50),
                ..Quantity::default()
            };
            group.create(controllers, &need, 4096)?;
            for file in group.procs_files() {
                join.push_str(&format!("echo $$ > '{}' && ", file.display()));
            }
        }
        let log = File::options().create(true).append(true).open(spec.folder.join("log"))?;
        let work = spec.folder.join("work");
        std::fs::create_dir_all(&work)?;
        // the shell enters the group before the command is there
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("{join}exec \"$@\""), "sh"])
            .args(&spec.command)
            .env_clear()
            .env("PATH", PATH)
            .envs(&spec.env)
            .current_dir(&work)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { child, pid, group })
    }

    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// A polite signal to all of it.
    pub fn terminate(&self) {
        let _ = killpg(self.pid, Signal::SIGTERM);
    }

    /// Kills all of it; returns when the first process is gone.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.child.wait().await
    }

    /// What is left of it ends too, as in a container; and what its end was.
    pub async fn end(self, status: ExitStatus) -> Ended {
        let _ = killpg(self.pid, Signal::SIGKILL);
        let mut oom = false;
        if let Some(group) = self.group {
            oom = group.oom_kills() > 0;
            for _ in 0..500 {
                let left = group.pids();
                if left.is_empty() {
                    break;
                }
                for pid in left {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let _ = tokio::task::spawn_blocking(move || group.delete()).await;
        }
        let exit_code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
        Ended { exit_code, oom: oom && exit_code == 137 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_a_kubelet_does() {
        let env = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
        for (text, expected) in [
            ("$(A)", "b"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A $ $$", "$A $ $"),
            ("x$(A", "x$(A"),
            ("$$$$", "$$"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }
}
