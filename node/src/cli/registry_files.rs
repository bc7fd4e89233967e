//! Registry states and snapshots as files of this machine: what they hold, and whether it is sound. No node is needed.

use super::exit::{CliError, Exit};
use consensus::registry::{RegistryReader, StatisticsDimension};
use consensus::store::Checkpoint;
use cpi::dictionary::Dictionary;
use cpi::identifier::Cpi;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens a snapshot's folder, a state's folder, or the data folder of a node that does not run.
fn open(dir: &Path) -> Result<(PathBuf, RegistryReader), CliError> {
    let folder =
        find_state(dir).ok_or_else(|| CliError::NotFound(format!("{} holds no registry state", dir.display())))?;
    let state = Checkpoint { path: folder.clone() }.read().map_err(|error| CliError::failed(Exit::Failed, &error))?;
    Ok((folder, RegistryReader::new(Arc::new(state))))
}

fn find_state(dir: &Path) -> Option<PathBuf> {
    let holds = |folder: &Path| folder.join("CURRENT").is_file() && folder.join("IDENTITY").is_file();
    if holds(dir) {
        return Some(dir.to_owned());
    }
    for state in [dir.join("registry/state"), dir.join("state"), dir.to_owned()] {
        let mut generations: Vec<PathBuf> =
            std::fs::read_dir(&state).ok().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        generations.retain(|folder| holds(folder));
        generations.sort();
        if let Some(newest) = generations.pop() {
            return Some(newest);
        }
    }
    None
}

/// What a state holds.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn inspect(dir: &Path) -> Result<Value, CliError> {
    let (folder, reader) = open(dir)?;
    let summary = reader.summary().ok_or_else(|| CliError::NotFound(format!("{} is empty", folder.display())))?;
    let members: Vec<Value> = reader
        .members()
        .iter()
        .map(|member| json!({ "id": member.member.to_string(), "region": member.place.region, "state": member.standing.name() }))
        .collect();
    let all = reader.statistics(StatisticsDimension::All);
    Ok(json!({
        "path": folder,
        "federation": data_encoding::HEXLOWER.encode(&summary.federation.id),
        "name": summary.name,
        "epoch": summary.federation.epoch,
        "applied_index": summary.applied,
        "time": crate::services::registry::rfc3339(summary.time),
        "state_hash": data_encoding::HEXLOWER.encode(&summary.hash),
        "ring_version": summary.ring_version,
        "dictionary_release": summary.release,
        "identifiers": all.first().map_or(0, |all| all.totals.identifiers),
        "members": members,
    }))
}

/// Reads everything that a state holds and checks it against itself: every text, key, revision and sum.
///
/// # Errors
/// There is no state, it cannot be read, or something in it is wrong.
pub fn verify(dir: &Path) -> Result<Value, CliError> {
    let (folder, reader) = open(dir)?;
    let summary = reader.summary().ok_or_else(|| CliError::NotFound(format!("{} is empty", folder.display())))?;
    let first = Dictionary::first();
    let dictionary = match reader.release(summary.release) {
        Some(bytes) => {
            Dictionary::load(&bytes).map(Arc::new).map_err(|error| CliError::failed(Exit::Failed, &error))?
        }
        None => first,
    };
    let mut problems: Vec<String> = Vec::new();
    let (mut registered, mut looked_at) = (0_u64, 0_u64);
    let mut query = consensus::registry::SearchQuery { retired: true, limit: 1000, ..Default::default() };
    loop {
        let page = reader.search(&query, &dictionary);
        for record in &page.items {
            looked_at += 1;
            registered += u64::from(record.state == consensus::registry::IdentifierState::Registered);
            match Cpi::parse(&record.text) {
                Err(error) => problems.push(format!("{}: its text is wrong: {error}", record.key)),
                Ok(cpi) if cpi.stable_key() != record.key => {
                    problems.push(format!("{}: its text has key {}", record.key, cpi.stable_key()));
                }
                Ok(_) => {}
            }
            let history = reader.history(&record.key);
            let whole = history.iter().zip(1..).all(|(revision, number)| revision.revision == number);
            if !whole || history.last() != Some(record) {
                problems.push(format!("{}: its history is not whole", record.key));
            }
            if record.index > summary.applied {
                problems.push(format!("{}: revision of index {}, which was not applied", record.key, record.index));
            }
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    let summed = reader.statistics(StatisticsDimension::All).first().map_or(0, |all| all.totals.identifiers);
    if summed != registered {
        problems.push(format!("{registered} identifiers are registered, the sums say {summed}"));
    }
    if !problems.is_empty() {
        problems.truncate(20);
        return Err(CliError::Failed {
            message: format!("{}:\n{}", folder.display(), problems.join("\n")),
            exit: Exit::Failed,
        });
    }
    Ok(json!({
        "path": folder,
        "applied_index": summary.applied,
        "state_hash": data_encoding::HEXLOWER.encode(&summary.hash),
        "identifiers": looked_at,
        "sound": true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_state_is_said_to_be_one() {
        let folder = tempfile::tempdir().expect("a folder");
        for verb in [inspect, verify] {
            let error = verb(folder.path()).expect_err("nothing is there");
            assert_eq!(error.exit(), Exit::NotFound);
        }
    }
}
