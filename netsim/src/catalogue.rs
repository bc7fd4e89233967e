//! The catalogue of fault scenarios: data in `scenarios.toml`, each with the failure story that it lives through.

use cpi::task::Durability;
use serde::Deserialize;

/// What is done to the regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is said by its own name; docs/netsim.md explains them")]
pub enum What {
    Crash,
    PowerCut,
    Lose,
    Restart,
    Cut,
    CutOneWay,
    Heal,
    SlowDisk,
    SlowLink,
    Loss,
    Double,
    Reorder,
    Jitter,
    GossipLoss,
    ClockRate,
    ClockJump,
    Praise,
    IgnoreAsks,
    HideEnds,
    HideRenewals,
    Honest,
    Greedy,
    Drain,
    Undrain,
    Cordon,
    Uncordon,
    Cancel,
    Burst,
    Suspend,
    Admit,
    Resubmit,
}

/// One act.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// When, in seconds.
    pub at_s: f64,
    /// What.
    pub what: What,
    /// To which regions.
    #[serde(default)]
    pub nodes: Vec<usize>,
    /// Away from which other regions; empty for all others.
    #[serde(default)]
    pub others: Vec<usize>,
    /// How much: ms, permille, millionths, tasks a second, or tasks.
    #[serde(default)]
    pub value: i64,
}

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Unique.
    pub name: String,
    /// Which story of the failure stories, or what else.
    pub story: String,
    /// What happens and what must come of it.
    pub about: String,
    /// Regions. Default 5.
    #[serde(default = "five")]
    pub regions: usize,
    /// Tasks, handed in over `span_s`. Default 40.
    #[serde(default = "forty")]
    pub tasks: u64,
    /// Default 60 s.
    #[serde(default = "sixty")]
    pub span_s: u64,
    /// The longest run, in ms. Default 20,000.
    #[serde(default = "twenty_thousand")]
    pub run_ms_max: u64,
    /// The longest one-way time, in ms. Default 80.
    #[serde(default = "eighty")]
    pub latency_ms_max: u64,
    /// Lives the registry's ordered-log model through instead of negotiation.
    #[serde(default)]
    pub registry: bool,
    /// Runs go on when their lease lapses.
    #[serde(default)]
    pub finish: bool,
    /// Offers are always compared.
    #[serde(default)]
    pub compare: bool,
    /// How the tasks are kept. Default `local`.
    #[serde(default = "local")]
    pub durability: Durability,
    /// All tasks are handed in at this region. Default: at any.
    #[serde(default)]
    pub origin: Option<usize>,
    /// What is done.
    #[serde(default, rename = "do")]
    pub acts: Vec<Act>,
}

fn local() -> Durability {
    Durability::Local
}
fn five() -> usize {
    5
}
fn forty() -> u64 {
    40
}
fn sixty() -> u64 {
    60
}
fn twenty_thousand() -> u64 {
    20_000
}
fn eighty() -> u64 {
    80
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

/// All of them, in the order of the file.
pub fn all() -> Vec<Scenario> {
    let file: File = toml::from_str(include_str!("../scenarios.toml")).expect("a test reads the catalogue");
    file.scenario
}

/// One by name.
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}
