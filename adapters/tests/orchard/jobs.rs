//! The provider's jobs: processes of this machine.

use super::{Answer, Orchard, Request, page};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub struct Job {
    pub asked: Value,
    pub phase: &'static str,
    pub cause: Option<&'static str>,
    pub exit_code: Option<i32>,
    pub started: Option<jiff::Timestamp>,
    pub finished: Option<jiff::Timestamp>,
    pub dir: PathBuf,
    pub cancel: watch::Sender<bool>,
}

impl Job {
    pub fn view(&self, id: u64) -> Value {
        json!({
            "id": format!("job-{id:06}"),
            "name": self.asked["name"],
            "labels": self.asked["labels"],
            "queue": self.asked["queue"],
            "shape": self.asked["shape"],
            "artifacts": self.asked["artifacts"],
            "status": { "phase": self.phase, "cause": self.cause, "exit_code": self.exit_code },
            "times": { "started": self.started.map(|t| t.to_string()), "finished": self.finished.map(|t| t.to_string()) },
            "metrics": { "cpu_s": 0.25, "peak_mb": 3 },
        })
    }
}

fn number(id: &str) -> Option<u64> {
    id.strip_prefix("job-")?.parse().ok()
}

impl Orchard {
    pub(super) fn jobs(self: &Arc<Self>, request: &Request, rest: &[&str]) -> Answer {
        let none = || Answer::problem(404, "NO_SUCH_JOB", "there is no such job");
        match (request.method.as_str(), rest) {
            ("POST", []) => self.submit(request),
            ("GET", []) => {
                let label = request.query.get("label.causeway-tag");
                let state = self.state();
                let fits = |job: &Job| label.is_none_or(|tag| job.asked["labels"]["causeway-tag"] == **tag);
                let jobs = state.jobs.iter().filter(|(_, job)| fits(job));
                let jobs = jobs.map(|(id, job)| (format!("job-{id:06}"), job.view(*id))).collect();
                page("jobs", jobs, request)
            }
            ("GET", [id]) => {
                let state = self.state();
                let found = number(id).and_then(|id| state.jobs.get(&id).map(|job| job.view(id)));
                found.map_or_else(none, |view| Answer::json(200, &view))
            }
            ("POST", [id, "cancel"]) => match number(id).and_then(|id| {
                self.state().jobs.get(&id).map(|job| {
                    let over = job.finished.is_some();
                    let _ = job.cancel.send(true);
                    over
                })
            }) {
                None => none(),
                Some(true) => Answer::problem(409, "ALREADY_FINISHED", "the job is over"),
                Some(false) => Answer::new(202, Vec::new()),
            },
            ("DELETE", [id]) => {
                let Some(id) = number(id) else { return none() };
                let mut state = self.state();
                match state.jobs.get(&id).map(|job| job.finished.is_some()) {
                    None => none(),
                    Some(false) => Answer::problem(409, "STILL_RUNNING", "cancel it first"),
                    Some(true) => {
                        state.jobs.remove(&id);
                        state.keys.retain(|_, known| *known != id);
                        Answer::new(204, Vec::new())
                    }
                }
            }
            ("GET", [id, "logs", stream @ ("stdout" | "stderr")]) => {
                let dir = number(id).and_then(|id| self.state().jobs.get(&id).map(|job| job.dir.clone()));
                let Some(dir) = dir else { return none() };
                let log = std::fs::read(dir.join(format!(".{stream}"))).unwrap_or_default();
                let of = |name: &str| request.query.get(name).and_then(|text| text.parse::<usize>().ok());
                let from = of("offset").unwrap_or(0);
                if from > log.len() {
                    return Answer::problem(416, "BEYOND_THE_END", "the log is shorter");
                }
                let to = from.saturating_add(of("limit").unwrap_or(1 << 20)).min(log.len());
                Answer::new(200, log[from..to].to_vec())
            }
            ("GET", [id, "artifacts", path]) => {
                let dir = number(id).and_then(|id| self.state().jobs.get(&id).map(|job| job.dir.clone()));
                let content = dir.and_then(|dir| std::fs::read(dir.join(path)).ok());
                content.map_or_else(none, |content| Answer::new(200, content))
            }
            _ => none(),
        }
    }

