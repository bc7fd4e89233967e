//! Operations on machines behind their port: checks a request, and makes the record that the driver takes.

use super::page::{Page, PageRequest};
use super::ports::OperationPort;
use super::problem::{ApiError, Code, FieldError};
use crate::drivers::backends::Plugins;
use crate::drivers::operations::{BeginError, Notify, OperationHandle, OperationRowsError};
use crate::services::operation_views::{BeginOperation, OperationView};
use adapters::resources::{ProvisionRequest, ResourceTag, VolumeNeed};
use async_trait::async_trait;
use bytes::Bytes;
use consensus::operation::{OperationPhase, OperationRecord, Verb};
use consensus::time::Timestamp;
use cpi::ids::TaskId;
use cpi::reason::ReasonCode;
use cpi::resource::Quantity;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tokio::sync::broadcast;

const USER_DATA_BYTES_MAX: usize = 16 << 10;
const VOLUMES_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 1_024;

/// Operations with the backends that they are for.
pub struct OperationsDoor {
    /// The driver.
    pub handle: OperationHandle,
    /// The backends and the vault.
    pub plugins: Arc<Plugins>,
}

fn wrong(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::field(FieldError::new(field, message.into()))
}

fn short(field: &str, text: &str) -> Result<(), ApiError> {
    let fits = text.len() <= TEXT_BYTES_MAX;
    if fits { Ok(()) } else { Err(wrong(field, format!("expected at most {TEXT_BYTES_MAX} bytes"))) }
}

