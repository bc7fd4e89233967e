//! Where a running node says how it is reached, so that the command line on the same machine finds it by itself.
//!
//! Two files with the same content, readable by their owner only: `node.json` in the data folder, and
//! `<region>-<pid>.json` in a folder of the user: `$XDG_RUNTIME_DIR/causeway/nodes`, `/run/causeway/nodes` for root, else
//! `~/.local/state/causeway/nodes`. They hold no secret: the API key stays in its own file, whose path is named.

use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// How a running node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// Its region.
    pub region: String,
    /// Its process.
    pub pid: u32,
    /// When it started, RFC 3339 UTC.
    pub started_at: String,
    /// Base URL of its HTTP interface.
    pub url: String,
    /// The file with its API key.
    pub api_key_file: PathBuf,
    /// The certificate to trust, where it speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Multiaddresses its mesh listens on.
    #[serde(default)]
    pub mesh: Vec<String>,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// The vault of its plugins' credentials.
    pub vault: PathBuf,
    /// The file of the vault's key.
    pub vault_key: PathBuf,
}

/// The files of a running node; they are removed when this is dropped.
#[derive(Debug)]
pub struct Published {
    paths: Vec<PathBuf>,
}

impl Drop for Published {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl NodeFile {
    /// Writes both files.
    ///
    /// # Errors
    /// The data folder's file could not be written. A missing folder of the user is only a warning in the log.
    pub fn publish(&self) -> std::io::Result<Published> {
        let mut paths = vec![self.data_dir.join("node.json")];
        self.write(&paths[0])?;
        if let Some(folder) = nodes_dir() {
            let path = folder.join(format!("{}-{}.json", self.region, self.pid));
            let written =
                DirBuilder::new().recursive(true).mode(0o700).create(&folder).and_then(|()| self.write(&path));
            match written {
                Ok(()) => paths.push(path),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the command line will not find this node")
                }
            }
        }
        Ok(Published { paths })
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let staged = path.with_extension(format!("json.{}", self.pid));
        let _ = std::fs::remove_file(&staged);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(&serde_json::to_vec_pretty(self).expect("a node file has only plain fields"))?;
        std::fs::rename(&staged, path)
    }

    /// Reads one file.
    ///
    /// # Errors
    /// It is missing or not a node file.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let bytes = std::fs::read(path)?;
        serde_json::from_slice(&bytes).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }

    /// Whether its process still exists.
    pub fn is_alive(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }

    /// The nodes of this user that run now, by region. Files of dead ones are removed.
    pub fn running() -> Vec<Self> {
        let Some(entries) = nodes_dir().and_then(|folder| std::fs::read_dir(folder).ok()) else { return Vec::new() };
        let mut out = Vec::new();
        for path in
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"))
        {
            match Self::read(&path) {
                Ok(node) if node.is_alive() => out.push(node),
                Ok(_) => drop(std::fs::remove_file(&path)),
                Err(_) => {}
            }
        }
        out.sort_by(|a, b| (&a.region, a.pid).cmp(&(&b.region, b.pid)));
        out
    }
}

/// The folder in which this user's nodes say where they are.
fn nodes_dir() -> Option<PathBuf> {
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        return Some(PathBuf::from(runtime).join("causeway/nodes"));
    }
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/run/causeway/nodes"));
    }
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state/causeway/nodes"))
}
