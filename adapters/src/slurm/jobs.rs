//! Who runs: all of our jobs by tag, from one look for everybody, and changes between two looks.

use super::convert::{Converter, Told};
use super::rest::{Job, Rest};
use crate::contract::{AdapterError, RunEvent, RunKey, RunState};
use crate::host::lock;
use cpi::reason::ReasonCode;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Changes that a slow subscriber may lag behind.
const EVENTS_KEPT: usize = 16_384;
/// Cancels that are remembered, so that a job that comes back is cancelled again.
const CANCELS_KEPT: usize = 10_000;

/// Jobs by name, those of one name by number.
type ByName = BTreeMap<String, BTreeMap<i64, Job>>;

#[derive(Default)]
struct Look {
    /// When the newest look began.
    began: Option<Instant>,
    jobs: Arc<ByName>,
}

pub(super) struct Jobs {
    rest: Arc<Rest>,
    converter: Arc<Converter>,
    comment: String,
    look: tokio::sync::Mutex<Look>,
    /// Taken by Slurm since the newest look.
    recent: Mutex<BTreeMap<String, (Instant, Job)>>,
    cancelled: Mutex<BTreeMap<String, Instant>>,
    /// The last job of each name whose run was removed, while Slurm shows it: a run may use the name again.
    removed: Mutex<BTreeMap<String, i64>>,
    told: Mutex<BTreeMap<RunKey, RunState>>,
    trouble: Mutex<Option<String>>,
    pub events: broadcast::Sender<RunEvent>,
}

/// Whether Slurm may still give it processor time.
pub(super) fn is_live(job: &Job) -> bool {
    matches!(
        job.job_state.as_str(),
        "PENDING"
            | "CONFIGURING"
            | "RUNNING"
            | "SUSPENDED"
            | "COMPLETING"
            | "REQUEUED"
            | "RESIZING"
            | "SIGNALING"
            | "STAGE_OUT"
            | "STOPPED"
            | "REQUEUE_HOLD"
            | "SPECIAL_EXIT"
    )
}

/// Which of the jobs with one name counts: the first that lives, else the newest.
fn that_counts(jobs: &BTreeMap<i64, Job>) -> Option<&Job> {
    jobs.values().find(|job| is_live(job)).or_else(|| jobs.values().next_back())
}

impl Jobs {
    pub fn new(rest: Arc<Rest>, converter: Arc<Converter>, owner: &str) -> Self {
        Self {
            rest,
            converter,
            comment: format!("causeway:{owner}"),
            look: tokio::sync::Mutex::default(),
            recent: Mutex::default(),
            cancelled: Mutex::default(),
            removed: Mutex::default(),
            told: Mutex::default(),
            trouble: Mutex::default(),
            events: broadcast::channel(EVENTS_KEPT).0,
        }
    }

    /// Our jobs by name, from a look that began at most `age` ago. Callers share one request.
    pub async fn all(&self, age: Duration) -> Result<Arc<ByName>, AdapterError> {
        let asked = Instant::now();
        let mut look = self.look.lock().await;
        // another caller may have looked while this one waited
        if look.began.is_none_or(|began| asked.saturating_duration_since(began) > age) {
            let began = Instant::now();
            let jobs = match self.rest.jobs().await {
                Ok(jobs) => jobs,
                Err(error) => {
                    *lock(&self.trouble) = Some(error.reason.to_string());
                    return Err(error);
                }
            };
            *lock(&self.trouble) = None;
            let mut by_name = ByName::new();
            for job in jobs.into_iter().filter(|job| job.comment == self.comment) {
                by_name.entry(job.name.clone()).or_default().insert(job.job_id, job);
            }
            lock(&self.recent).retain(|_, (taken, _)| *taken >= began);
            let mut removed = lock(&self.removed);
            removed.retain(|name, _| by_name.contains_key(name));
            for (name, last) in removed.iter() {
                if let Some(jobs) = by_name.get_mut(name) {
                    jobs.retain(|job_id, _| job_id > last);
                }
            }
            by_name.retain(|_, jobs| !jobs.is_empty());
            drop(removed);
            *look = Look { began: Some(began), jobs: Arc::new(by_name) };
        }
        let jobs = Arc::clone(&look.jobs);
        drop(look);
        let recent = lock(&self.recent);
        if recent.is_empty() {
            return Ok(jobs);
        }
        let mut with_recent = (*jobs).clone();
        for (name, (_, job)) in recent.iter() {
            with_recent.entry(name.clone()).or_default().entry(job.job_id).or_insert_with(|| job.clone());
        }
        Ok(Arc::new(with_recent))
    }

    /// The jobs of one name.
    pub async fn named(&self, name: &str, age: Duration) -> Result<BTreeMap<i64, Job>, AdapterError> {
        // one that was just taken needs no look
        let recent = lock(&self.recent).get(name).map(|(_, job)| job.clone());
        let looked = self.look.lock().await;
        let known = looked.began.is_some_and(|began| began.elapsed() <= age);
        if known {
            let mut jobs = looked.jobs.get(name).cloned().unwrap_or_default();
            jobs.extend(recent.map(|job| (job.job_id, job)));
            let last = lock(&self.removed).get(name).copied().unwrap_or(0);
            jobs.retain(|job_id, _| *job_id > last);
            return Ok(jobs);
        }
        drop(looked);
        Ok(self.all(age).await?.get(name).cloned().unwrap_or_default())
    }

