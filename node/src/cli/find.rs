//! Which node a command talks to, and with which key: flags, then environment, then the node that runs on this machine.

use super::exit::CliError;
use crate::http::NodeFile;
use crate::http::auth::read_key;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A node to talk to.
#[derive(Clone)]
pub struct Target {
    /// Base URL.
    pub url: String,
    /// API key; without one only the open paths answer.
    pub key: Option<Zeroizing<String>>,
    /// The certificate to trust.
    pub ca_file: Option<PathBuf>,
    /// What the node says of itself, where it runs on this machine.
    pub node: Option<NodeFile>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What the command line and the environment say.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `--addr` or `CAUSEWAY_ADDR`.
    pub addr: Option<String>,
    /// `--region` or `CAUSEWAY_CONTEXT`.
    pub region: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--api-key-file`.
    pub api_key_file: Option<PathBuf>,
    /// `CAUSEWAY_TOKEN`.
    pub token: Option<String>,
    /// `--ca-file`.
    pub ca_file: Option<PathBuf>,
}

/// Finds the node among those that run here.
///
/// # Errors
/// No node runs, several do and none was named, or the key cannot be read.
pub fn find(wanted: &Wanted, running: Vec<NodeFile>) -> Result<Target, CliError> {
    let node = match (&wanted.addr, &wanted.data_dir) {
        (Some(addr), _) => running.into_iter().find(|node| same_url(&node.url, addr)),
        (None, Some(folder)) => {
            let path = folder.join("node.json");
            let read = NodeFile::read(&path).ok().filter(NodeFile::is_alive);
            Some(read.ok_or_else(|| no_node(&format!("no node runs on the data folder {}", folder.display())))?)
        }
        (None, None) => Some(choose(wanted.region.as_deref(), running)?),
    };
    let url = match (&wanted.addr, &node) {
        (Some(addr), _) if addr.contains("://") => addr.clone(),
        (Some(addr), _) => format!("http://{addr}"),
        (None, Some(node)) => node.url.clone(),
        (None, None) => return Err(no_node("no node runs on this machine")),
    };
    let key_file = wanted.api_key_file.as_deref().or(node.as_ref().map(|node| node.api_key_file.as_path()));
    let key = match (&wanted.api_key_file, &wanted.token, key_file) {
        (Some(path), ..) => Some(key_of(path)?),
        (None, Some(token), _) => Some(Zeroizing::new(token.clone())),
        (None, None, Some(path)) => Some(key_of(path)?),
        (None, None, None) => None,
    };
    let ca_file = wanted.ca_file.clone().or(node.as_ref().and_then(|node| node.ca_file.clone()));
    Ok(Target { url, key, ca_file, node })
}

fn choose(region: Option<&str>, mut running: Vec<NodeFile>) -> Result<NodeFile, CliError> {
    let known = running.iter().map(|node| node.region.clone()).collect::<Vec<_>>().join(", ");
    if let Some(region) = region {
        running.retain(|node| node.region == region);
        if running.is_empty() && !known.is_empty() {
            return Err(no_node(&format!("no node of region {region} runs on this machine; running: {known}")));
        }
    }
    match running.len() {
        0 => Err(no_node("no node runs on this machine")),
        1 => Ok(running.remove(0)),
        _ => Err(CliError::Usage {
            message: format!("several nodes run on this machine: {known}"),
            hint: Some("name one with --region NAME (or CAUSEWAY_CONTEXT), --data-dir or --addr".to_owned()),
        }),
    }
}

fn no_node(message: &str) -> CliError {
    CliError::Connect { addr: "this machine".to_owned(), cause: message.to_owned() }
}

fn key_of(path: &Path) -> Result<Zeroizing<String>, CliError> {
    read_key(path).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        CliError::Usage {
            message: format!("{error}{cause}"),
            hint: Some("name the key with --api-key-file FILE or CAUSEWAY_TOKEN".to_owned()),
        }
    })
}

fn same_url(a: &str, b: &str) -> bool {
    let host = |url: &str| url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/').to_owned();
    host(a) == host(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    fn node(region: &str, port: u16, folder: &Path) -> NodeFile {
        let api_key_file = folder.join(format!("{region}.key"));
        crate::http::auth::ApiKey::open_or_create(&api_key_file).expect("a key");
        NodeFile {
            region: region.to_owned(),
            pid: std::process::id(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            api_key_file,
            ca_file: None,
            mesh: Vec::new(),
            data_dir: folder.to_owned(),
            vault: folder.join("vault"),
            vault_key: folder.join("vault.key"),
        }
    }

    #[test]
    fn the_only_node_is_found_and_its_key_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = find(&Wanted::default(), vec![node("beijing", 1, folder.path())]).expect("found");
        assert_eq!(found.url, "http://127.0.0.1:1");
        assert!(found.key.is_some_and(|key| key.starts_with("cwk_")));
    }

    #[test]
    fn of_several_one_must_be_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let running = vec![node("beijing", 1, folder.path()), node("dalian", 2, folder.path())];
        let error = find(&Wanted::default(), running.clone()).expect_err("ambiguous");
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("beijing, dalian"));
        let wanted = Wanted { region: Some("dalian".to_owned()), ..Wanted::default() };
        assert_eq!(find(&wanted, running.clone()).expect("found").url, "http://127.0.0.1:2");
        let wanted = Wanted { region: Some("jinhua".to_owned()), ..Wanted::default() };
        assert_eq!(find(&wanted, running.clone()).expect_err("absent").exit(), Exit::Unavailable);
        let wanted = Wanted { addr: Some("127.0.0.1:2".to_owned()), ..Wanted::default() };
        let found = find(&wanted, running).expect("found");
        assert!(found.key.is_some(), "the key of a local node is found by its address");
    }

    #[test]
    fn a_node_elsewhere_needs_its_key_named() {
        let wanted = Wanted {
            addr: Some("https://10.0.0.1:7480".to_owned()),
            token: Some("cwk_x".to_owned()),
            ..Wanted::default()
        };
        let found = find(&wanted, Vec::new()).expect("found");
        assert_eq!((found.url.as_str(), found.key.expect("a key").as_str()), ("https://10.0.0.1:7480", "cwk_x"));
        assert_eq!(find(&Wanted::default(), Vec::new()).expect_err("none").exit(), Exit::Unavailable);
    }
}
