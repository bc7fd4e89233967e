//! Changes of identifiers that come at the same time: one signature, one log entry and one sync for all of them.
//!
//! The first change goes out at once. What comes while it is on its way is gathered and goes together when one is back,
//! when enough has gathered, or when it takes long. Each caller gets the outcome of its own change.

use crate::services::registry::{Outcome, RegistryError};
use consensus::registry::command::REGISTRATIONS_MAX;
use consensus::registry::{Command, IdentifierChange, Response};
use std::future::Future;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Changes that may wait; more are refused.
const WAITING_MAX: usize = 8_192;
/// Batches that go out however small they are.
const AT_ONCE: usize = 1;
/// Identifiers that are worth a batch of their own while so many are under way.
const ENOUGH: usize = 64;
/// Batches under way, far below the registry's window of sequences.
const UNDER_WAY_MAX: usize = 16;
/// A batch that takes longer than this does not hold up the next one.
const LONG: Duration = Duration::from_millis(20);
/// Bytes of texts in one batch; a command holds 256 KiB.
const TEXT_BYTES_MAX: usize = 192 << 10;

type Answer = oneshot::Sender<Result<Outcome, RegistryError>>;

/// The callers' side.
pub(super) struct Batches(mpsc::Sender<(IdentifierChange, Answer)>);

/// The task's side.
pub(super) struct Queue(mpsc::Receiver<(IdentifierChange, Answer)>);

impl Batches {
    pub fn new() -> (Self, Queue) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), Queue(receiver))
    }

    /// Has a change committed with those that come at the same time.
    pub async fn submit(&self, change: IdentifierChange) -> Result<Outcome, RegistryError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send((change, answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RegistryError::Busy,
            mpsc::error::TrySendError::Closed(_) => RegistryError::NoQuorum,
        })?;
        answered.await.unwrap_or(Err(RegistryError::NoQuorum))
    }
}

impl Queue {
    /// Runs until no caller is left; `commit` brings one command to the leader.
    pub async fn run<F>(mut self, commit: impl Fn(Command) -> F)
    where
        F: Future<Output = Result<Outcome, RegistryError>> + Send + 'static,
    {
        let mut waiting: Vec<(IdentifierChange, Answer)> = Vec::new();
        let mut under_way = JoinSet::new();
        let mut last = Instant::now();
        loop {
            let room = WAITING_MAX.saturating_sub(waiting.len());
            tokio::select! {
                came = self.0.recv_many(&mut waiting, room), if room > 0 => if came == 0 { break },
                Some(_) = under_way.join_next() => {}
                () = tokio::time::sleep_until(last + LONG), if !waiting.is_empty() && under_way.len() < UNDER_WAY_MAX => {}
            }
            // those that are about to come go along
            tokio::task::yield_now().await;
            while let Ok(next) = self.0.try_recv() {
                waiting.push(next);
            }
            while !waiting.is_empty() && under_way.len() < UNDER_WAY_MAX {
                let items: usize = waiting.iter().map(|(change, _)| change.items()).sum();
                if under_way.len() >= AT_ONCE && items < ENOUGH && last.elapsed() < LONG {
                    break;
                }
                let (changes, answers): (Vec<_>, Vec<_>) = waiting.drain(..fitting(&waiting)).unzip();
                last = Instant::now();
                let committed = commit(together(changes));
                under_way.spawn(async move { hand_out(committed.await, answers) });
            }
        }
        while under_way.join_next().await.is_some() {}
    }
}

/// How many from the front fit in one command; at least one.
fn fitting(waiting: &[(IdentifierChange, Answer)]) -> usize {
    let (mut items, mut bytes) = (0, 0);
    let fits = |(change, _): &&(IdentifierChange, Answer)| {
        items += change.items();
        bytes += match change {
            IdentifierChange::Register { items, .. } => items.iter().map(|item| item.text.len() + 8).sum(),
            IdentifierChange::Revise { text, .. } => text.len() + 64,
            IdentifierChange::Retire { .. } => 96,
        };
        items <= REGISTRATIONS_MAX && bytes <= TEXT_BYTES_MAX
    };
    waiting.iter().take_while(fits).count().max(1)
}

