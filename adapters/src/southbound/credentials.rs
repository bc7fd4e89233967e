//! The credentials that calls brought, remembered for work that outlives a call: polling, and renewing a session.

use crate::contract::AdapterError;
use crate::vault::Secret;
use cpi::reason::ReasonCode;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// In memory only; the newest of each name counts, so that a rotated secret is used with the next call.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    last: Mutex<BTreeMap<String, Secret>>,
}

impl Credentials {
    /// The secret `name`: of this call, or of the last call that brought it.
    ///
    /// # Errors
    /// No call ever brought it.
    pub(crate) fn get(&self, name: &str) -> Result<Secret, AdapterError> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(secret) = crate::plugin::credential(name) {
            last.insert(name.to_owned(), secret.clone());
            return Ok(secret);
        }
        last.get(name).cloned().ok_or_else(|| {
            let why = format!("the call did not bring the credential {name:?}: name it in the plugin's `credentials`");
            AdapterError::fatal(ReasonCode::NotPermitted, why)
        })
    }
}
