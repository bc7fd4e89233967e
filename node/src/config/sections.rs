//! The sections of the node's configuration: what each key does, its unit, range, default and consequence.
//!
//! The texts here are the reference: `causeway config print` writes them into `configs/node.toml`.

use super::section::section;
use adapters::host::Limits;
use cpi::ids::{ContentDigest, RegionName};
use cpi::resource::RegionPlace;
use cpi::task::Durability;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

section! {
    /// Where this node stands. Other regions see it, and residency is judged by it.
    pub struct RegionConfig {
        /// The region's name in the federation: 1 to 32 lower-case letters, digits and hyphens, first a letter. It must be
        /// unique there, and it is fixed once the node joined.
        pub name: RegionName = "local".parse().expect("a valid region name"),
        /// City code as in identifiers: G and six digits of GB/T 2260, or U and a UN/LOCODE. Custodians of a task are spread
        /// over cities, and `placement.cities` compares it.
        pub city: String = "G110100".to_owned(),
        /// ISO 3166 country, two capital letters. `placement.residency` compares it: a wrong one lets data leave its country.
        pub country: String = "CN".to_owned(),
    }
}

impl RegionConfig {
    /// The place as peers know it.
    pub fn place(&self) -> RegionPlace {
        RegionPlace { region: self.name.clone(), city: self.city.clone(), country: self.country.clone() }
    }
}

section! {
    /// The process.
    pub struct NodeSection {
        /// Worker threads of the runtime, 0 to 512. 0 takes one for each core.
        pub worker_threads: usize = 0,
        /// Milliseconds that a stopping node waits for requests under way, 0 to 600000. Runs go on under their supervisors
        /// whatever it is.
        pub shutdown_grace_ms: u64 = 5_000,
    }
}

section! {
    /// What the node keeps on disk. Everything acknowledged is below `dir`.
    pub struct DataConfig {
        /// The node's folder, readable by its owner only. Below it: `keys/` (transport and signing key), `api.key`,
        /// `registry/log`, `registry/state/<generation>`, `records/` (tasks, leases, events), `artifacts/`, `runs/`,
        /// `node.json` (addresses of the running node), `ballast`, `lock`. A copy of it that is started elsewhere is a second node with
        /// the same identity: never do that.
        pub dir: PathBuf = PathBuf::from("/var/lib/causeway"),
        /// Bytes that must stay free on the disk. Below it the node takes no new tasks or uploads and `readyz` says so.
        pub free_bytes_min: u64 = 256 << 20,
        /// Bytes of a file that holds room for the moment when the disk is full in spite of `free_bytes_min`: it is given up
        /// then, so that the node can write what it must, and made again later. 0 to 17179869184; 0 for none.
        pub ballast_bytes: u64 = 64 << 20,
        /// Seconds for which an ended task is kept with its history, 3600 to 315360000; not shorter than
        /// `http.idempotency_ttl_s`. Its files go earlier, after `artifacts.result_ttl_s`.
        pub task_ttl_s: u64 = 2_592_000,
        /// Ended tasks that are kept at most, 1000 to 10000000; beyond, those that were submitted first go before their time.
        /// Their idempotency keys stay for `http.idempotency_ttl_s` all the same.
        pub ended_tasks_max: usize = 200_000,
        /// Whether acknowledged records are synced to the disk first. `false` is for benchmarks: a power cut then loses
        /// acknowledged work.
        pub sync: bool = true,
    }
}

