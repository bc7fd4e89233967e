//! Stories of a provider alone: repeated asks, releases, restarts between offer and award, quotas, contention.

use consensus::negotiation::{
    Action, Ask, AskMode, Attempt, Award, Input, Limits, Message, NegotiationConfig, Negotiator, Offer, Restored,
    Target,
};
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{Epoch, Fence, MemberId};
use cpi::reason::ReasonCode;
use netsim::testing::{gpu_task, place, pool, submission, task_id};

const ME: MemberId = MemberId(1);
const ORIGIN: MemberId = MemberId(2);
const OTHER: MemberId = MemberId(3);

struct Provider {
    machine: Negotiator,
    now_ms: u64,
}

fn fence(attempt: u32) -> Fence {
    Fence { epoch: Epoch { counter: 1, member: ORIGIN }, attempt }
}

impl Provider {
    fn new(incarnation: u64, config: NegotiationConfig) -> Self {
        let mut machine = Negotiator::new(ME, incarnation, config, Dictionary::first(), 7);
        let now = Now::default();
        machine.restore(now, Restored::default());
        machine.handle(now, Input::Pools(vec![pool("gpu", 1, 8)]));
        for (index, member) in [ME, ORIGIN, OTHER].into_iter().enumerate() {
            machine.handle(now, Input::Member { member, place: place(index), active: true });
        }
        Self { machine, now_ms: 0 }
    }

    fn now(&self) -> Now {
        Now { mono: Monotonic(self.now_ms), wall: Timestamp(self.now_ms) }
    }

    fn hear(&mut self, from: MemberId, message: Message) -> Vec<(MemberId, Message)> {
        self.machine.handle(self.now(), Input::Message { from, message });
        self.said()
    }

    fn wait(&mut self, ms: u64) -> Vec<(MemberId, Message)> {
        self.now_ms += ms;
        self.machine.handle_timeout(self.now());
        self.said()
    }

    fn said(&mut self) -> Vec<(MemberId, Message)> {
        let mut said = Vec::new();
        while let Some(action) = self.machine.poll_action() {
            if let Action::Send { to, message, .. } = action {
                said.push((to, message));
            }
        }
        assert!(self.machine.provider().is_sound());
        said
    }

    fn free_chips(&self) -> u64 {
        self.machine.provider().book().free(0, 0).chip_milli / 1000
    }
}

fn ask(n: u64, attempt: u32, chips: u32, mode: AskMode) -> Ask {
    let submission = submission(n, &gpu_task(chips));
    Ask {
        task: task_id(n),
        fence: fence(attempt),
        need: submission.need,
        targets: vec![Target { variant: 0, pool: "gpu".to_owned(), class: "s".to_owned() }],
        limits: Limits::default(),
        mode,
        ttl_ms: 1_000,
        round: 1,
        document: (mode == AskMode::CommitIf).then_some(submission.document),
        custodians: vec![MemberId(1)],
    }
}

fn asked(n: u64, chips: u32, mode: AskMode) -> Message {
    Message::Ask(Box::new(ask(n, 1, chips, mode)))
}

fn offer(said: &[(MemberId, Message)]) -> Offer {
    match said {
        [(_, Message::Offer(offer))] => (**offer).clone(),
        other => panic!("expected one offer, found {other:?}"),
    }
}

fn award(n: u64, chips: u32, offer: &Offer) -> Message {
    let submission = submission(n, &gpu_task(chips));
    Message::Award(Box::new(Award {
        task: offer.task,
        fence: offer.fence,
        offer: offer.offer,
        incarnation: offer.incarnation,
        target: offer.target.clone(),
        need: submission.need,
        limits: Limits { price_hour_micro_max: Some(offer.price_hour_micro), start_in_ms_max: None },
        document: submission.document,
        custodians: vec![MemberId(1)],
    }))
}

fn declined(said: &[(MemberId, Message)]) -> ReasonCode {
    match said {
        [(_, Message::Decline(decline))] => decline.reason.code,
        other => panic!("expected one decline, found {other:?}"),
    }
}

const HOLD: AskMode = AskMode::Hold { ttl_ms: 3_000 };

#[test]
fn a_repeated_ask_gets_the_same_offer_and_holds_once() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    let first = offer(&provider.hear(ORIGIN, asked(1, 4, HOLD)));
    let again = offer(&provider.hear(ORIGIN, asked(1, 4, HOLD)));
    assert_eq!(first.offer, again.offer);
    assert_eq!(provider.free_chips(), 4);
}

#[test]
fn a_repeated_award_gets_the_same_lease() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    let offer = offer(&provider.hear(ORIGIN, asked(1, 4, HOLD)));
    let lease = |said: &[(MemberId, Message)]| match said {
        [(_, Message::Accepted(accepted))] => accepted.lease,
        other => panic!("expected an acceptance, found {other:?}"),
    };
    let first = lease(&provider.hear(ORIGIN, award(1, 4, &offer)));
    let again = lease(&provider.hear(ORIGIN, award(1, 4, &offer)));
    assert_eq!(first, again);
    assert_eq!(provider.free_chips(), 4);
}

#[test]
fn a_hold_lapses_by_itself() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    offer(&provider.hear(ORIGIN, asked(1, 8, HOLD)));
    assert_eq!(provider.free_chips(), 0);
    assert_eq!(declined(&provider.hear(OTHER, asked(2, 1, HOLD))), ReasonCode::ChipsHeld);
    provider.wait(3_001);
    assert_eq!(provider.free_chips(), 8);
}

