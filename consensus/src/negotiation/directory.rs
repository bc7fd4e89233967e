//! What an origin knows of the regions: places and standing from the registry, digests, round trips, and what its own
//! asks have taken since the last digest. All of it hints but the standing.

use super::demand::Demand;
use super::digest::{ClassDigest, Digest, PoolDigest};
use super::message::{ClassUpdate, Target};
use super::need::{Need, VariantNeed, Wishes};
use super::peer::{AnswerTimes, Breaker, Learned};
use super::shape::Shape;
use crate::time::Monotonic;
use cpi::dictionary::Dictionary;
use cpi::filter::{Filter, IdentifierSource, StatusSource};
use cpi::identifier::Cpi;
use cpi::ids::{MemberId, StableKey};
use cpi::resource::{Quantity, RegionPlace};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most regions that are kept in detail.
pub const REGIONS_MAX: usize = 16_384;
/// The most identifiers kept per region.
const IDENTIFIERS_MAX: usize = 1024;

/// One way of a task at one server class: what is judged.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The pool.
    pub pool: &'a PoolDigest,
    /// The class in it.
    pub class: &'a ClassDigest,
    /// The way to run the task.
    pub way: &'a VariantNeed,
}

/// What is known of one region.
#[derive(Debug, Clone)]
pub struct Region {
    /// Where it is.
    pub place: RegionPlace,
    /// Whether its membership is in force.
    pub active: bool,
    /// Round trip; `None` while it is not connected.
    pub rtt_ms: Option<u32>,
    /// Its newest digest, with own asks since then taken off; shared until then.
    pub digest: Option<Arc<Digest>>,
    /// When that came.
    pub digest_at: Monotonic,
    /// How long its answers take.
    pub answers: AnswerTimes,
    /// Whether it is silent.
    pub breaker: Breaker,
    /// What was learned of work there.
    pub learned: Learned,
    kept: u32,
    broken: u32,
    identifiers: BTreeMap<StableKey, Cpi>,
    labels: BTreeMap<String, u32>,
}

