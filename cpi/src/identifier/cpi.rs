//! The identifier: its canonical text and where its fields stand in it.

use super::amount::{Amount, Capacity, Unit};
use super::error::CpiError;
use super::{extension, parse};
use crate::ids::StableKey;
use crate::measures::Precision;
use crate::resource::{ChipKind, ComputeClass};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Fields of X, Y and Y'.
pub(super) const PREFIX_FIELDS: usize = 16;
/// Fields of Z.
pub(super) const PATH_FIELDS: usize = 4;
/// All fields between the version and the extensions.
pub(super) const FIELDS: usize = PREFIX_FIELDS + PATH_FIELDS;

/// Where each field ends; it begins one separator after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Layout {
    pub(super) ends: [u16; FIELDS],
    pub(super) has_path: bool,
}

impl Layout {
    /// After `cpi:1:`.
    pub(super) const PREFIX_START: usize = 6;
}

/// A Computing Power Identifier of version 1: one canonical text, checked against the grammar and its check characters.
///
/// Whether its codes exist is the dictionary's question ([`crate::dictionary::Dictionary::check`]). Two identifiers are
/// equal when their texts are; they name the same resource when their [stable keys](Self::stable_key) are.
#[derive(Clone)]
pub struct Cpi {
    text: Box<str>,
    layout: Layout,
}

impl Cpi {
    pub(super) fn from_parts(text: Box<str>, layout: Layout) -> Self {
        Self { text, layout }
    }

    /// Reads the text form. Lower case, unsorted chips and amounts in a smaller unit are accepted and made canonical.
    ///
    /// # Errors
    /// [`CpiError`] names the first wrong field, its octet offset and what was expected.
    pub fn parse(text: &str) -> Result<Self, CpiError> {
        parse::parse(text.as_bytes())
    }

