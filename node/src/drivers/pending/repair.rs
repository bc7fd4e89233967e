//! Anti-entropy over the registry's streams: one member asks, the other answers, and both have what either had.

use super::desk::PendingDesk;
use crate::drivers::raft::RegistryTopic;
use crate::mesh::{FrameHandler, MeshError, StreamClass};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::registry::pending::{ClaimRefused, PendingLimits, RepairAnswer, RepairItem, RepairQuestion};
use cpi::ids::MemberId;
use governor::{DefaultKeyedRateLimiter, Quota};
use std::num::NonZeroU32;
use std::time::Duration;

/// One question waits so long for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Rounds of one repair; what is left follows with the next repair.
const ROUNDS_MAX: usize = 70;
/// Questions that one peer may ask a second, and at once.
const QUESTIONS_PER_SECOND: u32 = 20;
const QUESTIONS_BURST: u32 = 300;
/// Ids in one question: what a full table holds.
const IDS_MAX: usize = 16_384;

/// Why a repair ended early.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error(transparent)]
    Mesh(#[from] MeshError),
    #[error("the answer is none to the question")]
    Answer,
    #[error("the peer gave a statement that does not hold: {0}")]
    Wrong(#[from] ClaimRefused),
}

impl PendingDesk {
    /// Compares with one peer and exchanges what either lacks.
    pub(super) async fn repair_with(&self, member: MemberId) {
        match self.rounds(member).await {
            Ok(0) => {}
            Ok(new) => tracing::info!(%member, new, "pending statements were exchanged with a peer"),
            Err(error) => tracing::debug!(%member, %error, "a repair of pending statements ended early"),
        }
    }

    async fn rounds(&self, member: MemberId) -> Result<u32, RepairError> {
        let mut all = 0;
        for _ in 0..ROUNDS_MAX {
            let sum = self.table().sum();
            if self.ask(member, RepairQuestion::Compare { sum }).await? == RepairAnswer::Same {
                break;
            }
            let ids = self.table().ids().collect();
            let RepairAnswer::Missing { items, wanted } = self.ask(member, RepairQuestion::Have { ids }).await? else {
                return Err(RepairError::Answer);
            };
            let mut new = self.take_aside(member, items).await?;
            let give = self.table().items(self.now(), &wanted);
            if !give.is_empty() {
                let RepairAnswer::Taken { new: there } = self.ask(member, RepairQuestion::Give { items: give }).await?
                else {
                    return Err(RepairError::Answer);
                };
                new += there;
            }
            all += new;
            if new == 0 {
                break;
            }
        }
        Ok(all)
    }

    async fn ask(&self, member: MemberId, question: RepairQuestion) -> Result<RepairAnswer, RepairError> {
        let frame = RegistryTopic::Repair.frame(&question.to_bytes());
        let answer = self.mesh().request(member, StreamClass::Registry, frame, ANSWER_WAIT).await?;
        RepairAnswer::from_bytes(&answer).map_err(|_| RepairError::Answer)
    }

    /// Verifies on a thread that nobody waits for.
    async fn take_aside(&self, from: MemberId, items: Vec<RepairItem>) -> Result<u32, ClaimRefused> {
        let desk = self.clone();
        let taken = tokio::task::spawn_blocking(move || desk.take_all(from, items)).await;
        // only a stopping node gives up such a thread
        taken.unwrap_or(Ok(0))
    }
}

/// Answers peers that compare.
pub struct RepairDesk {
    desk: PendingDesk,
    budget: DefaultKeyedRateLimiter<MemberId>,
}

impl RepairDesk {
    /// Over `desk`.
    pub fn new(desk: PendingDesk) -> Self {
        let rate = |n| NonZeroU32::new(n).expect("a positive constant");
        let quota = Quota::per_second(rate(QUESTIONS_PER_SECOND)).allow_burst(rate(QUESTIONS_BURST));
        Self { desk, budget: DefaultKeyedRateLimiter::keyed(quota) }
    }
}

#[async_trait]
impl FrameHandler for RepairDesk {
    async fn on_request(&self, from: MemberId, _: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        if self.budget.check_key(&from).is_err() {
            return Err("too many questions about what is pending: ask later".to_owned());
        }
        let question = RepairQuestion::from_bytes(&frame).map_err(|error| {
            self.desk.count(from, &ClaimRefused::Malformed);
            error.to_string()
        })?;
        let answer = match question {
            RepairQuestion::Compare { sum } if sum == self.desk.table().sum() => RepairAnswer::Same,
            RepairQuestion::Compare { .. } => RepairAnswer::Differ,
            RepairQuestion::Have { ids } if ids.len() <= IDS_MAX => self.desk.table().missing(self.desk.now(), &ids),
            RepairQuestion::Have { .. } => return Err(format!("expected at most {IDS_MAX} ids")),
            RepairQuestion::Give { items } if items.len() > PendingLimits::default().statements_max => {
                return Err("more statements than a table holds".to_owned());
            }
            RepairQuestion::Give { items } => {
                let new = self.desk.take_aside(from, items).await.map_err(|refused| refused.to_string())?;
                RepairAnswer::Taken { new }
            }
        };
        Ok(answer.to_bytes().into())
    }

    fn on_frame(&self, _: MemberId, _: StreamClass, _: Bytes) {}
}
