//! Builds identifiers from named fields: what `:encode` takes and `:decode` gives back. The order of lists does not matter.

use super::amount::{Amount, AmountKind, Unit};
use super::cpi::Cpi;
use super::error::{CpiError, CpiErrorKind as Kind};
use super::extension::{self, Extension};
use super::field::CpiField as Field;
use crate::measures::Precision;
use crate::units::{self, Decimal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The fields of an identifier by name.
///
/// Amounts are written as in the identifier (`2870TF64`, `20P`, `400G`, `U`, `0`), or as people write them
/// (`2867.2 TFLOPS FP64`, `20 PB`, `1 TiB`, `400 Gbps`). Capacity is rounded half up to three significant digits; the
/// others are exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpiFields {
    /// Enterprise code with its kind letter.
    pub enterprise: String,
    /// Industry.
    pub industry: String,
    /// City.
    pub city: String,
    /// Availability zone, 3 characters.
    pub zone: String,
    /// Resource type.
    pub resource_type: String,
    /// Service type.
    pub service_type: String,
    /// Nameplate compute.
    #[serde(default = "unknown")]
    pub capacity: String,
    /// Storage.
    #[serde(default = "unknown")]
    pub storage: String,
    /// External bandwidth.
    #[serde(default = "unknown")]
    pub bandwidth: String,
    /// Chips and quantities, at most 4 models.
    #[serde(default)]
    pub chips: Vec<ChipQuantity>,
    /// Server type.
    pub server_type: String,
    /// CPU model.
    pub cpu_model: String,
    /// Cores per server.
    pub cores: u32,
    /// Memory per server, in GiB or larger units.
    #[serde(default = "unknown")]
    pub memory: String,
    /// Storage per server.
    #[serde(default = "unknown")]
    pub server_storage: String,
    /// Number of servers.
    pub servers: u32,
    /// The computing path, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathFields>,
    /// Extensions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Extension>,
}

fn unknown() -> String {
    "U".to_owned()
}

/// A chip model and how many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChipQuantity {
    /// Dictionary code.
    pub model: String,
    /// How many.
    pub count: u32,
}

/// The computing path by names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathFields {
    /// `I` and 8 or `V` and 32 hexadecimal digits, `N` and a node id; or an IPv4 or IPv6 address as people write it.
    pub address: String,
    /// Chip type, or `ANY`.
    #[serde(default = "any")]
    pub chip_type: String,
    /// Chip model, or `ANY`.
    #[serde(default = "any")]
    pub chip_model: String,
    /// `U`, `D`, `B` or `S` and the id, or `ANY`; a UUID may have its hyphens.
    #[serde(default = "any")]
    pub chip_uid: String,
}

fn any() -> String {
    "ANY".to_owned()
}

impl From<&Cpi> for CpiFields {
    fn from(cpi: &Cpi) -> Self {
        let field = |index| cpi.written(index).to_owned();
        Self {
            enterprise: field(0),
            industry: field(1),
            city: field(2),
            zone: field(3),
            resource_type: field(4),
            service_type: field(5),
            capacity: field(6),
            storage: field(7),
            bandwidth: field(8),
            chips: cpi.chips().map(|(model, count)| ChipQuantity { model: model.to_owned(), count }).collect(),
            server_type: field(10),
            cpu_model: field(11),
            cores: cpi.cores(),
            memory: field(13),
            server_storage: field(14),
            servers: cpi.servers(),
            path: cpi.path().map(|path| PathFields {
                address: path.address.to_owned(),
                chip_type: path.chip_type.to_owned(),
                chip_model: path.chip_model.to_owned(),
                chip_uid: path.chip_uid.to_owned(),
            }),
            extensions: cpi
                .extensions()
                .map(|(key, value)| Extension { key: key.to_owned(), value: value.to_owned() })
                .collect(),
        }
    }
}