section! {
    /// The HTTP interface (`/v1`), used by the command line and by people's programs.
    pub struct HttpConfig {
        /// Address and port; port 0 takes a free one. An address beyond this machine needs `tls_cert` and `tls_key`.
        pub listen: String = "127.0.0.1:7480".to_owned(),
        /// PEM file with the certificate chain. Empty: no TLS, which only a loopback address allows.
        pub tls_cert: PathBuf = PathBuf::new(),
        /// PEM file with the private key of `tls_cert`.
        pub tls_key: PathBuf = PathBuf::new(),
        /// Largest JSON body in bytes, 1024 to 67108864. Larger ones get 413.
        pub body_bytes_max: usize = 4 << 20,
        /// Milliseconds until a request is answered 503, 100 to 600000. Streams (watch, log following, transfers) are exempt.
        pub request_timeout_ms: u64 = 30_000,
        /// Requests served at once, 1 to 1000000. More are answered 503 with `Retry-After` at once.
        pub concurrency_max: usize = 4_096,
        /// Open streams (watch, log following) at once, 1 to 100000. More are answered 429.
        pub streams_max: usize = 512,
        /// Mutating requests a second that are accepted from one key, 1 to 1000000; more are answered 429 with `Retry-After`.
        pub writes_per_second: u32 = 20_000,
        /// Seconds for which an `Idempotency-Key` is remembered, 60 to 604800. Afterwards the same key is a new request.
        pub idempotency_ttl_s: u64 = 86_400,
    }
}

impl HttpConfig {
    /// Whether TLS is configured.
    pub fn tls(&self) -> bool {
        !self.tls_cert.as_os_str().is_empty()
    }
}

section! {
    /// The peer-to-peer side. Peers must be admitted members; the transport authenticates and encrypts by itself.
    pub struct MeshConfig {
        /// Multiaddresses to listen on, QUIC and TCP; port 0 takes a free one. Set `/ip4/0.0.0.0/...` or a public address to
        /// federate: the transport is always encrypted, and only members get in.
        pub listen: Vec<String> = vec!["/ip4/127.0.0.1/udp/7481/quic-v1".to_owned(), "/ip4/127.0.0.1/tcp/7481".to_owned()],
        /// Multiaddresses that other regions dial. Empty: those the node listens on that are not wildcards.
        pub announce: Vec<String> = Vec::new(),
        /// Other addresses for some regions (region = multiaddress), in place of the announced ones: for a NAT or a relay in
        /// front of them.
        pub dial_map: BTreeMap<String, String> = BTreeMap::new(),
        /// Milliseconds between round-trip measurements to a peer, 200 to 60000. They feed ranking and Raft's timers.
        pub ping_interval_ms: u64 = 2_000,
        /// Milliseconds until the first attempt to dial a lost peer again, 50 to 60000; doubled each time, at most `redial_ms_max`.
        pub redial_ms_min: u64 = 200,
        /// Longest pause in milliseconds between two attempts to dial a lost peer, 1000 to 600000.
        pub redial_ms_max: u64 = 10_000,
        /// Milliseconds without a sign of life after which a connection counts as broken, 1000 to 60000. Several round trips at
        /// least; of two peers the smaller value holds.
        pub idle_timeout_ms: u64 = 5_000,
        /// Frames queued for one peer and class, 16 to 1000000. A full queue answers `busy`; nothing waits for a slow peer.
        pub queue_frames_max: usize = 16_384,
    }
}

section! {
    /// The replicated registry of members and identifiers.
    pub struct RegistryConfig {
        /// Milliseconds between heartbeats of the leader, at least; it grows to twice the voters' p99 round trip while the
        /// node runs. 20 to 5000.
        pub heartbeat_ms_min: u64 = 160,
        /// Shortest election timeout in milliseconds, at least; it grows to six times the voters' p99 round trip. At least
        /// three heartbeats. Writes stop for about three times this when a leader dies.
        pub election_ms_min: u64 = 480,
        /// Bytes of log after which a snapshot is made, 1 MiB to 16 GiB. An hour after the last one, any new entry is enough.
        pub snapshot_log_bytes: u64 = 64 << 20,
        /// Log entries kept after a snapshot, for replicas that lag a little. 0 to 10000000.
        pub log_entries_kept: u64 = 10_000,
        /// Milliseconds that a write waits for its commit before it is answered 202 and goes on by itself, 100 to 60000.
        pub commit_wait_ms: u64 = 2_000,
        /// Megabytes of block cache of the registry's state, 8 to 1048576. More keeps more identifiers in memory.
        pub cache_mib: u64 = 32,
    }
}

/// How an origin asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AwardMode {
    /// The clear favourite may commit at once within the stated limits: one round trip.
    CommitIf,
    /// Offers are held and compared first: two round trips.
    Hold,
}

