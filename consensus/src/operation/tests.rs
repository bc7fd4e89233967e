//! A platform that answers late, twice, out of order or never, and a node that is killed: in the end all is as was wanted.

use super::*;
use crate::time::{Monotonic, Now, Timestamp};
use bytes::Bytes;
use cpi::ids::TaskId;
use cpi::reason::ReasonCode;
use cpi::resource::Quantity;
use proptest::prelude::*;
use std::collections::BTreeMap;

const LOST_MS: u64 = 1_000;

fn id(n: u8) -> TaskId {
    let mut bytes = [0; 16];
    bytes[15] = n;
    TaskId(bytes)
}

fn need(n: u64) -> Quantity {
    Quantity { cpu_milli: n * 1000, ..Quantity::default() }
}

fn operation(n: u8, resource: u8, verb: Verb) -> OperationRecord {
    OperationRecord {
        id: id(n),
        resource: id(resource),
        adapter: "p".to_owned(),
        verb,
        request: Bytes::new(),
        principal: "me".to_owned(),
        notify: None,
        phase: OperationPhase::Waiting,
        calls: 0,
        sight: None,
        begun: Timestamp(0),
        ended: None,
        revision: 0,
    }
}

/// A call on its way to the platform.
#[derive(Debug, Clone)]
struct OnTheWay {
    record: OperationRecord,
    question: QuestionId,
    sent_ms: u64,
    look: bool,
}

struct World {
    now_ms: u64,
    machine: Operations,
    incarnation: u64,
    disk: BTreeMap<TaskId, OperationRecord>,
    writing: Vec<OperationRecord>,
    calls: Vec<OnTheWay>,
    /// Answers and hints, in no order.
    news: Vec<Input>,
    platform: BTreeMap<TaskId, Sight>,
    /// Whether the platform forgets released resources, so that their tag makes a new one.
    forgetful: bool,
    made: BTreeMap<TaskId, u32>,
    wanted: Vec<(u8, u8, Verb)>,
    told: BTreeMap<TaskId, OperationRecord>,
}

