//! Webhooks of operations: the newest state of each, signed, sent until it was heard or a day has passed.
//!
//! Each request carries `X-Causeway-Timestamp` (seconds since 1970) and `X-Causeway-Signature` (`sha256=` and the HMAC-SHA256
//! of the timestamp, a dot and the body, under a secret of the vault). How far a receiver heard is on disk, so that a node
//! that was killed goes on. States that come while one is being sent are sent as one: the newest counts.

use super::rows::{OperationRows, OperationRowsError};
use crate::services::operation_views::OperationView;
use adapters::vault::Vault;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use consensus::operation::OperationRecord;
use cpi::ids::TaskId;
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// When the request was signed.
pub const TIMESTAMP_HEADER: &str = "x-causeway-timestamp";
/// The signature.
pub const SIGNATURE_HEADER: &str = "x-causeway-signature";
/// For one request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Requests at one time.
const AT_ONCE: usize = 32;
/// A receiver that does not answer for so long is given up.
const GIVE_UP: Duration = Duration::from_secs(86_400);
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(300));

/// Who is told of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// Where; `https`, or `http` to this machine.
    pub url: String,
    /// The name of the vault's secret that signs.
    pub secret: String,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Not an address that is allowed.
    #[error("url: expected https, or http to 127.0.0.1, [::1] or localhost")]
    Url,
    /// No such secret.
    #[error("secret: the vault has none called {0:?}")]
    Secret(String),
}

impl Notify {
    /// Checks the address and that the secret is there.
    ///
    /// # Errors
    /// `NotifyError`.
    pub fn check(&self, vault: &Vault) -> Result<(), NotifyError> {
        let url = reqwest::Url::parse(&self.url).map_err(|_| NotifyError::Url)?;
        let here = url.host_str().is_some_and(|host| matches!(host, "127.0.0.1" | "[::1]" | "localhost"));
        if !(url.scheme() == "https" || (url.scheme() == "http" && here)) {
            return Err(NotifyError::Url);
        }
        vault.get(&self.secret).map(drop).ok_or_else(|| NotifyError::Secret(self.secret.clone()))
    }
}

/// The signature of `body` at `timestamp`, as the header has it.
pub fn sign(secret: &[u8], timestamp: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length is taken");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("sha256={}", data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes()))
}

/// Sends what is to be told.
#[derive(Clone)]
pub(super) struct Webhooks {
    shared: Arc<Shared>,
}

struct Shared {
    rows: OperationRows,
    vault: Arc<Vault>,
    client: reqwest::Client,
    /// The newest state of each operation that is being told.
    newest: Mutex<BTreeMap<TaskId, OperationRecord>>,
    at_once: Semaphore,
    stop: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Webhooks {
    /// Goes on where an earlier process ended.
    pub(super) fn start(
        rows: OperationRows,
        vault: Arc<Vault>,
        records: &[OperationRecord],
        stop: CancellationToken,
    ) -> Result<Self, OperationRowsError> {
        let builder = reqwest::Client::builder().timeout(REQUEST_MAX).redirect(reqwest::redirect::Policy::none());
        let shared = Shared {
            rows,
            vault,
            client: builder.build().unwrap_or_default(),
            newest: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            stop,
        };
        let webhooks = Self { shared: Arc::new(shared) };
        for record in records.iter().filter(|record| record.notify.is_some()) {
            if webhooks.shared.rows.heard(record.id)? < record.revision {
                webhooks.tell(record);
            }
        }
        Ok(webhooks)
    }

    /// Tells the newest state of an operation, where somebody wants to hear it.
    pub(super) fn tell(&self, record: &OperationRecord) {
        let notify = record.notify.as_deref().and_then(|text| serde_json::from_str::<Notify>(text).ok());
        let Some(notify) = notify else { return };
        let under_way = lock(&self.shared.newest).insert(record.id, record.clone()).is_some();
        if !under_way {
            let (shared, id) = (Arc::clone(&self.shared), record.id);
            tokio::spawn(async move { shared.deliver(id, &notify).await });
        }
    }
}

impl Shared {
    /// Sends the newest state until it was heard and no newer one came.
    async fn deliver(&self, id: TaskId, notify: &Notify) {
        let waits = || {
            ExponentialBuilder::default()
                .with_min_delay(WAIT.0)
                .with_max_delay(WAIT.1)
                .with_jitter()
                .without_max_times()
                .build()
        };
        let (mut wait, mut begun) = (waits(), Instant::now());
        loop {
            let Some(record) = lock(&self.newest).get(&id).cloned() else { return };
            let sent = tokio::select! {
                () = self.stop.cancelled() => return,
                sent = self.send(&record, notify) => sent,
            };
            match sent {
                Ok(()) => {
                    if let Err(error) = self.rows.put_heard(id, record.revision).await {
                        tracing::warn!(operation = %id, %error, "that a webhook was heard cannot be written: it is told again");
                    }
                    let mut newest = lock(&self.newest);
                    if newest.get(&id).is_none_or(|now| now.revision == record.revision) {
                        newest.remove(&id);
                        return;
                    }
                    (wait, begun) = (waits(), Instant::now());
                }
                Err(why) if begun.elapsed() > GIVE_UP => {
                    tracing::error!(operation = %id, url = notify.url, why, "a webhook is given up");
                    lock(&self.newest).remove(&id);
                    return;
                }
                Err(why) => {
                    tracing::warn!(operation = %id, url = notify.url, why, "a webhook was not heard; it is told again");
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(wait.next().unwrap_or(WAIT.1)) => {}
                    }
                }
            }
        }
    }

    async fn send(&self, record: &OperationRecord, notify: &Notify) -> Result<(), String> {
        let _place = self.at_once.acquire().await.map_err(|error| error.to_string())?;
        let secret =
            self.vault.get(&notify.secret).ok_or_else(|| format!("the vault has no secret {:?}", notify.secret))?;
        let body = serde_json::to_vec(&OperationView::from(record)).expect("a view has only plain fields");
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let request = self
            .client
            .post(&notify.url)
            .header("content-type", "application/json")
            .header(TIMESTAMP_HEADER, timestamp)
            .header(SIGNATURE_HEADER, sign(secret.expose(), timestamp, &body))
            .body(body);
        let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_2104_over_timestamp_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let expected = "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        let signed = sign(b"key", 1_700_000_000, b"{}");
        assert_eq!(signed, expected);
        assert_ne!(signed, sign(b"key", 1_700_000_001, b"{}"));
        assert_ne!(signed, sign(b"other", 1_700_000_000, b"{}"));
    }

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let vault = Vault::open(&dir.path().join("v"), &dir.path().join("k")).expect("a vault");
        let check = |url: &str| Notify { url: url.to_owned(), secret: "hook".to_owned() }.check(&vault);
        assert!(matches!(check("https://example.org/x"), Err(NotifyError::Secret(_))));
        vault.put("hook", adapters::vault::Secret::new(b"s".to_vec())).expect("is put in");
        for good in ["https://example.org/x", "http://127.0.0.1:8/x", "http://[::1]/"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["http://example.org/", "ftp://127.0.0.1/", "x", "http://127.0.0.1.example.org/"] {
            assert!(matches!(check(bad), Err(NotifyError::Url)), "{bad}");
        }
    }
}