impl CpiFields {
    /// The identifier of these fields.
    ///
    /// # Errors
    /// [`CpiError`] names the field. Its offset counts in the field's own text where an amount cannot be read, else in the
    /// text of the identifier as it was put together.
    pub fn build(&self) -> Result<Cpi, CpiError> {
        self.check_separators()?;
        let mut text = String::with_capacity(super::TEXT_BYTES_MAX);
        let enterprise = &self.enterprise;
        let _ = write!(text, "cpi:1:{enterprise}-{}-{}-{}", self.industry, self.city, self.zone);
        let _ = write!(text, ".{}-{}", self.resource_type, self.service_type);
        let _ = write!(text, "-{}", capacity(&self.capacity)?);
        let _ = write!(text, "-{}", amount(&self.storage, AmountKind::Storage, Field::Storage)?);
        let _ = write!(text, "-{}-", amount(&self.bandwidth, AmountKind::Bandwidth, Field::Bandwidth)?);
        if self.chips.is_empty() {
            text.push('0');
        }
        for (at, chip) in self.chips.iter().enumerate() {
            let _ = write!(text, "{}{}_{}", if at > 0 { "_" } else { "" }, chip.model, chip.count);
        }
        let _ = write!(text, ".{}-{}-{}", self.server_type, self.cpu_model, self.cores);
        let _ = write!(text, "-{}", amount(&self.memory, AmountKind::Memory, Field::Memory)?);
        let _ = write!(text, "-{}", amount(&self.server_storage, AmountKind::Storage, Field::ServerStorage)?);
        let _ = write!(text, "-{}", self.servers);
        if let Some(path) = &self.path {
            let address = address(&path.address);
            let _ = write!(text, "/{address}/{}/{}/{}", path.chip_type, path.chip_model, uid(&path.chip_uid));
        }
        // a fresh identifier has no order of extensions to keep
        let mut extensions: Vec<_> = self.extensions.iter().collect();
        extensions.sort_by(|a, b| (a.key.to_ascii_uppercase(), &a.value).cmp(&(b.key.to_ascii_uppercase(), &b.value)));
        for extension in extensions {
            let _ = write!(text, "~{}{}", extension.key, extension.value);
        }
        Cpi::seal(&text)
    }

    /// No field may bring a separator of the grammar along and so become several fields.
    fn check_separators(&self) -> Result<(), CpiError> {
        let path = self
            .path
            .iter()
            .flat_map(|path| [(Field::ChipType, &path.chip_type), (Field::ChipModel, &path.chip_model)]);
        let fields = [
            (Field::Enterprise, &self.enterprise),
            (Field::Industry, &self.industry),
            (Field::City, &self.city),
            (Field::Zone, &self.zone),
            (Field::ResourceType, &self.resource_type),
            (Field::ServiceType, &self.service_type),
            (Field::ServerType, &self.server_type),
            (Field::CpuModel, &self.cpu_model),
        ]
        .into_iter()
        .chain(self.chips.iter().map(|chip| (Field::Chips, &chip.model)))
        .chain(path)
        .chain(self.extensions.iter().flat_map(|e| [(Field::Extension, &e.key), (Field::Extension, &e.value)]));
        for (field, text) in fields {
            if let Some(at) = text.bytes().position(|octet| !octet.is_ascii_alphanumeric()) {
                return Err(CpiError::new(Kind::Syntax, field, at, "letters and digits only", &text.as_bytes()[at..]));
            }
        }
        for extension in &self.extensions {
            if extension.key.len() != 2 {
                let key = extension.key.as_bytes();
                return Err(CpiError::new(Kind::Syntax, Field::Extension, 0, "a key of 2 letters", key));
            }
        }
        Ok(())
    }

    /// The partition (extension `PN`), which is part of the identity.
    pub fn partition(&self) -> Option<&str> {
        self.extensions.iter().find(|e| e.key == extension::PARTITION).map(|e| e.value.as_str())
    }
}

fn wrong(field: Field, expected: &'static str, text: &str) -> CpiError {
    CpiError::new(Kind::Syntax, field, 0, expected, text.as_bytes())
}

fn print(amount: Amount) -> String {
    match amount {
        Amount::Unknown => "U".to_owned(),
        Amount::Zero => "0".to_owned(),
        Amount::Of(number, unit) => format!("{number}{}", unit.letter()),
    }
}

/// `digits / 10^decimals` of 10^`exponent`, in the smallest unit of the kind, where that is whole.
fn reduced(number: Decimal, exponent: u32, kind: AmountKind, field: Field, text: &str) -> Result<Amount, CpiError> {
    const RANGE: &str =
        "a whole number of the smallest unit (M for bandwidth, else G), at most 999999E (T for bandwidth)";
    let smallest = if kind == AmountKind::Bandwidth { Unit::Mega } else { Unit::Giga };
    let out_of_range = || CpiError::new(Kind::OutOfRange, field, 0, RANGE, text.as_bytes());
    let scale = exponent.checked_sub(smallest.exponent()).ok_or_else(out_of_range)?;
    let scaled = number.digits.checked_mul(10u128.pow(scale)).ok_or_else(out_of_range)?;
    let divisor = 10u128.pow(number.decimals);
    let whole = if kind == AmountKind::Capacity {
        // half up to three digits of the exact value; below three digits, to whole GFLOPS
        let rounded = super::amount::round_significant(scaled);
        if rounded / divisor >= 100 { rounded / divisor } else { (scaled + divisor / 2) / divisor }
    } else if scaled.is_multiple_of(divisor) {
        scaled / divisor
    } else {
        return Err(out_of_range());
    };
    Amount::reduce(whole, smallest, kind).ok_or_else(out_of_range)
}

