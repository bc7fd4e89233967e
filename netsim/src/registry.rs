//! The registry over an ordered log that can delay, lose its leader and answer stale: the node's own state machine on
//! every replica, a model in place of Raft. It proves nothing about Raft.
//!
//! The model: one ordered log; its leader commits while most replicas are up and reachable; without one the most advanced
//! replica among a majority leads after an election time; replicas that the leader reaches apply in order, late by their
//! one-way time; once a second the leader says up to where everything is committed, and a replica that applied that far
//! may claim to be as of that moment.

use crate::bug::Bug;
use crate::catalogue::{Act, Scenario, What};
use crate::invariants::{Fact, Invariants};
use crate::story::Lived;
use crate::trace::{Detail, Step, Trace};
use crate::wan::Wan;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::registry::command::JoinRequest;
use consensus::registry::kv::MemoryKv;
use consensus::registry::{
    Admission, Command, Entry, EntryBody, Genesis, Registration, RegistryReader, RegistryState, Statement,
};
use consensus::time::Timestamp;
use cpi::identifier::Cpi;
use cpi::ids::StableKey;
use ed25519_dalek::{Signer as _, SigningKey};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

const TICK_MS: u64 = 50;
const ELECTION_MS: u64 = 1_500;
const BEACON_MS: u64 = 1_000;
const ENTERPRISE: &str = "C91210231MA00CP027A";
const TEXTS: [&str; 1] = [
    "cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071~36GEFEP",
];

struct Replica {
    kv: MemoryKv,
    applied: u64,
    up: bool,
    /// The newest moment up to which it may claim to have everything.
    as_of_ms: u64,
    /// A beacon that it has not applied far enough for yet: index and moment.
    beacon: Option<(u64, u64)>,
}

struct Model {
    now_ms: u64,
    wan: Wan,
    replicas: Vec<Replica>,
    leader: Option<usize>,
    leaderless_ms: u64,
    log: Vec<(Entry, u64)>,
    pending: Vec<(usize, Vec<u8>)>,
    federation: Federation,
    keys: Vec<SigningKey>,
    sequences: Vec<u64>,
    identifiers: Vec<StableKey>,
    invariants: Invariants,
    trace: Trace,
    bug: Option<Bug>,
}

fn member_place(index: usize) -> cpi::resource::RegionPlace {
    crate::testing::place(index)
}

impl Model {
    fn new(seed: u64, wan: Wan, regions: usize, bug: Option<Bug>) -> Self {
        let keys: Vec<SigningKey> = (0..regions).map(|i| SigningKey::from_bytes(&[i as u8 + 1; 32])).collect();
        let genesis = Genesis {
            name: "simulated".to_owned(),
            founded_at: Timestamp(1),
            nonce: [9; 16],
            place: member_place(0),
            transport_key: SigningKey::from_bytes(&[101; 32]).verifying_key().to_bytes(),
            signing_key: keys[0].verifying_key().to_bytes(),
            addresses: Vec::new(),
            enterprises: vec![ENTERPRISE.to_owned()],
        };
        let federation = Federation { id: genesis.federation_id(), epoch: 0 };
        let replica = || Replica { kv: MemoryKv::default(), applied: 0, up: true, as_of_ms: 0, beacon: None };
        let entry = Entry { stamp: Timestamp(1), body: EntryBody::Genesis(Box::new(genesis)) };
        let mut model = Self {
            now_ms: 0,
            wan,
            replicas: (0..regions).map(|_| replica()).collect(),
            leader: Some(0),
            leaderless_ms: 0,
            log: vec![(entry, 0)],
            pending: Vec::new(),
            federation,
            sequences: vec![0; regions],
            keys,
            identifiers: TEXTS.iter().map(|text| Cpi::parse(text).expect("a valid identifier").stable_key()).collect(),
            invariants: Invariants::default(),
            trace: Trace::new(seed, Detail::Digest),
            bug,
        };
        for index in 1..regions {
            let admission = model.admission(index);
            model.propose(0, &Command::Admit(Box::new(admission)));
        }
        model
    }

