//! The fields a filter may name: of the identifier, of its measures, and of the status of its pool.

use crate::measures::Precision;
use crate::units;

/// How a field's numbers are counted and which units a literal may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumberKind {
    /// Whole things; no unit.
    Count,
    /// Bytes; a literal without a unit is bytes.
    Bytes,
    /// Mbit/s; a literal needs `Mbps`, `Gbps` or `Tbps`.
    BitRate,
    /// GFLOPS or GOPS; a literal needs a unit such as `PFLOPS`, unless the field's name has it.
    Compute,
    /// Thousandths; a literal counts whole ones and may have decimals.
    Milli,
    /// Millionths; a literal counts whole ones and may have decimals.
    Micro,
    /// Milliseconds; a literal has `ms` or `s`, or no unit for milliseconds.
    Time,
}

/// What a field's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// Text; compared octet by octet after it was put into upper case where the field is a code.
    Text,
    /// A number.
    Number(NumberKind),
    /// `true` or `false`.
    Flag,
}

macro_rules! fields {
    ($($variant:ident, $name:literal, $kind:expr, $doc:literal;)*) => {
        /// A field that a filter may name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FilterField {
            $(#[doc = $doc] $variant,)*
            /// `ext.KK`: the value of extension `KK`.
            Extension([u8; 2]),
            /// `fp16`, `int8`, ...: the identifier's compute at this precision: quantity x peak of the chips that state one,
            /// else the stated capacity.
            Measure(Precision),
            /// `chip_fp16`, ...: dense peak of one chip at this precision; one value per chip model.
            ChipMeasure(Precision),
        }

        impl FilterField {
            /// Fields with a fixed name: the name, the field, what it means.
            pub const NAMED: &'static [(&'static str, FilterField, &'static str)] = &[$(($name, FilterField::$variant, $doc),)*];

            /// What its values are.
            pub fn kind(self) -> FieldKind {
                use FieldKind::{Flag, Number, Text};
                use NumberKind::{BitRate, Bytes, Compute, Count, Micro, Milli, Time};
                let _ = (Flag, Count, Time);
                match self {
                    $(Self::$variant => $kind,)*
                    Self::Extension(_) => Text,
                    Self::Measure(_) | Self::ChipMeasure(_) => Number(Compute),
                }
            }
        }
    };
}

fields! {
    Cpi, "cpi", Text, "The identifier's text; `cpi ^= \"cpi:1:C91\"` matches a prefix.";
    Key, "key", Text, "The stable key.";
    Enterprise, "enterprise", Text, "X: enterprise code with its kind letter.";
    Industry, "industry", Text, "X: industry code.";
    City, "city", Text, "X: city code; the code of the same city in the other scheme matches too.";
    Country, "country", Text, "Country of the city, by the dictionary.";
    Zone, "zone", Text, "X: availability zone.";
    Class, "class", Text, "Y: resource type, for example IC.";
    Service, "service", Text, "Y: service type, for example CT.";
    Storage, "storage", Number(Bytes), "Y: storage of the pool.";
    Bandwidth, "bandwidth", Number(BitRate), "Y: external bandwidth.";
    Chip, "chip", Text, "Y: chip models; one value per model.";
    ChipKind, "chip_kind", Text, "Kinds of the chips, by the dictionary.";
    Vendor, "vendor", Text, "Vendors of the chips, by the dictionary.";
    ChipMemory, "chip_memory", Number(Bytes), "Memory of one chip, by the dictionary; one value per model.";
    ChipCount, "chip_count", Number(Count), "Y: quantity of chips, all models.";
    ServerType, "server_type", Text, "Y': server type.";
    CpuModel, "cpu_model", Text, "Y': CPU model.";
    Cores, "cores", Number(Count), "Y': cores per server.";
    Memory, "memory", Number(Bytes), "Y': memory per server.";
    ServerStorage, "server_storage", Number(Bytes), "Y': storage per server.";
    Servers, "servers", Number(Count), "Y': number of servers.";
    Address, "address", Text, "Z: computing address.";
    PathChipType, "chip_type", Text, "Z: chip type.";
    PathChipModel, "chip_model", Text, "Z: chip model.";
    ChipUid, "chip_uid", Text, "Z: unique id of the chip.";
    State, "state", Text, "State of the registration: active, pending or retired.";
    Member, "member", Text, "Status: the member that answers for it, for example m7.";
    Region, "region", Text, "Status: region.";
    Pool, "pool", Text, "Status: pool.";
    Backend, "backend", Text, "Status: backend of the pool.";
    Firmness, "firmness", Text, "Status: held, reserved or estimate.";
    Cordoned, "cordoned", Flag, "Status: whether the pool takes no new work.";
    FreeChips, "free_chips", Number(Milli), "Status: free chips.";
    FreeCpu, "free_cpu", Number(Milli), "Status: free cores.";
    FreeMemory, "free_memory", Number(Bytes), "Status: free memory.";
    FitChips, "fit_chips", Number(Milli), "Status: the most chips that one task could get on one server now.";
    FitCpu, "fit_cpu", Number(Milli), "Status: the most cores that one task could get on one server now.";
    FitMemory, "fit_memory", Number(Bytes), "Status: the most memory that one task could get on one server now.";
    Queue, "queue", Number(Count), "Status: tasks waiting at the region.";
    ChipHourPrice, "chip_hour_price", Number(Micro), "Status: price of a chip and hour, in the main unit of the pool's currency.";
    CoreHourPrice, "core_hour_price", Number(Micro), "Status: price of a core and hour, in the main unit of the pool's currency.";
    Currency, "currency", Text, "Status: currency of the prices.";
    Carbon, "carbon", Number(Count), "Status: grams of CO2 per kWh at the site.";
    Rtt, "rtt", Number(Time), "Status: measured round trip from the asking node.";
}

