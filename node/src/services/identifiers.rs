//! Identifiers: registered, revised, retired, resolved and searched on this node's replica.

use super::dictionary::DictionaryService;
use super::identifier_sums;
use super::identifier_views::{
    IdentifierView, PendingClaimView, RefusedClaimView, ResolvedView, RevisionView, StatisticsRow,
};
use super::registry::{Outcome, Registry, RegistryError, rfc3339};
use crate::drivers::refused::RefusedClaim;
use consensus::registry::command::{COMMAND_BYTES_MAX, REGISTRATIONS_MAX};
use consensus::registry::pending::{Change, PendingView};
use consensus::registry::read::normal_prefix;
use consensus::registry::{
    Command, IdentifierRecord, IdentifierState, ItemOutcome, Refusal, Registration, RegistryReader, Response,
    SearchQuery, StatisticsDimension,
};
use consensus::time::Timestamp;
use cpi::filter::{Filter, FilterError, IdentifierSource};
use cpi::identifier::{Cpi, CpiError};
use cpi::ids::StableKey;
use cpi::resolve::{Status, describe};
use std::sync::Arc;

/// Why a verb on identifiers failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// The text is wrong.
    #[error(transparent)]
    Cpi(#[from] CpiError),
    /// The filter is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Nothing has this key.
    #[error("there is no identifier {key}{}", then(*at_ms))]
    NotFound {
        /// The key.
        key: StableKey,
        /// At which time, where one was asked for.
        at_ms: Option<u64>,
    },
    /// Identifiers cannot be grouped by this.
    #[error("{dimension:?} is no dimension, or is given twice: expected class, city, enterprise, chip or service")]
    Dimension {
        /// As asked.
        dimension: String,
    },
    /// Sums over more than is looked at.
    #[error("more than {max} identifiers would have to be looked at: narrow the filter, or leave it out")]
    TooMany {
        /// How many are looked at.
        max: usize,
    },
    /// More than one command carries.
    #[error("{count} identifiers in {bytes} bytes: expected at most {REGISTRATIONS_MAX} in {COMMAND_BYTES_MAX} bytes")]
    TooMuch {
        /// Identifiers.
        count: usize,
        /// Bytes of their command.
        bytes: usize,
    },
    /// The registry refused the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The registry did not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

fn then(at_ms: Option<u64>) -> String {
    at_ms.map_or_else(String::new, |at| format!(" at {}", rfc3339(Timestamp(at))))
}

/// Which identifiers, and from where on.
#[derive(Debug, Clone, Default)]
pub struct FindIdentifiers {
    /// Prefix of the text.
    pub prefix: Option<String>,
    /// Filter expression.
    pub filter: Option<String>,
    /// Retired ones too.
    pub retired: bool,
    /// Nothing but retired ones.
    pub only_retired: bool,
    /// Items in the page.
    pub limit: usize,
    /// Where the page before ended.
    pub after: Option<Vec<u8>>,
}

/// Tells what digests say about an identifier's pool.
pub trait StatusSource: Send + Sync {
    /// The present status of the pool that this identifier describes.
    fn status_of(&self, key: &StableKey) -> Option<Status>;
}

/// The service of identifiers.
#[derive(Clone)]
pub struct IdentifierService {
    registry: Arc<dyn Registry>,
    dictionary: DictionaryService,
    status: Option<Arc<dyn StatusSource>>,
}

/// An identifier after a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenIdentifier {
    /// What is there now.
    pub view: IdentifierView,
    /// False: durable here, waiting for a quorum.
    pub committed: bool,
}

/// What came of one identifier of several.
pub type Registered = Result<WrittenIdentifier, IdentifierError>;

impl IdentifierService {
    /// A service over this node's replica.
    pub fn new(
        registry: Arc<dyn Registry>,
        dictionary: DictionaryService,
        status: Option<Arc<dyn StatusSource>>,
    ) -> Self {
        Self { registry, dictionary, status }
    }

