//! What comes to the leader's door from peers: replays are answered from memory, refusals are told with the peer's name.

use super::handle::RegistryHandle;
use crate::registry::pending::ClaimRefused;
use crate::registry::{Response, Settled, Statement};
use cpi::ids::MemberId;
use std::sync::Arc;

/// Told of each refusal of a peer's command: who sent it, the reason in one word, and in a sentence.
pub type RefusalWatch = Arc<dyn Fn(MemberId, &'static str, &str) + Send + Sync>;

impl RegistryHandle {
    /// Has `watch` told of commands of peers that are refused here. A second watch is ignored.
    pub fn watch_refusals(&self, watch: RefusalWatch) {
        let _ = self.inner.shared.refusals.set(watch);
    }

    /// Whether a command with this digest is being committed by this node now.
    pub fn is_in_flight(&self, digest: &[u8; 32]) -> bool {
        self.inner.shared.verified.lock().expect("never poisoned").contains(digest)
    }

    /// Opens a peer's command.
    pub(super) fn opened(&self, from: MemberId, envelope: &[u8]) -> Result<Statement, String> {
        Statement::open(envelope.to_vec(), &self.federation()).map_err(|error| {
            let sentence = error.to_string();
            self.tell(from, ClaimRefused::from(&error).name(), &sentence);
            sentence
        })
    }

    /// The outcome of a command that was applied before: it is repeated, and the log does not grow by it.
    pub(super) fn replayed(&self, from: MemberId, statement: &Statement) -> Option<(u64, Response)> {
        let reader = self.reader();
        match reader.settled(&statement.key, statement.sequence) {
            Settled::Outcome { digest, response } if digest == statement.digest => {
                self.tell(from, "replayed", "the command was applied before: its first outcome is repeated");
                Some((reader.summary()?.applied, response))
            }
            _ => None,
        }
    }

    /// Tells of what the registry refused of a peer's command.
    pub(super) fn tell_refusals(&self, from: MemberId, response: &Response) {
        for refusal in response.refusals() {
            self.tell(from, refusal.name(), &refusal.to_string());
        }
    }

    fn tell(&self, from: MemberId, reason: &'static str, sentence: &str) {
        if let Some(watch) = self.inner.shared.refusals.get() {
            watch(from, reason, sentence);
        }
    }
}
