//! Approvals of admissions travel between members: whoever has a joiner at its desk tells all others, and gathers what they
//! sign. Format version 2.
//!
//! ```text
//! desk     --Waiting{joins}-->            every member, again and again while somebody waits
//! desk     <--Approvals{signed here}--    answer: what this member approved of them
//! approver --Approve{approval}-->         the desk, at once; if it is away, the next Waiting fetches it
//! ```
//! An approval names the request by its digest and nothing else: it signs the joiner's request together with the enterprise codes it would be admitted with. The registry counts
//! and verifies them in the end; nothing here lets anybody in.

use super::admission::{AdmissionDesk, PendingJoin, request_of};
use super::joiner::check_proofs;
use super::{ApproveError, InvitationError};
use crate::drivers::raft::RegistryTopic;
use crate::mesh::{FrameHandler, MeshHandle, StreamClass};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::codec::{self, CodecError};
use consensus::envelope::Envelope;
use consensus::registry::MemberRecord;
use consensus::registry::command::{Admission, JoinRequest};
use cpi::ids::MemberId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const VERSION: u8 = 2;
/// The largest note: a desk's joins, each with a request.
const NOTE_BYTES_MAX: usize = 512 << 10;
/// Joins that one desk may tell of.
const JOINS_PER_DESK_MAX: usize = 16;
/// Joins of other desks that are remembered.
const JOINS_MAX: usize = 256;
/// Between two rounds of telling, while somebody waits.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Told of no more for so long, a join is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// One member is given so long to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// A join that waits at a desk, as its desk tells others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WaitingJoin {
    /// The joiner's signed request.
    pub request: Vec<u8>,
    /// Enterprise codes that it would be admitted with.
    pub enterprises: Vec<String>,
    /// Approvals at the desk.
    pub have: u32,
    /// Approvals needed.
    pub need: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Note {
    Waiting { joins: Vec<WaitingJoin> },
    Approve { approval: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    Approvals { approvals: Vec<Vec<u8>> },
    Counted { admitted: Option<MemberId> },
    Refused { reason: String },
}

impl Note {
    fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("plain fields")
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, NOTE_BYTES_MAX)
    }
}

/// A join at another member's desk.
struct Seen {
    join: WaitingJoin,
    body: JoinRequest,
    at: Instant,
    /// This member's approval of it.
    approval: Option<Vec<u8>>,
}

/// This member's part in admissions at all desks.
pub struct Approvals {
    desk: Arc<AdmissionDesk>,
    mesh: MeshHandle,
    /// By desk and by what an approval signs.
    seen: Mutex<BTreeMap<(MemberId, [u8; 32]), Seen>>,
}

impl Approvals {
    /// Over this member's own desk.
    pub fn new(desk: Arc<AdmissionDesk>, mesh: MeshHandle) -> Self {
        Self { desk, mesh, seen: Mutex::default() }
    }

