//! Finds runs on the platform by their tags, remembers where they were last seen, and tells changes.
//!
//! Nothing here is truth: all of it can be lost and is found again. A handle that leads nowhere is looked up anew by tag.

use super::api::{Api, Verb};
use super::client::{Answer, Failure, Payload, SharedClient, Sink};
use super::files::Files;
use super::model::RunSaid;
use crate::contract::{AdapterError, RunEvent, RunKey, RunState, RunStatus};
use crate::southbound::{parse_tag, tag_of};
use cpi::reason::ReasonCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Runs that are remembered; beyond them ended ones are forgotten first.
const KNOWN_MAX: usize = 50_000;
/// Changes that a slow listener may be behind.
const EVENTS_KEPT: usize = 65_536;
/// How long what went wrong is shown.
const TROUBLE_SHOWN: Duration = Duration::from_secs(60);
/// Items of one list.
const ITEMS_MAX: usize = 200_000;

struct Known {
    handle: String,
    state: RunState,
    /// When the platform was asked; `None` once that does not count any more.
    seen: Option<Instant>,
}

/// The runs of one platform.
pub(super) struct Runs {
    pub(super) client: SharedClient,
    api: RwLock<Arc<Api>>,
    pub(super) files: Arc<Files>,
    known: Mutex<BTreeMap<RunKey, Known>>,
    events: broadcast::Sender<RunEvent>,
    /// What an operator should look at, and since when.
    trouble: Mutex<Option<(Instant, String)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Runs {
    pub(super) fn new(client: SharedClient, api: Arc<Api>, files: Arc<Files>) -> Self {
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        Self { client, api: RwLock::new(api), files, known: Mutex::default(), events, trouble: Mutex::default() }
    }

    pub(super) fn api(&self) -> Arc<Api> {
        Arc::clone(&self.api.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// New rules are in force from the next call on.
    pub(super) fn set_api(&self, api: Arc<Api>) {
        *self.api.write().unwrap_or_else(std::sync::PoisonError::into_inner) = api;
    }

    pub(super) fn watch(&self) -> broadcast::Receiver<RunEvent> {
        self.events.subscribe()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = lock(&self.trouble);
        let (since, why) = trouble.as_ref()?;
        (since.elapsed() < TROUBLE_SHOWN).then(|| why.clone())
    }

    fn troubled(&self, why: String) {
        tracing::warn!(why, "the platform is not as it should be");
        *lock(&self.trouble) = Some((Instant::now(), why));
    }

    pub(super) fn deadline(api: &Api) -> Instant {
        Instant::now() + Duration::from_millis(api.patience.verb_ms)
    }

    /// Sends what the rules make of `what`, and reads JSON.
    pub(super) async fn ask(&self, api: &Api, verb: &str, what: &Value, deadline: Instant) -> Result<Answer, Failure> {
        let verb = api.verb(verb)?;
        let parts = api.request(verb, what)?;
        self.client.send(api, verb, &parts, Payload::Rules, &Sink::Json, deadline).await
    }

    /// All items of a list, page by page, each handed to `each`.
    pub(super) async fn pages(
        &self,
        api: &Api,
        verb: &Verb,
        what: &Value,
        deadline: Instant,
        mut each: impl FnMut(&Value) -> Result<(), AdapterError> + Send,
    ) -> Result<(), AdapterError> {
        let down = |why: String| AdapterError::passing(ReasonCode::AdapterDown, format!("{}: {why}", verb.name));
        let mut parts = api.request(verb, what)?;
        let (mut page, mut count) = (1_u32, 0_usize);
        loop {
            let body = match self.client.send(api, verb, &parts, Payload::Rules, &Sink::Json, deadline).await? {
                Answer::Json(body) => body,
                // there is no such list: nothing is in it
                _ if page == 1 => return Ok(()),
                _ => return Err(down("a page in the middle is not there".to_owned())),
            };
            let items = verb.items.as_ref().map(|items| items.run([("body", &body)])).transpose().map_err(down)?;
            let Some(Value::Array(items)) = items else {
                return Err(down("`items` finds no list in the answer".to_owned()));
            };
            count += items.len();
            if count > ITEMS_MAX {
                return Err(down(format!("it lists more than {ITEMS_MAX}")));
            }
            for item in &items {
                let ours = verb.ours.as_ref().map_or(Ok(Value::Bool(true)), |ours| ours.run([("item", item)]));
                if ours.map_err(down)? == Value::Bool(true) {
                    each(item)?;
                }
            }
            let number = Value::from(page);
            let next = verb.next.as_ref().map(|next| next.run([("body", &body), ("page", &number)]));
            match next.transpose().map_err(down)? {
                None | Some(Value::Null) => return Ok(()),
                Some(Value::Object(more)) => {
                    let before = parts.query.clone();
                    parts.query.extend(more);
                    if parts.query == before {
                        return Err(down("the next page is the one before: the platform goes in circles".to_owned()));
                    }
                }
                Some(other) => return Err(down(format!("`next` makes {other}: expected query parameters or null"))),
            }
            page += 1;
            if page > api.patience.pages_max {
                return Err(down(format!("more than {} pages", api.patience.pages_max)));
            }
        }
    }

    /// All runs on the platform that have one of our tags, ordered by tag, then handle.
    async fn said(&self, api: &Api, verb: &str, what: &Value) -> Result<BTreeMap<RunKey, Vec<RunSaid>>, AdapterError> {
        let mut runs: BTreeMap<RunKey, Vec<RunSaid>> = BTreeMap::new();
        self.pages(api, api.verb(verb)?, what, Self::deadline(api), |item| {
            let run: RunSaid = api.read_answer("run", item)?;
            if let Some(key) = parse_tag(&run.tag) {
                runs.entry(key).or_default().push(run);
            }
            Ok(())
        })
        .await?;
        for same in runs.values_mut() {
            same.sort_by(|a, b| a.handle.cmp(&b.handle));
        }
        Ok(runs)
    }

    /// The run with this key as the platform has it now.
    ///
    /// Where several have the tag (a request whose answer was lost was done after all), the first by handle is the run and
    /// the others are cancelled.
    pub(super) async fn find(&self, api: &Api, key: RunKey) -> Result<Option<RunSaid>, AdapterError> {
        let handle = lock(&self.known).get(&key).map(|known| known.handle.clone());
        let tag = tag_of(key);
        if let Some(handle) = handle.filter(|_| api.has("status")) {
            let what = json!({ "tag": tag, "handle": handle });
            if let Answer::Json(body) = self.ask(api, "status", &what, Self::deadline(api)).await? {
                let run: RunSaid = api.read_answer("run", &body)?;
                if run.tag == tag {
                    return Ok(Some(run));
                }
                let why = format!("status: {handle} is asked for and {:?} answered", super::fault::shown(&run.tag));
                self.troubled(why);
            }
        }
        let mut same = self.all(api, key).await?;
        if same.len() > 1 {
            let more = same.split_off(1);
            self.troubled(format!("{} runs had the tag {tag}: the surplus is cancelled", more.len() + 1));
            for run in more.iter().filter(|run| run.under_way().is_some()) {
                let what = json!({ "tag": tag, "handle": run.handle, "grace_ms": 0 });
                self.ask(api, "cancel", &what, Self::deadline(api)).await?;
            }
        }
        Ok(same.pop())
    }

    /// All that the platform has with this key, by handle.
    pub(super) async fn all(&self, api: &Api, key: RunKey) -> Result<Vec<RunSaid>, AdapterError> {
        let (verb, what) =
            if api.has("lookup") { ("lookup", json!({ "tag": tag_of(key) })) } else { ("list", json!({})) };
        Ok(self.said(api, verb, &what).await?.remove(&key).unwrap_or_default())
    }

    /// The state of a run that the platform told when it was asked at `asked`, with its outputs where it ended; remembered,
    /// and told where it is new.
    pub(super) async fn state(&self, api: &Arc<Api>, key: RunKey, run: &RunSaid, asked: Instant) -> RunState {
        let state = match run.under_way() {
            Some(state) => state,
            None => match self.files.of(api, &self.client, run).await {
                Some((outputs, missing)) => RunState::Ended(run.end(outputs, &missing)),
                None => RunState::Running,
            },
        };
        self.note(key, run.handle.clone(), state.clone(), asked);
        state
    }

    fn note(&self, key: RunKey, handle: String, state: RunState, asked: Instant) {
        let mut known = lock(&self.known);
        // of two answers that cross each other the later question counts
        if known.get(&key).is_some_and(|known| known.seen.is_some_and(|seen| seen > asked)) {
            return;
        }
        let before = known.insert(key, Known { handle, state: state.clone(), seen: Some(asked) });
        if known.len() > KNOWN_MAX {
            let ended = known.iter().find(|(_, known)| matches!(known.state, RunState::Ended(_)));
            let first = ended.or_else(|| known.iter().next()).map(|(key, _)| *key);
            first.and_then(|key| known.remove(&key));
        }
        drop(known);
        if before.is_none_or(|before| before.state != state) {
            let _ = self.events.send(RunEvent { key, state });
        }
    }

    /// What was seen a moment ago.
    pub(super) fn fresh(&self, api: &Api, key: RunKey) -> Option<RunState> {
        let known = lock(&self.known);
        let known = known.get(&key)?;
        let age = known.seen?.elapsed();
        (age < Duration::from_millis(api.patience.fresh_ms)).then(|| known.state.clone())
    }

    /// The next look goes to the platform.
    pub(super) fn stale(&self, key: RunKey) {
        if let Some(known) = lock(&self.known).get_mut(&key) {
            known.seen = None;
        }
    }

    /// The run is gone.
    pub(super) fn forget(&self, key: RunKey) {
        lock(&self.known).remove(&key);
    }

    /// Where a run stands.
    pub(super) async fn status(&self, key: RunKey) -> Result<Option<RunStatus>, AdapterError> {
        let api = self.api();
        if let Some(state) = self.fresh(&api, key) {
            return Ok(Some(RunStatus { key, state }));
        }
        let asked = Instant::now();
        match self.find(&api, key).await? {
            Some(run) => Ok(Some(RunStatus { key, state: self.state(&api, key, &run, asked).await })),
            None => {
                self.forget(key);
                Ok(None)
            }
        }
    }

    /// All runs that the platform knows.
    pub(super) async fn list(&self) -> Result<Vec<RunStatus>, AdapterError> {
        let api = self.api();
        let asked = Instant::now();
        let said = self.said(&api, "list", &json!({})).await?;
        let mut runs = Vec::with_capacity(said.len());
        for (key, same) in said {
            if let Some(run) = same.first() {
                runs.push(RunStatus { key, state: self.state(&api, key, run, asked).await });
            }
        }
        Ok(runs)
    }

    /// Looks at all runs again and again while some are under way, so that changes are told which nobody asks for.
    pub(super) async fn poll(self: Arc<Self>) {
        let mut first = true;
        let mut failed = 0_u32;
        loop {
            let api = self.api();
            let wait = api.patience.poll_ms.saturating_mul(1 << failed.min(5));
            tokio::time::sleep(Duration::from_millis(rand::random_range(wait - wait / 10..=wait + wait / 10))).await;
            let under_way: Vec<RunKey> = lock(&self.known)
                .iter()
                .filter(|(_, known)| !matches!(known.state, RunState::Ended(_)))
                .map(|(key, _)| *key)
                .collect();
            if under_way.is_empty() && !first {
                continue;
            }
            match self.list().await {
                Ok(listed) => {
                    (first, failed) = (false, 0);
                    // what a list leaves out is asked for by name before it counts as gone
                    for key in under_way {
                        if !listed.iter().any(|run| run.key == key) {
                            let _ = self.status(key).await;
                        }
                    }
                }
                Err(error) => {
                    failed += 1;
                    self.troubled(format!("the runs cannot be listed: {error}"));
                }
            }
        }
    }
}