    fn admission(&self, index: usize) -> Admission {
        let (signing, transport) = (&self.keys[index], SigningKey::from_bytes(&[index as u8 + 101; 32]));
        let nonce = [index as u8; 16];
        let claim = JoinRequest::transport_claim(&signing.verifying_key().to_bytes(), &nonce);
        let request = JoinRequest {
            invitation_nonce: nonce,
            place: member_place(index),
            transport_key: transport.verifying_key().to_bytes(),
            addresses: Vec::new(),
            transport_proof: transport.sign(&claim).to_bytes().to_vec(),
        };
        let envelope = Envelope::seal(StatementKind::JoinRequest, self.federation, signing, 1, request.to_bytes());
        Admission {
            invitation_nonce: nonce,
            place: member_place(index),
            transport_key: transport.verifying_key().to_bytes(),
            signing_key: signing.verifying_key().to_bytes(),
            addresses: Vec::new(),
            enterprises: vec![ENTERPRISE.to_owned()],
            request: envelope.to_bytes(),
            approvals: Vec::new(),
        }
    }

    fn propose(&mut self, from: usize, command: &Command) {
        self.sequences[from] += 1;
        let (key, sequence) = (&self.keys[from], self.sequences[from]);
        let body = command.to_bytes();
        let envelope = Envelope::seal(StatementKind::RegistryCommand, self.federation, key, sequence, body).to_bytes();
        self.pending.push((from, envelope));
    }

    fn talks(&self, a: usize, b: usize) -> bool {
        let (one, other) = (&self.replicas[a], &self.replicas[b]);
        a == b || (one.up && other.up && self.wan.is_open(a, b) && self.wan.is_open(b, a))
    }

    fn has_majority(&self, leader: usize) -> bool {
        let reached = (0..self.replicas.len()).filter(|other| self.talks(leader, *other)).count();
        self.replicas[leader].up && reached > self.replicas.len() / 2
    }

    fn note(&mut self, kind: &'static str, node: usize, what: u64) {
        let step = Step { kind, node, other: None, task: None, what };
        self.trace.note(self.now_ms * 1000, step, || what.to_string());
    }

    fn tick(&mut self, rng: &mut ChaCha8Rng) {
        self.now_ms += TICK_MS;
        match self.leader {
            Some(leader) if !self.has_majority(leader) => {
                self.leader = None;
                self.leaderless_ms = self.now_ms;
                self.note("leaderless", leader, 0);
            }
            None if self.now_ms >= self.leaderless_ms + ELECTION_MS => {
                let able = (0..self.replicas.len()).filter(|r| self.has_majority(*r));
                if let Some(leader) = able.max_by_key(|r| (self.replicas[*r].applied, *r)) {
                    self.leader = Some(leader);
                    self.note("leads", leader, self.log.len() as u64);
                }
            }
            _ => {}
        }
        self.commit();
        self.replicate();
        self.read(rng);
    }

    fn commit(&mut self) {
        let Some(leader) = self.leader else { return };
        let (reach, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(from, _)| self.talks(*from, leader));
        self.pending = rest;
        for (_, envelope) in reach {
            let Ok(statement) = Statement::open(envelope, &self.federation) else { continue };
            let stamp = Timestamp(self.now_ms + 1);
            self.log.push((Entry { stamp, body: EntryBody::Statement(Box::new(statement)) }, self.now_ms));
            self.note("commit", leader, self.log.len() as u64);
        }
    }

    fn replicate(&mut self) {
        let Some(leader) = self.leader else { return };
        let beacon = self.now_ms.is_multiple_of(BEACON_MS);
        for replica in 0..self.replicas.len() {
            if !self.talks(leader, replica) {
                continue;
            }
            let late_ms = self.wan.one_way_us(leader, replica).div_ceil(1000);
            let horizon = self.now_ms.saturating_sub(late_ms);
            let mut until = self.log.iter().take_while(|(_, at)| *at <= horizon).count() as u64;
            if replica == leader {
                until = self.log.len() as u64;
            }
            let from = self.replicas[replica].applied;
            if until > from {
                let mut order: Vec<u64> = (from..until).collect();
                if self.bug == Some(Bug::ApplyOutOfOrder) && replica == 1 && from > 0 {
                    order.reverse();
                }
                for index in order {
                    let entry = self.log[index as usize].0.clone();
                    RegistryState::apply(&mut self.replicas[replica].kv, index + 1, &entry);
                }
                self.replicas[replica].applied = until;
                self.note("apply", replica, until);
                self.show_owners(replica);
            }
            if beacon {
                self.replicas[replica].beacon = Some((self.log.len() as u64, self.now_ms));
            }
            if let Some((index, at)) = self.replicas[replica].beacon
                && self.replicas[replica].applied >= index
            {
                self.replicas[replica].as_of_ms = at;
                self.replicas[replica].beacon = None;
            }
        }
    }