    /// The registry below.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// One identifier as registered, at a time or now.
    ///
    /// # Errors
    /// [`IdentifierError::NotFound`].
    pub fn get(&self, key: StableKey, at_ms: Option<u64>) -> Result<IdentifierView, IdentifierError> {
        let reader = self.registry.reader();
        let refused = at_ms.is_none().then(|| self.registry.refused_of(&key)).flatten();
        match (record(&reader, key, at_ms), refused) {
            (Ok(record), refused) => {
                Ok(IdentifierView { refused: refused.as_ref().map(refused_view), ..view(&reader, &record) })
            }
            (Err(_), Some(refused)) if self.registry.pending_of(&key).is_empty() => {
                Ok(self.only_refused(&reader, key, &refused))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// A key under which nothing is but a refusal.
    fn only_refused(&self, reader: &RegistryReader, key: StableKey, refused: &RefusedClaim) -> IdentifierView {
        IdentifierView {
            key: key.to_string(),
            cpi: refused.text.clone().unwrap_or_default(),
            state: "refused".to_owned(),
            revision: refused.expected_revision,
            owner: self.registry.me().to_string(),
            owner_region: region_of(reader, self.registry.me()),
            index: 0,
            committed_at: None,
            pending: None,
            refused: Some(refused_view(refused)),
        }
    }

    /// One identifier with its description.
    ///
    /// # Errors
    /// [`IdentifierError::NotFound`], or the stored text needs a dictionary release that is not here yet.
    pub fn resolve(&self, key: StableKey, at_ms: Option<u64>) -> Result<ResolvedView, IdentifierError> {
        let reader = self.registry.reader();
        let record = record(&reader, key, at_ms)?;
        let mut description = describe(&Cpi::parse(&record.text)?, &self.dictionary.current())?;
        description.status = self.status.as_ref().and_then(|source| source.status_of(&key));
        Ok(ResolvedView { identifier: view(&reader, &record), description })
    }

    /// A page of identifiers and the place where the next one begins.
    ///
    /// # Errors
    /// [`IdentifierError::Filter`].
    pub fn search(&self, find: &FindIdentifiers) -> Result<(Vec<IdentifierView>, Option<Vec<u8>>), IdentifierError> {
        let query = SearchQuery {
            prefix: find.prefix.clone(),
            filter: find.filter.as_deref().map(Filter::parse).transpose()?,
            retired: find.retired || find.only_retired,
            owner: None,
            limit: find.limit,
            after: find.after.clone(),
        };
        let reader = self.registry.reader();
        let page = reader.search(&query, &self.dictionary.current());
        let wanted = |record: &&IdentifierRecord| !find.only_retired || record.state != IdentifierState::Registered;
        let items = page.items.iter().filter(wanted).map(|record| view(&reader, record)).collect();
        Ok((items, page.next))
    }

    /// What waits for a quorum, of all members as far as heard here, in the order of the texts.
    ///
    /// # Errors
    /// [`IdentifierError::Filter`].
    pub fn waiting(&self, find: &FindIdentifiers) -> Result<Vec<IdentifierView>, IdentifierError> {
        let filter = find.filter.as_deref().map(Filter::parse).transpose()?;
        let prefix = find.prefix.as_deref().map(normal_prefix);
        let (reader, dictionary) = (self.registry.reader(), self.dictionary.current());
        let matches = |view: &IdentifierView| {
            prefix.as_deref().is_none_or(|prefix| view.cpi.starts_with(prefix))
                && filter.as_ref().is_none_or(|filter| {
                    let cpi = Cpi::parse(&view.cpi);
                    cpi.is_ok_and(|cpi| filter.matches(&IdentifierSource { cpi: &cpi, dictionary: &dictionary }))
                })
        };
        let mut views: Vec<IdentifierView> =
            self.registry.pending().iter().map(|claim| pending_view(&reader, claim)).filter(matches).collect();
        views.sort_by(|a, b| (&a.cpi, &a.owner, a.revision).cmp(&(&b.cpi, &b.owner, b.revision)));
        Ok(views)
    }

    /// What is committed under a key, or else what is pending on it: of this member where it claims it, of the member with
    /// the lowest id where not.
    ///
    /// # Errors
    /// [`IdentifierError::NotFound`] where nothing is known of it.
    pub fn get_or_pending(&self, key: StableKey) -> Result<IdentifierView, IdentifierError> {
        let committed = self.get(key, None);
        if committed.is_ok() {
            return committed;
        }
        let claims = self.registry.pending_of(&key);
        let own = claims.iter().find(|claim| claim.issuer == self.registry.me());
        let claim = own.or(claims.first()).ok_or(IdentifierError::NotFound { key, at_ms: None })?;
        Ok(pending_view(&self.registry.reader(), claim))
    }

    /// All revisions, the oldest first.
    ///
    /// # Errors
    /// [`IdentifierError::NotFound`].
    pub fn history(&self, key: StableKey) -> Result<Vec<RevisionView>, IdentifierError> {
        let revisions = self.registry.reader().history(&key);
        if revisions.is_empty() {
            return Err(IdentifierError::NotFound { key, at_ms: None });
        }
        let change = |record: &IdentifierRecord| match (record.state, record.revision) {
            (IdentifierState::Retired { .. }, _) => "retired",
            (IdentifierState::Registered, 1) => "registered",
            _ => "revised",
        };
        let one = |record: IdentifierRecord| RevisionView {
            change: change(&record).to_owned(),
            revision: record.revision,
            cpi: record.text,
            index: record.index,
            committed_at: rfc3339(record.committed_at),
            owner: record.owner.to_string(),
        };
        Ok(revisions.into_iter().map(one).collect())
    }

    /// Exact sums by any dimensions, over all registered identifiers or those that match. Sums over everything by at most
    /// one dimension are kept ready; others look at the identifiers.
    ///
    /// # Errors
    /// [`IdentifierError::Dimension`], `Filter`, `TooMany`.
    pub fn statistics(&self, group_by: &[String], filter: Option<&str>) -> Result<Vec<StatisticsRow>, IdentifierError> {
        let mut dimension = StatisticsDimension::All;
        for (at, name) in group_by.iter().enumerate() {
            dimension = match name.as_str() {
                _ if group_by[..at].contains(name) => {
                    return Err(IdentifierError::Dimension { dimension: name.clone() });
                }
                "class" => StatisticsDimension::Class,
                "city" => StatisticsDimension::City,
                "enterprise" => StatisticsDimension::Enterprise,
                "chip" => StatisticsDimension::Chip,
                "service" => StatisticsDimension::Service,
                _ => return Err(IdentifierError::Dimension { dimension: name.clone() }),
            };
        }
        let reader = self.registry.reader();
        if filter.is_none() && group_by.len() < 2 {
            return Ok(identifier_sums::over_all(&reader, group_by.first().map(String::as_str), dimension));
        }
        let filter = filter.map(Filter::parse).transpose()?;
        identifier_sums::over_filter(&reader, &self.dictionary.current(), group_by, filter)
    }

    /// Registers one identifier under this member. The same text again is no error.
    ///
    /// # Errors
    /// The text is wrong, the registry refuses it, or it does not answer.
    pub async fn register(&self, text: &str) -> Result<WrittenIdentifier, IdentifierError> {
        self.register_many(&[text.to_owned()]).await?.pop().expect("one answer for one text")
    }

    /// Registers up to [`REGISTRATIONS_MAX`] identifiers by one signed command. Each stands for itself: the answers, in the
    /// order of the texts, say which hold.
    ///
    /// # Errors
    /// The registry does not answer, or the whole is refused.
    pub async fn register_many(&self, texts: &[String]) -> Result<Vec<Registered>, IdentifierError> {
        let (dictionary, today) = (self.dictionary.current(), self.dictionary.today());
        let decoded: Vec<Result<Cpi, CpiError>> =
            texts.iter().map(|text| dictionary.decode(text, Some(today))).collect();
        let right = || decoded.iter().filter_map(|cpi| cpi.as_ref().ok());
        let items: Vec<Registration> = right().map(|cpi| Registration { text: cpi.as_str().to_owned() }).collect();
        let command = Command::Register { items, release: dictionary.release() };
        let bytes = command.to_bytes().len();
        if texts.len() > REGISTRATIONS_MAX || bytes > COMMAND_BYTES_MAX {
            return Err(IdentifierError::TooMuch { count: texts.len(), bytes });
        }
        let mut answers: Vec<Registered> = if right().next().is_none() {
            Vec::new()
        } else {
            match self.registry.submit(command).await? {
                Outcome::Pending => right().map(|cpi| Ok(self.pending(cpi, Change::Register, 0))).collect(),
                Outcome::Committed { response: Response::Registered(outcomes), .. } => {
                    let answer = |(outcome, cpi): (ItemOutcome, &Cpi)| match outcome {
                        ItemOutcome::Refused(refusal) => Err(refusal.into()),
                        _ => self.written(cpi.stable_key()),
                    };
                    outcomes.into_iter().zip(right()).map(answer).collect()
                }
                Outcome::Committed { response: Response::Refused(refusal), .. } => return Err(refusal.into()),
                Outcome::Committed { .. } => right().map(|cpi| self.written(cpi.stable_key())).collect(),
            }
        };
        let mut answered = answers.drain(..);
        let missing = || RegistryError::Failed("the registry left an identifier unanswered".to_owned());
        Ok(decoded
            .into_iter()
            .map(|cpi| match cpi {
                Ok(_) => answered.next().unwrap_or_else(|| Err(missing().into())),
                Err(error) => Err(error.into()),
            })
            .collect())
    }

    /// Writes a new revision.
    ///
    /// # Errors
    /// As [`IdentifierService::register`].
    pub async fn revise(
        &self,
        key: StableKey,
        text: &str,
        expected_revision: u64,
    ) -> Result<WrittenIdentifier, IdentifierError> {
        let dictionary = self.dictionary.current();
        let cpi = dictionary.decode(text, Some(self.dictionary.today()))?;
        if cpi.stable_key() != key {
            return Err(Refusal::OtherIdentity { expected: key, found: cpi.stable_key() }.into());
        }
        let text = cpi.as_str().to_owned();
        let command = Command::Revise { key, expected_revision, text, release: dictionary.release() };
        self.change(&cpi, Change::Revise, expected_revision, command).await
    }

    /// Retires an identifier.
    ///
    /// # Errors
    /// The registry refuses it, or does not answer.
    pub async fn retire(&self, key: StableKey, expected_revision: u64) -> Result<WrittenIdentifier, IdentifierError> {
        let present = record(&self.registry.reader(), key, None)?;
        let cpi = Cpi::parse(&present.text)?;
        let command = Command::Retire { key, expected_revision, successor: None };
        self.change(&cpi, Change::Retire, expected_revision, command).await
    }

    async fn change(
        &self,
        cpi: &Cpi,
        change: Change,
        expected_revision: u64,
        command: Command,
    ) -> Result<WrittenIdentifier, IdentifierError> {
        let key = cpi.stable_key();
        match self.registry.submit(command).await? {
            Outcome::Pending => Ok(self.pending(cpi, change, expected_revision)),
            Outcome::Committed { response: Response::Refused(refusal), .. } => {
                // Done before by us, so that the revision was replaced by the very same: a repeat is no conflict
                // (RFC 9110, 13.1.1).
                match self.done_before(cpi, change, expected_revision) {
                    true => self.written(key),
                    false => Err(refusal.into()),
                }
            }
            Outcome::Committed { .. } => self.written(key),
        }
    }

    fn done_before(&self, cpi: &Cpi, change: Change, expected_revision: u64) -> bool {
        self.registry.reader().identifier(&cpi.stable_key()).is_some_and(|present| {
            let retired = present.state != IdentifierState::Registered;
            present.owner == self.registry.me()
                && present.revision == expected_revision + 1
                && present.text == cpi.as_str()
                && retired == (change == Change::Retire)
        })
    }

    fn written(&self, key: StableKey) -> Result<WrittenIdentifier, IdentifierError> {
        Ok(WrittenIdentifier { view: self.get(key, None)?, committed: true })
    }

    fn pending(&self, cpi: &Cpi, change: Change, expected_revision: u64) -> WrittenIdentifier {
        let claim = PendingView {
            key: cpi.stable_key(),
            issuer: self.registry.me(),
            change,
            text: Some(cpi.as_str().to_owned()),
            expected_revision,
            sequence: 0,
            since: Timestamp(jiff::Timestamp::now().as_millisecond().unsigned_abs()),
        };
        WrittenIdentifier { view: pending_view(&self.registry.reader(), &claim), committed: false }
    }
}

fn pending_view(reader: &RegistryReader, claim: &PendingView) -> IdentifierView {
    let present = || reader.identifier(&claim.key).map(|record| record.text);
    IdentifierView {
        key: claim.key.to_string(),
        cpi: claim.text.clone().or_else(present).unwrap_or_default(),
        state: "pending".to_owned(),
        revision: claim.expected_revision,
        owner: claim.issuer.to_string(),
        owner_region: region_of(reader, claim.issuer),
        index: 0,
        committed_at: None,
        pending: Some(PendingClaimView { change: claim.change.name().to_owned(), since: rfc3339(claim.since) }),
        refused: None,
    }
}

fn record(reader: &RegistryReader, key: StableKey, at_ms: Option<u64>) -> Result<IdentifierRecord, IdentifierError> {
    let found = match at_ms {
        None => reader.identifier(&key),
        Some(at) => reader.identifier_at(&key, Timestamp(at)),
    };
    found.ok_or(IdentifierError::NotFound { key, at_ms })
}

fn region_of(reader: &RegistryReader, member: cpi::ids::MemberId) -> String {
    reader.member(member).map_or_else(String::new, |record| record.place.region.to_string())
}

fn view(reader: &RegistryReader, record: &IdentifierRecord) -> IdentifierView {
    let state = match record.state {
        IdentifierState::Registered => "active",
        IdentifierState::Retired { .. } => "retired",
    };
    IdentifierView {
        key: record.key.to_string(),
        cpi: record.text.clone(),
        state: state.to_owned(),
        revision: record.revision,
        owner: record.owner.to_string(),
        owner_region: region_of(reader, record.owner),
        index: record.index,
        committed_at: Some(rfc3339(record.committed_at)),
        pending: None,
        refused: None,
    }
}

fn refused_view(refused: &RefusedClaim) -> RefusedClaimView {
    RefusedClaimView {
        change: refused.change.clone(),
        reason: refused.reason.clone(),
        detail: refused.detail.clone(),
        at: rfc3339(refused.at),
    }
}
