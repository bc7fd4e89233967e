//! Every task that waits, is declined or ends otherwise than well says why.

use super::{Fact, Invariant};
use consensus::negotiation::{EventKind, Record, TaskState};

/// See the file.
pub struct ReasonsGiven;

impl Invariant for ReasonsGiven {
    fn name(&self) -> &'static str {
        "reasons_given"
    }

    fn observe(&mut self, _: u64, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Told { record: Record::Event(event), .. } = fact else { return Ok(()) };
        let unhappy = matches!(event.state, TaskState::Failed | TaskState::Cancelled);
        let asks = match event.kind {
            EventKind::Waiting | EventKind::Declined | EventKind::TimedOut | EventKind::AttemptEnded => true,
            EventKind::Ended => unhappy,
            _ => false,
        };
        if asks && event.reason.is_none() {
            return Err(format!("{} is {} by {:?} without a reason", event.task, event.state.as_str(), event.kind));
        }
        Ok(())
    }
}