    fn submit(self: &Arc<Self>, request: &Request) -> Answer {
        let asked = request.json();
        let key = request.header("idempotency-key").unwrap_or("").to_owned();
        let mut state = self.state();
        if let Some(id) = state.keys.get(&key).filter(|_| !key.is_empty() && !state.moods.forgets_keys) {
            return Answer::json(200, &state.jobs[id].view(*id));
        }
        if asked["resources"]["cores"].as_u64().unwrap_or(0) > 1000 {
            return Answer::problem(422, "QUOTA", "more cores than your quota");
        }
        let (id, dir) = (state.next, self.dir.join(format!("job-{}", state.next)));
        state.next += 1;
        std::fs::create_dir_all(&dir).unwrap();
        for file in asked["files"].as_array().into_iter().flatten() {
            let Some(content) = state.files.get(file["sha256"].as_str().unwrap_or("")) else {
                return Answer::problem(422, "NO_SUCH_FILE", "upload it first");
            };
            std::fs::write(dir.join(file["path"].as_str().unwrap()), content).unwrap();
        }
        let (cancel, cancelled) = watch::channel(false);
        let job =
            Job { asked, phase: "QUEUED", cause: None, exit_code: None, started: None, finished: None, dir, cancel };
        let view = job.view(id);
        state.jobs.insert(id, job);
        state.keys.insert(key, id);
        drop(state);
        tokio::spawn(play(Arc::clone(self), id, cancelled));
        Answer::json(201, &view)
    }
}

async fn play(orchard: Arc<Orchard>, id: u64, mut cancelled: watch::Receiver<bool>) {
    tokio::time::sleep(Duration::from_millis(5)).await;
    let Some((asked, dir)) = orchard.state().jobs.get(&id).map(|job| (job.asked.clone(), job.dir.clone())) else {
        return;
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words: Vec<String> = asked["command"].as_array().into_iter().flatten().map(text).collect();
    // folders of artifacts are there before the job is
    for artifact in asked["artifacts"].as_array().into_iter().flatten() {
        if let Some(parent) = dir.join(text(&artifact["path"])).parent() {
            let _ = std::fs::create_dir_all(parent);
        }
    }
    let log = |name: &str| Stdio::from(std::fs::File::create(dir.join(name)).unwrap());
    let mut command = tokio::process::Command::new(words.first().map_or("false", String::as_str));
    command.args(words.iter().skip(1)).current_dir(&dir).env_clear().env("PATH", "/usr/bin:/bin").process_group(0);
    command.stdin(Stdio::null()).stdout(log(".stdout")).stderr(log(".stderr")).kill_on_drop(true);
    for (name, value) in asked["environment"].as_object().into_iter().flatten() {
        command.env(name, text(value));
    }
    let set = |change: &dyn Fn(&mut Job)| {
        if let Some(job) = orchard.state().jobs.get_mut(&id) {
            change(job);
        }
    };
    let end = |phase: &'static str, cause: Option<&'static str>, code: Option<i32>| {
        set(&|job| {
            (job.phase, job.cause, job.exit_code) = (phase, cause, code);
            job.finished = Some(jiff::Timestamp::now());
        });
    };
    if *cancelled.borrow() {
        return end("CANCELLED", Some("CANCELLED_BY_USER"), None);
    }
    let Ok(mut child) = command.spawn() else { return end("FAILED", Some("COMMAND_NOT_FOUND"), None) };
    let group = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap_or(0)).unwrap());
    set(&|job| {
        job.phase = "RUNNING";
        job.started = Some(jiff::Timestamp::now());
    });
    let limit = Duration::from_secs(asked["time_limit_s"].as_u64().unwrap_or(60));
    let ended = tokio::select! {
        status = child.wait() => Ok(status),
        _ = cancelled.wait_for(|cancelled| *cancelled) => Err(("CANCELLED", "CANCELLED_BY_USER")),
        () = tokio::time::sleep(limit) => Err(("TIMED_OUT", "TIME_LIMIT")),
    };
    match ended {
        Ok(status) => match status.ok().and_then(|status| status.code()) {
            Some(0) => end("SUCCEEDED", None, Some(0)),
            Some(code) => end("FAILED", Some("NON_ZERO_EXIT"), Some(code)),
            None => end("FAILED", Some("SIGNAL"), None),
        },
        Err((phase, cause)) => {
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = child.wait().await;
            end(phase, Some(cause), None);
        }
    }
}
