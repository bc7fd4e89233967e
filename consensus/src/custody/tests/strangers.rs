//! Stories of custody: what a member without a seat says, counters from elsewhere, and a slow disk.

use super::*;

/// A task of node 0, its custodians, and a node that keeps no copy of it.
fn kept_by_three(seed: u64) -> (Net, TaskId, Vec<usize>, usize) {
    let mut net = Net::of(seed, 5);
    let task = net.submit(0, 1, &[]);
    net.run_for(200);
    let custodians = net.custodians(0, task);
    let stranger = (0..5).find(|n| !custodians.contains(n)).expect("three of five");
    (net, task, custodians, stranger)
}

fn say(net: &mut Net, from: usize, to: usize, message: Message) {
    net.feed(to, Input::Message { from: Net::member(from), message });
}

fn record(net: &Net, node: usize, task: TaskId) -> CustodyRecord {
    net.nodes[node].machine.as_ref().and_then(|m| m.record(task)).expect("it is kept").clone()
}

fn closed(mut record: CustodyRecord) -> Box<CustodyRecord> {
    record.revision += 5;
    record.closed = true;
    Box::new(record)
}

#[test]
fn a_stranger_refuses_nothing() {
    let (mut net, task, custodians, stranger) = kept_by_three(20);
    let promised = Epoch { counter: 9, member: Net::member(custodians[1]) };
    say(&mut net, stranger, 0, Message::Refused { task, promised });
    assert!(net.holds(0, task), "a stranger took the task from its holder");
    assert!(record(&net, 0, task).promised < promised);
    say(&mut net, custodians[1], 0, Message::Refused { task, promised });
    assert!(!net.holds(0, task), "a custodian's promise is obeyed");
}

#[test]
fn a_stranger_closes_nothing() {
    let (mut net, task, custodians, stranger) = kept_by_three(21);
    for node in [0, custodians[1]] {
        let told = closed(record(&net, node, task));
        say(&mut net, stranger, node, Message::Told { record: told.clone() });
        assert!(!record(&net, node, task).closed, "a stranger closed the task at {node}");
        say(&mut net, custodians[2], node, Message::Told { record: told });
        assert!(record(&net, node, task).closed, "a custodian's word is taken at {node}");
    }
}

#[test]
fn a_strangers_promise_and_state_are_not_taken() {
    let (mut net, task, custodians, stranger) = kept_by_three(22);
    let (claimant, other) = (custodians[1], custodians[2]);
    net.crash(0);
    net.crash(other);
    let claims = |n: &Net| n.nodes[claimant].machine.as_ref().is_some_and(|m| m.stats().claiming > 0);
    assert!(net.run_until(60_000, claims), "nobody claims the task");
    net.run_for(100);
    let kept = record(&net, claimant, task);
    let epoch = kept.promised;
    assert_eq!(epoch.member, Net::member(claimant));
    say(&mut net, stranger, claimant, Message::Promise { task, epoch, record: closed(kept.clone()) });
    assert!(claims(&net), "one custodian is no majority");
    say(&mut net, other, claimant, Message::Promise { task, epoch, record: Box::new(kept) });
    let now = record(&net, claimant, task);
    assert_eq!(now.written, epoch, "two custodians are a majority");
    assert!(!now.closed, "a stranger's state is not taken");
}

#[test]
fn a_state_of_a_stranger_is_not_kept_without_a_witness() {
    let (mut net, task, custodians, stranger) = kept_by_three(24);
    let kept = record(&net, 0, task);
    // A task of node 0 that a stranger makes up, seats itself in, and gives to the fourth node.
    let fifth = (0..5).find(|n| !custodians.contains(n) && *n != stranger).expect("two of five");
    let mut made_up = kept.clone();
    made_up.task = task_id(77);
    made_up.custodians = vec![Net::member(stranger), Net::member(custodians[1]), Net::member(fifth)];
    made_up.written = Epoch { counter: 7, member: Net::member(stranger) };
    made_up.promised = made_up.written;
    let write = |record: &CustodyRecord| {
        let task = Some(task_record(record.task, &[]));
        Message::Write(Box::new(super::super::Write { boot: 1, record: record.clone(), task, events: Vec::new() }))
    };
    say(&mut net, stranger, fifth, write(&made_up));
    net.run_for(2_000);
    assert!(net.nodes[fifth].disk.get(made_up.task).is_none(), "nobody else promised that epoch");
    // The same for a task that is there: a member without a seat writes under a higher epoch.
    let mut stolen = kept.clone();
    stolen.custodians[2] = Net::member(stranger);
    stolen.written = Epoch { counter: 7, member: Net::member(stranger) };
    say(&mut net, stranger, custodians[1], write(&stolen));
    net.run_for(2_000);
    assert_eq!(record(&net, custodians[1], task).written, kept.written, "a stranger's state was taken");
    assert!(net.holds(0, task));
    assert!(net.violations.is_empty(), "{:?}", net.violations);
}

