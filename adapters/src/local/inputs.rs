//! Inputs of a run: copied into its folder, checked against their digests on the way.

use crate::contract::{AdapterError, RunInput};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Component, Path};

/// Copies `input` into `work`. The copy belongs to the run; the node's own file never does.
pub(super) fn place(work: &Path, input: &RunInput, uid: Option<u32>) -> Result<(), AdapterError> {
    let disk = |error: io::Error| AdapterError::passing(ReasonCode::DiskFull, format!("input {}: {error}", input.path));
    let mut source = File::open(&input.source)
        .map_err(|error| AdapterError::passing(ReasonCode::InputLost, format!("input {}: {error}", input.path)))?;
    if let Some(parent) = Path::new(&input.path).parent() {
        make_parents(work, parent, uid).map_err(disk)?;
    }
    let mode = if input.executable { 0o700 } else { 0o600 };
    let target = work.join(&input.path);
    let mut target = File::options().write(true).create_new(true).mode(mode).open(target).map_err(disk)?;
    let mut hash = sha2::Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        match source.read(&mut chunk).map_err(disk)? {
            0 => break,
            count => {
                hash.update(&chunk[..count]);
                target.write_all(&chunk[..count]).map_err(disk)?;
            }
        }
    }
    let found = ContentDigest(hash.finalize().into());
    if found != input.digest {
        return Err(AdapterError::passing(
            ReasonCode::InputCorrupt,
            format!("input {}: {found} where {} was expected", input.path, input.digest),
        ));
    }
    if uid.is_some() {
        std::os::unix::fs::fchown(&target, uid, uid).map_err(disk)?;
    }
    Ok(())
}

/// Makes the folders of `relative` under `work`, each the run's own.
pub(super) fn make_parents(work: &Path, relative: &Path, uid: Option<u32>) -> io::Result<()> {
    let mut at = work.to_owned();
    for part in relative.components() {
        if let Component::Normal(name) = part {
            at.push(name);
            match std::fs::create_dir(&at) {
                Ok(()) if uid.is_some() => chown(&at, uid, uid)?,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