section! {
    /// How tasks are placed: what this node asks of others, and what it grants them.
    pub struct NegotiationSection {
        /// `commit_if`: the clear favourite commits at once within the task's limits, one round trip. `hold`: offers are held
        /// and compared first, two round trips.
        pub mode: AwardMode = AwardMode::CommitIf,
        /// Regions asked at once, 1 to 16. More finds a better offer, and holds more of other regions' capacity meanwhile.
        pub wave_size: usize = 3,
        /// Milliseconds that a wave waits for its answers, 50 to 60000. A region that has not answered is asked again later.
        pub ask_timeout_ms: u64 = 2_000,
        /// Milliseconds for which capacity is held for an offer, 100 to 5000.
        pub hold_ttl_ms: u64 = 3_000,
        /// Milliseconds for which the first choice of a plan is held, 1000 to 60000.
        pub plan_hold_ttl_ms: u64 = 60_000,
        /// Milliseconds without a renewal after which a run's lease lapses, 5000 to 600000. Shorter finds a lost region sooner
        /// and places again more often on a shaky line.
        pub lease_ttl_ms: u64 = 30_000,
        /// Milliseconds between renewals, at most a third of `lease_ttl_ms`.
        pub lease_renew_ms: u64 = 10_000,
        /// Milliseconds between capacity digests sent to the federation, 200 to 600000; changes are sent sooner.
        pub digest_interval_ms: u64 = 2_000,
        /// Milliseconds after which a digest counts as unknown, 1000 to 3600000.
        pub digest_ttl_ms: u64 = 30_000,
        /// Milliseconds until a task that found no place asks again, 50 to 600000; doubled each time, at most `retry_ms_max`.
        pub retry_ms_min: u64 = 500,
        /// Longest pause in milliseconds between two rounds of asking, 1000 to 3600000.
        pub retry_ms_max: u64 = 15_000,
        /// Holds that one origin may have here at once, 1 to 100000. It keeps a greedy region from blocking the others.
        pub holds_per_origin_max: usize = 1_024,
        /// Tasks of one origin that run here at once, 1 to 1000000.
        pub leases_per_origin_max: usize = 10_000,
        /// Tasks accepted from own submitters that have not ended, 1 to 10000000. More are answered 429.
        pub tasks_open_max: usize = 100_000,
        /// How much the own pools weigh when regions as good as each other share the work, in permille of what they have free,
        /// 1 to 1000. Less leaves own pools to tasks that may go nowhere else; 1000 treats all regions alike.
        pub own_share_permille: u32 = 400,
        /// How far above its listed price a region may go before others are asked instead, in permille, 0 to 10000. A task's
        /// budget holds in any case.
        pub dearer_permille_max: u32 = 200,
        /// What a GiB costs that leaves this region, in millionths of the currency of its prices, 0 to 1000000000. Tasks with large
        /// inputs stay nearer the more it is.
        pub egress_gib_micro: u64 = 0,
        /// How far own prices fall, in permille, for an origin that comes back with a higher limit, 0 to 1000. In three rounds.
        pub discount_permille_max: u32 = 0,
        /// How tasks of this node are kept that do not say it themselves. `quorum`: by two other members, too, so that one of
        /// them goes on when this node is lost. `local`: on this node's disk alone.
        pub durability: Durability = Durability::Local,
        /// Milliseconds of silence after which another custodian adopts a task, 2000 to 3600000. Below `lease_ttl_ms`, a live
        /// run goes on without a break.
        pub custody_orphan_after_ms: u64 = 15_000,
        /// Milliseconds that a returned origin must be heard before its tasks are handed back, 1000 to 3600000.
        pub custody_return_after_ms: u64 = 10_000,
        /// Milliseconds of silence after which another member takes a lost custodian's place, 10000 to 604800000.
        pub custody_replace_after_ms: u64 = 600_000,
        /// Countries whose regions may run tasks here; empty for all.
        pub accept_countries: Vec<String> = Vec::new(),
    }
}

/// How far runs are kept from the node and from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The strongest that this machine offers; what is missing is said in `adapter list`.
    Auto,
    /// A run is refused where user ids or namespaces and Landlock are missing.
    Required,
}

