//! Plugins in a folder: each has a folder of its own with a `plugin.toml` that names its program.

use cpi::ids::ContentDigest;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const MANIFEST: &str = "plugin.toml";
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// What `plugin.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    version: String,
    /// Relative to the folder.
    program: PathBuf,
    #[serde(default)]
    args: Vec<String>,
}

/// A plugin that lies in the folder. It runs only once the operator has put its hash into the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundPlugin {
    /// Its name.
    pub name: String,
    /// Its version as the manifest says.
    pub version: String,
    /// Its program.
    pub path: PathBuf,
    /// The program's arguments.
    pub args: Vec<String>,
    /// What the program hashes to now.
    pub sha256: ContentDigest,
}

/// All plugins of `folder` by name, and for each folder that is no plugin why not.
pub fn discover(folder: &Path) -> (Vec<FoundPlugin>, Vec<(PathBuf, String)>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (found, wrong),
        Err(error) => {
            wrong.push((folder.to_owned(), error.to_string()));
            return (found, wrong);
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            match read(&path) {
                Ok(plugin) => found.push(plugin),
                Err(why) => wrong.push((path, why)),
            }
        }
    }
    found.sort_by(|a: &FoundPlugin, b| a.name.cmp(&b.name));
    wrong.sort();
    (found, wrong)
}

fn read(folder: &Path) -> Result<FoundPlugin, String> {
    let path = folder.join(MANIFEST);
    let size = path.metadata().map_err(|error| format!("{MANIFEST}: {error}"))?.len();
    if size > MANIFEST_BYTES_MAX {
        return Err(format!("{MANIFEST}: expected at most 64 KiB"));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let manifest: Manifest = toml::from_str(&text).map_err(|error| format!("{MANIFEST}: {}", error.message()))?;
    let plain = manifest.program.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain {
        return Err(format!("{MANIFEST}: program: expected a path inside the plugin's folder"));
    }
    let program = folder.join(&manifest.program);
    let sha256 = super::program::hash(&program).map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(FoundPlugin { name: manifest.name, version: manifest.version, path: program, args: manifest.args, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_with_their_hash_and_what_is_none_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = |name: &str, text: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(MANIFEST), text).unwrap();
            std::fs::write(dir.path().join(name).join("run"), "#!/bin/sh\n").unwrap();
        };
        manifest("good", "name = \"good\"\nversion = \"1.0\"\nprogram = \"run\"\n");
        manifest("outside", "name = \"outside\"\nversion = \"1\"\nprogram = \"../good/run\"\n");
        manifest("typo", "name = \"typo\"\nversion = \"1\"\nprogramm = \"run\"\n");
        manifest("gone", "name = \"gone\"\nversion = \"1\"\nprogram = \"nothing\"\n");
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        let (found, wrong) = discover(dir.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].sha256), ("good", ContentDigest::of(b"#!/bin/sh\n")));
        let said: Vec<&str> = wrong.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(said.len(), 4);
        assert!(said[2].contains("inside the plugin's folder"), "{said:?}");
        assert!(said[3].contains("programm"), "{said:?}");
        assert_eq!(discover(Path::new("/nonexistent")), (Vec::new(), Vec::new()));
    }
}
