//! The dictionary in force here, loaded anew whenever the registry puts another release in force.

use super::identifier_views::ReleaseView;
use super::registry::{Outcome, Registry, RegistryError, rfc3339};
use arc_swap::ArcSwap;
use consensus::registry::command::RELEASE_CHUNK_BYTES_MAX;
use consensus::registry::{Command, Refusal, RegistryReader, Response};
use cpi::dictionary::{Dictionary, LoadDictionaryError};
use cpi::ids::ContentDigest;
use std::sync::Arc;

/// Why a release was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The document is no release.
    #[error(transparent)]
    Load(#[from] LoadDictionaryError),
    /// The registry refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The registry did not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The service of the dictionary. Clones are one service.
#[derive(Clone)]
pub struct DictionaryService {
    current: Arc<ArcSwap<Dictionary>>,
}

impl Default for DictionaryService {
    fn default() -> Self {
        Self { current: Arc::new(ArcSwap::new(Dictionary::first())) }
    }
}

impl DictionaryService {
    /// The release in force here.
    pub fn current(&self) -> Arc<Dictionary> {
        self.current.load_full()
    }

    /// The day by which validity is judged at the front door; `apply` never looks at it.
    pub fn today(&self) -> jiff::civil::Date {
        jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC).date()
    }

    /// Loads the release that the registry put in force, if it is another one than the one here. Returns its number then.
    ///
    /// # Errors
    /// The stored release cannot be read; the one here stays in force.
    pub fn follow(&self, reader: &RegistryReader) -> Result<Option<u32>, LoadDictionaryError> {
        let Some(summary) = reader.summary() else { return Ok(None) };
        if summary.release == self.current().release() {
            return Ok(None);
        }
        let Some(bytes) = reader.release(summary.release) else { return Ok(None) };
        let loaded = Dictionary::load(&bytes)?;
        self.current.store(Arc::new(loaded));
        Ok(Some(summary.release))
    }

    /// All releases, newest first.
    pub fn releases(&self, reader: &RegistryReader) -> Vec<ReleaseView> {
        let first = Dictionary::first();
        let active = reader.summary().map_or(first.release(), |summary| summary.release);
        let state = |release| if release == active { "active" } else { "superseded" }.to_owned();
        let mut all: Vec<ReleaseView> = reader
            .releases()
            .into_iter()
            .map(|(release, sha256, since)| ReleaseView {
                release,
                state: state(release),
                issued: rfc3339(since),
                sha256: Some(ContentDigest(sha256).hex()),
                index: None,
            })
            .collect();
        all.push(ReleaseView {
            release: first.release(),
            state: state(first.release()),
            issued: first.issued().to_string(),
            sha256: Some(ContentDigest::of(Dictionary::FIRST_RELEASE.as_bytes()).hex()),
            index: None,
        });
        all.sort_by_key(|release| std::cmp::Reverse(release.release));
        all
    }

    /// Publishes a release: its pieces, then its activation.
    ///
    /// # Errors
    /// [`PublishError`]; pieces without activation have no effect.
    pub async fn publish(&self, registry: &Arc<dyn Registry>, document: &[u8]) -> Result<ReleaseView, PublishError> {
        let loaded = Dictionary::load(document)?;
        loaded.follows(&self.current())?;
        let release = loaded.release();
        let chunks: Vec<&[u8]> = document.chunks(RELEASE_CHUNK_BYTES_MAX).collect();
        for (chunk, bytes) in chunks.iter().enumerate() {
            let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
            let command = Command::PublishRelease { release, chunk, bytes: bytes.to_vec() };
            committed(registry.submit(command).await?)?;
        }
        let sha256 = ContentDigest::of(document).0;
        let chunks = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        committed(registry.submit(Command::ActivateRelease { release, chunks, sha256 }).await?)?;
        self.follow(&registry.reader())?;
        Ok(ReleaseView {
            release,
            state: "active".to_owned(),
            issued: loaded.issued().to_string(),
            sha256: Some(ContentDigest(sha256).hex()),
            index: None,
        })
    }
}

fn committed(outcome: Outcome) -> Result<(), PublishError> {
    match outcome {
        Outcome::Committed { response: Response::Refused(refusal), .. } => Err(refusal.into()),
        Outcome::Committed { .. } => Ok(()),
        Outcome::Pending => Err(RegistryError::NoQuorum.into()),
    }
}
