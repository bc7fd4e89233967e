//! Slurm's words and ours, by the rule file.

use super::rest::{Job, Node};
use crate::contract::{AdapterError, RunEnd, RunKey, RunState, Usage};
use crate::resources::Server;
use crate::rules::{BookProblem, ConvertError, Direction, RuleBook, Rules};
use crate::runner::key_of;
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::{ChipModel, Quantity};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The rules that come with the product.
const BUILT_IN: &str = include_str!("../../../configs/rules/slurm.toml");

/// The rules in force.
pub(super) struct Converter {
    built_in: Arc<Rules>,
    book: Option<RuleBook>,
}

/// A job in our words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub key: RunKey,
    pub state: RunState,
    /// Why it waits, where it does.
    pub pending: Option<Reason>,
}

/// Generic resources of one kind and type on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gres {
    pub name: String,
    pub kind: String,
    pub count: u64,
    pub used: u64,
}

#[derive(Deserialize)]
struct StateWords {
    state: String,
    #[serde(default)]
    reason: Option<ReasonWords>,
    #[serde(default)]
    pending: Option<ReasonWords>,
    #[serde(default)]
    exit_code: Option<i32>,
    #[serde(default)]
    signal: Option<i32>,
    #[serde(default)]
    tag: String,
}

#[derive(Deserialize)]
struct ReasonWords {
    code: ReasonCode,
    #[serde(default)]
    detail: String,
}

#[derive(Deserialize)]
struct ServerWords {
    id: String,
    total: QuantityWords,
    free: QuantityWords,
    #[serde(default)]
    chip: Option<ChipModel>,
    schedulable: bool,
    #[serde(default)]
    note: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct QuantityWords {
    cpu_milli: u64,
    memory_bytes: u64,
    storage_bytes: u64,
    chip_milli: u64,
}

impl From<QuantityWords> for Quantity {
    fn from(words: QuantityWords) -> Self {
        let QuantityWords { cpu_milli, memory_bytes, storage_bytes, chip_milli } = words;
        Self { cpu_milli, memory_bytes, storage_bytes, chip_milli }
    }
}

fn rule(error: &ConvertError) -> AdapterError {
    AdapterError::fatal(ReasonCode::BackendUnsupported, error.to_string())
}

fn words<T: serde::de::DeserializeOwned>(section: &str, value: Value) -> Result<T, AdapterError> {
    serde_json::from_value(value).map_err(|error| {
        let why = format!("the rules for Slurm make no {section} of it: {error}");
        AdapterError::fatal(ReasonCode::BackendUnsupported, why)
    })
}

impl Converter {
    /// The built-in rules, or those of a folder.
    pub fn open(folder: Option<&Path>) -> Result<(Self, Vec<BookProblem>), AdapterError> {
        let built_in = Rules::parse(BUILT_IN)
            .map_err(|error| AdapterError::fatal(ReasonCode::Internal, format!("the built-in rules: {error}")))?;
        let (book, problems) = folder.map(RuleBook::open).map_or((None, Vec::new()), |(book, said)| (Some(book), said));
        Ok((Self { built_in: Arc::new(built_in), book }, problems))
    }

    /// Reads files again that changed; says what is wrong with them.
    pub fn reload(&self) -> Vec<BookProblem> {
        self.book.as_ref().map(RuleBook::reload).unwrap_or_default()
    }

    fn rules(&self, pool: &str) -> Arc<Rules> {
        let chosen = self.book.as_ref().and_then(|book| book.choose("slurm", "", pool));
        chosen.unwrap_or_else(|| Arc::clone(&self.built_in))
    }

    /// A refusal in our words.
    pub fn refusal(&self, number: i64, text: &str) -> AdapterError {
        #[derive(Deserialize)]
        struct Words {
            code: ReasonCode,
        }
        let source = json!({ "number": number, "text": text });
        let said = self.rules("").convert(Direction::North, "refusal", &source).map_err(|error| rule(&error));
        let code =
            said.and_then(|value| words::<Words>("refusal", value)).map_or(ReasonCode::Internal, |words| words.code);
        let detail = if number == 0 { format!("Slurm: {text}") } else { format!("Slurm {number}: {text}") };
        AdapterError { retryable: code.is_retryable(), reason: Reason::new(code, detail) }
    }

    /// What is sent to Slurm for a job.
    pub fn submission(&self, pool: &str, source: &Value) -> Result<Value, AdapterError> {
        self.rules(pool).convert(Direction::South, "submit", source).map_err(|error| rule(&error))
    }

