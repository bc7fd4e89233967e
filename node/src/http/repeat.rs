//! Idempotency keys of writes that have no durable record of their own: the first answer is repeated.
//!
//! Tasks keep their keys on disk with the task. The writes here are commands of the registry, which refuses a second
//! effect by itself (`expected_revision`); what is kept here is the first answer, in memory and bounded.

use super::problem::{ApiError, Code};
use axum::http::HeaderMap;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Keys remembered at most; the oldest is forgotten first.
const KEYS_MAX: usize = 20_000;
/// Characters of a key.
const KEY_CHARS_MAX: usize = 128;

/// An answer that can be repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// ETag, where it had one.
    pub etag: Option<String>,
    /// The body.
    pub body: Value,
}

enum Entry {
    UnderWay([u8; 32]),
    Answered([u8; 32], Answer),
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<String, Entry>,
    order: VecDeque<(Instant, String)>,
}

/// Remembers answers by key.
pub struct Repeats {
    ttl: Duration,
    book: Mutex<Book>,
}

/// Reads and checks an `Idempotency-Key`.
///
/// # Errors
/// It is empty, too long or not printable ASCII.
pub fn key_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=KEY_CHARS_MAX).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(ApiError::parameter("Idempotency-Key", format!("expected 1 to {KEY_CHARS_MAX} printable characters"))),
    }
}

impl Repeats {
    /// Remembers for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, book: Mutex::new(Book::default()) }
    }

    /// Performs `write`, or repeats the first answer that `key` got in `scope`. Refusals are not remembered.
    ///
    /// # Errors
    /// What `write` answers; [`Code::IdempotencyMismatch`] for another body under the same key; [`Code::Conflict`] while
    /// the first call is under way.
    pub async fn once<F: Future<Output = Result<Answer, ApiError>>>(
        &self,
        key: Option<String>,
        scope: &str,
        body: &Value,
        write: impl FnOnce() -> F,
    ) -> Result<Answer, ApiError> {
        let Some(key) = key else { return write().await };
        let name = format!("{scope}\n{key}");
        let digest: [u8; 32] = Sha256::digest(body.to_string().as_bytes()).into();
        if let Some(answer) = self.begin(&name, digest)? {
            return Ok(answer);
        }
        let pending = Pending { repeats: self, name: &name };
        let answer = write().await?;
        self.lock().entries.insert(name.clone(), Entry::Answered(digest, answer.clone()));
        std::mem::forget(pending);
        Ok(answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &str, digest: [u8; 32]) -> Result<Option<Answer>, ApiError> {
        let mut book = self.lock();
        let now = Instant::now();
        while let Some((at, oldest)) = book.order.front().cloned()
            && (now.duration_since(at) > self.ttl || book.order.len() >= KEYS_MAX)
        {
            book.order.pop_front();
            book.entries.remove(&oldest);
        }
        match book.entries.get(name) {
            Some(Entry::Answered(known, answer)) if *known == digest => return Ok(Some(answer.clone())),
            Some(Entry::UnderWay(known)) if *known == digest => {
                let mut error = ApiError::new(Code::Conflict, "the first request with this key is still under way");
                error.retry_after_s = Some(1);
                return Err(error);
            }
            Some(_) => {
                let detail = "the key was used for a request with another body";
                return Err(ApiError::new(Code::IdempotencyMismatch, detail));
            }
            None => {}
        }
        book.entries.insert(name.to_owned(), Entry::UnderWay(digest));
        book.order.push_back((now, name.to_owned()));
        Ok(None)
    }
}

/// Forgets a key whose write failed or was dropped.
struct Pending<'a> {
    repeats: &'a Repeats,
    name: &'a str,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut book = self.repeats.lock();
        book.entries.remove(self.name);
        book.order.retain(|(_, name)| name != self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(n: u64) -> Result<Answer, ApiError> {
        Ok(Answer { status: 201, etag: None, body: json!(n) })
    }

    #[tokio::test]
    async fn the_first_answer_is_repeated_and_another_body_refused() {
        let repeats = Repeats::new(Duration::from_secs(60));
        let key = || Some("k".to_owned());
        assert_eq!(repeats.once(key(), "a", &json!(1), || async { answer(1) }).await.expect("first").body, 1);
        assert_eq!(repeats.once(key(), "a", &json!(1), || async { answer(2) }).await.expect("again").body, 1);
        assert_eq!(repeats.once(key(), "b", &json!(1), || async { answer(3) }).await.expect("other scope").body, 3);
        let error = repeats.once(key(), "a", &json!(9), || async { answer(4) }).await.expect_err("other body");
        assert_eq!(error.code, Code::IdempotencyMismatch);
    }

    #[tokio::test]
    async fn a_refused_write_may_be_tried_again() {
        let repeats = Repeats::new(Duration::from_secs(60));
        let key = || Some("k".to_owned());
        let refused = || async { Err(ApiError::new(Code::Unavailable, "no quorum")) };
        assert!(repeats.once(key(), "a", &json!(1), refused).await.is_err());
        assert_eq!(repeats.once(key(), "a", &json!(1), || async { answer(2) }).await.expect("again").body, 2);
    }
}
