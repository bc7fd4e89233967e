//! Brings the registry's members into force: the mesh's gate, and whoever watches the list.

use crate::mesh::{MeshHandle, RosterEntry};
use consensus::raft::RegistryHandle;
use consensus::registry::{MemberRecord, Standing};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// All members as the registry has them, expelled ones too; changes with each change of one.
pub type Members = watch::Receiver<Arc<Vec<MemberRecord>>>;

/// Starts following the registry. What is applied already is in force when this returns, if there is anything.
pub fn follow(
    registry: RegistryHandle,
    mesh: MeshHandle,
    stop: CancellationToken,
) -> (Members, tokio::task::JoinHandle<()>) {
    let (sender, members) = watch::channel(Arc::new(Vec::new()));
    let mut applied = registry.watch_applied();
    let mut seen = None;
    applied.mark_unchanged();
    refresh(&registry, &mesh, &sender, &mut seen);
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
            }
            refresh(&registry, &mesh, &sender, &mut seen);
        }
    });
    (members, task)
}

fn refresh(
    registry: &RegistryHandle,
    mesh: &MeshHandle,
    sender: &watch::Sender<Arc<Vec<MemberRecord>>>,
    seen: &mut Option<u64>,
) {
    let reader = registry.reader();
    let Some(summary) = reader.summary() else { return };
    if *seen == Some(summary.members_revision) {
        return;
    }
    let members = reader.members();
    let (roster, expelled) = split(&members);
    tracing::info!(members = roster.len(), expelled = expelled.len(), "the roster is in force");
    mesh.set_roster_and_expelled(roster, expelled);
    sender.send_replace(Arc::new(members));
    *seen = Some(summary.members_revision);
}

/// Who gets in, and the keys of those who never do again.
fn split(members: &[MemberRecord]) -> (Vec<RosterEntry>, Vec<[u8; 32]>) {
    let (mut roster, mut expelled) = (Vec::new(), Vec::new());
    for record in members {
        let keys: Vec<[u8; 32]> = record.transport_keys.iter().map(|span| span.key).collect();
        if record.standing == Standing::Expelled {
            expelled.extend(keys);
        } else {
            roster.push(RosterEntry {
                member: record.member,
                region: record.place.region.clone(),
                transport_keys: keys,
                addresses: record.addresses.clone(),
            });
        }
    }
    (roster, expelled)
}