fn together(mut changes: Vec<IdentifierChange>) -> Command {
    match changes.pop() {
        Some(only) if changes.is_empty() => only.into(),
        last => {
            changes.extend(last);
            Command::Batch(changes)
        }
    }
}

fn hand_out(outcome: Result<Outcome, RegistryError>, answers: Vec<Answer>) {
    match outcome {
        Ok(Outcome::Committed { index, response: Response::Batch(outcomes) }) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(Ok(Outcome::Committed { index, response: outcome.into() }));
            }
        }
        same => {
            for answer in answers {
                let _ = answer.send(same.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::registry::{ChangeOutcome, ItemOutcome, Registration};
    use cpi::ids::StableKey;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Semaphore;

    fn register(number: u64) -> IdentifierChange {
        IdentifierChange::Register { items: vec![Registration { text: number.to_string() }], release: 1 }
    }

    fn key(text: &str) -> StableKey {
        let mut key = StableKey([0; 16]);
        key.0[..text.len()].copy_from_slice(text.as_bytes());
        key
    }

    fn outcome(change: &IdentifierChange) -> ChangeOutcome {
        let IdentifierChange::Register { items, .. } = change else { panic!("only registrations are sent") };
        ChangeOutcome::Registered(vec![ItemOutcome::Registered { key: key(&items[0].text), revision: 1 }])
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_meanwhile_goes_together_and_each_gets_its_own_outcome() {
        let (batches, queue) = Batches::new();
        let batches = Arc::new(batches);
        let (sizes, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (seen, wait) = (Arc::clone(&sizes), Arc::clone(&gate));
        tokio::spawn(queue.run(move |command| {
            let changes = match command {
                Command::Batch(changes) => changes,
                other => vec![IdentifierChange::try_from(other).expect("a change")],
            };
            seen.lock().unwrap().push(changes.len());
            let wait = Arc::clone(&wait);
            async move {
                wait.acquire().await.expect("open").forget();
                let mut outcomes: Vec<ChangeOutcome> = changes.iter().map(outcome).collect();
                let response = match outcomes.len() {
                    1 => outcomes.remove(0).into(),
                    _ => Response::Batch(outcomes),
                };
                Ok(Outcome::Committed { index: 7, response })
            }
        }));
        let mut callers = JoinSet::new();
        let call = |number| {
            let batches = Arc::clone(&batches);
            async move { (number, batches.submit(register(number)).await) }
        };
        for number in 21..21 + AT_ONCE as u64 {
            callers.spawn(call(number));
            while sizes.lock().unwrap().len() as u64 + 20 < number {
                tokio::task::yield_now().await;
            }
        }
        for number in 1..=20 {
            callers.spawn(call(number));
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*sizes.lock().unwrap(), [1; AT_ONCE], "few wait for those that are under way");
        gate.add_permits(AT_ONCE + 1);
        while let Some(done) = callers.join_next().await {
            let (number, outcome) = done.expect("it ran");
            let items = vec![ItemOutcome::Registered { key: key(&number.to_string()), revision: 1 }];
            assert_eq!(outcome, Ok(Outcome::Committed { index: 7, response: Response::Registered(items) }));
        }
        assert_eq!(sizes.lock().unwrap()[AT_ONCE..], [20]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_takes_long_does_not_hold_up_the_next_and_none_grows_too_large() {
        let (batches, queue) = Batches::new();
        let batches = Arc::new(batches);
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        tokio::spawn(queue.run(move |command| {
            seen.lock().unwrap().push(command.each().len());
            std::future::pending()
        }));
        let mut callers = JoinSet::new();
        for number in 0..=1100 {
            let batches = Arc::clone(&batches);
            callers.spawn(async move { batches.submit(register(number)).await });
        }
        let end = Instant::now() + LONG * 8;
        while sizes.lock().unwrap().iter().sum::<usize>() < 1101 {
            assert!(Instant::now() < end, "{sizes:?}");
            tokio::time::sleep(LONG / 4).await;
        }
        assert!(sizes.lock().unwrap().iter().all(|size| *size <= REGISTRATIONS_MAX), "{sizes:?}");
    }
}