impl World {
    fn new(forgetful: bool) -> Self {
        Self {
            now_ms: 0,
            machine: machine(0),
            incarnation: 0,
            disk: BTreeMap::new(),
            writing: Vec::new(),
            calls: Vec::new(),
            news: Vec::new(),
            platform: BTreeMap::new(),
            forgetful,
            made: BTreeMap::new(),
            wanted: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    fn now(&self) -> Now {
        Now { mono: Monotonic(self.now_ms), wall: Timestamp(self.now_ms) }
    }

    fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Persist(record) => self.writing.push(*record),
                Action::Call(record, question) => {
                    assert!(
                        self.disk.contains_key(&record.id),
                        "the intent is on disk before the platform hears of it"
                    );
                    self.calls.push(OnTheWay { record: *record, question, sent_ms: self.now_ms, look: false });
                }
                Action::Look(record, question) => {
                    self.calls.push(OnTheWay { record: *record, question, sent_ms: self.now_ms, look: true });
                }
                Action::Tell(record) => {
                    assert_eq!(self.disk.get(&record.id).map(|kept| kept.revision), Some(record.revision));
                    self.told.insert(record.id, *record);
                }
                Action::Refuse(_, reason) => panic!("{reason}"),
            }
        }
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now(), input);
        self.perform();
    }

    fn begin(&mut self, n: u8, resource: u8, verb: Verb) {
        self.wanted.push((n, resource, verb));
        self.feed(Input::Begin(Box::new(operation(n, resource, verb))));
        // the caller hears that it is accepted once it is on disk
        self.sync();
    }

    fn sync(&mut self) {
        for record in std::mem::take(&mut self.writing) {
            let (id, revision) = (record.id, record.revision);
            self.disk.insert(id, record);
            self.feed(Input::Persisted(id, revision));
        }
    }

    fn crash(&mut self) {
        self.incarnation += 1;
        self.writing.clear();
        // what was on its way took effect or did not; nobody hears the answers
        for (at, call) in std::mem::take(&mut self.calls).into_iter().enumerate() {
            if at % 2 == 0 {
                self.carry_out(call);
            }
        }
        self.news.retain(|news| matches!(news, Input::Hint(_)));
        self.machine = machine(self.incarnation << 32);
        self.machine.restore(self.now(), self.disk.values().cloned().collect());
        self.perform();
    }

    /// The platform hears one of the calls on their way, or hears it twice; it can take effect as long as it is not lost.
    fn hear(&mut self, which: usize, twice: bool) {
        if self.calls.is_empty() {
            return;
        }
        let which = which % self.calls.len();
        let call = self.calls.swap_remove(which);
        if twice {
            self.carry_out(call.clone());
        }
        self.carry_out(call);
    }

    fn carry_out(&mut self, call: OnTheWay) {
        if self.now_ms - call.sent_ms >= LOST_MS {
            return;
        }
        let tag = call.record.resource;
        if call.look {
            let seen = self.platform.get(&tag).cloned();
            self.news.push(Input::Looked(call.record.id, call.question, Ok(seen)));
            return;
        }
        let gone = |sight: &Sight| sight.state == SightState::Released;
        let tombstone = self.platform.get(&tag).filter(|sight| gone(sight)).cloned();
        let there = self.platform.get_mut(&tag).filter(|sight| !gone(sight));
        let answer = match (call.record.verb, there) {
            (Verb::Provision, Some(sight)) => Ok(sight.clone()),
            (Verb::Provision, None) if tombstone.is_some() => Ok(tombstone.expect("looked at a moment ago")),
            (Verb::Provision, None) => {
                *self.made.entry(tag).or_default() += 1;
                let sight =
                    Sight { state: SightState::Pending, has: need(1), handle: String::new(), addresses: Vec::new() };
                self.platform.insert(tag, sight.clone());
                Ok(sight)
            }
            (Verb::Release, Some(sight)) => {
                sight.state = SightState::Released;
                let sight = sight.clone();
                if self.forgetful {
                    self.platform.remove(&tag);
                }
                Ok(sight)
            }
            (Verb::Release, None) | (_, None) => {
                Err((false, cpi::reason::Reason::new(ReasonCode::RunLost, "no machine has this tag")))
            }
            (Verb::Modify(has), Some(sight)) => {
                sight.has = has;
                Ok(sight.clone())
            }
            (Verb::Stop, Some(sight)) => {
                sight.state = SightState::Stopped;
                Ok(sight.clone())
            }
            (Verb::Start | Verb::Restart, Some(sight)) => {
                sight.state = SightState::Pending;
                Ok(sight.clone())
            }
        };
        self.news.push(Input::Hint(tag));
        self.news.push(Input::Called(call.record.id, call.question, answer));
    }

    fn learn(&mut self, which: usize, keep: bool, drop_it: bool) {
        if self.news.is_empty() {
            return;
        }
        let which = which % self.news.len();
        let news = if keep { self.news[which].clone() } else { self.news.swap_remove(which) };
        if !drop_it {
            self.feed(news);
        }
    }

    /// The platform finishes what it is at.
    fn progress(&mut self) {
        let tags: Vec<TaskId> = self.platform.keys().copied().collect();
        for tag in tags {
            if let Some(sight) = self.platform.get_mut(&tag).filter(|sight| sight.state == SightState::Pending) {
                sight.state = SightState::Ready;
                self.news.push(Input::Hint(tag));
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.machine.handle_timeout(self.now());
        self.perform();
    }

    /// From here on nothing is lost any more.
    fn come_to_rest(&mut self) {
        for _ in 0..2_000 {
            self.sync();
            while !self.calls.is_empty() {
                self.hear(0, false);
            }
            self.progress();
            while !self.news.is_empty() {
                self.learn(0, false, false);
            }
            self.sync();
            // a watch begins with all that is there
            let there: Vec<TaskId> =
                self.platform.iter().filter(|(_, s)| s.state != SightState::Released).map(|(tag, _)| *tag).collect();
            there.into_iter().for_each(|tag| self.feed(Input::Hint(tag)));
            self.sync();
            if self.machine.open().count() == 0 && self.calls.is_empty() && self.news.is_empty() {
                return;
            }
            self.wait(LOST_MS / 4);
        }
        let open: Vec<_> = self.machine.open().map(|record| (record.id, record.verb, record.phase.clone())).collect();
        panic!("it does not come to rest: {open:?}");
    }

    /// What every caller was told is true, and the newest wish of each resource is fulfilled.
    fn check(&self) {
        for (n, _, verb) in &self.wanted {
            let record = &self.disk[&id(*n)];
            assert!(record.phase.is_over(), "{verb:?}: {:?}", record.phase);
            assert_eq!(self.told[&id(*n)], *record);
        }
        for tag in self.made.keys() {
            let last = self.wanted.iter().rev().find(|(_, resource, _)| id(*resource) == *tag).expect("it was wanted");
            let released = self.wanted.iter().any(|(_, r, verb)| id(*r) == *tag && *verb == Verb::Release);
            let sight = self.platform.get(tag).filter(|sight| sight.state != SightState::Released);
            assert_eq!(sight.is_none(), released, "{last:?}: {sight:?}");
            if !self.forgetful {
                assert_eq!(self.made[tag], 1, "nothing is made twice");
            }
            let Some(sight) = sight else { continue };
            match last.2 {
                Verb::Provision | Verb::Start | Verb::Restart => assert_eq!(sight.state, SightState::Ready),
                Verb::Stop => assert_eq!(sight.state, SightState::Stopped),
                Verb::Modify(has) => assert_eq!(sight.has, has),
                Verb::Release => {}
            }
            assert_eq!(self.disk[&id(last.0)].phase, OperationPhase::Done);
        }
    }
}

fn machine(seed: u64) -> Operations {
    let config = OperationConfig { wait_ms_min: 50, wait_ms_max: 400, lost_ms: LOST_MS, ..OperationConfig::default() };
    Operations::new(config, seed)
}

#[derive(Debug, Clone)]
enum Turn {
    Begin(u8, u8),
    Hear(usize, bool),
    LoseCall(usize),
    Learn(usize, bool, bool),
    Sync,
    Progress,
    Wait(u64),
    Crash,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        2 => (0..3_u8, 0..6_u8).prop_map(|(resource, verb)| Turn::Begin(resource, verb)),
        6 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, keep)| Turn::Hear(which, keep)),
        1 => any::<usize>().prop_map(Turn::LoseCall),
        6 => (any::<usize>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(which, keep, lose)| Turn::Learn(which, keep, lose)),
        4 => Just(Turn::Sync),
        2 => Just(Turn::Progress),
        4 => (1..LOST_MS * 2).prop_map(Turn::Wait),
        1 => Just(Turn::Crash),
    ]
}