#[test]
fn counters_without_room_are_refused_and_do_not_wrap() {
    let (mut net, task, custodians, _) = kept_by_three(23);
    let from = Net::member(custodians[1]);
    let last = Epoch { counter: u64::MAX, member: Net::member(0) };
    let good = record(&net, 0, task);
    let with = |change: &dyn Fn(&mut CustodyRecord)| {
        let mut record = good.clone();
        change(&mut record);
        Message::Told { record: Box::new(record) }
    };
    let refused = [
        Message::Refused { task, promised: last },
        Message::Promise { task, epoch: last, record: Box::new(good.clone()) },
        with(&|r| r.promised = last),
        with(&|r| r.written = last),
        with(&|r| r.revision = u64::MAX),
        with(&|r| r.events = u32::MAX),
        with(&|r| r.runs = u32::MAX),
        with(&|r| r.fence.attempt = u32::MAX),
        with(&|r| r.fence.epoch = last),
    ];
    assert!(with(&|_| {}).is_bounded(from));
    for message in refused {
        let frames = super::super::seal_frames(std::slice::from_ref(&message));
        assert!(super::super::open_frame(from, &frames[0]).is_err(), "{message:?}");
    }
    // The machine itself does not wrap either: after the last epoch none is claimed.
    say(&mut net, custodians[1], 0, Message::Refused { task, promised: last });
    assert_eq!(record(&net, 0, task).promised, last);
    assert!(!net.holds(0, task));
    let mut record = good;
    record.fence.attempt = u32::MAX;
    assert_eq!(record.next_fence().attempt, u32::MAX);
}

#[test]
fn history_goes_out_though_its_timer_came_before_the_own_disk_had_it() {
    let now = |ms| Now { mono: Monotonic(ms), wall: Timestamp(ms) };
    let mut machine = Custodian::new(MemberId(1), CustodyConfig::default(), 1);
    let id = task_id(1);
    let mut record = CustodyRecord::submitted(id, (1..=3).map(MemberId).collect(), MemberId(1));
    let step =
        |record: &CustodyRecord, task| Input::Step { record: Box::new(record.clone()), task, events: Vec::new() };
    record.revision = 1;
    machine.handle(now(0), step(&record, Some(Box::new(task_record(id, &[])))));
    machine.handle(now(10), Input::Stored { task: id, revision: 1 });
    for member in [2, 3] {
        let message = Message::Written { task: id, written: record.written, revision: 1, events: 0 };
        machine.handle(now(30), Input::Message { from: MemberId(member), message });
    }
    (record.revision, record.events) = (2, 1);
    machine.handle(now(500), step(&record, None));
    let run_to = |machine: &mut Custodian, ms: u64| {
        while let Some(at) = machine.poll_timeout().filter(|at| at.0 <= ms) {
            machine.handle_timeout(now(at.0));
        }
    };
    let is_sent = |machine: &mut Custodian| {
        let mut actions = std::iter::from_fn(|| machine.poll_action());
        actions.any(|a| matches!(&a, Action::Send { message: Message::Write(w), .. } if w.record.revision == 2))
    };
    run_to(&mut machine, 1_700);
    assert!(!is_sent(&mut machine), "not before the own disk has it");
    machine.handle(now(1_800), Input::Stored { task: id, revision: 2 });
    run_to(&mut machine, 20_000);
    assert!(is_sent(&mut machine), "the others never get it");
}
