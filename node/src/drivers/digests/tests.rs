//! Stories of two regions' digests over a real mesh on which gossip brings nothing.

use super::*;
use crate::drivers::members::{KnownMember, KnownMembers};
use crate::mesh::{Handlers, Mesh, MeshConfig, MeshHandle, MeshSettings, RosterEntry, StreamClass};
use async_trait::async_trait;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::negotiation::{Digest, Input, PoolDigest};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use cpi::resource::{ComputeClass, Firmness, PriceList, RegionPlace};
use ed25519_dalek::SigningKey;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const FEDERATION: Federation = Federation { id: [1; 32], epoch: 1 };
const PATIENCE: Duration = Duration::from_secs(20);

fn key(member: u64) -> SigningKey {
    SigningKey::from_bytes(&[member as u8; 32])
}

fn place(member: u64) -> RegionPlace {
    RegionPlace { region: format!("r{member}").parse().unwrap(), city: "G110100".to_owned(), country: "CN".to_owned() }
}

fn members() -> KnownMembers {
    let known = KnownMembers::default();
    let member = |m: u64| {
        let signing_keys = vec![key(m).verifying_key().to_bytes()];
        (MemberId(m), KnownMember { place: place(m), active: true, signing_keys })
    };
    known.set([member(1), member(2)].into());
    known
}

fn identifier(capacity: u32) -> Cpi {
    let text = format!(
        "cpi:1:PTESTR001-GI6450-G110100-B01.IC-CT-{capacity}PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1/GPU/NVH800S80/S000000000001"
    );
    Cpi::seal(&text).unwrap()
}

fn digest(member: u64, incarnation: u64) -> Digest {
    let price =
        PriceList { currency: "CNY".to_owned(), cpu_core_hour_micro: 1, memory_gib_hour_micro: 1, chip_hour_micro: 1 };
    let pool = PoolDigest {
        name: "main".to_owned(),
        class: ComputeClass::General,
        firmness: Firmness::Held,
        commands: true,
        images: false,
        price,
        carbon_g_per_kwh: None,
        cordoned: false,
        down: false,
        queue: 0,
        identifiers: vec![identifier(1010).stable_key()],
        classes: Vec::new(),
    };
    let member = MemberId(member);
    Digest {
        member,
        incarnation,
        sequence: 1,
        ttl_ms: 0,
        draining: false,
        pools: vec![pool],
        shapes: Vec::new(),
        truncated: false,
    }
}

fn sealed(signer: u64, digest: &Digest) -> Vec<u8> {
    Envelope::seal(StatementKind::Digest, FEDERATION, &key(signer), 1, digest.to_bytes()).to_bytes()
}

struct Heard(mpsc::UnboundedSender<Input>);

#[async_trait]
impl News for Heard {
    async fn tell(&self, input: Input) -> bool {
        self.0.send(input).is_ok()
    }
}

#[derive(Default)]
struct Registry(Mutex<BTreeMap<StableKey, Cpi>>);

impl IdentifierLookup for Registry {
    fn identifier(&self, key: StableKey) -> Option<Cpi> {
        self.0.lock().unwrap().get(&key).cloned()
    }
}

struct Region {
    member: u64,
    mesh: MeshHandle,
    news: mpsc::UnboundedReceiver<Input>,
    registry: Arc<Registry>,
    applied: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Region {
    async fn start(member: u64, incarnation: u64) -> Self {
        let members = members();
        let (gate, received) = gate(FEDERATION, members.clone());
        // no handler for gossip: the mesh ignores all of it
        let mut handlers = Handlers::default();
        handlers.frames.insert(StreamClass::Digests, gate.clone());
        let settings =
            MeshSettings { listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()], ..MeshSettings::default() };
        let config = MeshConfig { me: MemberId(member), federation: FEDERATION, settings };
        let mesh = Mesh::start(&[member as u8; 32], config, handlers).await.unwrap();
        let (heard, news) = mpsc::unbounded_channel();
        let (_, own) = watch::channel(Some(digest(member, incarnation)));
        let (applied, applied_out) = watch::channel(0);
        let (registry, stop) = (Arc::new(Registry::default()), CancellationToken::new());
        start(DigestParts {
            me: MemberId(member),
            federation: FEDERATION,
            signing_key: Arc::new(key(member)),
            mesh: mesh.clone(),
            members,
            news: Arc::new(Heard(heard)),
            own,
            gate,
            received,
            identifiers: registry.clone(),
            applied: applied_out,
            interval_ms: 200,
            ttl_ms: 30_000,
            stop: stop.clone(),
        });
        Self { member, mesh, news, registry, applied, stop }
    }

