//! The main job: three tasks that the origin has no machine for, from their plans to checked results.
//!
//! Everything goes through the command line, as a person would type it; each command is shown before it runs. What is
//! learnt for the report is read from the same commands with `-o json`.

use super::check::{self, CheckError, Verdict};
use super::process::Shell;
use super::ring::{JobTask, RingSpec};
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Order and seed of the LU system, as in its document.
const LU_ORDER: usize = 3200;
const LU_SEED: u64 = 7;
/// The loss that training has to reach, as in its document.
const LOSS_TARGET: f64 = 0.0005;

/// One task's story, for the report.
#[derive(Debug, Clone)]
pub struct TaskStory {
    /// From its document.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Where it ran, and in which pool and class.
    pub place: String,
    /// Whether that is where it had to run.
    pub placed_right: bool,
    /// Why there: the explanation's sentence, and who could not take it.
    pub why: String,
    /// From the submission to the acceptance.
    pub decided_ms: Option<u64>,
    /// Round trip between the origin and the region that ran it.
    pub rtt_ms: f64,
    /// How long the program ran.
    pub wall_ms: Option<u64>,
    /// Seconds from the submission until the results were here.
    pub here_after_s: f64,
    /// What the check found.
    pub verdict: Result<Verdict, String>,
}

impl TaskStory {
    /// Whether the task ran where it had to and its result is right.
    pub fn holds(&self) -> bool {
        self.placed_right && self.verdict.is_ok()
    }
}

/// The job's folder with everything that its tasks ship.
#[derive(Debug, Clone)]
pub struct JobFolder {
    folder: PathBuf,
    results: PathBuf,
}

impl JobFolder {
    /// Fills the folder: the documents, the program, and the data that the program's own generators write.
    ///
    /// # Errors
    /// A file cannot be written, or `causeway-demo` does not lie beside `binary`.
    pub fn prepare(ring: &RingSpec, data: &Path, binary: &Path) -> anyhow::Result<Self> {
        let this = Self { folder: data.join("job"), results: data.join("results") };
        std::fs::create_dir_all(&this.folder)?;
        for task in &ring.job.tasks {
            let source = ring.folder.join(&task.document);
            std::fs::copy(&source, this.document(task)).with_context(|| format!("copying {}", source.display()))?;
        }
        let demo = binary.with_file_name("causeway-demo");
        let shipped = this.folder.join("causeway-demo");
        std::fs::copy(&demo, &shipped)
            .with_context(|| format!("{} is missing: build it with `make build`", demo.display()))?;
        for (verb, file) in [("make-data", "data.csv"), ("make-batch", "batch.bin")] {
            let made = Command::new(&shipped)
                .args([verb, "--out"])
                .arg(this.folder.join(file))
                .stdout(Stdio::null())
                .status()
                .with_context(|| format!("running {}", shipped.display()))?;
            if !made.success() {
                bail!("causeway-demo {verb} ended with {made}");
            }
        }
        Ok(this)
    }

    /// A task's document in this folder.
    pub fn document(&self, task: &JobTask) -> PathBuf {
        self.folder.join(task.document.file_name().unwrap_or_default())
    }

    /// Checks the results of the task named `name` that lie in `folder`.
    ///
    /// # Errors
    /// They are wrong, unreadable, or the check passes a damaged copy.
    pub fn check(&self, name: &str, folder: &Path) -> anyhow::Result<Verdict> {
        let bytes = |file: &str| std::fs::read(folder.join(file)).with_context(|| format!("reading {file}"));
        let text =
            |path: PathBuf| std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
        let verdict: Result<Verdict, CheckError> = match name {
            "lu-fp64" => check::check_and_trip(
                bytes("solution.bin")?,
                |solution| check::check_solution(solution, LU_ORDER, LU_SEED),
                // the highest byte of the last number: its sign and most of its exponent
                |solution| *solution.last_mut().expect("checked to be full") ^= 0x10,
            ),
            "train-spirals" => {
                let (losses, data) = (text(folder.join("losses.csv"))?, text(self.folder.join("data.csv"))?);
                check::check_and_trip(
                    text(folder.join("model.json"))?,
                    |model| check::check_model(model, &losses, &data, LOSS_TARGET),
                    |model| *model = model.replacen("\"weights\": [", "\"weights\": [1", 1),
                )
            }
            "infer-int8" => {
                check::check_digest("batch.bin", &bytes_of(&self.folder.join("batch.bin"))?, check::BATCH_DIGEST)?;
                check::check_and_trip(
                    bytes("logits.bin")?,
                    |logits| check::check_digest("logits.bin", logits, check::LOGITS_DIGEST),
                    |logits| logits[0] ^= 1,
                )
            }
            other => bail!("there is no check for a task named {other:?}"),
        };
        Ok(verdict?)
    }