    /// This member's own desk.
    pub fn desk(&self) -> &Arc<AdmissionDesk> {
        &self.desk
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeMap<(MemberId, [u8; 32]), Seen>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, join| join.at.elapsed() < FORGET_AFTER);
        seen
    }

    /// Joins that wait for approval, at any desk, as far as known here.
    pub fn pending(&self) -> Vec<PendingJoin> {
        let mut all = self.desk.pending();
        for ((_, request), seen) in self.seen().iter() {
            if !all.iter().any(|join| join.request == *request) {
                all.push(PendingJoin {
                    request: *request,
                    region: seen.body.place.region.clone(),
                    city: seen.body.place.city.clone(),
                    country: seen.body.place.country.clone(),
                    enterprises: seen.join.enterprises.clone(),
                    have: seen.join.have,
                    need: seen.join.need,
                });
            }
        }
        all
    }

    /// Approves exactly this request for this member, wherever it waits. `Ok(None)`: approved, and more are needed, or the
    /// desk is away and fetches the approval later.
    ///
    /// # Errors
    /// [`ApproveError`].
    pub async fn approve(&self, request: &[u8; 32]) -> Result<Option<MemberRecord>, ApproveError> {
        let own = match self.desk.approve(request).await {
            Err(ApproveError::NotWaiting { .. }) => None,
            own => Some(own),
        };
        let sent: Vec<(MemberId, Note)> = self
            .seen()
            .iter_mut()
            .filter(|((_, seen), _)| seen == request)
            .map(|((collector, _), seen)| {
                let approval = self.desk.sign_approval(*request).to_bytes();
                seen.approval = Some(approval.clone());
                (*collector, Note::Approve { approval })
            })
            .collect();
        if let Some(own) = own {
            return own;
        }
        if sent.is_empty() {
            return Err(ApproveError::NotWaiting { request: data_encoding::HEXLOWER.encode(request) });
        }
        for (collector, note) in sent {
            match self.tell(collector, &note).await {
                Some(Reply::Counted { admitted: Some(member) }) => return Ok(self.desk.member(member).await),
                Some(Reply::Refused { reason }) => return Err(ApproveError::Registry(reason)),
                Some(_) => {}
                None => tracing::info!(member = %collector, "the approval is fetched once its desk is back"),
            }
        }
        Ok(None)
    }

    async fn tell(&self, to: MemberId, note: &Note) -> Option<Reply> {
        let frame = RegistryTopic::Admission.frame(&note.to_bytes());
        match self.mesh.request(to, StreamClass::Registry, frame, ANSWER_WAIT).await {
            Ok(answer) => codec::decode(VERSION, &answer, NOTE_BYTES_MAX).ok(),
            Err(error) => {
                tracing::debug!(member = %to, %error, "a note about a join was not answered");
                None
            }
        }
    }

    /// Tells all others of who waits at this desk, until `stop`; one task per node runs this.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut told = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TELL_EVERY) => {}
            }
            // where one approval is enough, nobody else is asked
            let waiting = self.desk.waiting_joins().into_iter().filter(|join| join.need > 1);
            let joins: Vec<WaitingJoin> = waiting.take(JOINS_PER_DESK_MAX).collect();
            // that nobody waits any more is told once
            if joins.is_empty() && !std::mem::take(&mut told) {
                continue;
            }
            told |= !joins.is_empty();
            let note = Note::Waiting { joins };
            let mut asked = JoinSet::new();
            for peer in self.mesh.peers().into_iter().filter(|peer| peer.connected) {
                let (me, note) = (Arc::clone(&self), note.clone());
                asked.spawn(async move { (peer.member, me.tell(peer.member, &note).await) });
            }
            let mut requests = std::collections::BTreeSet::new();
            while let Some(answered) = asked.join_next().await {
                let Ok((from, Some(Reply::Approvals { approvals }))) = answered else { continue };
                let taken = approvals.into_iter().take(JOINS_PER_DESK_MAX);
                requests.extend(taken.filter_map(|approval| self.take_approval(from, &approval)));
            }
            for request in requests {
                self.desk.try_admit(&request).await;
            }
        }
    }

    /// Counts an approval that `from` brings. Returns which request it is of, if it counts.
    fn take_approval(&self, from: MemberId, approval: &[u8]) -> Option<[u8; 32]> {
        let opened = Envelope::from_bytes(approval).ok();
        let counts = opened.filter(|approval| self.desk.add_approval(approval));
        if counts.is_none() {
            tracing::warn!(member = %from, "an approval does not hold, or no such request waits here");
        }
        request_of(&counts?)
    }

    /// Remembers who waits at the desk of `from`; gives what this member approved of them.
    fn hear(&self, from: MemberId, joins: Vec<WaitingJoin>) -> Result<Reply, String> {
        if joins.len() > JOINS_PER_DESK_MAX {
            return Err(format!("expected at most {JOINS_PER_DESK_MAX} joins"));
        }
        let mut checked = BTreeMap::new();
        for join in joins {
            let proven = check_proofs(&join.request, &self.desk.federation());
            let (body, _) = proven.map_err(|error: InvitationError| error.to_string())?;
            checked.insert(Admission::approval_of(&join.request, &join.enterprises), (join, body));
        }
        let mut seen = self.seen();
        seen.retain(|(desk, request), _| *desk != from || checked.contains_key(request));
        let mut approvals = Vec::new();
        for (request, (join, body)) in checked {
            let place = (from, request);
            let before = seen.get(&place);
            // another request under the same name needs another approval
            let approval = before.and_then(|before| before.approval.clone());
            approvals.extend(approval.clone());
            if before.is_some() || seen.len() < JOINS_MAX {
                seen.insert(place, Seen { join, body, at: Instant::now(), approval });
            }
        }
        Ok(Reply::Approvals { approvals })
    }
}

#[async_trait]
impl FrameHandler for Approvals {
    async fn on_request(&self, from: MemberId, _: StreamClass, frame: Bytes) -> Result<Bytes, String> {
        let reply = match Note::from_bytes(&frame).map_err(|error| error.to_string())? {
            Note::Waiting { joins } => self.hear(from, joins)?,
            Note::Approve { approval } => match self.take_approval(from, &approval) {
                Some(request) => match self.desk.admit(&request).await {
                    Ok(admitted) => Reply::Counted { admitted },
                    Err(reason) => Reply::Refused { reason },
                },
                None => Reply::Refused { reason: "this request does not wait here".to_owned() },
            },
        };
        Ok(codec::encode(VERSION, &reply).expect("plain fields").into())
    }

    fn on_frame(&self, _: MemberId, _: StreamClass, _: Bytes) {}
}
