//! `doctor`: looks at this machine and its node, says what is wrong and how to mend it.

use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column};
use super::{Context, NodeFile};
use crate::config::{ConfigLoader, NodeConfig};
use clap::Args;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Clock differences over this many ms are worth a warning.
const SKEW_MS_MAX: i64 = 500;

const COLUMNS: &[Column] = &[
    column("CHECK", "check", Kind::Text),
    column("", "verdict", Kind::Text),
    column("FACTS", "facts", Kind::Text),
    column("MEND", "mend", Kind::Text),
];

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  causeway doctor --config /etc/causeway/node.toml\n\nExit code 1 if anything is wrong."
)]
pub struct DoctorArgs {
    /// The node's configuration; checked too, and used to look at a node that does not run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

struct Findings(Vec<Value>);

impl Findings {
    fn add(&mut self, check: &str, ok: Option<bool>, facts: impl Into<String>, mend: &str) {
        let verdict = match ok {
            Some(true) => "ok",
            Some(false) => "WRONG",
            None => "warn",
        };
        let mend = if ok == Some(true) { "" } else { mend };
        self.0.push(json!({ "check": check, "verdict": verdict, "facts": facts.into(), "mend": mend }));
    }
}

/// Runs all checks.
pub async fn run(arguments: DoctorArgs, context: &Context) -> Result<Exit, CliError> {
    let mut findings = Findings(Vec::new());
    let config = match &arguments.config {
        None => None,
        Some(file) => match ConfigLoader::load(Some(file), &[]) {
            Ok(loaded) => {
                findings.add("config", Some(true), file.display().to_string(), "");
                Some(loaded.config)
            }
            Err(error) => {
                findings.add("config", Some(false), error.to_string(), "`causeway config print` lists all keys");
                None
            }
        },
    };
    let target = context.target();
    let running = target.as_ref().ok().and_then(|target| target.node.clone());
    let data_dir = running.as_ref().map(|node| node.data_dir.clone()).or(config.as_ref().map(|c| c.data.dir.clone()));
    if let Some(folder) = &data_dir {
        check_files(&mut findings, folder, config.as_ref());
    }
    match (&config, &running) {
        (Some(config), None) => check_ports(&mut findings, config),
        (_, Some(node)) => findings.add("process", Some(true), format!("pid {} at {}", node.pid, node.url), ""),
        _ => {}
    }
    match target {
        Ok(_) => check_node(&mut findings, context, running.as_ref()).await,
        Err(error) => findings.add(
            "node",
            None,
            error.to_string(),
            &error.hint().unwrap_or_else(|| "start it: causeway node --config FILE".to_owned()),
        ),
    }
    let wrong = findings.0.iter().any(|finding| finding["verdict"] == "WRONG");
    context.output.list(&Value::Array(findings.0), COLUMNS, "check")?;
    Ok(if wrong { Exit::Failed } else { Exit::Ok })
}

fn check_files(findings: &mut Findings, folder: &Path, config: Option<&NodeConfig>) {
    let private = |path: &Path, allowed: u32| match std::fs::metadata(path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            let own = metadata.uid() == nix::unistd::geteuid().as_raw() || nix::unistd::geteuid().is_root();
            (Some(mode & !allowed == 0 && own), format!("{} mode {mode:o}", path.display()))
        }
        Err(error) => (Some(false), format!("{}: {error}", path.display())),
    };
    let (ok, facts) = private(folder, 0o750);
    findings.add("data folder", ok, facts, "make it the node's own: chown, then chmod 700");
    for (name, allowed) in
        [("keys", 0o700), ("keys/transport.key", 0o600), ("keys/signing.key", 0o600), ("api.key", 0o600)]
    {
        let path = folder.join(name);
        if path.exists() {
            let (ok, facts) = private(&path, allowed);
            let mend = format!("chmod {allowed:o} {}", path.display());
            findings.add(name, ok, facts, &mend);
        } else if folder.exists() {
            findings.add(
                name,
                None,
                format!("{} does not exist", path.display()),
                "it is made at first start or by `causeway init`",
            );
        }
    }
    let free_bytes_min = config.map_or(256 << 20, |config| config.data.free_bytes_min);
    match nix::sys::statvfs::statvfs(folder) {
        Ok(disk) => {
            let free = disk.blocks_available().saturating_mul(disk.fragment_size());
            let facts = format!("{} free", super::output::bytes(free));
            findings.add(
                "disk",
                Some(free >= free_bytes_min),
                facts,
                "free space: below `data.free_bytes_min` no new work is taken",
            );
        }
        Err(error) => {
            findings.add("disk", Some(false), format!("{}: {error}", folder.display()), "make the folder readable")
        }
    }
}

