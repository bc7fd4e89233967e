//! Stories of both sides together: proposals, silence, lost drivers, lost regions.

use super::net::Net;
use super::{chips, submission, task, task_id};
use crate::negotiation::*;
use cpi::ids::MemberId;
use cpi::reason::ReasonCode;
use std::sync::Arc;

fn submit(net: &mut Net, n: u64, spec: &cpi::task::TaskSpec) {
    net.feed(0, Input::Submit(Box::new(submission(n, spec))));
}

#[test]
fn a_region_whose_price_rose_is_come_back_to_within_the_budget() {
    let config = NegotiationConfig::default();
    let mut net = Net::of(&[(0, 0), (2, 0)], config);
    // Its price rises by a tenth, and the origin's digest does not know it yet.
    let mut dearer = super::pool(2, 0);
    dearer.spec.price.cpu_core_hour_micro = 220_000;
    net.feed(1, Input::Pools(vec![dearer.clone()]));
    submit(&mut net, 1, &task());
    net.settle();
    assert_eq!(net.holder(0, task_id(1)), Some(1));
    let binding = net.nodes[0].disk.custody[&task_id(1)].binding.clone().unwrap();
    assert_eq!(binding.price_hour_micro, 220_000);
    // By a half: more than the origin takes without looking further.
    dearer.spec.price.cpu_core_hour_micro = 330_000;
    net.feed(1, Input::Pools(vec![dearer]));
    submit(&mut net, 2, &task());
    net.settle();
    assert_eq!(net.holder(0, task_id(2)), None);
}

#[test]
fn an_origin_only_gives_way_and_at_most_three_times() {
    let mut net = Net::of(&[(0, 0), (2, 0)], NegotiationConfig::default());
    submit(&mut net, 1, &task());
    // A region that always wants a little more.
    let (mut limits, mut price) = (Vec::new(), 200_000);
    while let Some((.., Message::Ask(ask))) = net.mail.pop() {
        limits.push(ask.limits.price_hour_micro_max.unwrap());
        price += 10_000;
        let decline = Decline {
            task: ask.task,
            fence: ask.fence,
            origin: MemberId(1),
            reason: ReasonCode::BudgetExceeded.into(),
            retry_after_ms: 0,
            status: Vec::new(),
            counter: Some(Counter::Dearer { price_hour_micro: price }),
        };
        net.feed(0, Input::Message { from: MemberId(2), message: Message::Decline(Box::new(decline)) });
    }
    assert_eq!(limits, vec![200_000, 210_000, 220_000]);
}

#[test]
fn another_of_the_tasks_own_ways_is_proposed_and_taken() {
    let mut net = Net::of(&[(0, 0), (1, 2)], NegotiationConfig::default());
    // Both chips are taken, and the origin's digest does not know it yet.
    net.feed(1, Input::Submit(Box::new(submission(9, &chips(Some(2), None)))));
    net.settle();
    let mut spec = chips(Some(1), None);
    let variant = serde_json::json!({ "name": "plain", "resources": { "cpu": 1 } });
    spec.variants.push(serde_json::from_value(variant).unwrap());
    // Asked for the chips only, as a digest of long ago would have it.
    let one = submission(1, &spec);
    let ask = Ask {
        task: one.task,
        fence: cpi::ids::Fence { epoch: cpi::ids::Epoch { counter: 1, member: MemberId(1) }, attempt: 1 },
        need: one.need,
        targets: vec![Target { variant: 0, pool: "p".to_owned(), class: "s".to_owned() }],
        limits: Limits::default(),
        mode: AskMode::Quote,
        ttl_ms: 1_000,
        round: 1,
        document: None,
        custodians: Vec::new(),
    };
    net.feed(1, Input::Message { from: MemberId(1), message: Message::Ask(Box::new(ask)) });
    let decline = net.mail.iter().find_map(|(.., m)| match m {
        Message::Decline(d) => Some(d.clone()),
        _ => None,
    });
    let Some(Counter::Less { target }) = decline.unwrap().counter else { panic!("no other way was proposed") };
    assert_eq!(target.variant, 1);
}

