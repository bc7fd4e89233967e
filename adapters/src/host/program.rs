//! The program that runs is a private copy, made while it was hashed.

use super::config::ProgramSpec;
use cpi::ids::ContentDigest;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A larger file is no plugin.
const PROGRAM_BYTES_MAX: u64 = 1 << 30;

/// What `path` hashes to.
pub(super) fn hash(path: &Path) -> io::Result<ContentDigest> {
    pour(&mut File::open(path)?, &mut io::sink())
}

/// Copies the program of `spec` into `folder`, unless that content is there, and gives the copy's path. A copy from
/// before is hashed again: one that was changed, or torn by a power cut, is replaced.
///
/// # Errors
/// What is wrong, for the operator.
pub(super) fn secure(spec: &ProgramSpec, folder: &Path) -> Result<PathBuf, String> {
    let copy = folder.join(spec.sha256.hex());
    if hash(&copy).is_ok_and(|found| found == spec.sha256) {
        return Ok(copy);
    }
    let said = |error: io::Error| format!("the program {} cannot be read: {error}", spec.path.display());
    let mut from = File::open(&spec.path).map_err(said)?;
    let draft = folder.join(format!(".{}-{:016x}", spec.sha256.hex(), rand::random::<u64>()));
    let mut to = File::options().write(true).create_new(true).mode(0o700).open(&draft).map_err(said)?;
    let found = pour(&mut from, &mut to).and_then(|found| to.sync_all().map(|()| found));
    drop(to);
    let place = || std::fs::rename(&draft, &copy).and_then(|()| File::open(folder)?.sync_all());
    let kept = match found {
        Ok(found) if found == spec.sha256 => {
            place().map_err(|error| format!("the copy {} cannot be made: {error}", copy.display()))
        }
        Ok(found) => Err(format!(
            "the program {} hashes to {found}, and the configuration expects {}: install the right one, or change sha256",
            spec.path.display(),
            spec.sha256
        )),
        Err(error) => Err(said(error)),
    };
    if kept.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    kept.map(|()| copy)
}

fn pour(from: &mut File, to: &mut dyn io::Write) -> io::Result<ContentDigest> {
    let mut hasher = sha2::Sha256::new();
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0_u64);
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        total += count as u64;
        if total > PROGRAM_BYTES_MAX {
            return Err(io::Error::other("it is larger than 1 GiB"));
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
    Ok(ContentDigest(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_was_changed_is_replaced_and_never_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let sha256 = hash(&path).unwrap();
        let spec = ProgramSpec { path: path.clone(), args: Vec::new(), sha256 };
        let copies = tempfile::tempdir().unwrap();
        let copy = secure(&spec, copies.path()).unwrap();
        assert_eq!(hash(&copy).unwrap(), sha256);
        for wrong in ["", "#!/bin/sh\nevil\n"] {
            std::fs::write(&copy, wrong).unwrap();
            assert_eq!(secure(&spec, copies.path()).unwrap(), copy);
            assert_eq!(std::fs::read_to_string(&copy).unwrap(), "#!/bin/sh\n");
        }
        // A good copy needs no original; a bad one is not run without it.
        std::fs::remove_file(&path).unwrap();
        secure(&spec, copies.path()).unwrap();
        std::fs::write(&copy, "torn").unwrap();
        secure(&spec, copies.path()).unwrap_err();
        assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 1, "no draft stays");
    }
}
