//! Services in memory, as far as the routes need them.

use crate::http::page::{Page, PageRequest};
use crate::http::ports::{IdentifierPort, Search, Selector, TaskPort, Written};
use crate::http::problem::{ApiError, Code};
use crate::services::identifier_views::{
    FreshnessView, IdentifierView, PendingClaimView, ResolvedView, RevisionView, StatisticsRow,
};
use crate::services::task_views::{
    EventView, ExplainView, LogPiece, PlanView, Submitted, TaskPage, TaskQuery, TaskView,
};
use adapters::contract::LogStream;
use async_trait::async_trait;
use cpi::dictionary::Dictionary;
use cpi::ids::{PlanId, StableKey, TaskId};
use cpi::task::TaskSpec;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::broadcast;

/// Identifiers by key, all of one member, never more than one revision deep.
#[derive(Default)]
pub struct FakeIdentifiers {
    all: Mutex<BTreeMap<StableKey, IdentifierView>>,
}

impl FakeIdentifiers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<StableKey, IdentifierView>> {
        self.all.lock().expect("not poisoned")
    }
}

#[async_trait]
impl IdentifierPort for FakeIdentifiers {
    fn freshness(&self) -> FreshnessView {
        let as_of = Some("2026-11-24T08:00:00Z".to_owned());
        FreshnessView { index: 42, as_of, age_ms: Some(7), leader: Some("m1".to_owned()) }
    }

    async fn catch_up(&self) -> Result<(), ApiError> {
        Err(ApiError::new(Code::Unavailable, "no quorum").reason(cpi::reason::ReasonCode::NoQuorum))
    }

    fn resolve(&self, selector: &Selector, at_ms: Option<u64>) -> Result<ResolvedView, ApiError> {
        let key = match selector {
            Selector::Key(key) => *key,
            Selector::Text(text) => cpi::identifier::Cpi::parse(text)?.stable_key(),
        };
        let identifier = self.get(key, at_ms)?;
        let description = cpi::resolve::resolve(&identifier.cpi, &Dictionary::first())?;
        Ok(ResolvedView { identifier, description })
    }

    fn get(&self, key: StableKey, _at_ms: Option<u64>) -> Result<IdentifierView, ApiError> {
        self.lock().get(&key).cloned().ok_or_else(|| ApiError::not_found(format!("identifier {key}")))
    }

    fn get_or_pending(&self, key: StableKey) -> Result<IdentifierView, ApiError> {
        self.get(key, None).or_else(|_| {
            let pending = PendingClaimView { change: "register".to_owned(), since: "2026-11-24T08:00:00Z".to_owned() };
            Ok(IdentifierView {
                key: key.to_string(),
                cpi: String::new(),
                state: "pending".to_owned(),
                revision: 0,
                owner: "m2".to_owned(),
                owner_region: "dalian".to_owned(),
                index: 0,
                committed_at: None,
                pending: Some(pending),
                refused: None,
            })
        })
    }

    fn search(&self, search: &Search, page: &PageRequest) -> Result<Page<IdentifierView>, ApiError> {
        if let Some(filter) = &search.filter {
            cpi::filter::Filter::parse(filter)?;
        }
        let prefix = search.prefix.clone().unwrap_or_default();
        let all = self.lock().values().filter(|view| view.cpi.starts_with(&prefix)).cloned().collect::<Vec<_>>();
        let mut all = all;
        all.sort_by(|a, b| a.cpi.cmp(&b.cpi));
        Ok(page.cut(all, |view| view.cpi.clone()))
    }

    fn history(&self, key: StableKey, page: &PageRequest) -> Result<Page<RevisionView>, ApiError> {
        self.get(key, None)?;
        Ok(page.cut(Vec::new(), |revision: &RevisionView| revision.revision.to_string()))
    }

    fn statistics(&self, _: &[String], _: Option<&str>) -> Result<Vec<StatisticsRow>, ApiError> {
        Ok(Vec::new())
    }

    async fn register(&self, text: &str) -> Result<Written, ApiError> {
        let cpi = Dictionary::first().decode(text, None)?;
        let key = cpi.stable_key();
        let mut all = self.lock();
        if all.contains_key(&key) {
            return Err(ApiError::new(Code::Conflict, format!("{key} is registered by m1")));
        }
        let view = IdentifierView {
            key: key.to_string(),
            cpi: cpi.as_str().to_owned(),
            state: "active".to_owned(),
            revision: 1,
            owner: "m1".to_owned(),
            owner_region: "beijing".to_owned(),
            index: 42,
            committed_at: None,
            pending: None,
            refused: None,
        };
        all.insert(key, view.clone());
        Ok(Written { view, committed: true })
    }

    async fn register_many(&self, texts: &[String]) -> Result<Vec<Result<Written, ApiError>>, ApiError> {
        let mut answers = Vec::new();
        for text in texts {
            answers.push(self.register(text).await);
        }
        Ok(answers)
    }

    async fn revise(&self, key: StableKey, text: &str, expected: u64) -> Result<Written, ApiError> {
        let mut view = self.get(key, None)?;
        if view.revision != expected {
            return Err(ApiError::new(Code::StaleRevision, format!("the revision is {}", view.revision)));
        }
        text.clone_into(&mut view.cpi);
        view.revision += 1;
        self.lock().insert(key, view.clone());
        Ok(Written { view, committed: false })
    }

