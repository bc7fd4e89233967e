//! Stories of founding, inviting and joining: a real mesh, a registry in memory.

use super::invitation::Token;
use super::*;
use crate::identity::{Identity, Signer};
use crate::mesh::{Handlers, Mesh, MeshConfig, MeshHandle, MeshSettings, RosterEntry};
use async_trait::async_trait;
use consensus::envelope::StatementKind;
use consensus::registry::kv::MemoryKv;
use consensus::registry::{
    Command, Entry, EntryBody, FederationPolicy, Motion, RegistryReader, RegistryState, Response, Standing, Statement,
    Vote,
};
use consensus::store::Records;
use consensus::time::Timestamp;
use cpi::ids::MemberId;
use cpi::resource::RegionPlace;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A wall clock that stands still, in ms.
const NOW: u64 = 1_800_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> Timestamp {
    Timestamp(NOW)
}

fn place(region: &str) -> RegionPlace {
    RegionPlace { region: region.parse().expect("a region name"), city: "G110100".to_owned(), country: "CN".to_owned() }
}

/// A registry of one replica that commits at once, unless it is told to have no quorum.
struct OneReplica {
    kv: Mutex<(MemoryKv, u64)>,
    federation: consensus::envelope::Federation,
    stuck: Mutex<bool>,
}

impl OneReplica {
    fn apply(&self, body: EntryBody) -> Response {
        let mut state = self.kv.lock().expect("no panic");
        state.1 += 1;
        let index = state.1;
        RegistryState::apply(&mut state.0, index, &Entry { stamp: Timestamp(NOW + index), body })
    }
}

#[async_trait]
impl AdmissionRegistry for OneReplica {
    fn reader(&self) -> RegistryReader {
        RegistryReader::new(Arc::new(self.kv.lock().expect("no panic").0.clone()))
    }

    async fn propose(&self, envelope: Vec<u8>, _: Duration) -> Result<Response, String> {
        if *self.stuck.lock().expect("no panic") {
            return Err("no quorum".to_owned());
        }
        let statement = Statement::open(envelope, &self.federation).map_err(|error| error.to_string())?;
        Ok(self.apply(EntryBody::Statement(Box::new(statement))))
    }
}

/// The founder: its desk behind a mesh.
struct Founder {
    folder: tempfile::TempDir,
    desk: Arc<AdmissionDesk>,
    registry: Arc<OneReplica>,
    signer: Signer,
    mesh: MeshHandle,
}

async fn founder() -> Founder {
    let folder = tempfile::tempdir().expect("a folder");
    let founding = Founding {
        name: "test".to_owned(),
        place: place("beijing"),
        addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
        enterprises: Vec::new(),
        now: now(),
    };
    let membership = found(folder.path(), founding).expect("founded");
    let federation = membership.federation;
    let registry = Arc::new(OneReplica { kv: Mutex::default(), federation, stuck: Mutex::default() });
    registry.apply(EntryBody::Genesis(Box::new(membership.genesis.clone())));
    let identity = Identity::load(&folder.path().join("keys")).expect("made by init");
    let records = Records::open(&folder.path().join("records")).expect("opened");
    let signer = Signer::open(&identity, federation, records).expect("opened");
    let desk = Arc::new(AdmissionDesk::new(
        MemberId(1),
        membership.genesis,
        identity.transport_key(),
        signer.clone(),
        registry.clone(),
        now,
    ));
    let settings = MeshSettings { listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()], ..MeshSettings::default() };
    let config = MeshConfig { me: MemberId(1), federation, settings };
    let handlers = Handlers { join: Some(desk.clone()), ..Handlers::default() };
    let mesh = Mesh::start(&identity.transport_seed(), config, handlers).await.expect("started");
    // nobody gets in, not even to ask, before a node knows its members
    mesh.set_roster(vec![RosterEntry {
        member: MemberId(1),
        region: place("beijing").region,
        transport_keys: vec![identity.transport_key()],
        addresses: mesh.listening(),
    }]);
    // The founder tells the registry where it really listens.
    let update = consensus::registry::command::MemberUpdate {
        expected_revision: 1,
        addresses: Some(mesh.listening()),
        transport_key: None,
        signing_key: None,
    };
    let founder = Founder { folder, desk, registry, signer, mesh };
    founder.command(&Command::UpdateMember(update)).await;
    founder
}

impl Founder {
    async fn command(&self, command: &Command) -> Response {
        let envelope = self.signer.seal_command(command.to_bytes()).expect("signed").to_bytes();
        self.registry.propose(envelope, PATIENCE).await.expect("a quorum of one")
    }

    fn invite(&self, region: Option<&str>) -> String {
        self.desk.invite(region, &["C91210231MA00CP027A".to_owned()], 3_600, None).expect("invited").0
    }
}

fn joiner(region: &str, patience: Duration) -> Joiner {
    Joiner { place: place(region), addresses: vec!["/ip4/127.0.0.1/tcp/2".to_owned()], patience, now: now() }
}

