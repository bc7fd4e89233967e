//! Dictionary releases: pieces that arrive one by one, and the moment when all of them take effect.

use super::super::command::RELEASE_CHUNK_BYTES_MAX;
use super::super::keys;
use super::super::response::{Refusal, Response};
use super::{Act, invalid, store};
use sha2::{Digest as _, Sha256};

/// Pieces of one dictionary release.
const CHUNKS_MAX: u32 = 256;

impl Act<'_, '_> {
    pub(super) fn publish(&mut self, release: u32, chunk: u32, bytes: &[u8]) -> Result<Response, Refusal> {
        if release != self.summary.release + 1 {
            return Err(invalid("release", format!("{}: one more than the one in force", self.summary.release + 1)));
        }
        if chunk >= CHUNKS_MAX || bytes.is_empty() || bytes.len() > RELEASE_CHUNK_BYTES_MAX {
            return Err(invalid(
                "chunk",
                format!("at most {CHUNKS_MAX} pieces of 1 to {} bytes", RELEASE_CHUNK_BYTES_MAX),
            ));
        }
        self.kv.put(keys::join(keys::CHUNKS, &[&release.to_be_bytes(), &chunk.to_be_bytes()]), bytes.to_vec());
        Ok(Response::ChunkStored)
    }

    pub(super) fn activate(&mut self, release: u32, chunks: u32, sha256: &[u8; 32]) -> Result<Response, Refusal> {
        if release != self.summary.release + 1 {
            return Err(invalid("release", format!("{}: one more than the one in force", self.summary.release + 1)));
        }
        let mut hash = Sha256::new();
        for chunk in 0..chunks.min(CHUNKS_MAX) {
            let key = keys::join(keys::CHUNKS, &[&release.to_be_bytes(), &chunk.to_be_bytes()]);
            let bytes = self
                .kv
                .get(&key)
                .ok_or_else(|| Refusal::NotFound { what: format!("piece {chunk} of release {release}") })?;
            hash.update(&bytes);
        }
        if <[u8; 32]>::from(hash.finalize()) != *sha256 {
            return Err(invalid("sha256", "the digest of all pieces together"));
        }
        self.summary.release = release;
        store(self.kv, keys::join(keys::RELEASES, &[&release.to_be_bytes()]), &(chunks, *sha256, self.summary.time));
        Ok(Response::ReleaseActive { release })
    }
}