    fn results_of(&self, name: &str) -> PathBuf {
        self.results.join(name)
    }
}

fn bytes_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Runs one task of the job from plan to checked result.
///
/// # Errors
/// A command failed in a way that leaves nothing to report on.
pub async fn run_task(
    ring: &RingSpec,
    task: &JobTask,
    folder: &JobFolder,
    shell: &Shell,
    say: &dyn Fn(&str),
) -> anyhow::Result<TaskStory> {
    let document = folder.document(task).display().to_string();
    let typed = |arguments: &[&str]| say(&format!("$ causeway {}", arguments.join(" ")));

    typed(&["task", "plan", &document]);
    let plan = shell.output(&["task", "plan", &document]).await?;
    let text = String::from_utf8_lossy(&plan.stdout);
    print!("{text}");
    let plan_id = plan_id(&text).with_context(|| {
        format!("no region would take {document}: {}", String::from_utf8_lossy(&plan.stderr).trim())
    })?;

    let begin = Instant::now();
    let run = ["task", "run", &document, "--plan", plan_id];
    typed(&run);
    let submitted = shell.json(&run).await?;
    let id = submitted["id"].as_str().context("the answer to a submission names no task")?.to_owned();
    typed(&["task", "logs", "-f", &id]);
    shell.show(&["task", "logs", "-f", &id]).await?;

    let ended = shell.output(&["task", "status", &id, "--wait", "--timeout", "10m", "-o", "json"]).await?;
    let status: Value = serde_json::from_slice(&ended.stdout).context("reading the task's status")?;
    let name = text_of(&status, "/name");
    let results = folder.results_of(&name);
    let succeeded = status["state"] == "succeeded";
    let verdict = if succeeded {
        let target = results.display().to_string();
        typed(&["task", "artifacts", &id, "--output", &target]);
        shell.show(&["task", "artifacts", &id, "--output", &target]).await?;
        folder.check(&name, &results).map_err(|error| format!("{error:#}"))
    } else {
        let (why, detail) = (text_of(&status, "/reason/sentence"), text_of(&status, "/reason/detail"));
        Err(format!("the task ended as {}: {why} {detail}", text_of(&status, "/state")))
    };
    let here_after_s = begin.elapsed().as_secs_f64();
    match &verdict {
        Ok(verdict) => say(&format!("checked: {}; a damaged copy is refused: {}", verdict.fact, verdict.trips)),
        Err(problem) => say(&format!("WRONG: {problem}")),
    }

    let explained = shell.json(&["task", "explain", &id]).await?;
    let region = text_of(&status, "/place/region");
    let rtt_ms = region.parse().map_or(0.0, |region| ring.rtt_ms(&ring.job.origin, &region));
    Ok(TaskStory {
        place: format!("{region} / {} / {}", text_of(&status, "/place/pool"), text_of(&status, "/place/class")),
        placed_right: region == task.runs_in.as_str(),
        why: why(&explained),
        decided_ms: status["decided_ms"].as_u64(),
        rtt_ms,
        wall_ms: status["usage"]["wall_ms"].as_u64(),
        here_after_s,
        verdict,
        name,
        id,
    })
}

