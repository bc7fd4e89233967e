//! Knobs of the negotiation, each with unit, default and consequence.

use cpi::ids::MemberId;
use serde::{Deserialize, Serialize};

/// How this node places tasks and leases capacity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NegotiationConfig {
    /// How many regions are asked at once, 1 to 16. Default 3. More find an offer sooner and cost messages.
    pub wave_size: usize,
    /// How long an origin waits for the rest of a wave, at least, in ms. Default 150. Lower gives up on slow peers sooner.
    pub ask_deadline_ms_min: u64,
    /// The same, at most, in ms. Default 2,000.
    pub ask_deadline_ms_max: u64,
    /// How long an origin waits for an acceptance beyond the ask deadline, in ms. Default 500: a provider syncs first.
    pub award_grace_ms: u64,
    /// How long offers are held, in ms, at most 5,000. Default 3,000.
    pub hold_ttl_ms: u64,
    /// How long a plan's first choice is held, in ms, at most 60,000. Default 60,000.
    pub plan_ttl_ms: u64,
    /// Time to live of leases, in ms. Default 30,000. A lost region is noticed after this time.
    pub lease_ttl_ms: u64,
    /// Between renewals, in ms. Default 10,000; a third of the lease, so that two may be lost.
    pub renew_every_ms: u64,
    /// Between repeats of what was not acknowledged (bound, cancel, ended), in ms. Default 2,000.
    pub resend_every_ms: u64,
    /// First wait after a round without success, in ms. Default 250; doubles up to `backoff_ms_max`.
    pub backoff_ms_min: u64,
    /// Longest wait between rounds, in ms. Default 5,000.
    pub backoff_ms_max: u64,
    /// Tasks of this origin that negotiate at the same time; others wait in order of priority and age. Default 256.
    pub placing_max: usize,
    /// Unfinished tasks of this origin; beyond, submissions are refused as `busy`. Default 200,000.
    pub tasks_max: usize,
    /// Candidates whose score differs from the best by at most this much (of 1,000 per weight point) count as equal.
    /// Default 20. 0 takes the very best always, which packs regions full and lets origins run to the same one.
    pub tie_permille: u32,
    /// How much the own region weighs when regions as good as each other share the work, 1 to 1,000 permille of what it
    /// has free. Default 400: own pools are left to tasks that may go nowhere else; 1,000 treats all alike.
    pub own_permille: u32,
    /// Whether a clear favourite may commit at once. Default true; false always compares offers.
    pub commit_if: bool,
    /// What a GiB costs that leaves this region, in millionths of the currency of its prices. Default 0.
    pub egress_gib_micro: u64,
    /// How far above the listed price an offer is still taken without asking others first, in permille. Default 200; the
    /// task's budget holds in any case.
    pub dearer_permille_max: u32,
    /// How old a digest may be before it is only a hint that the region exists, in ms. Default 30,000.
    pub digest_age_ms_max: u64,
    /// What this region grants to others.
    pub provider: ProviderPolicy,
    /// What the choice weighs.
    pub weights: Weights,
    /// How tasks are kept with other members.
    pub custody: crate::custody::CustodyConfig,
}

impl Default for NegotiationConfig {
    fn default() -> Self {
        Self {
            wave_size: 3,
            ask_deadline_ms_min: 150,
            ask_deadline_ms_max: 2_000,
            award_grace_ms: 500,
            hold_ttl_ms: 3_000,
            plan_ttl_ms: 60_000,
            lease_ttl_ms: 30_000,
            renew_every_ms: 10_000,
            resend_every_ms: 2_000,
            backoff_ms_min: 250,
            backoff_ms_max: 5_000,
            placing_max: 256,
            tasks_max: 200_000,
            tie_permille: 20,
            own_permille: 400,
            commit_if: true,
            egress_gib_micro: 0,
            dearer_permille_max: 200,
            digest_age_ms_max: 30_000,
            provider: ProviderPolicy::default(),
            weights: Weights::default(),
            custody: crate::custody::CustodyConfig::default(),
        }
    }
}

/// What a region grants to origins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderPolicy {
    /// Origins that are refused, by member number. Default none.
    pub refuse_origins: Vec<MemberId>,
    /// If not empty, only these origins are served. Default empty: all members.
    pub serve_origins: Vec<MemberId>,
    /// If not empty, only origins in these countries are served. Default empty.
    pub accept_countries: Vec<String>,
    /// The longest run, in ms. Default 7 days.
    pub max_runtime_ms_max: u64,
    /// The most input bytes of one task. Default 64 GiB.
    pub input_bytes_max: u64,
    /// Holds that one origin may have at once. Default 64; shrinks for origins that do not use theirs.
    pub holds_per_origin_max: u32,
    /// Leases that one origin may have at once. Default 20,000.
    pub leases_per_origin_max: u32,
    /// Leases of all origins at once. Default 100,000.
    pub leases_max: usize,
    /// How far the price may fall for an origin that comes back, in permille of the list price. Default 0: list prices stand.
    pub discount_permille_max: u32,
    /// How long a frozen run is kept before it is ended for good, in ms. Default 600,000.
    pub frozen_ms_max: u64,
    /// How long a result is kept for an origin that does not answer, in ms. Default 7 days.
    pub result_ms_max: u64,
}

impl Default for ProviderPolicy {
    fn default() -> Self {
        Self {
            refuse_origins: Vec::new(),
            serve_origins: Vec::new(),
            accept_countries: Vec::new(),
            max_runtime_ms_max: 7 * 24 * 3_600_000,
            input_bytes_max: 64 << 30,
            holds_per_origin_max: 64,
            leases_per_origin_max: 20_000,
            leases_max: 100_000,
            discount_permille_max: 0,
            frozen_ms_max: 600_000,
            result_ms_max: 7 * 24 * 3_600_000,
        }
    }
}

/// Weights of the score's terms, 0 to 1,000 each. Each term is 0 (best) to 1,000 (worst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Price against the cheapest candidate. Default 300.
    pub price: u32,
    /// Expected start and how full the region is. Default 250.
    pub start: u32,
    /// Moving the inputs. Default 100.
    pub data: u32,
    /// Round trip. Default 100.
    pub latency: u32,
    /// Carbon of the site. Default 50.
    pub carbon: u32,
    /// How often the region kept its word. Default 150.
    pub keep: u32,
    /// Capacity left behind that is hard to use. Default 100.
    pub fragmentation: u32,
    /// Soft wishes of the task. Default 200.
    pub affinity: u32,
    /// Waiting times learned from own tasks. Default 0: shown by `explain`, not weighed.
    pub waiting: u32,
    /// Failures learned from own tasks. Default 0, as above.
    pub failure: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            price: 300,
            start: 250,
            data: 100,
            latency: 100,
            carbon: 50,
            keep: 150,
            fragmentation: 100,
            affinity: 200,
            waiting: 0,
            failure: 0,
        }
    }
}
