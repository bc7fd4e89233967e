//! Brings the registry's members into force: the mesh's gate, and whoever watches the list. Who was suspended or expelled by
//! enough votes is so here at once, whether or not the registry has it yet.

use super::motions::Standings;
use crate::mesh::{MeshHandle, RosterEntry};
use consensus::raft::RegistryHandle;
use consensus::registry::{MemberRecord, Standing};
use cpi::ids::MemberId;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// All members as the registry and the votes have them, expelled ones too; changes with each change of one.
pub type Members = watch::Receiver<Arc<Vec<MemberRecord>>>;

/// Starts following the registry. What is applied already is in force when this returns, if there is anything.
pub fn follow(
    registry: RegistryHandle,
    mesh: MeshHandle,
    mut standings: Standings,
    stop: CancellationToken,
) -> (Members, tokio::task::JoinHandle<()>) {
    let (sender, members) = watch::channel(Arc::new(Vec::new()));
    let mut applied = registry.watch_applied();
    let mut seen = None;
    applied.mark_unchanged();
    refresh(&registry, &mesh, &mut standings, &sender, &mut seen);
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
                changed = standings.changed() => if changed.is_err() { return },
            }
            refresh(&registry, &mesh, &mut standings, &sender, &mut seen);
        }
    });
    (members, task)
}

fn refresh(
    registry: &RegistryHandle,
    mesh: &MeshHandle,
    standings: &mut Standings,
    sender: &watch::Sender<Arc<Vec<MemberRecord>>>,
    seen: &mut Option<(u64, Arc<BTreeMap<MemberId, Standing>>)>,
) {
    let reader = registry.reader();
    let Some(summary) = reader.summary() else { return };
    let by_votes = Arc::clone(&standings.borrow_and_update());
    let now = Some((summary.members_revision, Arc::clone(&by_votes)));
    if *seen == now {
        return;
    }
    let mut members = reader.members();
    for record in &mut members {
        if let Some(standing) = by_votes.get(&record.member) {
            record.standing = record.standing.max(*standing);
        }
    }
    let (roster, expelled) = split(&members);
    tracing::info!(members = roster.len(), expelled = expelled.len(), "the roster is in force");
    mesh.set_roster_and_expelled(roster, expelled);
    sender.send_replace(Arc::new(members));
    *seen = now;
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