fn play(forgetful: bool, turns: Vec<Turn>) {
    let mut world = World::new(forgetful);
    let (mut next, mut released) = (1_u8, [false; 3]);
    for turn in turns {
        match turn {
            Turn::Begin(resource, verb) => {
                let known = world.wanted.iter().any(|(_, r, _)| *r == resource);
                let verb = match (known, verb) {
                    (false, _) => Verb::Provision,
                    (_, 0) => Verb::Modify(need(u64::from(next) + 1)),
                    (_, 1) => Verb::Start,
                    (_, 2) => Verb::Stop,
                    (_, 3) => Verb::Restart,
                    _ => Verb::Release,
                };
                if released[usize::from(resource)] {
                    continue;
                }
                released[usize::from(resource)] = verb == Verb::Release;
                world.begin(next, resource, verb);
                next += 1;
            }
            Turn::Hear(which, keep) => world.hear(which, keep),
            Turn::LoseCall(which) => {
                if !world.calls.is_empty() {
                    let which = which % world.calls.len();
                    world.calls.swap_remove(which);
                }
            }
            Turn::Learn(which, keep, lose) => world.learn(which, keep, lose),
            Turn::Sync => world.sync(),
            Turn::Progress => world.progress(),
            Turn::Wait(ms) => world.wait(ms),
            Turn::Crash => world.crash(),
        }
    }
    world.come_to_rest();
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn late_repeated_reordered_and_lost_news_converge(turns in prop::collection::vec(turn(), 0..120)) {
        play(false, turns);
    }

    #[test]
    fn a_platform_that_forgets_what_was_released_converges_too(turns in prop::collection::vec(turn(), 0..120)) {
        play(true, turns);
    }
}

#[test]
fn a_refusal_for_good_ends_it_and_one_that_passes_does_not() {
    let mut world = World::new(false);
    world.begin(1, 0, Verb::Provision);
    let call = world.calls.pop().expect("it is called");
    let passing = (true, cpi::reason::Reason::new(ReasonCode::NoCapacityNow, "full"));
    world.feed(Input::Called(call.record.id, call.question, Err(passing)));
    world.wait(100);
    // it may have been made all the same
    assert!(world.calls.pop().is_some_and(|call| call.look));
    let stale = (false, cpi::reason::Reason::new(ReasonCode::ShapeTooLarge, "an answer to an older question"));
    world.feed(Input::Called(call.record.id, call.question, Err(stale)));
    assert_eq!(world.machine.open().count(), 1);
    world.come_to_rest();
    world.check();

    let mut world = World::new(false);
    world.begin(1, 0, Verb::Provision);
    let call = world.calls.pop().expect("it is called");
    let fatal = cpi::reason::Reason::new(ReasonCode::ShapeTooLarge, "no");
    world.feed(Input::Called(call.record.id, call.question, Err((false, fatal.clone()))));
    world.sync();
    assert_eq!(world.told[&id(1)].phase, OperationPhase::Failed(fatal));
}

#[test]
fn what_a_platform_never_does_fails_in_time_but_a_release_goes_on() {
    for (verb, over) in [(Verb::Provision, true), (Verb::Release, false)] {
        let mut world = World::new(false);
        world.begin(1, 0, verb);
        for _ in 0..4_000 {
            world.calls.clear();
            world.wait(LOST_MS);
            world.sync();
        }
        assert_eq!(world.disk[&id(1)].phase.is_over(), over, "{verb:?}");
    }
}