impl Region {
    fn new(place: RegionPlace, active: bool) -> Self {
        Self {
            place,
            active,
            rtt_ms: None,
            digest: None,
            digest_at: Monotonic::default(),
            answers: AnswerTimes::default(),
            breaker: Breaker::default(),
            learned: Learned::default(),
            kept: 0,
            broken: 0,
            identifiers: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Whether an identifier of the pool begins with `prefix`.
    pub fn has_prefix(&self, pool: &PoolDigest, prefix: &str) -> bool {
        self.described(pool).any(|cpi| cpi.as_str().starts_with(prefix))
    }

    /// Whether an identifier of the pool, with the pool's status, matches `filter`.
    pub fn matches(&self, pool: &PoolDigest, filter: &Filter, dictionary: &Dictionary) -> bool {
        let sum = |part: fn(&ClassDigest) -> u64| Some(pool.classes.iter().map(part).fold(0, u64::saturating_add));
        let most = |part: fn(&ClassDigest) -> u64| pool.classes.iter().map(part).max();
        let status = StatusSource {
            region: Some(self.place.region.as_str()),
            pool: Some(&pool.name),
            firmness: Some(pool.firmness),
            cordoned: Some(pool.cordoned),
            free_chip_milli: sum(|c| c.free.chip_milli),
            free_cpu_milli: sum(|c| c.free.cpu_milli),
            free_memory_bytes: sum(|c| c.free.memory_bytes),
            fit_chip_milli: most(|c| c.largest_fit.chip_milli),
            fit_cpu_milli: most(|c| c.largest_fit.cpu_milli),
            fit_memory_bytes: most(|c| c.largest_fit.memory_bytes),
            queue: Some(u64::from(pool.queue)),
            chip_hour_micro: Some(pool.price.chip_hour_micro),
            core_hour_micro: Some(pool.price.cpu_core_hour_micro),
            currency: Some(&pool.price.currency),
            carbon_g_per_kwh: pool.carbon_g_per_kwh.map(u64::from),
            rtt_ms: self.rtt_ms.map(u64::from),
            ..StatusSource::default()
        };
        self.described(pool).any(|cpi| filter.matches(&(IdentifierSource { cpi, dictionary }, status)))
    }

    /// The pool's identifiers that are known here.
    fn described<'a>(&'a self, pool: &'a PoolDigest) -> impl Iterator<Item = &'a Cpi> {
        pool.identifiers.iter().filter_map(|key| self.identifiers.get(key))
    }

    /// Identifiers that the digest names and that are not described yet.
    pub fn undescribed(&self) -> impl Iterator<Item = StableKey> {
        let pools = self.digest.iter().flat_map(|d| &d.pools);
        pools.flat_map(|p| &p.identifiers).copied().filter(|key| !self.identifiers.contains_key(key))
    }

    /// 0 for a region that keeps its word, 1,000 for one that never does. New regions get the benefit of the doubt.
    pub fn broken_permille(&self) -> u32 {
        let all = u64::from(self.kept) + u64::from(self.broken) + 20;
        (u64::from(self.broken) * 1000 / all) as u32
    }

    /// It answered after so many ms, whatever it said.
    pub fn answered(&mut self, ms: u64) {
        self.answers.measured(ms);
        self.breaker.hear();
    }

    /// Counts a kept promise.
    pub fn keeps(&mut self) {
        self.kept = self.kept.saturating_add(1);
        self.fade();
    }

    /// Counts a broken promise: a lost run, a hold that was gone, silence.
    pub fn breaks(&mut self) {
        self.broken = self.broken.saturating_add(1);
        self.fade();
    }

    /// Old experience counts less: both halve every 1,000.
    fn fade(&mut self) {
        if self.kept.saturating_add(self.broken) > 1000 {
            self.kept /= 2;
            self.broken /= 2;
        }
    }

    /// 0 for the most welcome, 1,000 for the least: 500 without wishes.
    pub fn affinity_term(&self, pool: &PoolDigest, wishes: &Wishes, dictionary: &Dictionary) -> u32 {
        let mut term: i64 = 500;
        for (filter, weight) in &wishes.affinity {
            if self.matches(pool, filter, dictionary) {
                term -= i64::from(*weight) * 5;
            }
        }
        if let Some((label, value)) = &wishes.spread {
            let same = self.labels.get(&format!("{label}={value}")).copied().unwrap_or(0);
            term += i64::from(same.min(50)) * 10;
        }
        term.clamp(0, 1000) as u32
    }

    fn class_mut(&mut self, target: &Target) -> Option<&mut ClassDigest> {
        let digest = Arc::make_mut(self.digest.as_mut()?);
        let pool = digest.pools.iter_mut().find(|p| p.name == target.pool)?;
        pool.classes.iter_mut().find(|c| c.name == target.class)
    }

    /// Takes `quantity` off what the digest says is free.
    pub fn take(&mut self, target: &Target, quantity: &Quantity) {
        if let Some(class) = self.class_mut(target) {
            let less = |a: u64, b: u64| a.saturating_sub(b);
            class.free = Quantity {
                cpu_milli: less(class.free.cpu_milli, quantity.cpu_milli),
                memory_bytes: less(class.free.memory_bytes, quantity.memory_bytes),
                storage_bytes: less(class.free.storage_bytes, quantity.storage_bytes),
                chip_milli: less(class.free.chip_milli, quantity.chip_milli),
            };
            class.largest_fit = least(&class.largest_fit, &class.free);
        }
    }

    /// Gives `quantity` back to what the digest says is free.
    pub fn give_back(&mut self, target: &Target, quantity: &Quantity) {
        if let Some(class) = self.class_mut(target) {
            let total = class.total();
            class.free = least(&class.free.saturating_add(quantity), &total);
            let grown = class.largest_fit.saturating_add(quantity);
            class.largest_fit = least(&least(&grown, &class.free), &class.per_server);
        }
    }

    /// Takes over fresh figures from a decline.
    pub fn update(&mut self, updates: &[ClassUpdate]) {
        for update in updates {
            let target = Target { variant: 0, pool: update.pool.clone(), class: update.class.clone() };
            if let Some(class) = self.class_mut(&target) {
                class.free = update.free;
                class.largest_fit = update.largest_fit;
            }
        }
    }

    /// It declined `need` for lack of room: none of its shapes fits until a digest says otherwise.
    pub fn is_full_for(&mut self, need: &Need) {
        let Some(digest) = &mut self.digest else { return };
        let digest = Arc::make_mut(digest);
        for shape in need.variants.iter().flat_map(Shape::of_way) {
            if let Some(told) = digest.shapes.iter_mut().find(|told| told.shape == shape) {
                told.best = None;
            }
        }
    }

    /// Counts a running task with this label.
    pub fn label(&mut self, label: Option<&(String, String)>, add: bool) {
        let Some((name, value)) = label else { return };
        let key = format!("{name}={value}");
        if add {
            *self.labels.entry(key).or_default() += 1;
        } else if let Some(count) = self.labels.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.labels.remove(&key);
            }
        }
    }
}

