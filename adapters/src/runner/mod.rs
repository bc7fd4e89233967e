//! The one runner: a small program that a platform's job executes, and the node's desk that it dials.
//!
//! ```text
//!  node: PluginAdapter -- RunDesk <====== one gRPC stream, dialled by the runner ====== causeway-runner -- command
//!              |                                                                            ^
//!              `-- plugin -- platform (Slurm, Kubernetes, a server) -- starts a job --------'
//! ```
//!
//! A backend whose capabilities say `by_runner` only has to start `causeway-runner` on its platform, with the ticket in its
//! environment: inputs, logs, outputs, usage, the lease and the ending travel between runner and desk. What the platform knows
//! better (queued, node lost, out of memory, over its time) still comes from the plugin; `host` merges both.

mod attend;
pub mod desk;
pub mod program;
mod record;

pub use desk::{DeskConfig, DeskError, DeskTls, RunDesk};

use crate::contract::RunKey;
use cpi::ids::{Epoch, Fence};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Types and stubs generated from `proto/causeway/run/v1/run.proto`.
#[allow(missing_docs, clippy::all, reason = "generated; the proto file has the documentation")]
pub mod proto {
    tonic::include_proto!("causeway.run.v1");
}

/// The protocol number between runner and desk.
pub const RUN_PROTOCOL: u32 = 1;
/// The largest piece of a log, an input or an output.
pub const PIECE_BYTES_MAX: usize = 256 << 10;
/// The largest message: a piece, or an order with a long command.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Variables in which a job hands the ticket to its runner.
pub const URL_VARIABLE: &str = "CAUSEWAY_DESK_URL";
/// See [`URL_VARIABLE`].
pub const TOKEN_VARIABLE: &str = "CAUSEWAY_DESK_TOKEN";
/// See [`URL_VARIABLE`].
pub const CA_VARIABLE: &str = "CAUSEWAY_DESK_CA";
/// The run's name.
pub const RUN_VARIABLE: &str = "CAUSEWAY_RUN";
/// Where the runner may make its folder.
pub const DIR_VARIABLE: &str = "CAUSEWAY_RUN_DIR";

/// What a job has to hand to its runner.
#[derive(Clone, PartialEq, Eq)]
pub struct DeskTicket {
    /// The run's name.
    pub run: String,
    /// Where the desk is, as the platform's machines reach it.
    pub url: String,
    /// Proves that the runner may attend this run.
    pub token: String,
    /// PEM of the authority that signed the desk's certificate; empty for plain HTTP.
    pub ca_pem: String,
    /// How long the runner tries to report after its command ended, in ms.
    pub linger_ms: u64,
}

impl std::fmt::Debug for DeskTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeskTicket").field("run", &self.run).field("url", &self.url).finish_non_exhaustive()
    }
}

impl DeskTicket {
    /// The variables of the job's environment.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            (URL_VARIABLE.to_owned(), self.url.clone()),
            (TOKEN_VARIABLE.to_owned(), self.token.clone()),
            (RUN_VARIABLE.to_owned(), self.run.clone()),
        ];
        if !self.ca_pem.is_empty() {
            variables.push((CA_VARIABLE.to_owned(), self.ca_pem.clone()));
        }
        variables
    }
}

/// A run's name, `TASK-FENCE`: also its tag on platforms.
pub fn name_of(key: &RunKey) -> String {
    format!("{}-{}", key.task, key.fence)
}

/// The way back from [`name_of`].
pub fn key_of(name: &str) -> Option<RunKey> {
    let (task, fence) = name.split_once('-')?;
    let mut parts = fence.split('.');
    let (counter, member, attempt) = (parts.next()?, parts.next()?, parts.next()?);
    let epoch = Epoch { counter: counter.parse().ok()?, member: member.parse().ok()? };
    let key = RunKey { task: task.parse().ok()?, fence: Fence { epoch, attempt: attempt.parse().ok()? } };
    // one way of writing each
    (name_of(&key) == name).then_some(key)
}

fn mac(secret: &[u8], name: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(b"causeway run desk 1\0");
    mac.update(name.as_bytes());
    mac
}

/// The token for a run: bound to its name and to the node's secret, so that it is known again after a restart.
fn token(secret: &[u8], name: &str) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&mac(secret, name).finalize().into_bytes())
}

/// Compares in constant time.
fn is_token(secret: &[u8], name: &str, given: &str) -> bool {
    let given = data_encoding::BASE64URL_NOPAD.decode(given.as_bytes());
    given.is_ok_and(|given| mac(secret, name).verify_slice(&given).is_ok())
}

/// Two crypto providers may be in a build; the first call in a process decides which one rustls uses.
pub(crate) fn choose_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpi::ids::MemberId;

    #[test]
    fn a_token_is_for_one_run_and_one_secret() {
        let token = token(b"secret", "a-1.m1.1");
        assert!(is_token(b"secret", "a-1.m1.1", &token));
        assert!(!is_token(b"secret", "a-1.m1.2", &token) && !is_token(b"other", "a-1.m1.1", &token));
        assert!(!is_token(b"secret", "a-1.m1.1", "") && !is_token(b"secret", "a-1.m1.1", "%%%"));
    }

    #[test]
    fn names_read_back() {
        let fence = Fence { epoch: Epoch { counter: 12, member: MemberId(u64::MAX) }, attempt: 3 };
        let key = RunKey { task: cpi::ids::TaskId([7; 16]), fence };
        assert_eq!(key_of(&name_of(&key)), Some(key), "{}", name_of(&key));
        for bad in ["", "-", "x-1.m1.1", &name_of(&key).replace('-', "_"), &format!("{} ", name_of(&key))] {
            assert_eq!(key_of(bad), None, "{bad}");
        }
    }
}