#[test]
fn who_is_turned_away_hears_its_place_and_an_interval() {
    let mut net = Net::of(&[(0, 0), (1, 2)], NegotiationConfig::default());
    let empty = net.provider(1).digest(50, 60_000);
    submit(&mut net, 1, &chips(Some(2), None));
    net.settle();
    for n in 2..=3 {
        // Its digest of before comes late and praises what is taken.
        net.feed(0, Input::Digest(Arc::new(Digest { sequence: 50 + n, ..empty.clone() })));
        submit(&mut net, n, &chips(Some(2), None));
    }
    let mut later = Vec::new();
    while !net.mail.is_empty() {
        if let (.., Message::Decline(d)) = &net.mail[0]
            && let Some(Counter::Later { position, low_ms, high_ms }) = d.counter
        {
            later.push(position);
            assert!(low_ms <= high_ms);
        }
        net.deliver(0, false);
    }
    assert_eq!(later, vec![0, 1]);
}

#[test]
fn what_is_contended_is_given_by_turns_of_the_origins() {
    let config = NegotiationConfig { commit_if: false, ..NegotiationConfig::default() };
    let mut net = Net::of(&[(0, 0), (1, 2), (0, 0)], config);
    submit(&mut net, 1, &chips(Some(2), None));
    net.settle();
    // A greedy origin asks eight times, a modest one once, all in vain: then the chips come free.
    let ask = |n: u64, origin: u64| {
        let one = submission(n, &chips(Some(1), None));
        Message::Ask(Box::new(Ask {
            task: one.task,
            fence: cpi::ids::Fence {
                epoch: cpi::ids::Epoch { counter: 1, member: MemberId(origin) },
                attempt: n as u32,
            },
            need: one.need,
            targets: vec![Target { variant: 0, pool: "p".to_owned(), class: "s".to_owned() }],
            limits: Limits::default(),
            mode: AskMode::Hold { ttl_ms: 3_000 },
            ttl_ms: 1_000,
            round: 1,
            document: None,
            custodians: Vec::new(),
        }))
    };
    let mut winners = std::collections::BTreeSet::new();
    for n in 10..18 {
        net.feed(1, Input::Message { from: MemberId(1), message: ask(n, 1) });
    }
    net.feed(1, Input::Message { from: MemberId(3), message: ask(30, 3) });
    net.mail.clear();
    net.wait(20);
    let run = *net.nodes[1].runs.keys().next().unwrap();
    net.end_run(1, run);
    net.feed(1, Input::Message { from: MemberId(3), message: ask(20, 3) });
    for n in 40..48 {
        net.feed(1, Input::Message { from: MemberId(1), message: ask(n, 1) });
    }
    net.feed(1, Input::Message { from: MemberId(3), message: ask(49, 3) });
    net.wait(20);
    for (.., message) in &net.mail {
        if let Message::Offer(offer) = message {
            winners.insert(offer.origin);
        }
    }
    assert!(winners.contains(&MemberId(3)) && winners.contains(&MemberId(1)), "{winners:?}");
}

#[test]
fn a_silent_region_costs_one_deadline_and_is_left_alone_after_three() {
    let config = NegotiationConfig { own_permille: 1, ..NegotiationConfig::default() };
    let mut net = Net::of(&[(0, 0), (2, 0), (2, 0)], config);
    let mut asked_in_vain = 0;
    for n in 1..=12 {
        submit(&mut net, n, &task());
        for _ in 0..8 {
            asked_in_vain += net.mail.iter().filter(|(_, to, m)| *to == 1 && matches!(m, Message::Ask(_))).count();
            net.mail.retain(|(from, to, _)| *from != 1 && *to != 1);
            net.settle();
            if net.holder(0, task_id(n)).is_some() {
                break;
            }
            // Its deadline, with the grace for a sync.
            net.wait(700);
        }
        assert_eq!(net.holder(0, task_id(n)), Some(2), "task {n}");
        let run = *net.nodes[2].runs.keys().next().unwrap();
        net.end_run(2, run);
        net.settle();
        net.gossip();
    }
    assert!(asked_in_vain <= 4, "asked {asked_in_vain} times");
}