async fn try_join(data_dir: &Path, token: &str, region: &str, patience: Duration) -> Result<Membership, JoinError> {
    join(data_dir, token, &joiner(region, patience), |_| {}).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_joins_by_token_and_asking_again_is_safe() {
    let founder = founder().await;
    let token = founder.invite(Some("dalian"));
    let folder = tempfile::tempdir().expect("a folder");
    let membership = try_join(folder.path(), &token, "dalian", PATIENCE).await.expect("admitted");
    assert_eq!((membership.member, membership.federation), (MemberId(2), founder.registry.federation));
    assert_eq!(membership.roster.len(), 2, "it knows whom to connect to");
    assert_eq!(Membership::load(folder.path()).expect("written"), membership);
    let record = founder.registry.reader().member(MemberId(2)).expect("admitted");
    assert_eq!(record.enterprises, ["C91210231MA00CP027A"], "as the invitation says");
    assert_eq!(record.standing, Standing::Active);

    // The same command again: nothing changes. A crash before the file was written: the same member again.
    let again = try_join(folder.path(), &token, "dalian", PATIENCE).await.expect("nothing to do");
    assert_eq!(again.member, MemberId(2));
    std::fs::remove_file(Membership::path(folder.path())).expect("it was there");
    let repaired = try_join(folder.path(), &token, "dalian", PATIENCE).await.expect("told again");
    assert_eq!(repaired, membership);
    assert_eq!(founder.registry.reader().members().len(), 2);
    let elsewhere = try_join(founder.folder.path(), &token, "dalian", PATIENCE).await.expect("a member already");
    assert_eq!(elsewhere.member, MemberId(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_one_admission_of_whom_it_names() {
    let founder = founder().await;
    let token = founder.invite(Some("dalian"));
    let [first, second, third] = std::array::from_fn(|_| tempfile::tempdir().expect("a folder"));
    let wrong = try_join(second.path(), &token, "jinhua", PATIENCE).await.expect_err("another region");
    assert!(matches!(wrong, JoinError::Invitation(InvitationError::Region { .. })), "{wrong}");
    try_join(first.path(), &token, "dalian", PATIENCE).await.expect("admitted");
    let open = founder.invite(None);
    try_join(second.path(), &open, "jinhua", PATIENCE).await.expect("admitted");
    let used = try_join(third.path(), &open, "guangzhou", PATIENCE).await.expect_err("used");
    assert!(used.to_string().contains("used already"), "{used}");
    let own = Identity::generate().transport_key();
    let (bound, _) = founder.desk.invite(None, &[], 3_600, Some(own)).expect("invited");
    let other = try_join(third.path(), &bound, "guangzhou", PATIENCE).await.expect_err("another key");
    assert!(matches!(other, JoinError::Invitation(InvitationError::Joiner)), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_are_refused_in_words() {
    let founder = founder().await;
    let folder = tempfile::tempdir().expect("a folder");
    let bad = async |token: String| {
        let error = try_join(folder.path(), &token, "dalian", PATIENCE).await.expect_err("refused");
        assert!(!Membership::path(folder.path()).exists(), "nothing was written");
        error.to_string()
    };
    assert!(bad("nonsense".to_owned()).await.contains("causeway-join-1-"));
    let token = founder.invite(None);
    let mut bytes = Token::parse(&token).expect("a token").envelope;
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    let changed = format!("{}{}", super::invitation::PREFIX, data_encoding::BASE64URL_NOPAD.encode(&bytes));
    assert!(bad(changed).await.contains("signature"));
    let stranger = Identity::generate();
    let mut forged = Token::parse(&token).expect("a token").invitation;
    forged.enterprises.push("C91110108MA00CP019A".to_owned());
    let federation = forged.federation;
    let forged = consensus::envelope::Envelope::seal(
        StatementKind::Invitation,
        federation,
        stranger.signing_key(),
        0,
        forged.to_bytes(),
    );
    assert!(bad(Token::text(&forged)).await.contains("no active member"));
    let ttl = founder.desk.invite(None, &[], 5, None).expect_err("too short").to_string();
    assert!(ttl.contains("ttl_s") && ttl.contains("60"), "{ttl}");
    let mut late = joiner("dalian", PATIENCE);
    late.now = Timestamp(NOW + 3_600_001);
    let expired = join(folder.path(), &token, &late, |_| {}).await.expect_err("expired").to_string();
    assert!(expired.contains("expired"), "{expired}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_one_must_approve_where_the_policy_says_so() {
    let founder = founder().await;
    let folders: [tempfile::TempDir; 2] = std::array::from_fn(|_| tempfile::tempdir().expect("a folder"));
    try_join(folders[0].path(), &founder.invite(None), "dalian", PATIENCE).await.expect("one is enough yet");
    let policy = FederationPolicy { admission_approvals: 2, ..FederationPolicy::default() };
    let motion = Motion::Policy { expected_revision: 0, policy };
    let vote = Vote { motion, reason: String::new(), until: Timestamp(NOW + 60_000) };
    let votes = vec![founder.signer.seal(StatementKind::Vote, vote.to_bytes()).to_bytes()];
    let set = founder.command(&Command::Decide { votes }).await;
    assert!(set.refusal().is_none(), "{set:?}");
    let token = founder.invite(None);
    let waiting = try_join(folders[1].path(), &token, "jinhua", Duration::ZERO).await.expect_err("not yet");
    assert!(matches!(waiting, JoinError::StillWaiting { have: 1, need: 2 }), "{waiting}");
    assert_eq!(founder.desk.pending()[0].region.as_str(), "jinhua");

    // A second member approves exactly this request, by its own key.
    let dalian = Identity::load(&folders[0].path().join("keys")).expect("made by join");
    let waiting = founder.desk.waiting_joins().remove(0);
    assert_eq!((waiting.have, waiting.need), (1, 2));
    let digest = consensus::registry::Admission::approval_of(&waiting.request, &waiting.enterprises);
    let fewer = consensus::registry::Admission::approval_of(&waiting.request, &[]);
    let federation = founder.registry.federation;
    let approve = |body: Vec<u8>| {
        consensus::envelope::Envelope::seal(StatementKind::Approval, federation, dalian.signing_key(), 0, body)
    };
    assert!(!founder.desk.add_approval(&approve(vec![0; 32])), "of something else");
    assert!(!founder.desk.add_approval(&approve(fewer.to_vec())), "of other enterprises");
    assert!(!founder.desk.add_approval(&approve(b"jinhua".to_vec())), "of a name");
    // another joiner under the same name waits beside it, and gets nothing of what the first one is given
    let rival = tempfile::tempdir().expect("a folder");
    let token_of_rival = founder.invite(None);
    try_join(rival.path(), &token_of_rival, "jinhua", Duration::ZERO).await.expect_err("not yet");
    let pending = founder.desk.pending();
    assert_eq!(pending.len(), 2, "both wait");
    assert!(pending.iter().all(|join| join.region.as_str() == "jinhua") && pending[0].request != pending[1].request);
    assert!(founder.desk.add_approval(&approve(digest.to_vec())));
    let have = |request| founder.desk.pending().into_iter().find(|join| join.request == request).map(|join| join.have);
    assert_eq!(have(digest), Some(2));
    assert_eq!(
        founder.desk.pending().iter().map(|join| join.have).sum::<u32>(),
        3,
        "the rival has the invitation only"
    );
    let joined = try_join(folders[1].path(), &token, "jinhua", PATIENCE).await.expect("two approve");
    assert_eq!(joined.member, MemberId(3));
    let left = founder.desk.pending();
    assert_eq!((left.len(), left[0].have), (1, 1));
    // and the name is taken, should it be approved too
    let rival_digest = left[0].request;
    assert!(founder.desk.add_approval(&approve(rival_digest.to_vec())));
    let refused = try_join(rival.path(), &token_of_rival, "jinhua", PATIENCE).await.expect_err("taken");
    assert!(refused.to_string().contains("taken"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nobody_gets_in_and_asking_later_works() {
    let founder = founder().await;
    let folder = tempfile::tempdir().expect("a folder");
    let token = founder.invite(None);
    *founder.registry.stuck.lock().expect("no panic") = true;
    let stuck = try_join(folder.path(), &token, "dalian", Duration::ZERO).await.expect_err("no quorum");
    assert!(stuck.to_string().contains("no quorum"), "{stuck}");
    *founder.registry.stuck.lock().expect("no panic") = false;
    try_join(folder.path(), &token, "dalian", PATIENCE).await.expect("admitted");
    assert!(founder.mesh.stats().refused == 0);
}

#[test]
fn a_federation_is_founded_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let founding = || Founding {
        name: "test".to_owned(),
        place: place("beijing"),
        addresses: Vec::new(),
        enterprises: Vec::new(),
        now: now(),
    };
    let membership = found(folder.path(), founding()).expect("founded");
    assert!(membership.is_founder());
    assert_eq!(membership.federation.id, membership.genesis.federation_id());
    assert_eq!(Membership::load(folder.path()).expect("written"), membership);
    let twice = found(folder.path(), founding()).expect_err("there is one").to_string();
    assert!(twice.contains("membership.json"), "{twice}");
    let other = tempfile::tempdir().expect("a folder");
    assert_ne!(found(other.path(), founding()).expect("founded").federation.id, membership.federation.id);
    let data = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(data.path().join("registry")).expect("ours");
    assert!(found(data.path(), founding()).is_err(), "there is a registry already");
    let missing = Membership::load(data.path()).expect_err("none").to_string();
    assert!(missing.contains("causeway init") && missing.contains("member join"), "{missing}");
}