/// Dimension by dimension the smaller.
fn least(a: &Quantity, b: &Quantity) -> Quantity {
    Quantity {
        cpu_milli: a.cpu_milli.min(b.cpu_milli),
        memory_bytes: a.memory_bytes.min(b.memory_bytes),
        storage_bytes: a.storage_bytes.min(b.storage_bytes),
        chip_milli: a.chip_milli.min(b.chip_milli),
    }
}

/// All regions, by member.
#[derive(Debug, Clone)]
pub struct Directory {
    regions: BTreeMap<MemberId, Region>,
    dictionary: Arc<Dictionary>,
    me: MemberId,
    demand: Demand,
}

impl Directory {
    /// `me`'s directory of no region, with the dictionary that filters look codes up in.
    pub fn new(me: MemberId, dictionary: Arc<Dictionary>) -> Self {
        Self { regions: BTreeMap::new(), dictionary, me, demand: Demand::default() }
    }

    /// What the federation asks for lately.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// The same, to count and to read.
    pub fn demand_mut(&mut self) -> &mut Demand {
        &mut self.demand
    }

    /// The dictionary in force.
    pub fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// Takes over a newer dictionary.
    pub fn set_dictionary(&mut self, dictionary: Arc<Dictionary>) {
        self.dictionary = dictionary;
    }

    /// Every region.
    pub fn iter(&self) -> impl Iterator<Item = (&MemberId, &Region)> {
        self.regions.iter()
    }

    /// One region.
    pub fn get(&self, member: MemberId) -> Option<&Region> {
        self.regions.get(&member)
    }

    /// One region, to change what is known of it.
    pub fn get_mut(&mut self, member: MemberId) -> Option<&mut Region> {
        self.regions.get_mut(&member)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Takes over a member's place and standing. Beyond `REGIONS_MAX` new members are not kept.
    pub fn admit(&mut self, member: MemberId, place: RegionPlace, active: bool) {
        if let Some(region) = self.regions.get_mut(&member) {
            region.place = place;
            region.active = active;
        } else if self.regions.len() < REGIONS_MAX {
            self.regions.insert(member, Region::new(place, active));
        }
    }

    /// Forgets a member.
    pub fn remove(&mut self, member: MemberId) {
        let digest = self.regions.remove(&member).and_then(|region| region.digest);
        if let Some(digest) = digest.filter(|_| member != self.me) {
            self.demand.replace(&digest.shapes, &[]);
        }
    }

    /// Takes over a digest if it is newer. Says whether anything grew in it.
    pub fn learn(&mut self, digest: Arc<Digest>, now: Monotonic) -> bool {
        let Some(region) = self.regions.get_mut(&digest.member) else { return false };
        let newer = region
            .digest
            .as_ref()
            .is_none_or(|old| (old.incarnation, old.sequence) < (digest.incarnation, digest.sequence));
        if !newer {
            return false;
        }
        if region.digest.as_ref().is_none_or(|old| old.incarnation < digest.incarnation) {
            // It was started anew: what kept it silent may be over.
            region.breaker.hear();
        }
        if digest.member != self.me {
            let before = region.digest.as_ref().map_or(&[][..], |old| &old.shapes[..]);
            self.demand.replace(before, &digest.shapes);
        }
        let grew = region.digest.as_ref().is_none_or(|old| has_grown(old, &digest));
        region.digest = Some(digest);
        region.digest_at = now;
        grew
    }

    /// Takes over descriptions of identifiers.
    pub fn describe(&mut self, member: MemberId, identifiers: Vec<(StableKey, Cpi)>) {
        let Some(region) = self.regions.get_mut(&member) else { return };
        for (key, cpi) in identifiers {
            if region.identifiers.len() < IDENTIFIERS_MAX || region.identifiers.contains_key(&key) {
                region.identifiers.insert(key, cpi);
            }
        }
    }
}

/// Whether some class has more to give than before.
fn has_grown(old: &Digest, new: &Digest) -> bool {
    if old.draining != new.draining || old.pools.len() != new.pools.len() {
        return true;
    }
    let room = |digest: &Digest| digest.shapes.iter().filter(|told| told.best.is_some()).count();
    if room(new) > room(old) && !old.shapes.is_empty() {
        return true;
    }
    old.pools.iter().zip(&new.pools).any(|(a, b)| {
        a.name != b.name
            || a.cordoned != b.cordoned
            || a.down != b.down
            || a.classes.len() != b.classes.len()
            || a.classes.iter().zip(&b.classes).any(|(x, y)| x.name != y.name || !x.largest_fit.fits(&y.largest_fit))
    })
}
