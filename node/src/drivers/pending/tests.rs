//! A desk over a real registry of one: what it lets pass, what it rejects, and that refusals are counted.

use super::*;
use crate::drivers::raft::MeshTransport;
use crate::identity::{Identity, Signer};
use crate::join::{Founding, Membership, found};
use crate::mesh::{
    FrameHandler as _, GossipVerdict, Handlers, Mesh, MeshConfig, MeshHandle, MeshSettings, StreamClass,
};
use crate::metrics::Metrics;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::raft::{RegistryHandle, RegistryOptions};
use consensus::registry::pending::{RepairAnswer, RepairItem, RepairQuestion};
use consensus::registry::{Command, Registration};
use consensus::store::Records;
use consensus::time::Timestamp;
use cpi::identifier::Cpi;
use cpi::ids::MemberId;
use cpi::resource::RegionPlace;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ENTERPRISE: &str = "C91110108MA00CP019A";
const PATIENCE: Duration = Duration::from_secs(20);

fn identifier(serial: u64, enterprise: &str) -> String {
    let text = format!(
        "cpi:1:{enterprise}-GI6450-G110100-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1/GPU/NVH800S80/S{serial:012}"
    );
    Cpi::seal(&text).expect("valid").as_str().to_owned()
}

/// The only member of a federation.
pub(in crate::drivers) struct Alone {
    pub registry: RegistryHandle,
    pub mesh: MeshHandle,
    pub signer: Signer,
    pub records: Records,
    pub metrics: Arc<Metrics>,
    pub federation: Federation,
}

