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
        self.inner.shared.is_known(digest)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Envelope, Federation, StatementKind};
    use crate::raft::wire::{self, Answer, Question};
    use crate::raft::{RaftClass, RaftTransport, RegistryOptions, TransportError};
    use crate::registry::{Command, Genesis, ItemOutcome, Registration};
    use crate::time::Timestamp;
    use async_trait::async_trait;
    use bytes::Bytes;
    use cpi::resource::RegionPlace;
    use ed25519_dalek::SigningKey;
    use std::sync::Mutex;
    use std::time::Duration;

    const TEXT: &str = "cpi:1:C91110108MA00CP019A-GI6450-G110100-A01.GC-VM-2870TF64-20P-400G-INX8480P_800.RS-INX8480P-112-1024G-15T-400~2VHNVZS";
    const FOREIGN: &str = "cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071~36GEFEP";

    struct Nobody;

    #[async_trait]
    impl RaftTransport for Nobody {
        async fn call(&self, to: MemberId, _: RaftClass, _: Bytes, _: Duration) -> Result<Bytes, TransportError> {
            Err(TransportError::Unreachable(to))
        }

        fn members(&self) -> Vec<MemberId> {
            Vec::new()
        }

        fn rtt_ms(&self, _: MemberId) -> Option<u32> {
            None
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_peers_send_wrongly_is_refused_and_told_with_their_name() {
        let (key, folder) = (SigningKey::from_bytes(&[1; 32]), tempfile::tempdir().unwrap());
        let genesis = Genesis {
            name: "test".to_owned(),
            founded_at: Timestamp(1),
            nonce: [0; 16],
            place: RegionPlace { region: "r1".parse().unwrap(), city: "G110100".to_owned(), country: "CN".to_owned() },
            transport_key: SigningKey::from_bytes(&[2; 32]).verifying_key().to_bytes(),
            signing_key: key.verifying_key().to_bytes(),
            addresses: Vec::new(),
            enterprises: vec!["C91110108MA00CP019A".to_owned()],
        };
        let federation = Federation { id: genesis.federation_id(), epoch: 0 };
        let options = RegistryOptions {
            dir: folder.path().to_owned(),
            seat: folder.path().join("seat"),
            member: MemberId(1),
            raft_id: 1,
            federation,
            signing_key: key.clone(),
            floor: crate::raft::TimerFloor { heartbeat_ms: 160, election_ms: 480 },
            snapshot_log_bytes: 64 << 20,
            log_entries_kept: 1_000,
            cache_bytes: 1 << 20,
            found: Some(genesis),
        };
        let registry = RegistryHandle::start(options, Arc::new(Nobody)).await.unwrap();
        let told: Arc<Mutex<Vec<(MemberId, &'static str)>>> = Arc::default();
        let watch = Arc::clone(&told);
        registry.watch_refusals(Arc::new(move |from, reason, _| watch.lock().unwrap().push((from, reason))));
        let signed = |by: &SigningKey, sequence: u64, text: &str| {
            let items = vec![Registration { text: text.to_owned() }];
            let body = Command::Register { items, release: 1 }.to_bytes();
            Envelope::seal(StatementKind::RegistryCommand, federation, by, sequence, body).to_bytes()
        };
        let send = async |from: u64, envelope: Vec<u8>| {
            let question = wire::encode_frame(&Question::Propose { envelope: envelope.into(), hops: 1 });
            let answer = registry.serve(MemberId(from), RaftClass::Forward, question.into()).await.unwrap();
            wire::decode_frame::<Answer>(&answer).unwrap()
        };
        let first = signed(&key, 1, TEXT);
        let Answer::Committed { response: outcome, .. } = send(2, first.clone()).await else { panic!("committed") };
        assert!(matches!(&outcome, Response::Registered(items) if matches!(items[0], ItemOutcome::Registered { .. })));
        assert!(told.lock().unwrap().is_empty());
        let log = registry.status().last_log_index;
        let Answer::Committed { response, .. } = send(3, first.clone()).await else { panic!("answered") };
        assert_eq!(response, outcome, "a replay repeats the first outcome");
        assert_eq!(registry.status().last_log_index, log, "and the log does not grow by it");

        let mut forged = signed(&key, 2, TEXT);
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(matches!(send(4, forged).await, Answer::Failed(reason) if reason.contains("signature")));
        let foreign = send(5, signed(&key, 3, FOREIGN)).await;
        assert!(matches!(foreign, Answer::Committed { response: Response::Registered(items), .. }
            if matches!(items[0], ItemOutcome::Refused(_))));
        let equivocal = send(6, signed(&key, 1, FOREIGN)).await;
        assert!(matches!(equivocal, Answer::Committed { response: Response::Refused(_), .. }));
        let stranger = send(7, signed(&SigningKey::from_bytes(&[9; 32]), 1, TEXT)).await;
        assert!(matches!(stranger, Answer::Committed { response: Response::Refused(_), .. }));
        let wanted = [
            (MemberId(3), "replayed"),
            (MemberId(4), "signature"),
            (MemberId(5), "foreign_enterprise"),
            (MemberId(6), "equivocation"),
            (MemberId(7), "unknown_signer"),
        ];
        assert_eq!(*told.lock().unwrap(), wanted);
        registry.shutdown().await;
    }
}