#[test]
fn a_late_award_after_its_release_is_refused() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    let offer = offer(&provider.hear(ORIGIN, asked(1, 4, HOLD)));
    let attempt = Attempt { task: offer.task, fence: offer.fence };
    assert!(provider.hear(ORIGIN, Message::Release(attempt)).is_empty());
    assert_eq!(declined(&provider.hear(ORIGIN, award(1, 4, &offer))), ReasonCode::HoldLost);
    assert_eq!(provider.free_chips(), 8);
}

#[test]
fn a_release_that_overtakes_its_ask_leaves_nothing_held() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    let attempt = Attempt { task: task_id(1), fence: fence(1) };
    provider.hear(ORIGIN, Message::Release(attempt));
    assert_eq!(declined(&provider.hear(ORIGIN, asked(1, 4, HOLD))), ReasonCode::Fenced);
    assert_eq!(provider.free_chips(), 8);
}

#[test]
fn an_award_of_an_earlier_incarnation_is_checked_anew() {
    let mut before = Provider::new(1, NegotiationConfig::default());
    let offer = offer(&before.hear(ORIGIN, asked(1, 8, HOLD)));
    // Restarted: the hold is gone, the chips are free, so the award is kept.
    let mut after = Provider::new(2, NegotiationConfig::default());
    assert!(matches!(after.hear(ORIGIN, award(1, 8, &offer)).as_slice(), [(_, Message::Accepted(_))]));
    // Restarted, and somebody else was faster: the hold is lost.
    let mut after = Provider::new(2, NegotiationConfig::default());
    after.hear(OTHER, asked(2, 1, AskMode::CommitIf));
    assert_eq!(declined(&after.hear(ORIGIN, award(1, 8, &offer))), ReasonCode::HoldLost);
}

#[test]
fn an_older_attempt_gives_way_and_a_lower_fence_is_refused() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    provider.hear(ORIGIN, asked(1, 8, AskMode::CommitIf));
    assert_eq!(provider.free_chips(), 0);
    let second = Message::Ask(Box::new(ask(1, 2, 8, AskMode::CommitIf)));
    assert!(matches!(provider.hear(ORIGIN, second).as_slice(), [(_, Message::Accepted(_))]));
    assert_eq!(provider.machine.provider().leases().count(), 1);
    let third = Message::Ask(Box::new(ask(1, 1, 8, HOLD)));
    assert_eq!(declined(&provider.hear(ORIGIN, third)), ReasonCode::Fenced);
}

#[test]
fn nobody_else_moves_my_lease() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    provider.hear(ORIGIN, asked(1, 8, AskMode::CommitIf));
    let attempt = Attempt { task: task_id(1), fence: fence(1) };
    for message in
        [Message::Release(attempt), Message::Cancel(attempt), Message::Bound(attempt), Message::EndAck(attempt)]
    {
        provider.hear(OTHER, message);
        assert_eq!(provider.free_chips(), 0);
    }
}

#[test]
fn a_contended_shape_refuses_to_commit_without_comparing() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    offer(&provider.hear(ORIGIN, asked(1, 4, HOLD)));
    assert_eq!(declined(&provider.hear(OTHER, asked(2, 4, AskMode::CommitIf))), ReasonCode::Contended);
    // Asked for an offer instead, it gives one.
    offer(&provider.hear(OTHER, asked(2, 4, HOLD)));
}

#[test]
fn an_unbound_lease_is_freed_when_it_lapses() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    provider.hear(ORIGIN, asked(1, 8, AskMode::CommitIf));
    for _ in 0..4 {
        provider.wait(10_000);
    }
    assert_eq!(provider.free_chips(), 8);
}

#[test]
fn a_price_over_the_limit_is_refused() {
    let mut provider = Provider::new(1, NegotiationConfig::default());
    let mut dear = ask(1, 1, 1, AskMode::CommitIf);
    dear.limits.price_hour_micro_max = Some(0);
    assert_eq!(declined(&provider.hear(ORIGIN, Message::Ask(Box::new(dear)))), ReasonCode::BudgetExceeded);
}

#[test]
fn a_greedy_origin_meets_its_quota() {
    let mut config = NegotiationConfig::default();
    config.provider.holds_per_origin_max = 2;
    let mut provider = Provider::new(1, config);
    for n in 1..=2 {
        offer(&provider.hear(ORIGIN, asked(n, 1, HOLD)));
    }
    assert_eq!(declined(&provider.hear(ORIGIN, asked(3, 1, HOLD))), ReasonCode::QuotaExceeded);
    offer(&provider.hear(OTHER, asked(4, 1, HOLD)));
}

#[test]
fn policy_and_residency_are_checked_here_too() {
    let mut config = NegotiationConfig::default();
    config.provider.refuse_origins = vec![OTHER];
    let mut provider = Provider::new(1, config);
    assert_eq!(declined(&provider.hear(OTHER, asked(1, 1, HOLD))), ReasonCode::PolicyRefused);
    let mut abroad = ask(2, 1, 1, HOLD);
    abroad.need.residency = vec!["DE".to_owned()];
    assert_eq!(declined(&provider.hear(ORIGIN, Message::Ask(Box::new(abroad)))), ReasonCode::ResidencyViolated);
    provider.machine.handle(provider.now(), Input::Cordon { pool: "gpu".to_owned(), cordoned: true });
    assert_eq!(declined(&provider.hear(ORIGIN, asked(3, 1, HOLD))), ReasonCode::PoolCordoned);
}