impl Alone {
    pub async fn start(folder: &Path) -> Self {
        let founding = Founding {
            name: "test".to_owned(),
            place: RegionPlace {
                region: "beijing".parse().expect("a name"),
                city: "G110100".to_owned(),
                country: "CN".to_owned(),
            },
            addresses: Vec::new(),
            enterprises: vec![ENTERPRISE.to_owned()],
            now: Timestamp(1_800_000_000_000),
        };
        let Membership { genesis, federation, raft_id, .. } = found(folder, founding).expect("founded");
        let identity = Identity::load(&folder.join("keys")).expect("made");
        let settings =
            MeshSettings { listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()], ..MeshSettings::default() };
        let config = MeshConfig { me: MemberId(1), federation, settings };
        let mesh = Mesh::start(&identity.transport_seed(), config, Handlers::default()).await.expect("listens");
        let options = RegistryOptions {
            dir: folder.join("registry"),
            seat: folder.join("seat"),
            member: MemberId(1),
            raft_id,
            federation,
            signing_key: identity.signing_key().clone(),
            floor: consensus::raft::TimerFloor { heartbeat_ms: 160, election_ms: 480 },
            snapshot_log_bytes: 64 << 20,
            log_entries_kept: 1_000,
            cache_bytes: 1 << 20,
            found: Some(genesis),
        };
        let registry =
            RegistryHandle::start(options, Arc::new(MeshTransport::new(mesh.clone()))).await.expect("starts");
        let records = Records::open(&folder.join("records")).expect("opens");
        let signer = Signer::open(&identity, federation, records.clone()).expect("opens");
        registry.watch_applied().wait_for(|index| *index > 0).await.expect("founded");
        Self { registry, mesh, signer, records, metrics: Arc::new(Metrics::new()), federation }
    }

    fn desk(&self, me: u64) -> PendingDesk {
        let parts = PendingParts {
            me: MemberId(me),
            registry: self.registry.clone(),
            mesh: self.mesh.clone(),
            records: self.records.clone(),
            metrics: self.metrics.clone(),
        };
        PendingDesk::open(parts).expect("opens")
    }

    fn signed(&self, command: &Command) -> Vec<u8> {
        self.signer.seal_command(command.to_bytes()).expect("signed").to_bytes()
    }

    fn registration(&self, serial: u64, enterprise: &str) -> Vec<u8> {
        let items = vec![Registration { text: identifier(serial, enterprise) }];
        self.signed(&Command::Register { items, release: 1 })
    }

    pub fn refused(&self, reason: &str) -> bool {
        self.metrics.text().contains(&format!("causeway_registry_refused_total{{reason=\"{reason}\"}} "))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_is_rejected_ignored_or_passed_on_and_refusals_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Alone::start(folder.path()).await;
    // the desk of another member of the same federation
    let desk = node.desk(2);
    let author = MemberId(1);
    let good = node.registration(1, ENTERPRISE);
    assert_eq!(desk.on_registration(author, &good), GossipVerdict::Accept);
    assert_eq!(desk.on_registration(author, &good), GossipVerdict::Ignore, "once");
    assert_eq!(desk.all().len(), 1);

    let mut forged = node.registration(2, ENTERPRISE);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let stranger = Identity::generate();
    let elsewhere = Federation { id: [9; 32], epoch: 0 };
    let later = Federation { epoch: 1, ..node.federation };
    let body =
        Command::Register { items: vec![Registration { text: identifier(3, ENTERPRISE) }], release: 1 }.to_bytes();
    let by = |federation, kind| Envelope::seal(kind, federation, stranger.signing_key(), 1, body.clone()).to_bytes();
    let policy = Command::RaiseRingVersion { version: 2 };
    let command = StatementKind::RegistryCommand;
    for (payload, from, verdict, reason) in [
        (forged, 1, GossipVerdict::Reject, "signature"),
        (b"nonsense".to_vec(), 1, GossipVerdict::Ignore, "format"),
        (vec![1, 2, 3], 1, GossipVerdict::Reject, "malformed"),
        (by(elsewhere, command), 1, GossipVerdict::Reject, "federation"),
        (by(later, command), 1, GossipVerdict::Ignore, "epoch"),
        (by(node.federation, StatementKind::Offer), 1, GossipVerdict::Reject, "kind"),
        (by(node.federation, command), 1, GossipVerdict::Ignore, "unknown_signer"),
        (node.signed(&policy), 1, GossipVerdict::Reject, "kind"),
        // a message that lies about its author
        (node.registration(4, ENTERPRISE), 7, GossipVerdict::Reject, "author"),
        (node.registration(5, "PTESTR001"), 1, GossipVerdict::Ignore, "foreign_enterprise"),
    ] {
        assert_eq!(desk.on_registration(MemberId(from), &payload), verdict, "{reason}");
        assert!(node.refused(reason), "{reason} is counted:\n{}", node.metrics.text());
    }
    assert_eq!(desk.all().len(), 1, "nothing of it is pending");
    // what was committed is no news when it comes again
    let committed = node.registration(6, ENTERPRISE);
    node.registry.propose(committed.clone(), PATIENCE).await.expect("a quorum of one");
    assert_eq!(desk.on_registration(author, &committed), GossipVerdict::Ignore);
    assert!(node.refused("replayed"));
    node.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_commits_what_another_member_cannot_and_the_disk_keeps_it_until_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Alone::start(folder.path()).await;
    let envelope = node.registration(1, ENTERPRISE);
    {
        let desk = node.desk(2);
        assert_eq!(desk.on_registration(MemberId(1), &envelope), GossipVerdict::Accept);
        let stop = CancellationToken::new();
        let running = tokio::spawn(desk.run(stop.clone()));
        let mut kept = node.desk(2).all().len();
        let begin = std::time::Instant::now();
        while kept == 0 && begin.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
            kept = node.desk(2).all().len();
        }
        stop.cancel();
        running.await.expect("stops");
    }
    // after a restart it is still there, and a fallback of about two seconds commits it
    let desk = node.desk(2);
    assert_eq!(desk.all().len(), 1, "found again on the disk");
    let key = desk.all()[0].key;
    let stop = CancellationToken::new();
    let running = tokio::spawn(desk.clone().run(stop.clone()));
    let mut applied = node.registry.watch_applied();
    let committed = tokio::time::timeout(PATIENCE, async {
        while node.registry.reader().identifier(&key).is_none() {
            applied.changed().await.expect("the registry runs");
        }
    });
    committed.await.expect("committed by the leader");
    let begin = std::time::Instant::now();
    while !(desk.all().is_empty() && node.desk(2).all().is_empty()) {
        assert!(begin.elapsed() < PATIENCE, "what is committed is pending no more, here and on disk");
        tokio::task::yield_now().await;
    }
    stop.cancel();
    running.await.expect("stops");
    node.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_gives_what_does_not_hold_is_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Alone::start(folder.path()).await;
    let desk = node.desk(2);
    let repair = RepairDesk::new(desk.clone());
    let ask = async |question: RepairQuestion| {
        let answer = repair.on_request(MemberId(3), StreamClass::Registry, question.to_bytes().into()).await;
        answer.map(|answer| RepairAnswer::from_bytes(&answer).expect("an answer"))
    };
    let item = |envelope| RepairItem { age_ms: 5, envelope };
    let good = item(node.registration(1, ENTERPRISE));
    let mut forged = item(node.registration(2, ENTERPRISE));
    let last = forged.envelope.len() - 1;
    forged.envelope[last] ^= 1;
    let sum = desk.table().sum();
    assert_eq!(ask(RepairQuestion::Compare { sum }).await, Ok(RepairAnswer::Same));
    let given = ask(RepairQuestion::Give { items: vec![good, forged] }).await;
    assert!(given.is_err_and(|told| told.contains("signature")));
    assert!(node.refused("signature"));
    assert_eq!(desk.all().len(), 1, "what was good before it stays");
    assert_eq!(ask(RepairQuestion::Compare { sum: [0; 32] }).await, Ok(RepairAnswer::Differ));
    let Ok(RepairAnswer::Missing { items, wanted }) = ask(RepairQuestion::Have { ids: Vec::new() }).await else {
        panic!("not an answer to this question");
    };
    assert_eq!((items.len(), wanted.len()), (1, 0));
    let broken = repair.on_request(MemberId(3), StreamClass::Registry, bytes::Bytes::from_static(b"\x01\xff")).await;
    assert!(broken.is_err());
    // a peer that asks without end is answered no more
    let mut told = None;
    for _ in 0..2_000 {
        if let Err(message) = ask(RepairQuestion::Compare { sum: [0; 32] }).await {
            told = Some(message);
            break;
        }
    }
    assert!(told.is_some_and(|told| told.contains("ask later")));
    node.registry.shutdown().await;
}