/// A field as named, with the unit that its name carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NamedField {
    pub(super) field: FilterField,
    /// GFLOPS of one unit where the name ends in a unit, as in `fp16_pflops`.
    pub(super) unit: Option<(u128, u128)>,
}

fn measure(name: &str) -> Option<NamedField> {
    let (per_chip, rest) = match name.strip_prefix("chip_") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    let (precision, unit) = rest.split_once('_').map_or((rest, None), |(precision, unit)| (precision, Some(unit)));
    let precision = Precision::ALL.into_iter().find(|p| p.name().to_ascii_lowercase() == precision)?;
    let unit = match unit {
        None => None,
        Some(unit) if unit.ends_with("flops") == (precision != Precision::Int8) => Some(units::compute_unit(unit)?),
        Some(_) => return None,
    };
    let field = if per_chip { FilterField::ChipMeasure(precision) } else { FilterField::Measure(precision) };
    Some(NamedField { field, unit })
}

/// The field of a name; `Err` is the nearest name there is.
pub(super) fn named(name: &str) -> Result<NamedField, Option<String>> {
    if let Some((_, field, _)) = FilterField::NAMED.iter().find(|(known, ..)| *known == name) {
        return Ok(NamedField { field: *field, unit: None });
    }
    if let Some(key) = name.strip_prefix("ext.") {
        return match key.as_bytes() {
            &[a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => Ok(NamedField {
                field: FilterField::Extension([a.to_ascii_uppercase(), b.to_ascii_uppercase()]),
                unit: None,
            }),
            _ => Err(Some("ext.PN".to_owned())),
        };
    }
    if let Some(field) = measure(name) {
        return Ok(field);
    }
    let measures = Precision::ALL.into_iter().flat_map(|p| {
        let name = p.name().to_ascii_lowercase();
        let unit = if p == Precision::Int8 { "ops" } else { "flops" };
        [format!("{name}_p{unit}"), format!("{name}_t{unit}"), format!("chip_{name}_t{unit}"), name]
    });
    let nearest = FilterField::NAMED
        .iter()
        .map(|(known, ..)| (*known).to_owned())
        .chain(measures)
        .map(|known| (strsim::damerau_levenshtein(name, &known), known))
        .min()
        .filter(|(distance, known)| *distance <= 3 && *distance * 2 < known.len())
        .map(|(_, known)| known);
    Err(nearest)
}

impl FilterField {
    /// Whether only a pool's status has it; an identifier alone does not.
    pub fn is_status(self) -> bool {
        use FilterField as F;
        matches!(
            self,
            F::Member
                | F::Region
                | F::Pool
                | F::Backend
                | F::Firmness
                | F::Cordoned
                | F::FreeChips
                | F::FreeCpu
                | F::FreeMemory
                | F::FitChips
                | F::FitCpu
                | F::FitMemory
                | F::Queue
                | F::ChipHourPrice
                | F::CoreHourPrice
                | F::Currency
                | F::Carbon
                | F::Rtt
        )
    }

    /// Whether its texts are codes: upper case whatever the filter wrote.
    pub(super) fn is_code(self) -> bool {
        !matches!(
            self,
            Self::Cpi
                | Self::Vendor
                | Self::State
                | Self::Member
                | Self::Region
                | Self::Pool
                | Self::Backend
                | Self::Firmness
        )
    }
}