    /// As [`Self::parse`], from octets of unknown encoding.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_octets(octets: &[u8]) -> Result<Self, CpiError> {
        parse::parse(octets)
    }

    /// Reads a text without its `~check`, computes the check and makes it canonical: what a builder does last.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn seal(text_without_check: &str) -> Result<Self, CpiError> {
        parse::seal(text_without_check)
    }

    /// The canonical text: what is signed, stored and relayed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn field(&self, index: usize) -> &str {
        let start = if index == 0 { Layout::PREFIX_START } else { usize::from(self.layout.ends[index - 1]) + 1 };
        &self.text[start..usize::from(self.layout.ends[index])]
    }

    fn number(&self, index: usize) -> u32 {
        self.field(index).bytes().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
    }

    fn amount(&self, index: usize) -> Amount {
        let text = self.field(index).as_bytes();
        match text {
            b"U" => Amount::Unknown,
            b"0" => Amount::Zero,
            _ => {
                let unit_at = text.iter().position(|octet| !octet.is_ascii_digit()).expect("an amount has a unit");
                let number = text[..unit_at].iter().fold(0, |number, &digit| number * 10 + u32::from(digit - b'0'));
                Amount::Of(number, Unit::from_letter(text[unit_at]).expect("the unit was checked"))
            }
        }
    }

    /// X, Y and Y' with `cpi:1:` before them: the identifier of the pool, without path, extensions and check.
    pub fn prefix(&self) -> &str {
        &self.text[..usize::from(self.layout.ends[PREFIX_FIELDS - 1])]
    }

    /// X: `enterprise-industry-city-zone`.
    pub fn registration(&self) -> &str {
        &self.text[Layout::PREFIX_START..usize::from(self.layout.ends[3])]
    }

    /// X: enterprise code with its kind letter, for example `C91110108MA00CP019A`.
    pub fn enterprise(&self) -> &str {
        self.field(0)
    }

    /// X: industry, for example `GI6450`.
    pub fn industry(&self) -> &str {
        self.field(1)
    }

    /// X: city, for example `G110100` or `UDEFRA`.
    pub fn city(&self) -> &str {
        self.field(2)
    }

    /// X: availability zone.
    pub fn zone(&self) -> &str {
        self.field(3)
    }

    /// Y: resource type as written, for example `IC`.
    pub fn resource_type(&self) -> &str {
        self.field(4)
    }

    /// Y: resource type.
    pub fn class(&self) -> ComputeClass {
        match self.field(4) {
            "GC" => ComputeClass::General,
            "IC" => ComputeClass::Intelligent,
            "SC" => ComputeClass::Super,
            "EC" => ComputeClass::Edge,
            _ => ComputeClass::Hybrid,
        }
    }

    /// Y: service type, for example `VM`.
    pub fn service_type(&self) -> &str {
        self.field(5)
    }

    /// Y: nameplate compute capacity.
    pub fn capacity(&self) -> Capacity {
        match self.amount(6) {
            Amount::Unknown => Capacity::Unknown,
            Amount::Zero => Capacity::Zero,
            amount @ Amount::Of(..) => {
                let text = self.field(6).as_bytes();
                let precision = Precision::from_code(&text[text.len() - 3..]).expect("the precision was checked");
                Capacity::Of { amount, precision }
            }
        }
    }

    /// Y: capacity as written.
    pub fn capacity_text(&self) -> &str {
        self.field(6)
    }

    /// Y: storage.
    pub fn storage(&self) -> Amount {
        self.amount(7)
    }

    /// Y: external bandwidth.
    pub fn bandwidth(&self) -> Amount {
        self.amount(8)
    }

    /// Y: chip models with their quantities, sorted by model.
    pub fn chips(&self) -> impl Iterator<Item = (&str, u32)> + Clone {
        let mut parts = self.field(9).split('_');
        std::iter::from_fn(move || {
            let model = parts.next()?;
            let count = parts.next()?;
            Some((model, count.bytes().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))))
        })
    }

    /// Y': server type, for example `GP`.
    pub fn server_type(&self) -> &str {
        self.field(10)
    }

    /// Y': CPU model.
    pub fn cpu_model(&self) -> &str {
        self.field(11)
    }

    /// Y': cores per server.
    pub fn cores(&self) -> u32 {
        self.number(12)
    }

    /// Y': memory per server; see [`Amount::memory_bytes`].
    pub fn memory(&self) -> Amount {
        self.amount(13)
    }

    /// Y': storage per server.
    pub fn server_storage(&self) -> Amount {
        self.amount(14)
    }

    /// Y': number of servers.
    pub fn servers(&self) -> u32 {
        self.number(15)
    }

    /// Field `index` as written, in the order of the grammar from the enterprise (0) to the chip's unique id (19).
    pub(super) fn written(&self, index: usize) -> &str {
        self.field(index)
    }

    /// Z: the computing path, where there is one.
    pub fn path(&self) -> Option<CpiPath<'_>> {
        self.layout.has_path.then(|| CpiPath {
            address: self.field(16),
            chip_type: self.field(17),
            chip_model: self.field(18),
            chip_uid: self.field(19),
        })
    }

    /// Keys and values of the extensions, in order.
    pub fn extensions(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let start = usize::from(self.layout.ends[FIELDS - 1]);
        self.text[start..self.text.len() - 8].split('~').skip(1).map(|extension| extension.split_at(2))
    }

    /// The value of the first extension with this key.
    pub fn extension(&self, key: &str) -> Option<&str> {
        self.extensions().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// The 7 check characters.
    pub fn check(&self) -> &str {
        &self.text[self.text.len() - 7..]
    }

    /// Calls `each` with the pieces of the identity projection, which joined are what the stable key hashes.
    fn project(&self, mut each: impl FnMut(&str)) {
        for index in [0, 2, 3, 4, 5] {
            each(self.field(index));
            each("|");
        }
        let mut first = true;
        for (model, _) in self.chips() {
            if !first {
                each("_");
            }
            first = false;
            each(model);
        }
        each("|");
        each(self.field(10));
        each("|");
        each(self.field(11));
        each("|");
        each(self.extension(extension::PARTITION).unwrap_or_default());
        if let Some(path) = self.path().filter(|path| !path.is_whole_pool()) {
            for part in [path.chip_type, path.chip_model, path.chip_uid] {
                each("|");
                each(part);
            }
        }
    }

    /// The identity fields, joined by `|`: enterprise, city, zone, resource type, service type, chip models joined by `_`,
    /// server type, CPU model, partition (extension `PN`, else empty), and for a path that names more than `ANY/ANY/ANY`
    /// its chip type, chip model and unique id. Everything else is an attribute that may change under the same key.
    pub fn identity_projection(&self) -> String {
        let mut out = String::with_capacity(128);
        self.project(|piece| out.push_str(piece));
        out
    }

    /// The first 128 bits of SHA-256 over the identity projection.
    pub fn stable_key(&self) -> StableKey {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        self.project(|piece| hash.update(piece.as_bytes()));
        let digest: [u8; 32] = hash.finalize().into();
        let mut key = [0u8; 16];
        key.copy_from_slice(&digest[..16]);
        StableKey(key)
    }
}

/// Z: the path to a node or a chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CpiPath<'a> {
    /// `I`, `V` or `N` and the address.
    pub address: &'a str,
    /// Chip type or `ANY`.
    pub chip_type: &'a str,
    /// Chip model or `ANY`.
    pub chip_model: &'a str,
    /// `U`, `D`, `B` or `S` and the id, or `ANY`.
    pub chip_uid: &'a str,
}

impl CpiPath<'_> {
    /// Whether it picks nothing out of the pool: `ANY/ANY/ANY` behind the address.
    pub fn is_whole_pool(&self) -> bool {
        self.chip_type == "ANY" && self.chip_model == "ANY" && self.chip_uid == "ANY"
    }

    /// The chip's kind, where it names one.
    pub fn kind(&self) -> Option<ChipKind> {
        ChipKind::from_code(self.chip_type)
    }
}

impl fmt::Display for Cpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cpi({})", self.text)
    }
}

impl PartialEq for Cpi {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cpi {}

impl PartialOrd for Cpi {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cpi {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl std::hash::Hash for Cpi {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl AsRef<str> for Cpi {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl FromStr for Cpi {
    type Err = CpiError;
    fn from_str(text: &str) -> Result<Self, CpiError> {
        Self::parse(text)
    }
}

impl Serialize for Cpi {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Cpi {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Cpi {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cpi".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 512,
            "pattern": "^cpi:1:[0-9A-Z._/~-]+~[0-3][0-9A-HJKMNP-TV-Z]{6}$",
            "description": "A Computing Power Identifier in its canonical text form.",
        })
    }
}
