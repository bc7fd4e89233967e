//! The node's side of the launcher: starts it, hands it run folders, starts it again when it died.

use super::config::LocalConfig;
use super::folder::Notice;
use super::supervisor::{LaunchHello, LaunchSettings};
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc};

/// A launcher that is started when it is needed.
pub(super) struct Launcher {
    config: LocalConfig,
    socket: Mutex<Option<OwnedWriteHalf>>,
    /// Where notices go; `None` says that the launcher died.
    notices: mpsc::UnboundedSender<Notice>,
}

impl Launcher {
    pub fn new(config: LocalConfig, notices: mpsc::UnboundedSender<Notice>) -> Self {
        Self { config, socket: Mutex::new(None), notices }
    }

    /// Starts the launcher if none runs, and says how runs are held here.
    pub async fn probe(&self) -> io::Result<LaunchHello> {
        let mut socket = self.socket.lock().await;
        let (writer, hello) = self.start().await?;
        *socket = Some(writer);
        Ok(hello)
    }

    /// Hands over a run folder. A launcher that died is replaced.
    pub async fn launch(&self, name: &str) -> io::Result<()> {
        let line = format!("{name}\n");
        let mut socket = self.socket.lock().await;
        if let Some(writer) = socket.as_mut()
            && writer.write_all(line.as_bytes()).await.is_ok()
        {
            return Ok(());
        }
        let (mut writer, _) = self.start().await?;
        writer.write_all(line.as_bytes()).await?;
        *socket = Some(writer);
        Ok(())
    }

    async fn start(&self) -> io::Result<(OwnedWriteHalf, LaunchHello)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut child = tokio::process::Command::new(&self.config.supervisor_exe)
            .args(&self.config.supervisor_args)
            .arg(&self.config.runs_dir)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .env_clear()
            .spawn()?;
        let (reader, mut writer) = tokio::net::UnixStream::from_std(ours)?.into_split();
        let settings = LaunchSettings {
            cgroup_parent: self.config.cgroup_parent.clone(),
            read_paths: self.config.read_paths.clone(),
            isolation_required: self.config.isolation_required,
            log_bytes_max: self.config.log_bytes_max,
            processes_max: self.config.processes_max,
            time_limit_grace_ms: self.config.time_limit_grace_ms,
        };
        let mut line = serde_json::to_string(&settings).map_err(io::Error::other)?;
        line.push('\n');
        writer.write_all(line.as_bytes()).await?;
        let mut lines = BufReader::new(reader).lines();
        let Some(first) = lines.next_line().await? else {
            let status = child.wait().await?;
            return Err(io::Error::other(format!(
                "{} ended with {status} before it was ready",
                self.config.supervisor_exe.display()
            )));
        };
        let hello = serde_json::from_str(&first).map_err(io::Error::other)?;
        let notices = self.notices.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(notice) = serde_json::from_str(&line)
                    && notices.send(notice).is_err()
                {
                    break;
                }
            }
            let _ = child.wait().await;
        });
        Ok((writer, hello))
    }
}