fn capacity(text: &str) -> Result<String, CpiError> {
    const EXPECTED: &str = "U, 0, a number with G, T, P or E and F64, F32, T32, F16, B16, F08 or I08 (2870TF64), \
                            or as in 2867.2 TFLOPS FP64";
    let trimmed = text.trim();
    if trimmed == "0" || trimmed.eq_ignore_ascii_case("U") {
        return Ok(trimmed.to_ascii_uppercase());
    }
    let (number, rest) = units::split_unit(trimmed);
    let number = Decimal::parse(number).ok_or_else(|| wrong(Field::Capacity, EXPECTED, text))?;
    let short = || {
        let (unit, precision) = rest.split_at_checked(1)?;
        let unit = Unit::from_letter(unit.as_bytes()[0].to_ascii_uppercase())?;
        Some((unit.exponent(), Precision::from_code(precision.to_ascii_uppercase().as_bytes())?))
    };
    let long = || {
        let (unit, precision) = rest.split_once(char::is_whitespace)?;
        let precision = Precision::from_name(precision.trim())?;
        let upper = unit.to_ascii_uppercase();
        let letter = upper.strip_suffix(if precision == Precision::Int8 { "OPS" } else { "FLOPS" })?;
        let unit = Unit::from_letter(*letter.as_bytes().first().filter(|_| letter.len() == 1)?)?;
        Some((unit.exponent(), precision))
    };
    let (exponent, precision) = short().or_else(long).ok_or_else(|| wrong(Field::Capacity, EXPECTED, text))?;
    let amount = reduced(number, exponent, AmountKind::Capacity, Field::Capacity, text)?;
    Ok(if amount == Amount::Zero { "0".to_owned() } else { print(amount) + precision.code() })
}

fn amount(text: &str, kind: AmountKind, field: Field) -> Result<String, CpiError> {
    let expected = match kind {
        AmountKind::Bandwidth => "U, 0, a number with M, G or T, or with Mbps, Gbps or Tbps",
        AmountKind::Memory => "U, 0, a number with G (GiB), T, P or E, or as in 512 GiB or 2 TiB",
        _ => "U, 0, a number with G, T, P or E, or as in 20 PB",
    };
    let trimmed = text.trim();
    if trimmed == "0" || trimmed.eq_ignore_ascii_case("U") {
        return Ok(trimmed.to_ascii_uppercase());
    }
    let (number, unit) = units::split_unit(trimmed);
    let number = Decimal::parse(number).ok_or_else(|| wrong(field, expected, text))?;
    let refuse = || wrong(field, expected, text);
    if kind == AmountKind::Memory && matches!(unit, "G" | "g" | "GiB" | "Gi" | "TiB" | "Ti" | "PiB" | "Pi") {
        let gib = match unit.as_bytes()[0] {
            b'T' => 1 << 10,
            b'P' => 1 << 20,
            _ => 1,
        };
        let whole = number.times(gib).ok_or_else(refuse)?;
        let amount = Amount::reduce(u128::from(whole), Unit::Giga, kind);
        return amount.map(print).ok_or_else(refuse);
    }
    let exponent = match (kind, unit) {
        (AmountKind::Bandwidth, "M" | "m" | "Mbps" | "Mbit/s") => 6,
        (AmountKind::Bandwidth, "G" | "g" | "Gbps" | "Gbit/s") => 9,
        (AmountKind::Bandwidth, "T" | "t" | "Tbps" | "Tbit/s") => 12,
        (AmountKind::Bandwidth, _) => return Err(refuse()),
        (AmountKind::Storage, "G" | "g" | "GB") => 9,
        (_, "T" | "t" | "TB") => 12,
        (_, "P" | "p" | "PB") => 15,
        (_, "E" | "e" | "EB") => 18,
        _ => return Err(refuse()),
    };
    // decimal units of a memory field begin at T: what is not whole there has no text
    if kind == AmountKind::Memory {
        let tera = number.times(10u128.pow(exponent - 12)).ok_or_else(refuse)?;
        return Amount::reduce(u128::from(tera), Unit::Tera, kind).map(print).ok_or_else(refuse);
    }
    reduced(number, exponent, kind, field, text).map(print)
}

fn address(text: &str) -> String {
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(address)) => format!("I{}", data_encoding::HEXUPPER.encode(&address.octets())),
        Ok(std::net::IpAddr::V6(address)) => format!("V{}", data_encoding::HEXUPPER.encode(&address.octets())),
        Err(_) => text.to_owned(),
    }
}

fn uid(text: &str) -> String {
    let bare: String = text.chars().filter(|&c| c != '-').collect();
    let hexadecimal = bare.len() == 32 && bare.bytes().all(|octet| octet.is_ascii_hexdigit());
    if hexadecimal && text.len() == 36 { format!("U{bare}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests;