    async fn retire(&self, key: StableKey, expected: u64) -> Result<Written, ApiError> {
        let text = self.get(key, None)?.cpi;
        self.revise(key, &text, expected).await
    }
}

/// One task whose events and log grow as a test says.
pub struct FakeTasks {
    pub task: Mutex<TaskView>,
    pub events: Mutex<Vec<EventView>>,
    pub log: Mutex<(Vec<u8>, bool)>,
    news: broadcast::Sender<EventView>,
}

impl FakeTasks {
    pub fn new(id: &str) -> Self {
        let task = TaskView {
            id: id.to_owned(),
            name: "t".to_owned(),
            state: "pending".to_owned(),
            reason: None,
            principal: "operator".to_owned(),
            origin: "beijing".to_owned(),
            place: None,
            fence: None,
            runs: 0,
            durability: "local".to_owned(),
            custodians: vec!["beijing".to_owned()],
            holder: "beijing".to_owned(),
            inputs_kept: "none".to_owned(),
            cancel_requested: false,
            submitted_at: "2026-11-24T08:00:00Z".to_owned(),
            started_at: None,
            ended_at: None,
            decided_ms: None,
            exit_code: None,
            signal: None,
            usage: None,
            artifacts: Vec::new(),
        };
        let news = broadcast::channel(64).0;
        Self { task: Mutex::new(task), events: Mutex::default(), log: Mutex::default(), news }
    }

    /// Something happens to the task.
    pub fn happen(&self, kind: &str, state: &str) {
        let mut events = self.events.lock().expect("not poisoned");
        let seq = events.len() as u32 + 1;
        let task = self.task.lock().expect("not poisoned").id.clone();
        let event = EventView {
            index: u64::from(seq) * 10,
            task,
            seq,
            at: "2026-11-24T08:00:00Z".to_owned(),
            actor: "origin:beijing".to_owned(),
            kind: kind.to_owned(),
            state: state.to_owned(),
            reason: None,
            fence: None,
            region: None,
            pool: None,
            detail: String::new(),
        };
        events.push(event.clone());
        state.clone_into(&mut self.task.lock().expect("not poisoned").state);
        let _ = self.news.send(event);
    }

    fn mine(&self, id: TaskId) -> Result<TaskView, ApiError> {
        let task = self.task.lock().expect("not poisoned").clone();
        if task.id == id.to_string() { Ok(task) } else { Err(ApiError::not_found(format!("task {id}"))) }
    }
}

#[async_trait]
impl TaskPort for FakeTasks {
    async fn submit(&self, _: &str, _: Option<String>, _: TaskSpec, _: Option<PlanId>) -> Result<Submitted, ApiError> {
        Ok(Submitted { task: self.task.lock().expect("not poisoned").clone(), created: true })
    }

    async fn plan(&self, _: &str, _: TaskSpec) -> Result<PlanView, ApiError> {
        Err(cpi::reason::Reason::new(cpi::reason::ReasonCode::Busy, "20 asks wait").into())
    }

    async fn get(&self, id: TaskId) -> Result<TaskView, ApiError> {
        self.mine(id)
    }

    async fn list(&self, _: TaskQuery) -> Result<TaskPage, ApiError> {
        let task = self.task.lock().expect("not poisoned").clone();
        Ok(TaskPage { tasks: vec![task], total: Some(1), next_page_token: None })
    }

    async fn events(&self, id: TaskId, after: u32, limit: usize) -> Result<Vec<EventView>, ApiError> {
        self.mine(id)?;
        let events = self.events.lock().expect("not poisoned");
        Ok(events.iter().filter(|event| event.seq > after).take(limit).cloned().collect())
    }

    async fn events_from(&self, index: u64, limit: usize) -> Result<Vec<EventView>, ApiError> {
        if index == 1 {
            return Err(ApiError::new(Code::Gone, "events before 10 are no longer kept"));
        }
        let events = self.events.lock().expect("not poisoned");
        Ok(events.iter().filter(|event| event.index > index).take(limit).cloned().collect())
    }

    fn subscribe(&self) -> broadcast::Receiver<EventView> {
        self.news.subscribe()
    }

    async fn explain(&self, id: TaskId) -> Result<ExplainView, ApiError> {
        self.mine(id)?;
        Err(ApiError::not_found("attempt"))
    }

    async fn cancel(&self, _: &str, id: TaskId) -> Result<TaskView, ApiError> {
        self.mine(id)
    }

    async fn logs(&self, id: TaskId, _: LogStream, offset: u64, bytes_max: usize) -> Result<LogPiece, ApiError> {
        self.mine(id)?;
        let log = self.log.lock().expect("not poisoned");
        let from = (offset as usize).min(log.0.len());
        let to = (from + bytes_max).min(log.0.len());
        let end = log.1 && to == log.0.len();
        Ok(LogPiece { offset, bytes: log.0[from..to].to_vec().into(), end, region: "dalian".to_owned() })
    }
}