    /// Where a job stands; `None` for one whose name is no tag.
    pub fn job(&self, job: &Job) -> Result<Option<Told>, AdapterError> {
        let source = json!({ "job_id": job.job_id, "name": job.name, "job_state": job.job_state,
            "state_reason": job.state_reason, "exit_code": job.exit_code, "submitted": job.submit_time });
        let value = self.rules("").convert(Direction::North, "state", &source).map_err(|error| rule(&error))?;
        let said: StateWords = words("state", value)?;
        let Some(key) = key_of(&said.tag) else { return Ok(None) };
        let reason = |words: ReasonWords| Reason::new(words.code, words.detail);
        let state = match said.state.as_str() {
            "starting" => RunState::Starting,
            "running" => RunState::Running,
            "frozen" => RunState::Frozen,
            _ => {
                let mut end = RunEnd {
                    exit_code: said.exit_code,
                    signal: said.signal,
                    reason: said.reason.map(reason),
                    usage: Usage::default(),
                    outputs: Vec::new(),
                };
                if end.exit_code.is_none() && end.signal.is_none() && end.reason.is_none() {
                    let why = format!("Slurm: {}", job.job_state);
                    end.reason = Some(Reason::new(ReasonCode::RunLost, why));
                }
                RunState::Ended(end)
            }
        };
        Ok(Some(Told { key, state, pending: said.pending.map(reason) }))
    }

    /// A node with its first accelerators that the rules know. The second value names what is left out.
    pub fn server(&self, pool: &str, node: &Node) -> Result<(Server, Vec<String>), AdapterError> {
        let mut notes = Vec::new();
        let mut first = None;
        for gres in gres_of(&node.gres, &node.gres_used) {
            if gres.count == 0 {
                continue;
            }
            let value = self.convert_server(pool, node, Some(&gres));
            match value {
                Ok(server) if first.is_none() => first = Some(server),
                Ok(_) => {
                    notes.push(format!("{}: {}:{} is left out: a class has one kind", node.name, gres.name, gres.kind))
                }
                Err(error) => notes.push(format!("{}: {error}", node.name)),
            }
        }
        match first {
            Some(server) => Ok((server, notes)),
            None => Ok((self.convert_server(pool, node, None)?, notes)),
        }
    }

