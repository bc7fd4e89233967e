//! How a run is named on the cluster, so that it is found again: a Job's name, labels and annotations.

use crate::contract::RunKey;
use cpi::ids::{Epoch, Fence, MemberId, TaskId};
use std::collections::BTreeMap;

/// The label that all our objects carry, and its value.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(super) const CAUSEWAY: &str = "causeway";
/// The label with the tag, on a run's Job and its pods.
pub(super) const TAG: &str = "causeway.network/tag";
/// The annotations with the whole key.
pub(super) const TASK: &str = "causeway.network/task";
pub(super) const FENCE: &str = "causeway.network/fence";
/// Why a run was told to stop: a code of the taxonomy, and the facts.
pub(super) const STOP: &str = "causeway.network/stop";
pub(super) const STOP_DETAIL: &str = "causeway.network/stop-detail";

/// The tag of a run: a DNS label. Fences that do not fit into 63 characters are told apart by their digest; the
/// annotations have the whole key either way.
pub(super) fn tag(key: &RunKey) -> String {
    let fence = key.fence.to_string().replace('.', "-");
    let task = key.task.to_string().to_lowercase();
    let plain = format!("cw-{task}-{fence}");
    if plain.len() <= 63 {
        return plain;
    }
    let digest = cpi::ids::ContentDigest::of(fence.as_bytes()).hex();
    format!("cw-{task}-x{}", &digest[..24])
}

/// The key in an object's annotations; `None` where they are not ours.
pub(super) fn key_of(annotations: &BTreeMap<String, String>) -> Option<RunKey> {
    let task: TaskId = annotations.get(TASK)?.parse().ok()?;
    let mut parts = annotations.get(FENCE)?.split('.');
    let counter = parts.next()?.parse().ok()?;
    let member: MemberId = parts.next()?.parse().ok()?;
    let attempt = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(RunKey { task, fence: Fence { epoch: Epoch { counter, member }, attempt } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_again_in_its_annotations() {
        for (counter, member, attempt) in [(1, 1, 1), (u64::MAX, u64::MAX, u32::MAX)] {
            let fence = Fence { epoch: Epoch { counter, member: MemberId(member) }, attempt };
            let key = RunKey { task: TaskId([7; 16]), fence };
            let annotations =
                BTreeMap::from([(TASK.to_owned(), key.task.to_string()), (FENCE.to_owned(), key.fence.to_string())]);
            assert_eq!(key_of(&annotations), Some(key));
            let tag = tag(&key);
            assert!(tag.len() <= 63 && tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        }
        assert_eq!(key_of(&BTreeMap::new()), None);
    }
}