    /// Where the run stands whose tag is `name`.
    pub async fn told(&self, name: &str, age: Duration) -> Result<Option<Told>, AdapterError> {
        let jobs = self.named(name, age).await?;
        that_counts(&jobs).map_or(Ok(None), |job| self.converter.job(job))
    }

    /// Submits; one that lives with this name already is found instead. Answers that were lost are looked for.
    pub async fn submit(&self, name: &str, document: &serde_json::Value, age: Duration) -> Result<(), AdapterError> {
        if self.named(name, age).await?.values().any(is_live) {
            return Ok(());
        }
        lock(&self.cancelled).remove(name);
        match self.rest.submit(document).await {
            Ok(Ok(job_id)) => {
                let job = Job {
                    job_id,
                    name: name.to_owned(),
                    comment: self.comment.clone(),
                    job_state: "PENDING".to_owned(),
                    state_reason: String::new(),
                    exit_code: 0,
                    submit_time: 0,
                };
                lock(&self.recent).insert(name.to_owned(), (Instant::now(), job));
                Ok(())
            }
            Ok(Err(refused)) => Err(refused),
            Err(unknown) => match self.named(name, Duration::ZERO).await {
                Ok(jobs) if jobs.values().any(is_live) => Ok(()),
                // it may still be on its way: whoever asks again looks first
                _ => Err(unknown),
            },
        }
    }

    /// Ends all jobs of this name.
    pub async fn cancel(&self, name: &str) -> Result<(), AdapterError> {
        {
            let mut cancelled = lock(&self.cancelled);
            if cancelled.len() >= CANCELS_KEPT
                && let Some(oldest) = cancelled.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone())
            {
                cancelled.remove(&oldest);
            }
            cancelled.insert(name.to_owned(), Instant::now());
        }
        for job in self.named(name, Duration::ZERO).await?.values().filter(|job| is_live(job)) {
            self.rest.delete(job.job_id).await?;
        }
        Ok(())
    }

    /// The run of this name is removed: its jobs count no more, though Slurm shows them for a while.
    pub async fn forget(&self, name: &str, age: Duration) -> Result<(), AdapterError> {
        let last = self.named(name, age).await?.keys().next_back().copied();
        if let Some(last) = last {
            lock(&self.removed).insert(name.to_owned(), last);
        }
        lock(&self.recent).remove(name);
        Ok(())
    }

    /// What the newest look failed with.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Where all runs stand; jobs that the rules cannot read are told and left out.
    pub async fn list(&self, age: Duration) -> Result<Vec<Told>, AdapterError> {
        let jobs = self.all(age).await?;
        Ok(jobs.values().filter_map(that_counts).filter_map(|job| self.read(job)).collect())
    }

    fn read(&self, job: &Job) -> Option<Told> {
        self.converter.job(job).unwrap_or_else(|error| {
            eprintln!("job {}: {error}", job.job_id);
            None
        })
    }

    /// Looks once: tells changes, cancels again what came back, and all but the first of several jobs of one name.
    pub async fn look(&self, age: Duration) -> Result<(), AdapterError> {
        let jobs = self.all(age).await?;
        let mut surplus: Vec<i64> = Vec::new();
        {
            let cancelled = lock(&self.cancelled);
            for (name, of_name) in jobs.iter() {
                let live = of_name.values().filter(|job| is_live(job) && job.job_state != "COMPLETING");
                let kept = usize::from(!cancelled.contains_key(name));
                surplus.extend(live.skip(kept).map(|job| job.job_id));
            }
        }
        for job in surplus {
            eprintln!("job {job} was cancelled before, or is there twice: it is cancelled");
            if let Err(error) = self.rest.delete(job).await
                && error.reason.code == ReasonCode::AdapterDown
            {
                return Err(error);
            }
        }
        let now: BTreeMap<RunKey, RunState> = jobs
            .values()
            .filter_map(that_counts)
            .filter_map(|job| self.read(job))
            .map(|told| (told.key, told.state))
            .collect();
        let mut told = lock(&self.told);
        for (key, state) in &now {
            if told.get(key) != Some(state) {
                // nobody listening is fine
                let _ = self.events.send(RunEvent { key: *key, state: state.clone() });
            }
        }
        *told = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_lives_counts_before_ended_ones() {
        let job = |job_id, state: &str| Job {
            job_id,
            name: "n".to_owned(),
            comment: String::new(),
            job_state: state.to_owned(),
            state_reason: String::new(),
            exit_code: 0,
            submit_time: 0,
        };
        let jobs =
            |list: &[(i64, &str)]| list.iter().map(|(id, state)| (*id, job(*id, state))).collect::<BTreeMap<_, _>>();
        let counts = |list: &[(i64, &str)]| that_counts(&jobs(list)).map(|job| job.job_id);
        assert_eq!(counts(&[(1, "CANCELLED"), (2, "RUNNING"), (3, "COMPLETED")]), Some(2));
        assert_eq!(counts(&[(1, "FAILED"), (3, "COMPLETED")]), Some(3));
        assert_eq!(counts(&[]), None);
    }
}
