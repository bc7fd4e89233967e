//! Idempotency keys of writes that have no durable record of their own: the first answer is repeated.
//!
//! Tasks keep their keys on disk with the task. The writes here are commands of the registry, which refuses a second
//! effect by itself (`expected_revision`); what is kept here is the first answer, on disk before it is given, and bounded.
//! A crash between the effect and its answer leaves no answer here: the repeat is then performed again, and comes to the
//! same, because the service takes what it finds done by this member already for success.

use super::problem::{ApiError, Code};
use axum::http::HeaderMap;
use consensus::codec;
use consensus::store::{RecordBatch, Records, StoreError, Table};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Keys remembered at most; the oldest is forgotten first.
const KEYS_MAX: usize = 20_000;
/// Answers by the digest of scope and key.
const ANSWERS: Table = Table(b'r');
/// Format version of a row: when (ms since 1970), scope and key, the body's digest, status, ETag, the answer's body.
const ROW_VERSION: u8 = 1;
/// The largest row.
const ROW_BYTES_MAX: usize = 1 << 20;
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
    /// When each was used first, in ms since 1970, the oldest in front.
    order: VecDeque<(u64, String)>,
}

/// Remembers answers by key.
pub struct Repeats {
    ttl: Duration,
    records: Option<Records>,
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
    /// Remembers for `ttl`, beyond a restart where there are `records`.
    ///
    /// # Errors
    /// [`StoreError`]: the rows cannot be read.
    pub fn open(ttl: Duration, records: Option<Records>) -> Result<Self, StoreError> {
        let mut rows = Vec::new();
        if let Some(records) = &records {
            for (_, row) in records.scan(ANSWERS, &[], None, KEYS_MAX)? {
                match codec::decode::<Row>(ROW_VERSION, &row, ROW_BYTES_MAX) {
                    Ok(row) => rows.push(row),
                    Err(error) => tracing::warn!(%error, "the answer to an idempotency key cannot be read"),
                }
            }
        }
        rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut book = Book::default();
        for (at, name, digest, status, etag, body) in rows {
            let Ok(body) = serde_json::from_str(&body) else { continue };
            book.entries.insert(name.clone(), Entry::Answered(digest, Answer { status, etag, body }));
            book.order.push_back((at, name));
        }
        Ok(Self { ttl, records, book: Mutex::new(book) })
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
        self.keep(&name, digest, &answer).await?;
        self.lock().entries.insert(name.clone(), Entry::Answered(digest, answer.clone()));
        std::mem::forget(pending);
        Ok(answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an answer to disk, before anybody is told it.
    async fn keep(&self, name: &str, digest: [u8; 32], answer: &Answer) -> Result<(), ApiError> {
        let Some(records) = &self.records else { return Ok(()) };
        let row: Row = (now_ms(), name.to_owned(), digest, answer.status, answer.etag.clone(), answer.body.to_string());
        let mut batch = RecordBatch::default();
        batch.put(ANSWERS, &place(name), &codec::encode(ROW_VERSION, &row).expect("plain fields"));
        let failed = |error: String| ApiError::new(Code::DiskFull, format!("the answer cannot be kept: {error}"));
        let written = records.write(batch).await.map_err(|error| failed(error.to_string()))?;
        written.map_err(|error| failed(error.to_string()))
    }

    fn begin(&self, name: &str, digest: [u8; 32]) -> Result<Option<Answer>, ApiError> {
        let mut book = self.lock();
        let now = now_ms();
        let mut forgotten = RecordBatch::default();
        let over = |book: &Book, at: u64| {
            u128::from(now.saturating_sub(at)) >= self.ttl.as_millis() || book.order.len() >= KEYS_MAX
        };
        let mut under_way = Vec::new();
        while let Some((at, oldest)) = book.order.front().cloned()
            && over(&book, at)
        {
            book.order.pop_front();
            if matches!(book.entries.get(&oldest), Some(Entry::UnderWay(_))) {
                // its answer is still to come: forgotten now, the same key could be performed twice
                under_way.push((at, oldest));
                continue;
            }
            book.entries.remove(&oldest);
            forgotten.delete(ANSWERS, &place(&oldest));
        }
        for kept in under_way.into_iter().rev() {
            book.order.push_front(kept);
        }
        if let Some(records) = self.records.as_ref().filter(|_| !forgotten.is_empty()) {
            // not waited for: what comes back after a crash is forgotten again
            drop(records.write(forgotten));
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

/// A row, in the order of [`ROW_VERSION`].
type Row = (u64, String, [u8; 32], u16, Option<String>, String);

fn place(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
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
        let repeats = Repeats::open(Duration::from_secs(60), None).expect("in memory");
        let key = || Some("k".to_owned());
        assert_eq!(repeats.once(key(), "a", &json!(1), || async { answer(1) }).await.expect("first").body, 1);
        assert_eq!(repeats.once(key(), "a", &json!(1), || async { answer(2) }).await.expect("again").body, 1);
        assert_eq!(repeats.once(key(), "b", &json!(1), || async { answer(3) }).await.expect("other scope").body, 3);
        let error = repeats.once(key(), "a", &json!(9), || async { answer(4) }).await.expect_err("other body");
        assert_eq!(error.code, Code::IdempotencyMismatch);
    }

    #[tokio::test]
    async fn a_refused_write_may_be_tried_again() {
        let repeats = Repeats::open(Duration::from_secs(60), None).expect("in memory");
        let key = || Some("k".to_owned());
        let refused = || async { Err(ApiError::new(Code::Unavailable, "no quorum")) };
        assert!(repeats.once(key(), "a", &json!(1), refused).await.is_err());
        assert_eq!(repeats.once(key(), "a", &json!(1), || async { answer(2) }).await.expect("again").body, 2);
    }

    #[tokio::test]
    async fn a_repeat_after_a_restart_gets_the_first_answer() {
        let folder = tempfile::tempdir().expect("a folder");
        let ttl = Duration::from_secs(60);
        let key = || Some("k".to_owned());
        let first = Answer { status: 202, etag: Some("\"3\"".to_owned()), body: json!({ "key": "x" }) };
        {
            let records = Records::open(folder.path()).expect("opens");
            let repeats = Repeats::open(ttl, Some(records)).expect("opens");
            let write = || async { Ok(first.clone()) };
            assert_eq!(repeats.once(key(), "a", &json!(1), write).await.expect("first"), first);
            assert!(
                repeats
                    .once(Some("refused".to_owned()), "a", &json!(1), || async {
                        Err(ApiError::new(Code::Unavailable, "no quorum"))
                    })
                    .await
                    .is_err()
            );
        }
        let records = Records::open(folder.path()).expect("opens again");
        let repeats = Repeats::open(ttl, Some(records.clone())).expect("opens");
        assert_eq!(repeats.once(key(), "a", &json!(1), || async { answer(9) }).await.expect("again"), first);
        let other = repeats.once(key(), "a", &json!(2), || async { answer(9) }).await.expect_err("another body");
        assert_eq!(other.code, Code::IdempotencyMismatch);
        let tried = repeats.once(Some("refused".to_owned()), "a", &json!(1), || async { answer(5) }).await;
        assert_eq!(tried.expect("a refusal is not remembered").body, 5);

        // one that is under way is not forgotten, however old: it would be performed twice
        let slow = Repeats::open(Duration::ZERO, None).expect("in memory");
        let (begun, go_on) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
        let body = json!(1);
        let first = slow.once(key(), "a", &body, || async {
            begun.notify_one();
            go_on.notified().await;
            answer(1)
        });
        let second = async {
            begun.notified().await;
            let twice = slow.once(key(), "a", &body, || async { answer(2) }).await;
            go_on.notify_one();
            twice.expect_err("the first is under way").code
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.expect("performed").body, second), (json!(1), Code::Conflict));

        // an old one is forgotten, here and on disk
        let short = Repeats::open(Duration::ZERO, Some(records.clone())).expect("opens");
        assert_eq!(short.once(key(), "a", &json!(1), || async { answer(7) }).await.expect("a new request").body, 7);
        let rows = records.scan(ANSWERS, &[], None, 10).expect("reads");
        assert_eq!(rows.len(), 1, "the other was forgotten with it");
    }
}
