//! A release: loading, checking that it follows another, and checking identifiers against it.

use super::entry::{Chip, City, Code, Entry, Industry};
use super::table::Table;
use crate::identifier::{Cpi, CpiError, CpiErrorKind, CpiField};
use crate::measures::Precision;
use crate::resource::ChipKind;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};

/// A release as a document. Unknown fields are tolerated: a later release may say more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseDocument {
    /// 1, 2, 3, ...
    pub release: u32,
    /// Day of issue.
    #[schemars(with = "String")]
    pub issued: Date,
    /// Resource types (GC, IC, ...).
    pub resource_types: Vec<Code>,
    /// Service types (VM, BM, ...).
    pub service_types: Vec<Code>,
    /// Server types (RS, GP, ...).
    pub server_types: Vec<Code>,
    /// Chip types of the path (GPU, NPU, ...).
    pub chip_types: Vec<Code>,
    /// Cities.
    pub cities: Vec<City>,
    /// Industries.
    pub industries: Vec<Industry>,
    /// Chips.
    pub chips: Vec<Chip>,
    /// Extended resource names of Kubernetes and what they count.
    pub kubernetes_resources: Vec<ResourceName>,
}

/// An extended resource of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceName {
    /// As device plugins publish it; case matters.
    pub name: String,
    /// What it counts.
    pub kind: ChipKind,
    /// Whose.
    pub vendor: String,
    /// What to know about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// Why a release was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadDictionaryError {
    /// More than [`Dictionary::BYTES_MAX`].
    #[error("the release has {bytes} bytes; at most {} are read", Dictionary::BYTES_MAX)]
    TooLarge {
        /// What was given.
        bytes: usize,
    },
    /// Not JSON of the right shape.
    #[error("the release is not a valid document")]
    Malformed(#[source] serde_json::Error),
    /// A code stands twice in one table.
    #[error("table {table} has the code {code} twice")]
    Duplicate {
        /// Which table.
        table: &'static str,
        /// The code.
        code: String,
    },
    /// A successor that is not in the table, or a validity that ends before it begins.
    #[error("table {table}, code {code}: {what}")]
    Inconsistent {
        /// Which table.
        table: &'static str,
        /// The code.
        code: String,
        /// What is wrong.
        what: &'static str,
    },
    /// It does not follow the release before it.
    #[error("release {release} does not follow release {before}: {what}")]
    NotASuccessor {
        /// The new number.
        release: u32,
        /// The old number.
        before: u32,
        /// Which code was removed or moved, or that the number is not higher.
        what: String,
    },
}

/// One release in memory. Cheap to share (`Arc`), swapped as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dictionary {
    release: u32,
    issued: Date,
    /// Resource types.
    pub resource_types: Table<Code>,
    /// Service types.
    pub service_types: Table<Code>,
    /// Server types.
    pub server_types: Table<Code>,
    /// Chip types of the path.
    pub chip_types: Table<Code>,
    /// Cities.
    pub cities: Table<City>,
    /// Industries.
    pub industries: Table<Industry>,
    /// Chips.
    pub chips: Table<Chip>,
    kubernetes_resources: Vec<ResourceName>,
}

impl Dictionary {
    /// The largest release that is read, in bytes.
    pub const BYTES_MAX: usize = 8 << 20;

    /// The JSON of the first release, as it was issued.
    pub const FIRST_RELEASE: &'static str = include_str!("../../data/release-1.json");

    /// The first release, which every node carries.
    pub fn first() -> Arc<Self> {
        static FIRST: OnceLock<Arc<Dictionary>> = OnceLock::new();
        FIRST
            .get_or_init(|| {
                Arc::new(Self::load(Self::FIRST_RELEASE.as_bytes()).expect("the first release is tested to load"))
            })
            .clone()
    }

    /// Reads a release from its JSON. Who signed it is the caller's question.
    ///
    /// # Errors
    /// [`LoadDictionaryError`], never `NotASuccessor`.
    pub fn load(json: &[u8]) -> Result<Self, LoadDictionaryError> {
        if json.len() > Self::BYTES_MAX {
            return Err(LoadDictionaryError::TooLarge { bytes: json.len() });
        }
        let document: ReleaseDocument = serde_json::from_slice(json).map_err(LoadDictionaryError::Malformed)?;
        Self::from_document(document)
    }

