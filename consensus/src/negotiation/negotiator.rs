//! One node's side of peer negotiation: the origin's and the provider's part behind one door.

use super::action::Action;
use super::config::NegotiationConfig;
use super::digest::{ClassDigest, Digest, IDENTIFIERS_MAX, PoolDigest};
use super::directory::Directory;
use super::input::Input;
use super::keeping::Keeping;
use super::message::Message;
use super::origin::{Origin, OriginStats};
use super::outbox::Outbox;
use super::provider::Provider;
use super::record::Restored;
use super::shape::ShapeDigest;
use crate::custody::{self, Custodian};
use crate::time::{Monotonic, Now};
use cpi::dictionary::Dictionary;
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, TaskId};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// One node's side of peer negotiation. Holds no clock, socket, disk or global randomness.
///
/// Call `handle` or `handle_timeout`, then drain `poll_action`, then arm `poll_timeout`.
pub struct Negotiator {
    me: MemberId,
    incarnation: u64,
    pub(super) origin: Origin,
    provider: Provider,
    pub(super) keeping: Keeping,
    rng: ChaCha8Rng,
    pub(super) out: Outbox,
}

impl Negotiator {
    /// A machine without tasks and pools. `incarnation` is higher than any this node had before.
    pub fn new(
        me: MemberId,
        incarnation: u64,
        config: NegotiationConfig,
        dictionary: Arc<Dictionary>,
        seed: u64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let own = ChaCha8Rng::from_rng(&mut rng);
        let custodian = Custodian::new(me, config.custody.clone(), rng.next_u64());
        Self {
            keeping: Keeping::new(custodian),
            me,
            incarnation,
            origin: Origin::new(me, config.clone(), dictionary, own),
            provider: Provider::new(me, incarnation, config),
            rng,
            out: Outbox::default(),
        }
    }

    /// Takes up what was on disk. Call it once, after the pools are known and before anything else comes in. Tasks go on
    /// once their custodians promised this node a higher epoch.
    pub fn restore(&mut self, now: Now, restored: Restored) {
        self.provider.restore(now, restored.leases, &mut self.out);
        self.keeping.custodian.restore(now, restored.tasks);
        self.settle_custody(now);
    }

