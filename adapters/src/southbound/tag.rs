//! Our tag on a platform: `causeway-01k…-1.m7.1`, task and fence.

use crate::contract::RunKey;
use cpi::ids::{Epoch, Fence};

const PREFIX: &str = "causeway-";

/// The tag of a run: lower-case letters, digits, hyphens and dots, at most 100 of them.
pub(crate) fn tag_of(key: RunKey) -> String {
    format!("{PREFIX}{}-{}", key.task, key.fence)
}

/// The run of a tag; `None` for what is not ours.
pub(crate) fn parse_tag(tag: &str) -> Option<RunKey> {
    let (task, fence) = tag.strip_prefix(PREFIX)?.split_once('-')?;
    let mut parts = fence.split('.');
    let counter = parts.next()?.parse().ok()?;
    let member = parts.next()?.parse().ok()?;
    let attempt = parts.next()?.parse().ok()?;
    let key = RunKey { task: task.parse().ok()?, fence: Fence { epoch: Epoch { counter, member }, attempt } };
    // one spelling only, so that two tags never are the same run
    (parts.next().is_none() && tag_of(key) == tag).then_some(key)
}