fn check_ports(findings: &mut Findings, config: &NodeConfig) {
    let mut one = |name: &str, address: Result<SocketAddr, String>, udp: bool| match address {
        Ok(address) => {
            let free =
                if udp { std::net::UdpSocket::bind(address).map(drop) } else { TcpListener::bind(address).map(drop) };
            let transport = if udp { "udp" } else { "tcp" };
            match free {
                Ok(()) => findings.add(name, Some(true), format!("{transport} {address} can be listened on"), ""),
                Err(error) => findings.add(
                    name,
                    Some(false),
                    format!("{transport} {address}: {error}"),
                    "stop what listens there, or change the address",
                ),
            }
        }
        Err(text) => findings.add(name, None, format!("{text} is not looked at"), ""),
    };
    one("port http", config.http.listen.parse().map_err(|_| config.http.listen.clone()), false);
    for address in &config.mesh.listen {
        let parts: Vec<&str> = address.split('/').collect();
        let socket = match parts.as_slice() {
            ["", "ip4" | "ip6", ip, _, port, ..] => {
                let joined = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
                joined.parse().map_err(|_| address.clone())
            }
            _ => Err(address.clone()),
        };
        one("port mesh", socket, address.contains("/udp/"));
    }
}

async fn check_node(findings: &mut Findings, context: &Context, node: Option<&NodeFile>) {
    let client = match context.client() {
        Ok(client) => client,
        Err(error) => return findings.add("api", Some(false), error.to_string(), "see the message"),
    };
    match client.get("/version", Vec::new()).await {
        Ok(version) => {
            let (theirs, ours) = (super::output::text_at(&version, "version"), env!("CARGO_PKG_VERSION"));
            findings.add("api", Some(true), format!("{} answers, version {theirs}", client.base()), "");
            if theirs != ours {
                findings.add(
                    "version",
                    None,
                    format!("node {theirs}, this program {ours}"),
                    "use the same release for both",
                );
            }
        }
        Err(error) => {
            let mend = error.hint().unwrap_or_default();
            return findings.add("api", Some(false), error.to_string(), &mend);
        }
    }
    let readiness = match client.readiness().await {
        Ok(answer) => answer,
        Err(error) => json!({ "checks": [{ "name": "ready", "ok": false, "detail": error.to_string() }] }),
    };
    for check in readiness["checks"].as_array().into_iter().flatten() {
        let name = format!("ready {}", super::output::text_at(check, "name"));
        findings.add(&name, Some(check["ok"] == true), super::output::text_at(check, "detail"), "see the node's log");
    }
    match client.get("/v1/registry", Vec::new()).await {
        Ok(status) => clock(findings, &status),
        Err(error) => findings.add("key", Some(false), error.to_string(), &error.hint().unwrap_or_default()),
    }
    if let Ok(ring) = client.get("/v1/ring", Vec::new()).await {
        let peers: Vec<&Value> =
            super::output::items(&ring).iter().filter(|peer| peer["connection"] != "self").collect();
        let connected = peers.iter().filter(|peer| peer["connection"] == "connected").count();
        let ok = if connected == peers.len() { Some(true) } else { None };
        let away: Vec<String> = peers
            .iter()
            .filter(|peer| peer["connection"] != "connected")
            .map(|peer| super::output::text_at(peer, "region"))
            .collect();
        let facts = format!(
            "{connected} of {} connected{}{}",
            peers.len(),
            if away.is_empty() { "" } else { "; away: " },
            away.join(", ")
        );
        findings.add("peers", ok, facts, "check their addresses, firewalls (udp and tcp), and `mesh.dial_map`");
    }
    if let Some(node) = node
        && !node.is_alive()
    {
        findings.add("process", Some(false), format!("pid {} is gone", node.pid), "start the node");
    }
}

/// Compares this machine's clock with the leader's last stamp that was applied here.
fn clock(findings: &mut Findings, status: &Value) {
    let as_of = super::output::text_at(status, "as_of");
    let age_ms = status["age_ms"].as_i64().unwrap_or(0);
    let Ok(stamp) = as_of.parse::<jiff::Timestamp>() else { return };
    let skew = jiff::Timestamp::now().duration_since(stamp).as_millis() - i128::from(age_ms);
    let skew = i64::try_from(skew).unwrap_or(i64::MAX);
    let ok = if skew.abs() <= SKEW_MS_MAX { Some(true) } else { None };
    findings.add(
        "clock",
        ok,
        format!("{skew} ms beside the registry's time"),
        "let an NTP client set the clock; more than 500 ms is too much",
    );
}
