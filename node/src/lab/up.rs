//! `causeway lab up`: the ring from nothing to ready, the main job across it, and a clean end.

use super::job::{self, JobFolder, TaskStory};
use super::leftovers::{is_node_of, processes_of};
use super::process::{NodeProcess, RingLock, Shell};
use super::ring::RingSpec;
use super::{founding, relays, report};
use crate::cli::Client;
use crate::http::NodeFile;
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The ring has to be ready within this time, whatever the machine.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether the ring stays up after the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Keep {
    /// If a person is looking: with a terminal.
    Auto,
    /// No.
    #[value(name = "0")]
    No,
    /// Yes, until `Ctrl-C`.
    #[value(name = "1")]
    Yes,
}

/// Verbs of the lab.
#[derive(Debug, Clone, Subcommand)]
pub enum LabCommand {
    /// Five regions on this machine, and three real tasks that find their way across them.
    #[command(after_help = "Example:\n  causeway lab up --delay 0 --keep 0 --data /tmp/ring\n\n\
        Exit code: 0 if everything held, 1 if not.")]
    Up(UpArgs),
}

/// Arguments of `lab up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// The ring: regions, distances and the job.
    #[arg(long, value_name = "FILE", default_value = "configs/lab/ring.toml")]
    pub config: PathBuf,
    /// Whether peers are as far apart as their cities (1) or next to each other (0).
    #[arg(long, env = "DELAY", value_name = "0|1", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub delay: u8,
    /// Stay up after the job: 1 yes, 0 no, auto with a terminal only.
    #[arg(long, env = "KEEP", value_enum, default_value_t = Keep::Auto, num_args = 0..=1, default_missing_value = "1")]
    pub keep: Keep,
    /// Where the ring's disks are; a later start finds everything again.
    #[arg(long, value_name = "DIR", default_value = "ring")]
    pub data: PathBuf,
    /// Bring the ring up only, without the job.
    #[arg(long)]
    pub no_job: bool,
}

/// Brings the ring up, runs the job, and says whether everything held.
///
/// # Errors
/// The ring could not be brought up; everything that was started is stopped.
pub async fn up(arguments: UpArgs) -> anyhow::Result<bool> {
    let ring = RingSpec::read(&arguments.config)?;
    std::fs::create_dir_all(&arguments.data).with_context(|| format!("making {}", arguments.data.display()))?;
    let data = arguments.data.canonicalize()?;
    let _lock = RingLock::take(&data)?;
    let keep = match arguments.keep {
        Keep::Auto => std::io::stdout().is_terminal(),
        Keep::No => false,
        Keep::Yes => true,
    };
    let mut lab = Lab::new(ring, data, arguments.delay == 1)?;
    let outcome = tokio::select! {
        outcome = lab.live(keep, !arguments.no_job) => outcome,
        () = interrupted() => {
            lab.say("stopping");
            Ok(true)
        }
    };
    let stopped = lab.stop().await;
    Ok(outcome? && stopped?)
}

/// `Ctrl-C`, or a polite request to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}

struct Lab {
    ring: RingSpec,
    data: PathBuf,
    binary: PathBuf,
    delay: bool,
    nodes: Vec<NodeProcess>,
    /// The relays between the nodes, while they run.
    relays: Option<relays::Relays>,
    begin: Instant,
    /// Whether nodes were started, so that there is something to stop.
    started: bool,
}