    /// Checks a release and indexes it.
    ///
    /// # Errors
    /// [`LoadDictionaryError::Duplicate`] and `Inconsistent`.
    pub fn from_document(document: ReleaseDocument) -> Result<Self, LoadDictionaryError> {
        Ok(Self {
            release: document.release,
            issued: document.issued,
            resource_types: table("resource_types", document.resource_types)?,
            service_types: table("service_types", document.service_types)?,
            server_types: table("server_types", document.server_types)?,
            chip_types: table("chip_types", document.chip_types)?,
            cities: table("cities", document.cities)?,
            industries: table("industries", document.industries)?,
            chips: table("chips", document.chips)?,
            kubernetes_resources: document.kubernetes_resources,
        })
    }

    /// The release as a document again: what `/v1/dictionary` shows.
    pub fn to_document(&self) -> ReleaseDocument {
        ReleaseDocument {
            release: self.release,
            issued: self.issued,
            resource_types: self.resource_types.iter().cloned().collect(),
            service_types: self.service_types.iter().cloned().collect(),
            server_types: self.server_types.iter().cloned().collect(),
            chip_types: self.chip_types.iter().cloned().collect(),
            cities: self.cities.iter().cloned().collect(),
            industries: self.industries.iter().cloned().collect(),
            chips: self.chips.iter().cloned().collect(),
            kubernetes_resources: self.kubernetes_resources.clone(),
        }
    }

    /// The release's number.
    pub fn release(&self) -> u32 {
        self.release
    }

    /// Day of issue.
    pub fn issued(&self) -> Date {
        self.issued
    }

    /// Whether this release may replace `before`: a higher number, and every code of `before` at its old index.
    ///
    /// # Errors
    /// [`LoadDictionaryError::NotASuccessor`] says which code is missing or moved.
    pub fn follows(&self, before: &Self) -> Result<(), LoadDictionaryError> {
        let refuse =
            |what| Err(LoadDictionaryError::NotASuccessor { release: self.release, before: before.release, what });
        if self.release <= before.release {
            return refuse("its number is not higher".to_owned());
        }
        let moved = moved(&self.resource_types, &before.resource_types)
            .or_else(|| moved(&self.service_types, &before.service_types))
            .or_else(|| moved(&self.server_types, &before.server_types))
            .or_else(|| moved(&self.chip_types, &before.chip_types))
            .or_else(|| moved(&self.cities, &before.cities))
            .or_else(|| moved(&self.industries, &before.industries))
            .or_else(|| moved(&self.chips, &before.chips));
        match moved {
            Some(code) => refuse(format!("the code {code} was removed or moved")),
            None => Ok(()),
        }
    }

    /// Reads a text and checks its codes: stages one and two of resolution. `on` is the day for which new codes must be
    /// valid; `None` accepts codes that ended, as old identifiers have them.
    ///
    /// # Errors
    /// [`CpiError`] with this release's number in it.
    pub fn decode(&self, text: &str, on: Option<Date>) -> Result<Cpi, CpiError> {
        let cpi = Cpi::parse(text).map_err(|error| error.with_release(self.release))?;
        self.check(&cpi, on)?;
        Ok(cpi)
    }

