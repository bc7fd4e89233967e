//! A made-up provider with an HTTP API of its own, as a real server: TLS, sign-in with short-lived tokens, jobs that are
//! really run, nodes, reservations, machines, lists in pages. On command it fails, is slow, lies, or answers 100 MiB.

mod http;
mod jobs;
mod machines;

pub use http::{Answer, Request};
pub use jobs::Job;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub const CLIENT_ID: &str = "orchard-client";
pub const CLIENT_SECRET: &str = "s3cret-of-the-orchard-canary";

/// How it misbehaves; all off by default.
#[derive(Debug, Default, Clone)]
pub struct Moods {
    /// Every n-th request fails with 500 before anything is done.
    pub fails_every: u64,
    /// Every n-th request is done, and its connection dropped without an answer.
    pub drops_every: u64,
    /// Every n-th request is answered 429 with `Retry-After: 1`.
    pub busy_every: u64,
    /// Each answer takes this long.
    pub slow_ms: u64,
    /// A text in the path, and what is answered instead of the truth.
    pub lies: Option<(String, u16, Vec<u8>)>,
    /// Requests with this text in the path are answered with 100 MiB.
    pub huge: Option<String>,
    /// The next so many job submissions are done and not answered.
    pub lost_submits: u64,
    /// It forgets idempotency keys.
    pub forgets_keys: bool,
}

/// What it has.
#[derive(Default)]
pub struct State {
    pub moods: Moods,
    pub tokens: BTreeMap<String, Instant>,
    pub jobs: BTreeMap<u64, Job>,
    pub keys: BTreeMap<String, u64>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub land: machines::Land,
    pub requests: u64,
    /// Method and path of each request.
    pub seen: Vec<String>,
    pub next: u64,
}

/// The provider.
pub struct Orchard {
    state: Mutex<State>,
    pub dir: PathBuf,
    pub signed_in: AtomicU64,
    pub token_life_s: AtomicU64,
}

impl Orchard {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set(&self, moods: Moods) {
        self.state().moods = moods;
    }

    /// Starts it on a free port; returns its address and, with `tls`, the PEM of its own authority.
    pub async fn start(dir: PathBuf, tls: bool) -> (Arc<Self>, String, String) {
        std::fs::create_dir_all(&dir).unwrap();
        let state = State { land: machines::Land::new(), next: 1, ..State::default() };
        let signed_in = AtomicU64::new(0);
        let orchard = Arc::new(Self { state: Mutex::new(state), dir, signed_in, token_life_s: AtomicU64::new(3) });
        let (address, pem) = http::serve(Arc::clone(&orchard), tls).await;
        (orchard, address, pem)
    }

    async fn answer(self: &Arc<Self>, request: Request) -> Option<Answer> {
        let (moods, count) = {
            let mut state = self.state();
            state.requests += 1;
            let line = format!("{} {}", request.method, request.path.join("/"));
            state.seen.push(line);
            (state.moods.clone(), state.requests)
        };
        let every = |n: u64| n > 0 && count.is_multiple_of(n);
        if moods.slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(moods.slow_ms)).await;
        }
        let path = request.path.join("/");
        if every(moods.fails_every) {
            return Some(Answer::problem(500, "INTERNAL", "a bug in the orchard"));
        }
        if every(moods.busy_every) {
            return Some(Answer::problem(429, "TOO_FAST", "slow down").header("retry-after", "1"));
        }
        if let Some((part, status, body)) = &moods.lies
            && path.contains(part)
        {
            return Some(Answer::new(*status, body.clone()));
        }
        if moods.huge.as_ref().is_some_and(|part| path.contains(part)) {
            return Some(Answer::huge(100 << 20));
        }
        let is_submit = request.method == "POST" && path == "v2/jobs";
        let answer = self.route(request).await;
        if is_submit && moods.lost_submits > 0 {
            self.state().moods.lost_submits -= 1;
            return None;
        }
        if every(moods.drops_every) {
            return None;
        }
        Some(answer)
    }

    async fn route(self: &Arc<Self>, request: Request) -> Answer {
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        if let ("POST", ["oauth", "token"]) = (request.method.as_str(), path.as_slice()) {
            return self.token(&request);
        }
        let token = request.header("authorization").and_then(|text| text.strip_prefix("Bearer ")).unwrap_or("");
        if self.state().tokens.get(token).is_none_or(|until| *until <= Instant::now()) {
            return Answer::problem(401, "UNAUTHORIZED", "no such token");
        }
        match (request.method.as_str(), path.as_slice()) {
            ("GET", ["v2", "ping"]) => Answer::json(200, &json!({ "ok": true })),
            (_, ["v2", "jobs", rest @ ..]) => self.jobs(&request, rest),
            ("PUT", ["v2", "files", digest]) => {
                if cpi::ids::ContentDigest::of(&request.body).hex() != *digest {
                    return Answer::problem(422, "WRONG_DIGEST", "the content has another digest");
                }
                self.state().files.insert((*digest).to_owned(), request.body.clone());
                Answer::new(204, Vec::new())
            }
            (_, ["v2", what @ ("nodes" | "reservations" | "machines"), rest @ ..]) => {
                self.state().machines(&request, what, rest)
            }
            _ => Answer::problem(404, "NO_SUCH_PATH", "there is no such path"),
        }
    }

    fn token(&self, request: &Request) -> Answer {
        let form = http::pairs(&String::from_utf8_lossy(&request.body));
        let has = |name: &str, value: &str| form.get(name).is_some_and(|found| found == value);
        if !(has("grant_type", "client_credentials")
            && has("client_id", CLIENT_ID)
            && has("client_secret", CLIENT_SECRET))
        {
            return Answer::problem(401, "BAD_CLIENT", "unknown client or wrong secret");
        }
        let number = self.signed_in.fetch_add(1, Ordering::Relaxed);
        let token = format!("token-{number}-{}", rand::random::<u64>());
        let life = self.token_life_s.load(Ordering::Relaxed);
        self.state().tokens.insert(token.clone(), Instant::now() + Duration::from_secs(life));
        Answer::json(200, &json!({ "access_token": token, "token_type": "Bearer", "expires_in": life }))
    }
}

/// One page of `items` after `cursor`.
fn page(name: &str, items: Vec<(String, Value)>, request: &Request) -> Answer {
    let limit: usize = request.query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(10).min(10);
    let cursor = request.query.get("cursor").map(String::as_str).unwrap_or("");
    let from = items.iter().position(|(id, _)| id == cursor).map_or(0, |at| at + 1);
    let more = items.len() > from + limit;
    let shown: Vec<(String, Value)> = items.into_iter().skip(from).take(limit).collect();
    let next = if more { shown.last().map(|(id, _)| id.clone()) } else { None };
    let shown: Vec<Value> = shown.into_iter().map(|(_, item)| item).collect();
    Answer::json(200, &json!({ name: shown, "next_cursor": next }))
}