    /// Who it decides for.
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        let (origin, provider, out) = (&mut self.origin, &mut self.provider, &mut self.out);
        match input {
            Input::Submit(submission) => {
                let custodians =
                    self.keeping.custodian.choose(&submission.need.residency, submission.wishes.durability);
                origin.submit(now, *submission, custodians, out);
            }
            Input::Plan(request) => origin.plan(now, *request, out),
            Input::Cancel { task, principal } if origin.has(task) => origin.cancel(now, task, principal, out),
            Input::Cancel { .. } | Input::Custody { .. } | Input::Loaded { .. } => self.tell_custodian(now, input),
            Input::Message { from, message } => self.message(now, from, message),
            Input::Persisted { up_to } => self.keeping.persisted(now, up_to),
            Input::Member { member, place, active } => {
                provider.learn_place(member, &place);
                let (city, country) = (place.city.clone(), place.country.clone());
                self.keeping.custodian.handle(now, custody::Input::Member { member, city, country, active });
                origin.directory_mut().admit(member, place, active);
            }
            Input::MemberGone(member) => {
                self.keeping.custodian.handle(now, custody::Input::Gone(member));
                origin.member_gone(now, member, out);
            }
            Input::Digest(digest) => {
                let member = digest.member;
                if origin.directory_mut().learn(digest, now.mono) {
                    origin.wake(now, member, out);
                }
            }
            Input::Rtt { member, rtt_ms } => {
                let reachable = rtt_ms.is_some();
                self.keeping.custodian.handle(now, custody::Input::Reachable { member, reachable });
                if let Some(region) = origin.directory_mut().get_mut(member) {
                    let back = region.rtt_ms.is_none() && rtt_ms.is_some();
                    region.rtt_ms = rtt_ms;
                    if back {
                        origin.wake(now, member, out);
                    }
                }
            }
            Input::Moved { member, bytes, ms } => {
                if let Some(region) = origin.directory_mut().get_mut(member) {
                    region.learned.moved(bytes, ms);
                }
            }
            Input::Identifiers { member, identifiers } => origin.directory_mut().describe(member, identifiers),
            Input::Dictionary(dictionary) => origin.directory_mut().set_dictionary(dictionary),
            Input::Pools(pools) => provider.set_pools(pools),
            Input::Cordon { pool, cordoned } => provider.cordon(&pool, cordoned),
            Input::PoolDown { pool, why } => provider.set_down(pool, why),
            Input::Draining(draining) => provider.set_draining(draining),
            Input::Run(attempt, notice) => provider.run(now, attempt, notice, out),
            Input::Fetched { attempt, result } => origin.fetched(now, attempt, result, out),
            Input::PeerBusy { member, attempt, question } => {
                if let Some(attempt) = attempt.filter(|_| question) {
                    origin.peer_busy(now, attempt.task, member, out);
                }
            }
        }
        self.settle_custody(now);
        if let Some(shapes) = self.origin.directory_mut().demand_mut().fresh(now.mono) {
            self.provider.set_shapes(shapes);
        }
        self.origin.pump(now, &mut self.out);
        self.settle_custody(now);
    }

    fn message(&mut self, now: Now, from: MemberId, message: Message) {
        let Some((message, unanswered)) = self.unless_unclaimed(message) else { return };
        let (origin, provider, rng, out) = (&mut self.origin, &mut self.provider, &mut self.rng, &mut self.out);
        match message {
            Message::Ask(ask) => provider.ask(now, from, *ask, rng, out),
            Message::Award(award) => provider.award(now, from, *award, rng, out),
            Message::Release(attempt) => provider.release(now, from, attempt, out),
            Message::Bound(attempt) => provider.bound(now, from, attempt, out),
            Message::Adopt(adopt) => provider.adopt(now, from, adopt, out),
            Message::Cancel(attempt) => provider.cancel(now, from, attempt, out),
            Message::EndAck(attempt) => provider.end_ack(now, from, attempt, out),
            Message::Renewed(renewed) => provider.renewed(now, from, renewed, out),
            Message::Offer(offer) => origin.offered(now, from, *offer, out),
            Message::Decline(decline) => origin.declined(now, from, *decline, out),
            Message::Accepted(accepted) => origin.accepted(now, from, *accepted, out),
            Message::Progress(attempt, progress) => origin.progress(now, from, attempt, progress, out),
            Message::Ended(ended) => origin.ended(now, from, *ended, out),
            Message::Gone(attempt, reason) => origin.gone(now, from, attempt, reason, out),
            Message::Renew(renew) => origin.renew(now, from, renew, unanswered, out),
        }
    }

    /// The moment of [`Self::poll_timeout`] came. A spurious call is harmless.
    pub fn handle_timeout(&mut self, now: Now) {
        self.provider.handle_timeout(now, &mut self.rng, &mut self.out);
        self.origin.handle_timeout(now, &mut self.out);
        self.settle_custody(now);
        self.keeping.custodian.handle_timeout(now);
        self.settle_custody(now);
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop()
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let parts = [self.origin.poll_timeout(), self.provider.poll_timeout(), self.keeping.custodian.poll_timeout()];
        parts.into_iter().flatten().min()
    }

    /// The part that keeps tasks with other members, to look at.
    pub fn custodian(&self) -> &Custodian {
        &self.keeping.custodian
    }

    /// What the origin knows of the regions.
    pub fn directory(&self) -> &Directory {
        self.origin.directory()
    }

    /// Counters of the origin's part.
    pub fn origin_stats(&self) -> OriginStats {
        self.origin.stats()
    }

    /// Whether a task is unfinished at this origin.
    pub fn has_task(&self, task: TaskId) -> bool {
        self.origin.has(task)
    }

    /// The provider's part, to look at.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// What this region says of itself now.
    pub fn digest(&self, sequence: u64, ttl_ms: u64) -> Digest {
        let book = self.provider.book();
        let pools = book.specs().enumerate().map(|(index, spec)| {
            let (commands, images) = self.provider.payloads()[index];
            let identifiers = spec.identifiers.iter().filter_map(|text| Some(Cpi::parse(text).ok()?.stable_key()));
            let classes = spec.classes.iter().enumerate().map(|(class, c)| ClassDigest {
                name: c.name.clone(),
                chip: c.chip.clone(),
                per_server: c.per_server,
                servers: c.servers,
                free: book.free(index as u16, class as u16),
                largest_fit: book.largest_fit(index as u16, class as u16),
                whole_chips: book.chips_free(index as u16, class as u16).0,
                chip_parts: book.chips_free(index as u16, class as u16).1,
            });
            PoolDigest {
                name: spec.name.clone(),
                class: spec.class,
                firmness: spec.firmness,
                commands,
                images,
                price: spec.price.clone(),
                carbon_g_per_kwh: spec.carbon_g_per_kwh,
                cordoned: spec.cordoned,
                down: self.provider.is_down(&spec.name),
                queue: self.provider.waiting_of(index as u16),
                identifiers: identifiers.take(IDENTIFIERS_MAX).collect(),
                classes: classes.collect(),
            }
        });
        let mut digest = Digest {
            member: self.me,
            incarnation: self.incarnation,
            sequence,
            ttl_ms,
            draining: self.provider.is_draining(),
            pools: pools.collect(),
            shapes: self.shapes(),
            truncated: false,
        };
        if !digest.shapes.is_empty() {
            digest.fit();
        }
        digest
    }

    /// What is asked most and what it would cost here. Without chips there is no fragmentation to tell: only which chips
    /// this region's own tasks ask for.
    fn shapes(&self) -> Vec<ShapeDigest> {
        let (book, demand) = (self.provider.book(), self.origin.directory().demand());
        let chips = book.has_chips();
        let told = book.best_places().into_iter().map(|(shape, best)| {
            let asked = demand.own(&shape);
            ShapeDigest { shape, asked, best }
        });
        told.filter(|told| chips || (told.asked > 0 && told.shape.chip_milli > 0)).collect()
    }
}
