//! Nothing is promised before it is on disk, and a stalled disk delays only what rests on it.

use super::net::Net;
use super::{submission, task, task_id};
use crate::negotiation::{Action, Attempt, Input, Message, NegotiationConfig, RunNotice, RunOrder};
use crate::time::Monotonic;

/// An origin without servers and a provider, with a run under way on the provider.
fn running() -> (Net, Attempt) {
    let mut net = Net::of(&[(0, 0), (2, 0)], NegotiationConfig::default());
    net.feed(0, Input::Submit(Box::new(submission(1, &task()))));
    net.settle();
    let attempt = *net.nodes[1].runs.keys().next().expect("it was started");
    (net, attempt)
}

#[test]
fn an_acceptance_waits_for_its_lease_and_a_start_for_its_binding() {
    let mut net = Net::of(&[(0, 0), (2, 0)], NegotiationConfig::default());
    net.feed(0, Input::Submit(Box::new(submission(1, &task()))));
    // The ask arrives; the provider's disk stands still.
    net.deliver(0, false);
    assert!(net.mail.is_empty(), "it said something before its lease was on disk");
    assert!(net.nodes[1].runs.is_empty(), "it prepared a run before its lease was on disk");
    net.sync(1, usize::MAX);
    assert!(matches!(net.mail.as_slice(), [(1, 0, Message::Accepted(_))]));
    // The acceptance arrives; the origin's disk stands still.
    net.deliver(0, false);
    assert!(!net.mail.iter().any(|(.., m)| matches!(m, Message::Bound(_))), "bound before the binding was on disk");
    net.sync(0, usize::MAX);
    assert!(net.mail.iter().any(|(.., m)| matches!(m, Message::Bound(_))));
    net.settle();
    assert!(net.nodes[1].runs.values().all(|started| *started));
}

#[test]
fn a_renewal_waits_for_no_disk_and_names_the_instant_of_its_question() {
    let (mut net, attempt) = running();
    let asked_at = net.now_ms + 10_000;
    net.wait(10_000);
    let renewed = net.mail.iter().position(|(.., m)| matches!(m, Message::Renew(_))).expect("it asks to renew");
    net.deliver(renewed, false);
    // The answer is 5 s on its way, and the provider's disk has something to write that it does not get to.
    net.now_ms += 5_000;
    let answer = net.mail.iter().position(|(.., m)| matches!(m, Message::Renewed(_))).expect("it is renewed");
    let (.., message) = net.mail.remove(answer);
    let now = net.now();
    let machine = net.nodes[1].machine.as_mut().unwrap();
    let from = cpi::ids::MemberId(1);
    let other = submission(9, &task());
    let ask = crate::negotiation::Ask {
        task: other.task,
        fence: attempt.fence,
        need: other.need,
        targets: vec![crate::negotiation::Target { variant: 0, pool: "p".to_owned(), class: "s".to_owned() }],
        limits: crate::negotiation::Limits::default(),
        mode: crate::negotiation::AskMode::CommitIf,
        ttl_ms: 1_000,
        round: 1,
        document: Some(other.document),
        custodians: Vec::new(),
    };
    machine.handle(now, Input::Message { from, message: Message::Ask(Box::new(ask)) });
    machine.handle(now, Input::Message { from, message });
    let mut renewals = Vec::new();
    while let Some(action) = machine.poll_action() {
        if let Action::Run { order: RunOrder::Renew { runs, until }, after } = action {
            renewals.push((runs, until, after));
        }
    }
    let until = Monotonic(asked_at + net.config.lease_ttl_ms);
    assert_eq!(renewals, vec![(vec![attempt], until, None)]);
}

#[test]
fn a_cancel_of_a_running_task_reaches_the_executor_without_waiting_for_other_records() {
    let (mut net, attempt) = running();
    let now = net.now();
    let machine = net.nodes[1].machine.as_mut().unwrap();
    let from = cpi::ids::MemberId(1);
    machine.handle(now, Input::Message { from, message: Message::Cancel(attempt) });
    let cancel = std::iter::from_fn(|| machine.poll_action())
        .find_map(|action| match action {
            Action::Run { order: RunOrder::Cancel(a), after } => Some((a, after)),
            _ => None,
        })
        .expect("it is cancelled");
    assert_eq!(cancel, (attempt, None));
}

#[test]
fn an_end_is_told_once_it_is_on_disk_and_again_until_it_is_acknowledged() {
    let (mut net, attempt) = running();
    let ended = |net: &Net| net.mail.iter().filter(|(.., m)| matches!(m, Message::Ended(_))).count();
    net.feed(1, Input::Run(attempt, RunNotice::Ended(Box::default())));
    assert_eq!(ended(&net), 0);
    net.sync(1, usize::MAX);
    assert_eq!(ended(&net), 1);
    net.mail.clear();
    net.wait(3_000);
    assert_eq!(ended(&net), 1);
    net.settle();
    assert_eq!(net.end(0, task_id(1)), Some(None));
    assert!(net.nodes[1].disk.leases.is_empty());
}