/// An id: of the caller's key, so that a repeat finds what is there, or else a random one.
fn id(of: &str, principal: &str, key: Option<&str>) -> TaskId {
    let Some(key) = key else { return TaskId(rand::random()) };
    let mut hash = Sha256::new();
    for part in [of, principal, key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    TaskId(hash.finalize()[..16].try_into().expect("a digest is longer than 16 bytes"))
}

impl OperationsDoor {
    fn record(&self, principal: &str, key: Option<&str>, request: BeginOperation) -> Result<OperationRecord, ApiError> {
        let BeginOperation { adapter, verb, resource, pool, class, need, image, user_data, volumes, webhook } = request;
        short("adapter", &adapter)?;
        let backend = self.plugins.backends().get(&adapter);
        let backend = backend.ok_or_else(|| wrong("adapter", format!("there is no adapter {adapter:?}")))?;
        // one that was never up has told nothing yet: its operation waits until it has
        let known = backend.describe().version != adapters::host::NOT_STARTED;
        if known && !backend.capabilities().provisions {
            let detail = format!("adapter {adapter} makes no machines");
            return Err(ApiError::new(Code::Refused, detail).reason(ReasonCode::BackendUnsupported));
        }
        let makes = verb == "provision";
        let named = |resource: Option<String>| -> Result<TaskId, ApiError> {
            let text = resource.ok_or_else(|| wrong("resource", "is missing: which machine"))?;
            text.parse().map_err(|_| wrong("resource", "expected 26 characters of Crockford base32"))
        };
        let wants = |need: Option<Quantity>| -> Result<Quantity, ApiError> {
            let need = need.ok_or_else(|| wrong("need", "is missing: what the machine is to have"))?;
            let some = need.cpu_milli > 0 && need.memory_bytes > 0;
            if some { Ok(need) } else { Err(wrong("need", "expected a processor and memory above 0")) }
        };
        if !makes
            && (pool.is_some() || class.is_some() || image.is_some() || !user_data.is_empty() || !volumes.is_empty())
        {
            return Err(wrong("verb", "only `provision` takes pool, class, image, user_data and volumes"));
        }
        let resource = if makes {
            if resource.is_some() {
                return Err(wrong("resource", "a machine that is made gets its id from the node"));
            }
            id("resource", principal, key)
        } else {
            named(resource)?
        };
        let mut body = Bytes::new();
        let verb = match verb.as_str() {
            "provision" => {
                if user_data.len() > USER_DATA_BYTES_MAX {
                    return Err(wrong("user_data", format!("expected at most {USER_DATA_BYTES_MAX} bytes")));
                }
                if volumes.len() > VOLUMES_MAX {
                    return Err(wrong("volumes", format!("expected at most {VOLUMES_MAX}")));
                }
                let pool = pool.ok_or_else(|| wrong("pool", "is missing: where the machine is made"))?;
                let class = class.ok_or_else(|| wrong("class", "is missing: on which class of servers"))?;
                if !self.plugins.backends().pools_of(&adapter).contains(&pool) {
                    return Err(wrong("pool", format!("adapter {adapter} does not drive pool {pool:?}")));
                }
                for (field, text) in [("class", Some(&class)), ("image", image.as_ref())] {
                    text.map_or(Ok(()), |text| short(field, text))?;
                }
                for volume in &volumes {
                    short("volumes", &volume.name)?;
                    short("volumes", &volume.class)?;
                }
                let volumes = volumes.into_iter().map(|volume| VolumeNeed {
                    name: volume.name,
                    class: volume.class,
                    size_bytes: volume.size_bytes,
                });
                let request = ProvisionRequest {
                    tag: ResourceTag(resource),
                    pool,
                    class,
                    need: wants(need)?,
                    image,
                    user_data,
                    volumes: volumes.collect(),
                };
                // the tag is the node's and no part of what is compared with a repeat
                body = serde_json::to_vec(&request).expect("a request has only plain fields").into();
                Verb::Provision
            }
            "modify" => Verb::Modify(wants(need)?),
            "start" => Verb::Start,
            "stop" => Verb::Stop,
            "restart" => Verb::Restart,
            "release" => Verb::Release,
            other => {
                let expected = "expected provision, modify, start, stop, restart or release";
                return Err(wrong("verb", format!("{other:?}: {expected}")));
            }
        };
        let notify = match webhook {
            Some(hook) => {
                short("webhook.url", &hook.url)?;
                let notify = Notify { url: hook.url, secret: hook.secret };
                notify.check(self.plugins.vault()).map_err(|error| wrong("webhook", error.to_string()))?;
                Some(serde_json::to_string(&notify).expect("a webhook has only plain fields"))
            }
            None => None,
        };
        Ok(OperationRecord {
            id: id("operation", principal, key),
            resource,
            adapter,
            verb,
            request: body,
            principal: principal.to_owned(),
            notify,
            phase: OperationPhase::Waiting,
            calls: 0,
            sight: None,
            begun: Timestamp(0),
            ended: None,
            revision: 0,
        })
    }
}

#[async_trait]
impl OperationPort for OperationsDoor {
    async fn begin(
        &self,
        principal: &str,
        idempotency_key: Option<String>,
        request: BeginOperation,
    ) -> Result<OperationView, ApiError> {
        let record = self.record(principal, idempotency_key.as_deref(), request)?;
        let begun = self.handle.begin(record).await?;
        Ok(OperationView::from(&begun))
    }

    async fn get(&self, id: TaskId) -> Result<OperationView, ApiError> {
        let found = self.handle.get(id)?;
        found.as_ref().map(Into::into).ok_or_else(|| ApiError::not_found(format!("operation {id}")))
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<OperationView>, ApiError> {
        let before = page.after.as_deref().and_then(|place| {
            let (at, id) = place.split_first_chunk::<8>()?;
            Some((Timestamp(u64::from_be_bytes(*at)), TaskId(id.try_into().ok()?)))
        });
        let mut found = self.handle.list(before, page.limit + 1)?;
        let more = found.len() > page.limit;
        found.truncate(page.limit);
        let place = |record: &OperationRecord| [&record.begun.0.to_be_bytes()[..], &record.id.0].concat();
        let next_page_token = found.last().filter(|_| more).map(|last| page.token(&place(last)));
        let total = Some(self.handle.count() as u64);
        Ok(Page { items: found.iter().map(Into::into).collect(), next_page_token, total })
    }

    async fn look(&self, id: TaskId) -> Result<OperationView, ApiError> {
        let found = self.handle.get(id)?.ok_or_else(|| ApiError::not_found(format!("operation {id}")))?;
        self.handle.hint(found.resource).await;
        Ok((&found).into())
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<OperationRecord>> {
        self.handle.subscribe()
    }
}

impl From<BeginError> for ApiError {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Refused(reason) => Self::new(Code::Busy, reason.to_string()).reason(reason.code),
            BeginError::Mismatch(there) => {
                Self::new(Code::IdempotencyMismatch, format!("the key is that of operation {}", there.id))
            }
            BeginError::Stopped => Self::new(Code::Unavailable, "the node stops"),
        }
    }
}

impl From<OperationRowsError> for ApiError {
    fn from(error: OperationRowsError) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}
