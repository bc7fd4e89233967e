//! What a dictionary release says of a code.

use crate::measures::Measures;
use crate::resource::ChipKind;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A code with its names and the time it holds. Every entry has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Code {
    /// As it stands in identifiers.
    pub code: String,
    /// English name.
    pub name: String,
    /// Chinese name, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_zh: Option<String>,
    /// First day on which new identifiers may use it.
    #[schemars(with = "String")]
    pub valid_from: Date,
    /// First day on which new identifiers may not use it any more. Old ones still resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub valid_to: Option<Date>,
    /// What is used instead since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
}

impl Code {
    /// Whether new identifiers may use the code on `day`.
    pub fn is_valid_on(&self, day: Date) -> bool {
        self.valid_from <= day && self.valid_to.is_none_or(|end| day < end)
    }
}

/// An entry of some table.
pub trait Entry {
    /// Its code.
    fn code(&self) -> &Code;
}

impl Entry for Code {
    fn code(&self) -> &Code {
        self
    }
}

macro_rules! entries {
    ($($name:ident),*) => {
        $(impl Entry for $name {
            fn code(&self) -> &Code {
                &self.code
            }
        })*
    };
}

entries!(City, Industry, Chip);

/// A city.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct City {
    /// `G` and six digits of GB/T 2260, or `U` and five characters of UN/LOCODE.
    #[serde(flatten)]
    pub code: Code,
    /// ISO 3166 country or territory, two letters.
    pub country: String,
    /// The same city's code in the other scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// Latitude in thousandths of a degree, north positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latitude_milli: Option<i32>,
    /// Longitude in thousandths of a degree, east positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longitude_milli: Option<i32>,
}

/// An industry class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Industry {
    /// `G` or `S`, a section letter and four digits.
    #[serde(flatten)]
    pub code: Code,
    /// `GB/T 4754-2017` or `ISIC Rev.4`.
    pub scheme: String,
}

/// A chip model: accelerator or processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Chip {
    /// Its code and names.
    #[serde(flatten)]
    pub code: Code,
    /// Who makes it.
    pub vendor: String,
    /// Its kind.
    pub kind: ChipKind,
    /// Dense theoretical peaks.
    pub peaks: Measures,
    /// Bytes of memory on the chip or card, where it has its own and the amount is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Memory bandwidth in thousandths of a GB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb_per_s: Option<u64>,
    /// Design power in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdp_w: Option<u32>,
    /// PCI vendor and device, lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
    /// Where the figures come from.
    pub source: String,
    /// How sure they are: `high`, `medium` or `low`.
    pub confidence: String,
    /// What to know about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// How platforms name it.
    #[serde(default)]
    pub platforms: PlatformNames,
}

/// How platforms name a chip model. Empty where the platform has no name for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PlatformNames {
    /// Extended resource names on Kubernetes, the plain device plugin's first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes: Vec<String>,
    /// Slurm generic resource, `name:type`, as in `--gres=gpu:h800:8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_gres: Option<String>,
    /// OpenStack Placement resource class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openstack_resource_class: Option<String>,
    /// OpenStack Placement trait that tells the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openstack_trait: Option<String>,
    /// OpenStack Cyborg device type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cyborg_type: Option<String>,
}
