//! Identifiers: registered, revised, retired, one by one or many under one signature.

use super::super::command::{IdentifierChange, REGISTRATIONS_MAX, Registration};
use super::super::identifier::{IdentifierRecord, IdentifierState};
use super::super::response::{ChangeOutcome, ItemOutcome, Refusal, Response};
use super::super::{index, keys};
use super::{Act, check_revision, invalid, load, store};
use cpi::identifier::Cpi;
use cpi::ids::StableKey;

impl Act<'_, '_> {
    pub(super) fn batch(&mut self, changes: &[IdentifierChange]) -> Result<Response, Refusal> {
        let items: usize = changes.iter().map(IdentifierChange::items).sum();
        if changes.is_empty() || changes.len() > REGISTRATIONS_MAX || items > REGISTRATIONS_MAX {
            return Err(invalid("batch", format!("1 to {REGISTRATIONS_MAX} identifiers")));
        }
        let one = |change: &IdentifierChange| match change {
            IdentifierChange::Register { items, release } => self.register(items, *release),
            IdentifierChange::Revise { key, expected_revision, text, release } => {
                self.revise(key, *expected_revision, text, *release)
            }
            IdentifierChange::Retire { key, expected_revision, successor } => {
                self.retire(key, *expected_revision, *successor)
            }
        };
        Ok(Response::Batch(changes.iter().map(one).map(|made| made.unwrap_or_else(ChangeOutcome::Refused)).collect()))
    }

    pub(super) fn register(&mut self, items: &[Registration], release: u32) -> Result<ChangeOutcome, Refusal> {
        if items.is_empty() || items.len() > REGISTRATIONS_MAX {
            return Err(invalid("items", format!("1 to {REGISTRATIONS_MAX} identifiers")));
        }
        Ok(ChangeOutcome::Registered(
            items
                .iter()
                .map(|item| self.register_one(&item.text, release).unwrap_or_else(ItemOutcome::Refused))
                .collect(),
        ))
    }

    fn parse(&self, text: &str) -> Result<Cpi, Refusal> {
        let cpi = Cpi::parse(text).map_err(|error| invalid("text", error.to_string()))?;
        if cpi.as_str() != text {
            return Err(invalid("text", format!("the canonical form {}", cpi.as_str())));
        }
        if !self.signer.enterprises.iter().any(|code| code == cpi.enterprise()) {
            return Err(Refusal::ForeignEnterprise {
                enterprise: cpi.enterprise().to_owned(),
                member: self.signer.member,
            });
        }
        Ok(cpi)
    }

    fn record(&self, key: StableKey, revision: u64, text: &str, release: u32) -> IdentifierRecord {
        IdentifierRecord {
            key,
            revision,
            text: text.to_owned(),
            owner: self.signer.member,
            state: IdentifierState::Registered,
            release,
            committed_at: self.summary.time,
            index: self.index,
            signer: self.statement.key,
            statement: self.statement.digest,
        }
    }

    /// Writes a revision; the one that it replaces moves to the history.
    fn put_identifier(&mut self, record: &IdentifierRecord, before: Option<&IdentifierRecord>) {
        if let Some(before) = before {
            store(self.kv, keys::revision(&before.key, before.revision), before);
        }
        store(self.kv, keys::identifier(&record.key), record);
    }

    fn register_one(&mut self, text: &str, release: u32) -> Result<ItemOutcome, Refusal> {
        let cpi = self.parse(text)?;
        let key = cpi.stable_key();
        if let Some(present) = load::<IdentifierRecord>(self.kv, &keys::identifier(&key)) {
            let since = load::<IdentifierRecord>(self.kv, &keys::revision(&key, 1))
                .map_or(present.committed_at, |r| r.committed_at);
            return match present.state {
                _ if present.owner != self.signer.member => {
                    Err(Refusal::OwnedByOther { key, owner: present.owner, since })
                }
                IdentifierState::Retired { .. } => Err(Refusal::Retired { key }),
                IdentifierState::Registered if present.text == text => {
                    Ok(ItemOutcome::Unchanged { key, revision: present.revision })
                }
                IdentifierState::Registered => Err(Refusal::RevisionMismatch { expected: 0, found: present.revision }),
            };
        }
        let record = self.record(key, 1, text, release);
        self.put_identifier(&record, None);
        index::add(self.kv, &mut self.sums, &key, &cpi);
        Ok(ItemOutcome::Registered { key, revision: 1 })
    }

    fn owned(&self, key: &StableKey, expected_revision: u64) -> Result<IdentifierRecord, Refusal> {
        let present: IdentifierRecord = load(self.kv, &keys::identifier(key))
            .ok_or_else(|| Refusal::NotFound { what: format!("identifier {key}") })?;
        if present.owner != self.signer.member {
            return Err(Refusal::OwnedByOther { key: *key, owner: present.owner, since: present.committed_at });
        }
        if let IdentifierState::Retired { .. } = present.state {
            return Err(Refusal::Retired { key: *key });
        }
        check_revision(expected_revision, present.revision)?;
        Ok(present)
    }

    pub(super) fn revise(
        &mut self,
        key: &StableKey,
        expected: u64,
        text: &str,
        release: u32,
    ) -> Result<ChangeOutcome, Refusal> {
        let present = self.owned(key, expected)?;
        let cpi = self.parse(text)?;
        let found = cpi.stable_key();
        if found != *key {
            return Err(Refusal::OtherIdentity { expected: *key, found });
        }
        let before = Cpi::parse(&present.text).expect("it was parsed when it was stored");
        index::remove(self.kv, &mut self.sums, key, &before);
        let record = self.record(*key, present.revision + 1, text, release);
        self.put_identifier(&record, Some(&present));
        index::add(self.kv, &mut self.sums, key, &cpi);
        Ok(ChangeOutcome::Changed { key: *key, revision: record.revision })
    }

    pub(super) fn retire(
        &mut self,
        key: &StableKey,
        expected: u64,
        successor: Option<StableKey>,
    ) -> Result<ChangeOutcome, Refusal> {
        let present = self.owned(key, expected)?;
        if let Some(successor) = successor
            && (successor == *key || self.kv.get(&keys::identifier(&successor)).is_none())
        {
            return Err(Refusal::NotFound { what: format!("successor {successor}") });
        }
        let before = Cpi::parse(&present.text).expect("it was parsed when it was stored");
        index::remove(self.kv, &mut self.sums, key, &before);
        let mut record = self.record(*key, present.revision + 1, &present.text, present.release);
        record.state = IdentifierState::Retired { successor };
        self.put_identifier(&record, Some(&present));
        Ok(ChangeOutcome::Changed { key: *key, revision: record.revision })
    }
}