section! {
    /// The `local` backend: tasks as processes of this machine.
    pub struct LocalConfig {
        /// Whether pools with `backend = "local"` may be declared.
        pub enabled: bool = true,
        /// `auto`: the strongest isolation that this machine offers. `required`: a run is refused where own user ids (or user
        /// namespaces) and Landlock are missing.
        pub isolation: Isolation = Isolation::Auto,
        /// First user id given to runs when the node is root, one for each run at a time. 0: a range that no other node of
        /// this machine has claimed. Ids of the range must be used by nobody else: runs are ended by their user id.
        pub uid_base: u32 = 0,
        /// How many user ids, 1 to 1000000: as many runs at once. Only with `uid_base`.
        pub uid_count: u32 = 65_536,
        /// Control group below which runs get their own; it lies outside the node's, so that a service manager that clears the
        /// node's group leaves runs alone. Where none is writable, limits are rlimits only.
        pub cgroup: String = "causeway".to_owned(),
        /// Milliseconds between the polite signal and the kill of a cancelled run, 0 to 600000.
        pub cancel_grace_ms: u64 = 5_000,
        /// Bytes kept of each log stream of a run; the rest is dropped and said so. 65536 to 1099511627776.
        pub log_bytes_max: u64 = 64 << 20,
        /// Processes and threads of one run at most, 1 to 1000000.
        pub processes_max: u32 = 4_096,
        /// Folders that runs may read beyond the system's libraries and programs, for example where models lie.
        pub readable: Vec<PathBuf> = Vec::new(),
    }
}

section! {
    /// The `fake` backend: runs that end as scripted, for benchmarks and fault tests.
    pub struct FakeConfig {
        /// Whether pools with `backend = "fake"` may be declared.
        pub enabled: bool = false,
        /// Milliseconds that a fake run lasts. 0 ends it at once.
        pub run_ms: u64 = 0,
    }
}

section! {
    /// What runs plugins: backends in processes of their own, named by `[[adapters.plugin]]` below. See docs/adapters.md.
    pub struct HostSection {
        /// A folder with plugins, each in a folder of its own with a `plugin.toml`. An entry of `[[adapters.plugin]]` without
        /// `path` takes its program from here. Empty: none.
        pub plugins_dir: PathBuf = PathBuf::new(),
        /// The file with the plugins' credentials, sealed. `causeway vault put` fills it, also while the node runs. Empty:
        /// `vault` in `data.dir`.
        pub vault: PathBuf = PathBuf::new(),
        /// The key that seals it, readable by its owner only; made at the first start. Empty: `keys/vault.key` in
        /// `data.dir`. On another disk, a stolen data folder has no credentials.
        pub vault_key: PathBuf = PathBuf::new(),
        /// Milliseconds from the start of a plugin's process until it must be healthy, 100 to 600000.
        pub start_ms: u64 = 10_000,
        /// Milliseconds for one call, 100 to 600000.
        pub call_ms: u64 = 10_000,
        /// Milliseconds that a call waits for a plugin that is being started or replaced, 100 to 60000.
        pub wait_ms: u64 = 5_000,
        /// Milliseconds between two heartbeats, 100 to 60000. One that is late by as much again counts as missed.
        pub heartbeat_ms: u64 = 1_000,
        /// Heartbeats in a row that may be missed before a process is replaced, 1 to 100.
        pub heartbeats_missed_max: u32 = 3,
        /// Milliseconds before the first restart, 10 to 60000; it doubles with each, with jitter.
        pub backoff_ms_min: u64 = 200,
        /// Milliseconds before a restart at most, 100 to 3600000.
        pub backoff_ms_max: u64 = 30_000,
        /// Failures within `flap_window_ms` after which a plugin is quarantined, 1 to 1000.
        pub flaps_max: u32 = 5,
        /// See `flaps_max`; milliseconds, 1000 to 3600000.
        pub flap_window_ms: u64 = 60_000,
        /// Milliseconds that a quarantine lasts, 1000 to 86400000; `adapter reset` and `adapter swap` end it.
        pub quarantine_ms: u64 = 600_000,
        /// Milliseconds that an old process may take to finish its calls in a swap, 100 to 600000.
        pub drain_ms: u64 = 30_000,
        /// Milliseconds after a swap within which a failure brings the old version back, 0 to 3600000.
        pub probation_ms: u64 = 30_000,
        /// Changes of runs that a plugin may send in one second before it is replaced, 10 to 1000000.
        pub events_per_second_max: u32 = 20_000,
        /// Milliseconds between two looks at what a plugin's pools have, 500 to 600000.
        pub inventory_ms: u64 = 5_000,
    }
}

