//! The run's folder before anything runs: the request checked, the folder filled, whole or not at all.

use super::folder::{self, RunRecord};
use super::{clock, inputs};
use crate::contract::{AdapterError, RunRequest};
use cpi::reason::ReasonCode;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

pub(super) fn disk_error(what: &str, error: &io::Error) -> AdapterError {
    AdapterError::passing(ReasonCode::DiskFull, format!("{what}: {error}"))
}

pub(super) fn fill(draft: &Path, request: RunRequest, uid: Option<u32>) -> Result<(), AdapterError> {
    let disk = |what: &'static str| move |error: io::Error| disk_error(what, &error);
    let _ = remove_tree(draft);
    make_dir(draft, None).map_err(disk("the run's folder"))?;
    for own in [folder::WORK, folder::TMP] {
        make_dir(&draft.join(own), uid).map_err(disk("the run's folder"))?;
    }
    let work = draft.join(folder::WORK);
    for input in &request.inputs {
        inputs::place(&work, input, uid)?;
    }
    for output in &request.outputs {
        if let Some(parent) = Path::new(&output.path).parent() {
            inputs::make_parents(&work, parent, uid).map_err(disk("the run's folder"))?;
        }
    }
    let record =
        RunRecord { version: 1, request, uid, boot_id: clock::boot_id().to_owned(), submitted_ms: clock::boot_ms() };
    folder::write_json(draft, folder::REQUEST, &record).map_err(disk("the run's request"))
}

fn make_dir(path: &Path, uid: Option<u32>) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(path)?;
    if uid.is_some() {
        std::os::unix::fs::chown(path, uid, uid)?;
    }
    Ok(())
}

/// Removes a folder, also where the run closed parts of it to its owner.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            std::fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open_up(path: &Path) {
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

pub(super) fn check(request: &RunRequest) -> Result<(), AdapterError> {
    let invalid = |detail: String| Err(AdapterError::fatal(ReasonCode::InvalidTask, detail));
    if request.image.is_some() {
        return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, "the local backend runs commands, not images"));
    }
    if request.command.first().is_none_or(String::is_empty) {
        return invalid("command: expected a program".to_owned());
    }
    let texts = request.command.iter().chain(request.env.keys()).chain(request.env.values());
    if texts.into_iter().any(|text| text.contains('\0')) {
        return invalid("command, env: expected no NUL character".to_owned());
    }
    if let Some(name) = request.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return invalid(format!("env {name:?}: expected a name without `=`"));
    }
    let inputs = request.inputs.iter().map(|input| ("inputs", &input.path));
    let outputs = request.outputs.iter().map(|output| ("outputs", &output.path));
    for (field, path) in inputs.chain(outputs) {
        if !folder::is_inside(path) {
            return invalid(format!("{field}: {path:?} leaves the run's folder"));
        }
    }
    Ok(())
}
