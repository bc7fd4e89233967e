//! The credentials of the call that is being served.

use crate::vault::Secret;
use crate::wire::{CREDENTIALS_HEADER, proto};
use prost::Message as _;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use tonic::Status;
use tonic::metadata::MetadataMap;

tokio::task_local! {
    static OF_THIS_CALL: Arc<BTreeMap<String, Secret>>;
}

/// The credential `name` of the node's vault, if the node gave it to this call. Only inside a verb of the adapter; a task
/// that outlives the call has to take it along.
pub fn credential(name: &str) -> Option<Secret> {
    OF_THIS_CALL.try_with(|given| given.get(name).cloned()).ok().flatten()
}

/// Runs `call` with the credentials of its headers.
pub(super) async fn with<T>(headers: &MetadataMap, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let Some(header) = headers.get_bin(CREDENTIALS_HEADER) else {
        return OF_THIS_CALL.scope(Arc::default(), call).await;
    };
    let wrong = || Status::invalid_argument("the credentials of the call cannot be read");
    let bytes = header.to_bytes().map_err(|_| wrong())?;
    let given = proto::Credentials::decode(bytes).map_err(|_| wrong())?;
    let given = given.credentials.into_iter().map(|one| (one.name, Secret::new(one.secret))).collect();
    OF_THIS_CALL.scope(Arc::new(given), call).await
}