/// Finds the newest finished run of each task from earlier starts and checks its results again, from the node's own store.
///
/// # Errors
/// The node does not answer.
pub async fn recheck_finished(folder: &JobFolder, shell: &Shell, say: &dyn Fn(&str)) -> anyhow::Result<(usize, bool)> {
    let page = shell.json(&["task", "list", "--state", "ended", "--limit", "200"]).await?;
    let tasks = page["tasks"].as_array().or(page["items"].as_array()).cloned().unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut all_right = true;
    for task in tasks.iter().filter(|task| task["state"] == "succeeded") {
        let (name, id) = (text_of(task, "/name"), text_of(task, "/id"));
        if !["lu-fp64", "train-spirals", "infer-int8"].contains(&name.as_str()) || !seen.insert(name.clone()) {
            continue;
        }
        let target = tempfile::tempdir()?;
        let path = target.path().display().to_string();
        let fetched = shell.output(&["task", "artifacts", &id, "--output", &path, "--quiet"]).await?;
        let checked = if fetched.status.success() {
            folder.check(&name, target.path())
        } else {
            Err(anyhow::anyhow!("{}", String::from_utf8_lossy(&fetched.stderr).trim().to_owned()))
        };
        let place = text_of(task, "/place/region");
        match checked {
            Ok(verdict) => say(&format!("found finished task {name} ({id}), run in {place}: {}", verdict.fact)),
            Err(problem) => {
                all_right = false;
                say(&format!("WRONG: finished task {name} ({id}): {problem:#}"));
            }
        }
    }
    Ok((seen.len(), all_right))
}

/// The plan's id in what `task plan` prints: `Plan ID: would place, ...`.
fn plan_id(text: &str) -> Option<&str> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("Plan "))?;
    let (id, rest) = line.split_once(':')?;
    rest.trim_start().starts_with("would place").then_some(id)
}

/// Why the task ran where it did, in one line: who offered, and who could not, by reason.
fn why(explained: &Value) -> String {
    let attempt = &explained["attempts"][0];
    let candidates = || attempt["candidates"].as_array().into_iter().flatten();
    let refusals = attempt["refusals"].as_array().into_iter().flatten();
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for other in refusals.chain(candidates().filter(|candidate| candidate["answer"] == "declined")) {
        by_reason.entry(text_of(other, "/reason/code")).or_default().push(text_of(other, "/region"));
    }
    let offers =
        candidates().filter(|candidate| ["offered", "chosen"].contains(&text_of(candidate, "/answer").as_str()));
    let mut parts: Vec<String> = match offers.count() {
        0 => vec![text_of(explained, "/summary")],
        1 => vec!["it alone offered".to_owned()],
        count => vec![format!("the best of {count} offers")],
    };
    parts.extend(by_reason.into_iter().map(|(reason, regions)| format!("{reason}: {}", regions.join(", "))));
    parts.join("; ")
}

fn text_of(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_named_by_what_the_command_prints() {
        let text =
            "Offers\n  dalian h800\n\nPlan 01KB3J8Z0000000000000000AB: would place, decided in 9 ms, held for 60 s\n";
        assert_eq!(plan_id(text), Some("01KB3J8Z0000000000000000AB"));
        assert_eq!(plan_id("Plan 01KB: no region would take it, decided in 2 ms."), None);
        assert_eq!(plan_id(""), None);
    }

    #[test]
    fn the_explanation_names_who_could_not() {
        let explained = serde_json::json!({ "summary": "Runs in dalian.", "attempts": [{
            "refusals": [{ "region": "beijing", "reason": { "code": "chip_unavailable" } }],
            "candidates": [{ "region": "dalian", "answer": "chosen" },
                           { "region": "jinhua", "answer": "declined", "reason": { "code": "busy" } }] }] });
        assert_eq!(why(&explained), "it alone offered; busy: jinhua; chip_unavailable: beijing");
        assert_eq!(why(&serde_json::json!({ "summary": "Runs in dalian." })), "Runs in dalian.");
    }
}