section! {
    /// Where runners report: the small program by which Slurm jobs, pods and servers of other platforms fetch inputs, run the
    /// command and tell how it ended. They dial this address.
    pub struct DeskSection {
        /// Address and port, the same after a restart: runners dial again. Beyond this machine it needs `tls_cert`, `tls_key`
        /// and `tls_ca`, or `insecure`. Empty: no desk, and backends whose jobs need one run nothing.
        pub listen: String = String::new(),
        /// How the platforms' machines reach it, as `https://HOST:PORT`. Empty: by the address that it listens on.
        pub advertise: String = String::new(),
        /// PEM file with the certificate chain.
        pub tls_cert: PathBuf = PathBuf::new(),
        /// PEM file with the private key of `tls_cert`.
        pub tls_key: PathBuf = PathBuf::new(),
        /// PEM file with the authority that runners trust; they get it with their job.
        pub tls_ca: PathBuf = PathBuf::new(),
        /// Allows plain HTTP beyond this machine: tokens, inputs and results can then be read on their way.
        pub insecure: bool = false,
        /// Bytes of all outputs of a run, 1048576 to 1099511627776.
        pub output_bytes_max: u64 = 16 << 30,
        /// Milliseconds for which a runner tries to report after its command ended, 1000 to 86400000.
        pub linger_ms: u64 = 600_000,
        /// Milliseconds after which a run that neither its platform nor a runner knows is lost, 1000 to 86400000.
        pub lost_ms: u64 = 60_000,
    }
}

/// The backends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptersConfig {
    /// Processes of this machine.
    pub local: LocalConfig,
    /// Scripted runs.
    pub fake: FakeConfig,
    /// What runs plugins.
    pub host: HostSection,
    /// Where runners report.
    pub desk: DeskSection,
    /// The plugins.
    pub plugin: Vec<PluginSection>,
}

/// A plugin, as `[[adapters.plugin]]` names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSection {
    /// What pools call it in `backend`.
    pub name: String,
    /// Its program; absent: the one of this name in `adapters.host.plugins_dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The program's arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// What the program must hash to.
    pub sha256: ContentDigest,
    /// Its own configuration.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Names of the vault's secrets that its calls carry.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// How many processes share the calls.
    #[serde(default = "one_replica")]
    pub replicas: u8,
    /// What each process may use.
    #[serde(default)]
    pub limits: Limits,
}

fn one_replica() -> u8 {
    1
}

section! {
    /// Inputs and outputs of tasks, kept by content.
    pub struct ArtifactsConfig {
        /// Largest single artifact in bytes.
        pub object_bytes_max: u64 = 16 << 30,
        /// Bytes of all artifacts together; more are refused with `staging_full`.
        pub total_bytes_max: u64 = 256 << 30,
        /// Seconds for which an uploaded artifact that no task names is kept, 60 to 31536000.
        pub unused_ttl_s: u64 = 86_400,
        /// Seconds for which inputs, outputs and logs are kept after the task ended, 60 to 31536000; a run that its origin
        /// never fetched is kept this long at the provider too.
        pub result_ttl_s: u64 = 7 * 86_400,
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

section! {
    /// The node's own log, on standard error.
    pub struct LogConfig {
        /// `text` or `json`.
        pub format: LogFormat = LogFormat::Text,
        /// Level, or levels by module as in `info,node::mesh=debug`. The libraries below are quieter by default: they tell much.
        pub level: String = "info,openraft=warn,libp2p_swarm=warn".to_owned(),
    }
}
