//! Anti-entropy of votes over the registry's streams: one member asks, the other answers, and both have what either had.

use super::desk::MotionDesk;
use crate::drivers::raft::RegistryTopic;
use crate::mesh::{FrameHandler, MeshError, StreamClass};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::membership::{VoteAnswer, VoteQuestion, VoteRefused, VoteTaken};
use cpi::ids::MemberId;
use governor::{DefaultKeyedRateLimiter, Quota};
use std::num::NonZeroU32;
use std::time::Duration;

/// One question waits so long for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Questions that one peer may ask a second, and at once.
const QUESTIONS_PER_SECOND: u32 = 2;
const QUESTIONS_BURST: u32 = 20;

#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error(transparent)]
    Mesh(#[from] MeshError),
    #[error("the answer is none to the question")]
    Answer,
    #[error("the peer gave a vote that does not hold: {0}")]
    Wrong(#[from] VoteRefused),
}

impl MotionDesk {
    /// Exchanges with one peer what either lacks.
    pub(super) async fn repair_with(&self, member: MemberId) {
        match self.exchange(member).await {
            Ok(0) => {}
            Ok(new) => tracing::info!(%member, new, "votes came from a peer"),
            Err(error) => tracing::debug!(%member, %error, "a repair of votes ended early"),
        }
    }

    async fn exchange(&self, member: MemberId) -> Result<u32, RepairError> {
        let ids = self.table().ids().collect();
        let answer = self.ask(member, VoteQuestion::Have { ids }).await?;
        let VoteAnswer::Missing { items, wanted } = answer else { return Err(RepairError::Answer) };
        let new = self.take_aside(member, items).await?;
        let items = self.table().items(&wanted);
        if !items.is_empty() {
            self.ask(member, VoteQuestion::Give { items }).await?;
        }
        Ok(new)
    }

    async fn ask(&self, member: MemberId, question: VoteQuestion) -> Result<VoteAnswer, RepairError> {
        let frame = RegistryTopic::Votes.frame(&question.to_bytes());
        let answer = self.mesh().request(member, StreamClass::Registry, frame, ANSWER_WAIT).await?;
        VoteAnswer::from_bytes(&answer).map_err(|_| RepairError::Answer)
    }

    /// Verifies on a thread that nobody waits for; ends at the first vote that is wrong by itself.
    async fn take_aside(&self, from: MemberId, items: Vec<Vec<u8>>) -> Result<u32, VoteRefused> {
        let desk = self.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let mut new = 0;
            for item in items {
                match desk.take(None, item) {
                    Ok(VoteTaken::New) => new += 1,
                    Ok(VoteTaken::Known) => {}
                    Err(refused) => {
                        desk.count(from, &refused);
                        if refused.is_wrong_by_itself() {
                            return Err(refused);
                        }
                    }
                }
            }
            Ok(new)
        });
        // only a stopping node gives up such a thread
        taken.await.unwrap_or(Ok(0))
    }
}

/// Answers peers that compare votes.
pub struct VoteRepair {
    desk: MotionDesk,
    budget: DefaultKeyedRateLimiter<MemberId>,
}

impl VoteRepair {
    /// Over `desk`.
    pub fn new(desk: MotionDesk) -> Self {
        let rate = |n| NonZeroU32::new(n).expect("a positive constant");
        let quota = Quota::per_second(rate(QUESTIONS_PER_SECOND)).allow_burst(rate(QUESTIONS_BURST));
        Self { desk, budget: DefaultKeyedRateLimiter::keyed(quota) }
    }
}

#[async_trait]
impl FrameHandler for VoteRepair {
    async fn on_request(&self, from: MemberId, _: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        if self.budget.check_key(&from).is_err() {
            return Err("too many questions about votes: ask later".to_owned());
        }
        let question = VoteQuestion::from_bytes(&frame).map_err(|error| {
            self.desk.count(from, &VoteRefused::Malformed);
            error.to_string()
        })?;
        let answer = match question {
            VoteQuestion::Have { ids } => self.desk.table().missing(&ids),
            VoteQuestion::Give { items } => {
                self.desk.take_aside(from, items).await.map_err(|refused| refused.to_string())?;
                VoteAnswer::Taken
            }
        };
        Ok(answer.to_bytes().into())
    }

    fn on_frame(&self, _: MemberId, _: StreamClass, _: Bytes) {}
}
