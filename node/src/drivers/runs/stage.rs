//! Staging: the inputs of a run come from its origin into this node's store; the request for the backend is made of them.

use crate::drivers::run_channel::RunLease;
use crate::services::artifacts::{ArtifactFetcher, ArtifactStore, FetchError, PinOwner, PutError};
use adapters::contract::{RunInput, RunOutput, RunRequest};
use cpi::ids::ContentDigest;
use cpi::reason::{Reason, ReasonCode};
use cpi::task::TaskSpec;
use futures::{StreamExt as _, TryStreamExt as _};

/// Inputs of one run on their way at once.
const INPUTS_AT_ONCE: usize = 4;

/// Reads the document of a lease.
pub(super) fn read_document(lease: &RunLease) -> Result<TaskSpec, Reason> {
    serde_json::from_slice(&lease.document).map_err(|error| {
        Reason::new(ReasonCode::InvalidTask, format!("the document that came with the lease: {error}"))
    })
}

fn digests(spec: &TaskSpec) -> Result<Vec<ContentDigest>, Reason> {
    spec.inputs
        .iter()
        .map(|input| {
            input.digest.ok_or_else(|| {
                Reason::new(ReasonCode::InvalidTask, format!("input {}: it was never uploaded", input.path))
            })
        })
        .collect()
}

/// Brings all inputs here and pins them for the run.
pub(super) async fn stage(lease: &RunLease, spec: &TaskSpec, fetcher: &ArtifactFetcher) -> Result<(), Reason> {
    let digests = digests(spec)?;
    if digests.is_empty() {
        return Ok(());
    }
    // pinned first, so that the collector leaves them alone once they come
    let (store, key, pinned) = (fetcher.store().clone(), lease.key, digests.clone());
    tokio::task::spawn_blocking(move || store.pin(PinOwner::Run(key), pinned, []))
        .await
        .map_err(|error| Reason::new(ReasonCode::Internal, error.to_string()))?
        .map_err(|error| Reason::new(ReasonCode::DiskFull, format!("pinning the inputs: {error}")))?;
    futures::stream::iter(digests)
        .map(|digest| async move { fetch_from_any(lease, fetcher, digest).await })
        .buffer_unordered(INPUTS_AT_ONCE)
        .try_collect()
        .await
}

/// The origin has all inputs; where it cannot be reached, another custodian may have a copy.
async fn fetch_from_any(lease: &RunLease, fetcher: &ArtifactFetcher, digest: ContentDigest) -> Result<(), Reason> {
    let mut first = None;
    for member in lease.readers() {
        match fetcher.fetch(member, lease.key.task, digest).await {
            Ok(()) => return Ok(()),
            Err(error @ (FetchError::Unreachable { .. } | FetchError::Missing { .. } | FetchError::Denied { .. })) => {
                first.get_or_insert_with(|| reason_of(&error));
            }
            Err(error) => return Err(reason_of(&error)),
        }
    }
    Err(first.unwrap_or_else(|| ReasonCode::InputLost.into()))
}

fn reason_of(error: &FetchError) -> Reason {
    let code = match error {
        FetchError::Missing { .. } | FetchError::Denied { .. } => ReasonCode::InputLost,
        FetchError::Corrupt { .. } => ReasonCode::InputCorrupt,
        FetchError::Unreachable { .. } => ReasonCode::PeerUnreachable,
        FetchError::Store(PutError::DiskFull { .. }) => ReasonCode::StagingFull,
        FetchError::Store(_) => ReasonCode::DiskFull,
    };
    let detail = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Reason::new(code, detail)
}

/// The backend's request for a staged run.
pub(super) fn request(lease: &RunLease, spec: &TaskSpec, store: &ArtifactStore) -> Result<RunRequest, Reason> {
    let variant =
        match lease.variant {
            0 => None,
            number => Some(spec.variants.get(usize::from(number) - 1).ok_or_else(|| {
                Reason::new(ReasonCode::InvalidTask, format!("the document has no variant {number}"))
            })?),
        };
    let command =
        variant.map(|variant| &variant.command).filter(|command| !command.is_empty()).unwrap_or(&spec.command);
    let image = variant.and_then(|variant| variant.image.clone()).or_else(|| spec.image.clone());
    let inputs = spec.inputs.iter().zip(digests(spec)?).map(|(input, digest)| RunInput {
        path: input.path.clone(),
        source: store.path(&digest),
        digest,
        executable: input.executable,
    });
    let outputs = spec.outputs.iter().map(|output| RunOutput { path: output.path.clone(), optional: output.optional });
    Ok(RunRequest {
        key: lease.key,
        pool: lease.pool.clone(),
        class: lease.class.clone(),
        need: lease.need,
        command: command.clone(),
        image,
        env: spec.env.clone(),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        max_runtime_ms: spec.max_runtime.ms,
        lease_ttl_ms: lease.lease_ttl_ms,
        freeze_on_lapse: lease.freeze_on_lapse,
    })
}