    /// Checks that every code of `cpi` is known, and where `on` is given, valid on that day.
    ///
    /// # Errors
    /// [`CpiError`] of kind `UnknownCode` or `NotValidThen` for the first code that is not.
    pub fn check(&self, cpi: &Cpi, on: Option<Date>) -> Result<(), CpiError> {
        let at = |code: &str| code.as_ptr() as usize - cpi.as_str().as_ptr() as usize;
        let check = |field, name: &str, code: &str, entry: Option<&Code>, nearest: Option<&str>| match entry {
            None => {
                let hint = nearest.map(|nearest| format!(", for example {nearest}")).unwrap_or_default();
                let expected = format!("{name} of the dictionary{hint}");
                Err(CpiError::new(CpiErrorKind::UnknownCode, field, at(code), expected, code.as_bytes())
                    .with_release(self.release))
            }
            Some(entry) => match on.filter(|&day| !entry.is_valid_on(day)) {
                Some(day) => {
                    let instead = entry.successor.as_deref().map(|s| format!("; use {s}")).unwrap_or_default();
                    let expected = format!("{name} that is valid on {day}{instead}");
                    Err(CpiError::new(CpiErrorKind::NotValidThen, field, at(code), expected, code.as_bytes())
                        .with_release(self.release))
                }
                None => Ok(()),
            },
        };
        macro_rules! look {
            ($field:ident, $name:literal, $table:ident, $code:expr) => {{
                let code = $code;
                let entry = self.$table.get(code).map(Entry::code);
                let nearest = if entry.is_none() { self.$table.nearest(code) } else { None };
                check(CpiField::$field, $name, code, entry, nearest)?;
            }};
        }
        look!(Industry, "an industry", industries, cpi.industry());
        look!(City, "a city", cities, cpi.city());
        look!(ResourceType, "a resource type", resource_types, cpi.resource_type());
        look!(ServiceType, "a service type", service_types, cpi.service_type());
        for (model, _) in cpi.chips() {
            look!(Chips, "a chip model", chips, model);
        }
        look!(ServerType, "a server type", server_types, cpi.server_type());
        look!(CpuModel, "a CPU model", chips, cpi.cpu_model());
        if self.chips.get(cpi.cpu_model()).is_some_and(|chip| chip.kind != ChipKind::Cpu) {
            let code = cpi.cpu_model();
            let kind = CpiErrorKind::UnknownCode;
            let expected = "a chip of kind CPU";
            return Err(
                CpiError::new(kind, CpiField::CpuModel, at(code), expected, code.as_bytes()).with_release(self.release)
            );
        }
        if let Some(path) = cpi.path() {
            look!(ChipType, "a chip type", chip_types, path.chip_type);
            if path.chip_model != "ANY" {
                look!(ChipModel, "a chip model", chips, path.chip_model);
            }
        }
        Ok(())
    }

    /// Quantity x peak over the identifier's chips at `precision`, in GFLOPS. `None` unless every chip states that peak.
    pub fn computed_gflops(&self, cpi: &Cpi, precision: Precision) -> Option<u64> {
        let mut sum: Option<u64> = None;
        for (model, count) in cpi.chips() {
            let peak = self.chips.get(model)?.peaks.gflops(precision)?;
            sum = Some(sum.unwrap_or(0).saturating_add(peak.saturating_mul(u64::from(count))));
        }
        sum
    }

    /// Extended resource names of Kubernetes.
    pub fn kubernetes_resources(&self) -> &[ResourceName] {
        &self.kubernetes_resources
    }

    /// The country of a city code, two letters.
    pub fn country(&self, city: &str) -> Option<&str> {
        self.cities.get(city).map(|city| city.country.as_str())
    }
}

fn table<T: Entry>(name: &'static str, entries: Vec<T>) -> Result<Table<T>, LoadDictionaryError> {
    let table = Table::new(entries).map_err(|code| LoadDictionaryError::Duplicate { table: name, code })?;
    for entry in table.iter() {
        let code = entry.code();
        let wrong = |what| LoadDictionaryError::Inconsistent { table: name, code: code.code.clone(), what };
        if !code.code.bytes().all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit()) {
            return Err(wrong("a code has upper-case letters and digits only"));
        }
        if code.valid_to.is_some_and(|end| end <= code.valid_from) {
            return Err(wrong("its validity ends before it begins"));
        }
        if code.successor.as_ref().is_some_and(|successor| table.get(successor).is_none()) {
            return Err(wrong("its successor is not in the table"));
        }
    }
    Ok(table)
}

fn moved<T: Entry>(new: &Table<T>, old: &Table<T>) -> Option<String> {
    old.iter()
        .zip(0u32..)
        .find(|(entry, index)| new.at(*index).is_none_or(|now| now.code().code != entry.code().code))
        .map(|(entry, _)| entry.code().code.clone())
}
