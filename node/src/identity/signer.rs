//! Signs this node's statements, with sequences that are reserved on disk before they are used.
//!
//! Registry commands count by themselves, because the registry remembers a window of their sequences: thousands of offers
//! must not push a waiting registration out of it. All other kinds only need a number that does not come twice.

use super::Identity;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::store::{RecordBatch, Records, StoreError, Table};
use ed25519_dalek::SigningKey;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Sequences by kind of counter.
const SEQUENCES: Table = Table(b'q');
/// The registry commands' counter.
const COMMANDS: &[u8] = b"commands";
/// Sequences reserved with one sync. After a crash so many are skipped at most, which must be well below the registry's
/// window of 1,024.
const RESERVED: u64 = 256;

/// Why a statement could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The reservation could not be written: signing on would repeat a sequence after a crash.
    #[error("the next sequences cannot be reserved on disk")]
    Reserve(#[source] StoreError),
    /// The record holds no number.
    #[error("the record of used sequences is damaged")]
    Damaged,
}

/// Signs for one member. Cheap to clone.
#[derive(Clone)]
pub struct Signer(Arc<Inner>);

struct Inner {
    key: SigningKey,
    federation: Federation,
    records: Records,
    commands: Mutex<Reserve>,
    /// The end of what is reserved on disk.
    reserved: Arc<AtomicU64>,
    reserving: Arc<AtomicBool>,
    others: AtomicU64,
}

struct Reserve {
    next: u64,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("federation", &self.0.federation).finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer that goes on where the records say.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn open(identity: &Identity, federation: Federation, records: Records) -> Result<Self, SignerError> {
        let used = match records.get(SEQUENCES, COMMANDS).map_err(SignerError::Reserve)? {
            None => 1,
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| SignerError::Damaged)?),
        };
        records.write_blocking(reservation(used + RESERVED)).map_err(SignerError::Reserve)?;
        let ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Ok(Self(Arc::new(Inner {
            key: identity.signing_key().clone(),
            federation,
            records,
            commands: Mutex::new(Reserve { next: used }),
            reserved: Arc::new(AtomicU64::new(used + RESERVED)),
            reserving: Arc::default(),
            // Room for a million statements in each millisecond before a restart could repeat one.
            others: AtomicU64::new(ms << 20),
        })))
    }

    /// The federation that statements are signed for.
    pub fn federation(&self) -> Federation {
        self.0.federation
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.0.key.verifying_key().to_bytes()
    }

    /// Signs a statement that is no registry command.
    pub fn seal(&self, kind: StatementKind, body: Vec<u8>) -> Envelope {
        let sequence = self.0.others.fetch_add(1, Ordering::Relaxed);
        Envelope::seal(kind, self.0.federation, &self.0.key, sequence, body)
    }

    /// Signs a registry command. Blocks for one sync in the rare case that a whole reservation was used up meanwhile.
    ///
    /// # Errors
    /// [`SignerError::Reserve`].
    pub fn seal_command(&self, body: Vec<u8>) -> Result<Envelope, SignerError> {
        let sequence = self.next_command()?;
        Ok(Envelope::seal(StatementKind::RegistryCommand, self.0.federation, &self.0.key, sequence, body))
    }

    fn next_command(&self) -> Result<u64, SignerError> {
        let inner = &self.0;
        let mut commands = inner.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = commands.next;
        let reserved = inner.reserved.load(Ordering::Acquire);
        if sequence >= reserved {
            inner.records.write_blocking(reservation(sequence + RESERVED)).map_err(SignerError::Reserve)?;
            inner.reserved.fetch_max(sequence + RESERVED, Ordering::AcqRel);
        } else if reserved - sequence < RESERVED / 2 && !inner.reserving.swap(true, Ordering::AcqRel) {
            let (end, reserving) = (Arc::clone(&inner.reserved), Arc::clone(&inner.reserving));
            inner.records.write_then(reservation(reserved + RESERVED / 2), move |written| {
                if written.is_ok() {
                    end.fetch_max(reserved + RESERVED / 2, Ordering::AcqRel);
                }
                reserving.store(false, Ordering::Release);
            });
        }
        commands.next += 1;
        Ok(sequence)
    }
}

fn reservation(end: u64) -> RecordBatch {
    let mut batch = RecordBatch::default();
    batch.put(SEQUENCES, COMMANDS, &end.to_be_bytes());
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sequence_comes_twice_even_after_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::open(folder.path()).expect("opened");
        let identity = Identity::generate();
        let federation = Federation { id: [1; 32], epoch: 0 };
        let mut last = 0;
        for life in 0..3 {
            // A crash: the counter in memory is gone, the records are not.
            let signer = Signer::open(&identity, federation, records.clone()).expect("opened");
            for _ in 0..1_000 {
                let envelope = signer.seal_command(b"x".to_vec()).expect("signed");
                assert!(envelope.sequence > last, "life {life}: {} after {last}", envelope.sequence);
                assert!(envelope.sequence - last <= RESERVED + 1, "a crash skips no more than a reservation");
                last = envelope.sequence;
            }
        }
    }

    #[test]
    fn offers_do_not_use_up_the_commands_sequences() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::open(folder.path()).expect("opened");
        let identity = Identity::generate();
        let federation = Federation { id: [1; 32], epoch: 0 };
        let signer = Signer::open(&identity, federation, records).expect("opened");
        let first = signer.seal_command(Vec::new()).expect("signed").sequence;
        let offer = signer.seal(StatementKind::Offer, b"offer".to_vec());
        let next = signer.seal(StatementKind::Offer, b"offer".to_vec());
        assert_ne!(offer.sequence, next.sequence);
        offer.verify(StatementKind::Offer, &federation).expect("it holds");
        assert_eq!(signer.seal_command(Vec::new()).expect("signed").sequence, first + 1);
    }
}