    fn show_owners(&mut self, replica: usize) {
        let reader = RegistryReader::new(Arc::new(self.replicas[replica].kv.clone()));
        for key in self.identifiers.clone() {
            if let Some(record) = reader.identifier(&key) {
                let fact = Fact::Owned { node: replica, key, owner: record.owner };
                self.invariants.observe(self.now_ms, &fact);
            }
        }
    }

    fn read(&mut self, rng: &mut ChaCha8Rng) {
        let node = rng.random_range(0..self.replicas.len());
        if !self.replicas[node].up {
            return;
        }
        let claims_now = self.bug == Some(Bug::ClaimFresh);
        let as_of_ms = if claims_now { self.now_ms } else { self.replicas[node].as_of_ms };
        let committed = self.log.iter().take_while(|(_, at)| *at <= as_of_ms).count() as u64;
        let applied = self.replicas[node].applied;
        self.note("read", node, applied);
        self.invariants.observe(self.now_ms, &Fact::Read { node, as_of_ms, applied, committed });
    }

    fn act(&mut self, act: &Act) {
        let all: Vec<usize> = (0..self.replicas.len()).collect();
        let nodes: &[usize] = if act.nodes.is_empty() { &all } else { &act.nodes };
        let rest: Vec<usize> = all.iter().copied().filter(|n| !nodes.contains(n)).collect();
        match act.what {
            What::Crash | What::PowerCut => nodes.iter().for_each(|n| self.replicas[*n].up = false),
            What::Restart => nodes.iter().for_each(|n| self.replicas[*n].up = true),
            What::Cut => self.wan.partition(nodes, if act.others.is_empty() { &rest } else { &act.others }),
            What::CutOneWay => nodes.iter().for_each(|n| rest.iter().for_each(|o| self.wan.cut_one_way(*n, *o))),
            What::Heal => self.wan.heal(),
            What::SlowLink => {
                nodes.iter().for_each(|n| rest.iter().for_each(|o| self.wan.slow(*n, *o, act.value.max(0) as u64)));
            }
            _ => {}
        }
        self.note("act", nodes.first().copied().unwrap_or(0), act.what as u64);
    }
}

/// Lives a registry scenario through: members register the same identifiers at different replicas meanwhile.
pub fn live(scenario: &Scenario, seed: u64, bug: Option<Bug>, lines: bool) -> Lived {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7265_6769_7374_7279);
    let wan = Wan::random(scenario.regions, scenario.latency_ms_max, &mut rng);
    let mut model = Model::new(seed, wan, scenario.regions, bug);
    if lines {
        model.trace.set_detail(Detail::Lines);
    }
    let span_ms = scenario.span_s * 1000;
    let mut acts: BTreeMap<u64, Vec<&Act>> = BTreeMap::new();
    for act in &scenario.acts {
        acts.entry((act.at_s * 1000.0) as u64 / TICK_MS * TICK_MS).or_default().push(act);
    }
    let mut writes: Vec<u64> = (0..scenario.tasks).map(|_| rng.random_range(2_000..span_ms)).collect();
    writes.sort_unstable();
    while model.now_ms < span_ms {
        for act in acts.get(&model.now_ms).into_iter().flatten() {
            model.act(act);
        }
        while writes.first().is_some_and(|at| *at <= model.now_ms) {
            writes.remove(0);
            let from = rng.random_range(0..scenario.regions);
            let text = TEXTS[rng.random_range(0..TEXTS.len())].to_owned();
            model.propose(from, &Command::Register { items: vec![Registration { text }], release: 1 });
        }
        model.tick(&mut rng);
    }
    model.wan.heal();
    model.replicas.iter_mut().for_each(|replica| replica.up = true);
    for _ in 0..20_000 / TICK_MS {
        model.tick(&mut rng);
    }
    let open: Vec<cpi::ids::TaskId> = Vec::new();
    let behind = model.replicas.iter().filter(|replica| replica.applied < model.log.len() as u64).count();
    let leases = behind + model.pending.len();
    model.invariants.observe(model.now_ms, &Fact::Over { open: &open, lost: &open, leases });
    let mut ends = BTreeMap::new();
    ends.insert("committed".to_owned(), model.log.len() as u32);
    Lived {
        trace: model.trace.digest().hex(),
        lines: model.trace.lines().to_vec(),
        violations: model.invariants.violations().to_vec(),
        ends,
    }
}