impl Lab {
    fn new(ring: RingSpec, data: PathBuf, delay: bool) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("finding the running program")?;
        let nodes = ring
            .regions
            .iter()
            .map(|region| {
                let dir = data.join(region.name.as_str());
                NodeProcess::new(&binary, region.name.as_str(), &dir, &dir.with_extension("toml"))
            })
            .collect();
        Ok(Self { ring, data, binary, delay, nodes, relays: None, begin: Instant::now(), started: false })
    }

    fn say(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "[{:5.1} s] {text}", self.begin.elapsed().as_secs_f64());
        let _ = out.flush();
    }

    fn shell(&self, region: &str) -> Shell {
        Shell::new(&self.binary, &self.data.join(region))
    }

    fn origin(&self) -> Shell {
        self.shell(self.ring.job.origin.as_str())
    }

    async fn live(&mut self, keep: bool, job: bool) -> anyhow::Result<bool> {
        self.stop_leftovers().await?;
        self.write_configs().await?;
        self.bring_up().await?;
        self.register().await?;
        let mut held = true;
        if job {
            held = self.run_job().await?;
        }
        if keep {
            self.tell_what_next().await;
            std::future::pending::<()>().await;
        }
        Ok(held)
    }

    /// Stops nodes that an earlier, killed lab left behind on these folders.
    async fn stop_leftovers(&self) -> anyhow::Result<()> {
        let left: Vec<NodeFile> = self
            .nodes
            .iter()
            .filter_map(|node| NodeFile::read(&node.data_dir.join("node.json")).ok())
            .filter(|file| is_node_of(file.pid, &self.data))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        self.say(&format!("stopping {} nodes that an earlier lab left behind", left.len()));
        for file in &left {
            let _ = kill(Pid::from_raw(file.pid as i32), Signal::SIGTERM);
        }
        let begin = Instant::now();
        while left.iter().any(|file| is_node_of(file.pid, &self.data)) {
            if begin.elapsed() > Duration::from_secs(20) {
                bail!(
                    "a node of an earlier lab does not stop: pids {:?}",
                    left.iter().map(|f| f.pid).collect::<Vec<_>>()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Writes each region's effective configuration beside its data folder.
    async fn write_configs(&mut self) -> anyhow::Result<()> {
        let configs = self.ring.configs()?;
        let relays = if self.delay { Some(relays::Relays::start(&self.ring, &configs).await?) } else { None };
        for (region, node) in self.ring.regions.iter().zip(&self.nodes) {
            let source = self.ring.folder.join(&region.config);
            let text = std::fs::read_to_string(&source)?;
            let mut table: toml::Table = text.parse().with_context(|| format!("reading {}", source.display()))?;
            set(&mut table, "data", "dir", toml::Value::String(node.data_dir.display().to_string()));
            if let Some(relays) = &relays {
                set(&mut table, "mesh", "dial_map", toml::Value::Table(relays.dial_map(&region.name)));
            }
            let head = format!("# Written by `causeway lab up` from {}; edit that one.\n\n", source.display());
            std::fs::write(&node.config, head + &toml::to_string(&table)?)
                .with_context(|| format!("writing {}", node.config.display()))?;
        }
        self.relays = relays;
        Ok(())
    }

    async fn bring_up(&mut self) -> anyhow::Result<()> {
        self.begin = Instant::now();
        let far = if self.delay { "as far apart as their cities" } else { "without delays" };
        self.say(&format!("{} regions on {}, {far}", self.nodes.len(), self.data.display()));
        self.started = true;
        let first = self.shell(self.ring.regions[0].name.as_str());
        if self.nodes.iter().all(NodeProcess::is_founded) {
            self.say("identities and disks of an earlier start are here");
            for node in &mut self.nodes {
                node.start()?;
            }
        } else {
            for at in 0..self.nodes.len() {
                let region = self.ring.regions[at].clone();
                if at == 0 {
                    if founding::found(&self.nodes[0], &region.enterprise)? {
                        self.say(&format!("{}: founded the federation", region.title));
                    }
                } else if founding::join(&first, &self.nodes[at], &region).await? {
                    self.say(&format!("{}: invited, joined, approved", region.title));
                }
                self.nodes[at].start()?;
                if at == 0 {
                    self.nodes[0].wait_up(READY_TIMEOUT).await?;
                    self.wait_ready(&[0]).await?;
                }
            }
        }
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.wait_ready(&all).await?;
        self.wait_for_sight().await?;
        self.say("the ring is ready: every node sees every other, the registry has a quorum, every pool is known");
        Ok(())
    }

    /// Waits until `readyz` of these nodes says so.
    async fn wait_ready(&mut self, which: &[usize]) -> anyhow::Result<()> {
        let begin = Instant::now();
        for &at in which {
            let client = self.nodes[at].wait_up(READY_TIMEOUT).await?;
            loop {
                let state = client.readiness().await.unwrap_or_default();
                if state["ready"] == true {
                    break;
                }
                if let Some(status) = self.nodes[at].ended()? {
                    let node = &self.nodes[at];
                    bail!("the node of {} ended ({status}):\n{}", node.region, node.last_words());
                }
                if begin.elapsed() > READY_TIMEOUT {
                    bail!("{} is not ready: {state}\n{}", self.nodes[at].region, self.nodes[at].last_words());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Waits until the origin knows the pools of all regions, and each node counts all members as connected.
    async fn wait_for_sight(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let wanted = self.nodes.len();
        let clients: Vec<Client> =
            self.nodes.iter().map(|node| node.client(Duration::from_secs(10))).collect::<anyhow::Result<_>>()?;
        for (client, node) in clients.iter().zip(&self.nodes) {
            loop {
                let members = client.get("/v1/members", vec![]).await.unwrap_or_default();
                let pools = client.get("/v1/pools", vec![]).await.unwrap_or_default();
                let connected = items(&members).iter().filter(|m| m["state"] == "active" && is_near(m)).count();
                let known: std::collections::BTreeSet<_> = items(&pools)
                    .iter()
                    .filter(|pool| pool["stale"] != true)
                    .filter_map(|pool| pool["region"].as_str().map(str::to_owned))
                    .collect();
                if connected >= wanted && known.len() >= wanted {
                    break;
                }
                if begin.elapsed() > READY_TIMEOUT {
                    bail!("{} sees {connected} of {wanted} members and the pools of {known:?} only", node.region);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Registers each region's identifiers at its own node, and waits until the origin resolves them all.
    async fn register(&self) -> anyhow::Result<()> {
        let configs = self.ring.configs()?;
        let mut all = Vec::new();
        for region in &self.ring.regions {
            let shell = self.shell(region.name.as_str());
            for text in configs[&region.name].pools.iter().flat_map(|pool| pool.identifiers.clone()) {
                let known = shell.output(&["id", "resolve", &text, "-o", "json"]).await?.status.success();
                if known {
                    self.say(&format!("{}: {} is registered already", region.title, short(&text)));
                } else {
                    shell.json(&["id", "register", &text]).await?;
                    self.say(&format!("{}: registered {}", region.title, short(&text)));
                }
                all.push(text);
            }
        }
        let origin = self.origin();
        let begin = Instant::now();
        for text in &all {
            while !origin.output(&["id", "resolve", text, "-o", "json"]).await?.status.success() {
                if begin.elapsed() > READY_TIMEOUT {
                    bail!("{} does not resolve {text}", self.ring.job.origin);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        self.say(&format!("all {} identifiers resolve in {}", all.len(), self.ring.job.origin));
        Ok(())
    }

    async fn run_job(&self) -> anyhow::Result<bool> {
        let folder = JobFolder::prepare(&self.ring, &self.data, &self.binary)?;
        let shell = self.origin();
        let say = |text: &str| self.say(text);
        let (found, mut held) = job::recheck_finished(&folder, &shell, &say).await?;
        let mut stories: Vec<TaskStory> = Vec::new();
        for task in &self.ring.job.tasks {
            println!();
            stories.push(job::run_task(&self.ring, task, &folder, &shell, &say).await?);
        }
        held &= stories.iter().all(TaskStory::holds);
        println!("\n{}", report::stories(&stories));
        println!(
            "Round trips are between {} and the region that ran the task{}; a decision cannot be quicker than one of them.",
            self.ring.job.origin,
            if self.delay { "" } else { " (not applied: --delay 0)" }
        );
        println!(
            "The chips are declared in the regions' configurations; the computations ran on this machine's processor."
        );
        let earlier =
            if found > 0 { format!(", {found} results of earlier starts are still here") } else { String::new() };
        self.say(&if held {
            format!("everything held: {} tasks ran where they had to, all results are right{earlier}", stories.len())
        } else {
            "NOT everything held: see above".to_owned()
        });
        Ok(held)
    }

    async fn tell_what_next(&self) {
        println!("\nThe ring stays up until Ctrl-C.");
        for (region, node) in self.ring.regions.iter().zip(&self.nodes) {
            if let Ok(file) = NodeFile::read(&node.data_dir.join("node.json")) {
                println!("  {:<12} {}  (log: {})", region.name.to_string(), file.url, node.log.display());
            }
        }
        let origin = &self.ring.job.origin;
        let document = self.ring.job.tasks.last().map_or_else(String::new, |task| {
            self.data.join("job").join(task.document.file_name().unwrap_or_default()).display().to_string()
        });
        let program = self.binary.display();
        println!("\nThree commands to try next, in another terminal:");
        println!("  {program} --region {origin} member list");
        println!("  {program} --region frankfurt task run {document} --wait --logs");
        println!("  {program} --region {origin} id search --filter 'class = \"IC\"'");
        let _ = std::io::stdout().flush();
    }

    /// Stops runs and nodes, in this order, and makes sure that nothing is left. True if all went politely.
    async fn stop(&mut self) -> anyhow::Result<bool> {
        if !self.started {
            return Ok(true);
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].pid().is_some() {
                self.cancel_open(&self.shell(&self.nodes[at].region)).await;
            }
        }
        self.nodes.iter().for_each(NodeProcess::ask_to_stop);
        let mut polite = true;
        for node in &mut self.nodes {
            if let Err(error) = node.stop().await {
                polite = false;
                println!("{error:#}");
            }
        }
        self.relays = None;
        let left = processes_of(&self.data);
        if !left.is_empty() {
            polite = false;
            self.say(&format!("{} processes of runs were left and are killed", left.len()));
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        self.say("all nodes stopped; the next start finds everything again");
        Ok(polite)
    }

    /// Cancels what is still open at a node, so that no run outlives the lab.
    async fn cancel_open(&self, shell: &Shell) {
        let Ok(Ok(page)) =
            tokio::time::timeout(Duration::from_secs(3), shell.json(&["task", "list", "--state", "open"])).await
        else {
            return;
        };
        for task in items_of(&page, "tasks") {
            if let Some(id) = task["id"].as_str() {
                let cancel = ["task", "cancel", id, "--yes", "--wait", "--timeout", "10s"];
                let _ = tokio::time::timeout(Duration::from_secs(12), shell.output(&cancel)).await;
            }
        }
    }
}

/// Whether the origin's view of a member says that it can be reached (or is the node itself).
fn is_near(member: &Value) -> bool {
    let connection = member["connection"].as_str().unwrap_or_default();
    member["connected"] == true || member["self"] == true || matches!(connection, "connected" | "self")
}

fn items(page: &Value) -> Vec<Value> {
    items_of(page, "items")
}

/// The list in a page, whatever its noun.
fn items_of(page: &Value, name: &str) -> Vec<Value> {
    let lists = [name, "items", "members", "pools", "tasks"];
    let found = lists.iter().find_map(|name| page[*name].as_array()).or(page.as_array());
    found.cloned().unwrap_or_default()
}

fn set(table: &mut toml::Table, section: &str, key: &str, value: toml::Value) {
    let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(section) = entry {
        section.insert(key.to_owned(), value);
    }
}

/// The identifier up to its first parts, for a line of text.
fn short(identifier: &str) -> String {
    identifier.chars().take(48).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_in_sections_that_may_be_missing() {
        let mut table = toml::Table::new();
        set(&mut table, "data", "dir", toml::Value::String("/x".to_owned()));
        assert_eq!(table["data"]["dir"].as_str(), Some("/x"));
    }
}