    fn convert_server(&self, pool: &str, node: &Node, gres: Option<&Gres>) -> Result<Server, AdapterError> {
        let mut source = json!({
            "name": node.name, "cpus": node.cpus, "alloc_cpus": node.alloc_cpus, "real_memory": node.real_memory,
            "alloc_memory": node.alloc_memory, "temporary_disk": node.temporary_disk, "state": node.state.to_lowercase(),
            "state_flags": node.state_flags, "reason": node.reason,
        });
        if let Some(gres) = gres {
            source["gres"] = json!({ "name": gres.name, "type": gres.kind, "count": gres.count, "used": gres.used });
        }
        let value = self.rules(pool).convert(Direction::North, "server", &source).map_err(|error| rule(&error))?;
        let said: ServerWords = words("server", value)?;
        let (total, mut free) = (Quantity::from(said.total), Quantity::from(said.free));
        free.storage_bytes = total.storage_bytes;
        Ok(Server {
            id: said.id,
            pool: pool.to_owned(),
            class: String::new(),
            total,
            free,
            chip: said.chip,
            partitions: Vec::new(),
            topology: Vec::new(),
            schedulable: said.schedulable,
            note: said.note,
        })
    }
}

/// Reads `gpu:a100:8(S:0-1),npu:x:2` with `gpu:a100:1(IDX:0),npu:x:0(IDX:N/A)`. What has no type has the type `""`.
pub(super) fn gres_of(has: &str, used: &str) -> Vec<Gres> {
    let mut found: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    let mut order = Vec::new();
    for (text, is_used) in [(has, false), (used, true)] {
        for (name, kind, count) in items(text) {
            let key = (name, kind);
            if !found.contains_key(&key) {
                if is_used {
                    continue;
                }
                order.push(key.clone());
            }
            let entry = found.entry(key).or_default();
            if is_used { entry.1 += count } else { entry.0 += count }
        }
    }
    order
        .into_iter()
        .map(|key| {
            let (count, used) = found[&key];
            Gres { name: key.0, kind: key.1, count, used: used.min(count) }
        })
        .collect()
}

/// Name, type and count of each part; what is in parentheses is left out, commas in it too.
fn items(text: &str) -> Vec<(String, String, u64)> {
    let mut plain = String::new();
    let mut depth = 0_u32;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let item = |part: &str| {
        let fields: Vec<&str> = part.trim().split(':').collect();
        let (name, kind, count) = match fields.as_slice() {
            [name, kind, count] => (name, *kind, *count),
            [name, count] => (name, "", *count),
            _ => return None,
        };
        Some(((*name).to_owned(), kind.to_owned(), count.parse().ok()?))
    };
    plain.split(',').filter_map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generic_resources_are_read_with_what_is_taken() {
        let found =
            gres_of("gpu:a100:8(S:0-1),fpga:alveo_u280:2,shard:64", "gpu:a100:3(IDX:0,2,5),fpga:alveo_u280:0(IDX:N/A)");
        let of = |name: &str, kind: &str, count, used| Gres { name: name.into(), kind: kind.into(), count, used };
        assert_eq!(found, [of("gpu", "a100", 8, 3), of("fpga", "alveo_u280", 2, 0), of("shard", "", 64, 0)]);
        assert!(gres_of("", "").is_empty() && gres_of("(null)", "x:y:z:w").is_empty());
    }

    #[test]
    fn jobs_and_refusals_are_told_in_our_words() {
        let (converter, _) = Converter::open(None).unwrap();
        let name = "00000000000000000000000001-1.m1.1";
        let job = |state: &str, why: &str, exit_code| Job {
            job_id: 7,
            name: name.to_owned(),
            comment: String::new(),
            job_state: state.to_owned(),
            state_reason: why.to_owned(),
            exit_code,
            submit_time: 1,
        };
        let told = |state: &str, why: &str, code| converter.job(&job(state, why, code)).unwrap().unwrap();
        let code = |told: Told| match told.state {
            RunState::Ended(end) => (end.exit_code, end.reason.map(|reason| reason.code)),
            state => panic!("{state:?}"),
        };
        let waits = told("PENDING", "Resources", 0);
        assert_eq!(
            (waits.state, waits.pending.map(|why| why.code)),
            (RunState::Starting, Some(ReasonCode::NoCapacityNow))
        );
        for (why, wanted) in [
            ("AssocGrpCpuLimit", ReasonCode::QuotaExceeded),
            ("ReqNodeNotAvail", ReasonCode::PoolCordoned),
            ("PartitionConfig", ReasonCode::ShapeTooLarge),
            ("JobHeldAdmin", ReasonCode::NotPermitted),
        ] {
            assert_eq!(told("PENDING", why, 0).pending.map(|why| why.code), Some(wanted), "{why}");
        }
        assert_eq!(told("RUNNING", "None", 0).state, RunState::Running);
        assert_eq!(told("SUSPENDED", "None", 0).state, RunState::Frozen);
        assert_eq!(code(told("COMPLETED", "None", 0)), (Some(0), None));
        assert_eq!(code(told("FAILED", "NonZeroExitCode", 7 << 8)), (Some(7), Some(ReasonCode::ExitNonzero)));
        for (state, wanted) in [
            ("TIMEOUT", ReasonCode::TimeLimit),
            ("OUT_OF_MEMORY", ReasonCode::Oom),
            ("CANCELLED", ReasonCode::Cancelled),
            ("NODE_FAIL", ReasonCode::RunLost),
            ("PREEMPTED", ReasonCode::RunLost),
        ] {
            assert_eq!(code(told(state, "None", 0)).1, Some(wanted), "{state}");
        }
        let mut other = job("RUNNING", "None", 0);
        other.name = "wrap".to_owned();
        assert_eq!(converter.job(&other).unwrap(), None);
        let refused = converter.refusal(2014, "Requested node configuration is not available");
        assert_eq!((refused.reason.code, refused.retryable), (ReasonCode::ShapeTooLarge, false));
        assert_eq!(converter.refusal(4, "Unable to contact slurm controller").reason.code, ReasonCode::AdapterDown);
    }

    #[test]
    fn a_node_with_unknown_accelerators_is_a_server_without_and_says_so() {
        let (converter, _) = Converter::open(None).unwrap();
        let mut node: Node =
            serde_json::from_value(json!({ "name": "n1", "cpus": 4, "real_memory": 1000, "alloc_cpus": 1,
            "gres": "gpu:a100:8", "gres_used": "gpu:a100:2(IDX:0-1)", "state": "mixed", "partitions": ["p"] }))
            .unwrap();
        let (server, notes) = converter.server("p", &node).unwrap();
        assert_eq!((server.free.cpu_milli, server.free.chip_milli, server.schedulable), (3000, 6000, true));
        assert_eq!(server.chip.unwrap().model, "NVA100S80");
        assert!(notes.is_empty(), "{notes:?}");
        node.gres = "gpu:z9:8".to_owned();
        let (server, notes) = converter.server("p", &node).unwrap();
        assert_eq!(server.chip, None);
        assert!(notes[0].contains("add it to [tables.chips]"), "{notes:?}");
    }
}
