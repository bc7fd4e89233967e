//! Nodes as processes of this machine: started, watched until they answer, stopped politely, or killed for a test.

use crate::cli::{Client, Target};
use crate::http::NodeFile;
use crate::http::auth::read_key;
use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Pause between two looks at something that will change soon.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A node that was asked to stop has this long.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// One node: its files, and its process while it runs.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its region.
    pub region: String,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Where its log goes; a restart appends.
    pub log: PathBuf,
    binary: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node that does not run yet. `binary` is `causeway`.
    pub fn new(binary: &Path, region: &str, data_dir: &Path, config: &Path) -> Self {
        Self {
            region: region.to_owned(),
            data_dir: data_dir.to_owned(),
            config: config.to_owned(),
            log: data_dir.with_extension("log"),
            binary: binary.to_owned(),
            child: None,
        }
    }

    /// A command of the same binary that is not a client of the node: `init`, `member join`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env_remove("CAUSEWAY_ADDR").env_remove("CAUSEWAY_TOKEN").env_remove("CAUSEWAY_CONTEXT");
        command
    }

    /// Runs such a command to its end and returns what it printed.
    ///
    /// # Errors
    /// It could not be started or failed; its last words are in the error.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).stdin(Stdio::null()).output().context("starting causeway")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("`causeway {}` of {}: {}", arguments.join(" "), self.region, words.trim())
    }

    /// Starts the node, in a process group of its own: `Ctrl-C` at a terminal reaches only whoever watches over it.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if let Some(parent) = self.log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log).context("opening the node's log")?;
        let _ = std::fs::remove_file(self.data_dir.join("node.json"));
        let config = self.config.display().to_string();
        let child = self
            .command(&["node", "--config", &config])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the node of {}", self.region))?;
        self.child = Some(child);
        Ok(())
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait(),
            None => Ok(None),
        }
    }

    /// A client of the running node, with its key.
    ///
    /// # Errors
    /// The node has not said yet where it listens.
    pub fn client(&self, timeout: Duration) -> anyhow::Result<Client> {
        let file = NodeFile::read(&self.data_dir.join("node.json"))?;
        let key = read_key(&file.api_key_file)?;
        let target = Target { url: file.url.clone(), key: Some(key), ca_file: file.ca_file.clone(), node: Some(file) };
        Client::new(target, timeout).map_err(|error| anyhow!("{error}"))
    }

    /// Waits until the node answers at all.
    ///
    /// # Errors
    /// It ended, or `limit` passed; the end of its log is in the error.
    pub async fn wait_up(&mut self, limit: Duration) -> anyhow::Result<Client> {
        let begin = Instant::now();
        loop {
            if let Ok(client) = self.client(Duration::from_secs(30))
                && client.readiness().await.is_ok()
            {
                return Ok(client);
            }
            if let Some(status) = self.ended()? {
                bail!("the node of {} ended at once ({status}):\n{}", self.region, self.last_words());
            }
            if begin.elapsed() > limit {
                bail!("the node of {} does not answer after {limit:?}:\n{}", self.region, self.last_words());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The end of the node's log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Asks the process to stop. Idempotent.
    pub fn ask_to_stop(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
    }

    /// Stops the process: politely, and by force once its time is over. Runs go on under their supervisors.
    ///
    /// # Errors
    /// It had to be killed.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.ask_to_stop();
        let begin = Instant::now();
        while self.child.is_some() {
            if self.ended()?.is_some() {
                self.child = None;
            } else if begin.elapsed() > STOP_TIMEOUT {
                self.kill()?;
                bail!("the node of {} did not stop within {STOP_TIMEOUT:?} and was killed", self.region);
            } else {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// The system does not let us.
    pub fn kill(&mut self) -> std::io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Whether this node has an identity and belongs to a federation already.
    pub fn is_founded(&self) -> bool {
        self.data_dir.join("membership.json").is_file()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // a panic in a test must not leave nodes behind
        let _ = self.kill();
    }
}

/// Runs the command line as a person would, against one node.
#[derive(Debug, Clone)]
pub struct Shell {
    binary: PathBuf,
    data_dir: PathBuf,
}

impl Shell {
    /// A shell whose commands go to the node of this data folder.
    pub fn new(binary: &Path, data_dir: &Path) -> Self {
        Self { binary: binary.to_owned(), data_dir: data_dir.to_owned() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(&self.data_dir).args(arguments).stdin(Stdio::null());
        for name in ["CAUSEWAY_ADDR", "CAUSEWAY_TOKEN", "CAUSEWAY_CONTEXT"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command and shows what it prints.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn show(&self, arguments: &[&str]) -> anyhow::Result<ExitStatus> {
        let mut command = tokio::process::Command::from(self.command(arguments));
        command.kill_on_drop(true).process_group(0);
        command.status().await.context("starting causeway")
    }

    /// Runs a command and returns its exit code and what it printed.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn output(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = tokio::process::Command::from(self.command(arguments));
        command.kill_on_drop(true).process_group(0);
        command.output().await.context("starting causeway")
    }

    /// Runs a command with `-o json` and returns the value.
    ///
    /// # Errors
    /// It failed (its words are in the error), or did not print JSON. `task plan` may exit with 1, which is no failure.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let output = self.output(&all).await?;
        let plans = arguments.starts_with(&["task", "plan"]) && output.status.code() == Some(1);
        if !output.status.success() && !plans {
            bail!("`causeway {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("reading the answer of {arguments:?}"))
    }
}

/// The lock of a ring's folder: two labs on one folder would give two nodes one identity.
#[derive(Debug)]
pub struct RingLock(#[allow(dead_code, reason = "held until dropped")] nix::fcntl::Flock<File>);

impl RingLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another lab has it, or the folder cannot be written.
    pub fn take(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("lab.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map(Self).map_err(|_| {
            anyhow!("a ring is up on {} already; stop it first, or name another folder with --data", folder.display())
        })
    }
}