#[test]
fn a_provider_whose_process_is_killed_finds_its_runs_and_keeps_their_leases() {
    let mut net = Net::of(&[(0, 0), (2, 0)], NegotiationConfig::default());
    submit(&mut net, 1, &task());
    net.settle();
    let attempt = *net.nodes[1].runs.keys().next().unwrap();
    net.crash(1);
    net.mail.clear();
    net.wait(8_000);
    net.start(1);
    net.wait(300);
    net.settle();
    assert_eq!(net.provider(1).provider().leases().count(), 1);
    assert_eq!(net.provider(1).provider().book().free(0, 0).cpu_milli, 15_000);
    // Far beyond the lease that it had before: renewed, not placed again.
    for _ in 0..10 {
        net.wait(10_000);
        net.settle();
    }
    assert_eq!(net.nodes[0].disk.custody[&task_id(1)].runs, 1);
    net.end_run(1, attempt);
    net.come_to_rest();
    assert_eq!(net.end(0, task_id(1)), Some(None));
}

#[test]
fn a_provider_that_never_comes_back_loses_its_run_to_another_region() {
    let mut net = Net::of(&[(0, 0), (2, 0), (2, 0)], NegotiationConfig::default());
    let mut spec = task();
    spec.retry.max_attempts = 3;
    submit(&mut net, 1, &spec);
    net.settle();
    let first = net.holder(0, task_id(1)).unwrap();
    net.crash(first);
    for _ in 0..12 {
        net.mail.retain(|(from, to, _)| *from != first && *to != first);
        net.settle();
        net.wait(5_000);
    }
    net.mail.retain(|(from, to, _)| *from != first && *to != first);
    net.settle();
    let second = net.holder(0, task_id(1)).expect("it was placed again");
    assert_ne!(first, second);
    // Back again, the first hears that its run is superseded and stops it.
    net.start(first);
    net.wait(300);
    net.settle();
    assert!(net.nodes[first].runs.is_empty(), "the superseded run goes on");
    net.come_to_rest();
}

#[test]
fn an_offer_tells_when_runs_really_start() {
    let config = NegotiationConfig { commit_if: false, ..NegotiationConfig::default() };
    let mut net = Net::of(&[(0, 0), (4, 0)], config);
    let start_in = |net: &mut Net, n: u64| {
        submit(net, n, &task());
        net.deliver(0, false);
        let found = net.mail.iter().find_map(|(.., m)| match m {
            Message::Offer(offer) => Some(offer.start_in_ms),
            _ => None,
        });
        net.settle();
        found.expect("it offers")
    };
    assert_eq!(start_in(&mut net, 1), 0);
    // A backend that takes two seconds from the order to the running program.
    let attempt = *net.nodes[1].runs.keys().next().unwrap();
    let slow = Attempt { task: task_id(2), ..attempt };
    submit(&mut net, 2, &task());
    net.deliver(0, false);
    net.deliver(0, false);
    net.deliver(0, false);
    let _ = slow;
    let now = net.now();
    let provider = net.nodes[1].machine.as_mut().unwrap();
    provider.handle(now, Input::Message { from: MemberId(1), message: Message::Bound(slow) });
    while provider.poll_action().is_some() {}
    net.now_ms += 2_000;
    net.feed(1, Input::Run(slow, RunNotice::Started));
    net.settle();
    assert!(start_in(&mut net, 3) > 0);
}