    fn entry(&self) -> RosterEntry {
        RosterEntry {
            member: MemberId(self.member),
            region: place(self.member).region,
            transport_keys: vec![key(self.member).verifying_key().to_bytes()],
            addresses: self.mesh.listening(),
        }
    }

    async fn hears(&mut self, what: &str, wanted: impl Fn(&Input) -> bool) -> Input {
        let heard = async {
            loop {
                let input = self.news.recv().await.expect("the driver runs");
                if wanted(&input) {
                    return input;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("r{} never hears {what}", self.member))
    }

    async fn hears_digest(&mut self, of: u64, incarnation: u64) {
        let is_it = |d: &Digest| d.member == MemberId(of) && d.incarnation == incarnation;
        self.hears("a digest", |input| matches!(input, Input::Digest(digest) if is_it(digest))).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.mesh.stop().await;
    }
}

fn meet(one: &Region, two: &Region) {
    for region in [one, two] {
        region.mesh.set_roster(vec![one.entry(), two.entry()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digests_arrive_without_gossip_and_again_after_a_restart() {
    let mut one = Region::start(1, 1).await;
    for incarnation in 1..=3 {
        let mut two = Region::start(2, incarnation).await;
        meet(&one, &two);
        one.hears_digest(2, incarnation).await;
        two.hears_digest(1, 1).await;
        let reachable = |input: &Input| matches!(input, Input::Rtt { member: MemberId(1), rtt_ms: Some(_) });
        two.hears("a round trip", reachable).await;
        two.stop().await;
        let gone = |input: &Input| matches!(input, Input::Rtt { member: MemberId(2), rtt_ms: None });
        one.hears("that it is gone", gone).await;
    }
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identifiers_are_told_again_when_they_change_in_the_registry() {
    let mut one = Region::start(1, 1).await;
    let two = Region::start(2, 1).await;
    meet(&one, &two);
    one.hears_digest(2, 1).await;
    for (index, capacity) in [1010, 2020, 3030].into_iter().enumerate() {
        let cpi = identifier(capacity);
        one.registry.0.lock().unwrap().insert(cpi.stable_key(), cpi.clone());
        one.applied.send(index as u64 + 1).unwrap();
        let is_it = |input: &Input| matches!(input, Input::Identifiers { member: MemberId(2), identifiers } if identifiers[0].1 == cpi);
        one.hears("the text in force", is_it).await;
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn the_gate_knows_what_is_new_and_what_is_wrong() {
    let (gate, mut received) = gate(FEDERATION, members());
    let (first, later) = (digest(1, 4), Digest { sequence: 2, ..digest(1, 4) });
    assert_eq!(gate.take(MemberId(1), &sealed(1, &first)), Judgement::New);
    assert_eq!(gate.take(MemberId(1), &sealed(1, &first)), Judgement::Known);
    assert_eq!(gate.take(MemberId(1), &sealed(1, &later)), Judgement::New);
    assert_eq!(gate.take(MemberId(1), &sealed(1, &digest(1, 3))), Judgement::Known, "an older incarnation");
    assert_eq!(gate.take(MemberId(2), &sealed(1, &digest(1, 9))), Judgement::Wrong, "it speaks for another");
    assert_eq!(
        gate.take(MemberId(1), &sealed(2, &digest(1, 9))),
        Judgement::NotYet,
        "no key of member 1, as far as known"
    );
    let mut cut = sealed(1, &digest(1, 9));
    cut.pop();
    assert_eq!(gate.take(MemberId(1), &cut), Judgement::Wrong);
    let mut changed = sealed(1, &digest(1, 9));
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(gate.take(MemberId(1), &changed), Judgement::Wrong);
    assert_eq!(received.digests.recv().await, Some(first));
    assert_eq!(received.digests.recv().await, Some(later));
    assert!(received.digests.try_recv().is_err(), "nothing else passed");
}
