//! How many placements a second two machines make of each other without network and disk: the machine's own cost.

use crate::testing::{place, pool, submission, task};
use consensus::negotiation::{
    Action, Input, Message, NegotiationConfig, Negotiator, PersistId, RunNotice, RunOrder, RunOutcome,
};
use consensus::time::{Monotonic, Now, Timestamp};
use cpi::dictionary::Dictionary;
use cpi::ids::{MemberId, TaskId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a bench came to.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// Tasks that went from submission to their recorded end.
    pub tasks: u64,
    /// How long that took.
    pub took: Duration,
}

struct Pair {
    machines: Vec<Negotiator>,
    now_ms: u64,
    ended: u64,
}

impl Pair {
    fn feed(&mut self, index: usize, input: Input) {
        let mut inbox: VecDeque<(usize, Input)> = VecDeque::from([(index, input)]);
        while let Some((index, input)) = inbox.pop_front() {
            let now = Now { mono: Monotonic(self.now_ms), wall: Timestamp(self.now_ms) };
            self.machines[index].handle(now, input);
            let mut written: Option<PersistId> = None;
            let from = self.machines[index].me();
            while let Some(action) = self.machines[index].poll_action() {
                match action {
                    Action::Persist { id, .. } => written = Some(id),
                    Action::Send { to, message, .. } => {
                        self.ended += u64::from(matches!(message, Message::EndAck(_)));
                        inbox.push_back((to.0 as usize - 1, Input::Message { from, message }));
                    }
                    Action::Run { order: RunOrder::Start { attempt, .. }, .. } => {
                        inbox.push_back((index, Input::Run(attempt, RunNotice::Started)));
                        let outcome = RunOutcome { exit_code: Some(0), ..RunOutcome::default() };
                        inbox.push_back((index, Input::Run(attempt, RunNotice::Ended(Box::new(outcome)))));
                    }
                    _ => {}
                }
            }
            if let Some(up_to) = written {
                inbox.push_back((index, Input::Persisted { up_to }));
            }
        }
    }
}

/// Places `tasks` tasks from one machine at `regions - 1` others, one after the other.
pub fn place_many(tasks: u64, regions: usize) -> Placed {
    let mut pair = Pair { machines: Vec::new(), now_ms: 0, ended: 0 };
    for index in 0..regions {
        let me = MemberId(index as u64 + 1);
        let seed = index as u64;
        let mut machine = Negotiator::new(me, 1, NegotiationConfig::default(), Dictionary::first(), seed);
        let servers = if index == 0 { 0 } else { 64 };
        machine.handle(Now::default(), Input::Pools(vec![pool("p", servers, 0)]));
        pair.machines.push(machine);
    }
    for to in 0..regions {
        for about in 0..regions {
            let member = MemberId(about as u64 + 1);
            pair.feed(to, Input::Member { member, place: place(about), active: true });
            pair.feed(to, Input::Rtt { member, rtt_ms: Some(1) });
            let digest = pair.machines[about].digest(1, u64::MAX);
            pair.feed(to, Input::Digest(Arc::new(digest)));
        }
    }
    let template = submission(1, &task());
    let began = Instant::now();
    for n in 0..tasks {
        pair.now_ms = n / 50;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        let mut one = template.clone();
        one.task = TaskId(id);
        pair.feed(0, Input::Submit(Box::new(one)));
    }
    Placed { tasks: pair.ended, took: began.elapsed() }
}
