//! Where a filter's values come from.

use super::field::FilterField;
use crate::dictionary::Dictionary;
use crate::identifier::Cpi;
use crate::resource::{ClassStatus, Firmness, PoolSpec};

/// A value of a field. Numbers are in the field's base unit, see [`super::NumberKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// Number.
    Number(u64),
    /// Flag.
    Flag(bool),
}

/// Something that has fields. A field without a value makes every comparison of it false.
pub trait FieldSource {
    /// Calls `each` with every value of `field`; not at all where there is none.
    fn values(&self, field: FilterField, each: &mut dyn FnMut(Value<'_>));
}

impl<S: FieldSource + ?Sized> FieldSource for &S {
    fn values(&self, field: FilterField, each: &mut dyn FnMut(Value<'_>)) {
        (**self).values(field, each);
    }
}

/// Two sources side by side, for example an identifier and its status.
impl<A: FieldSource, B: FieldSource> FieldSource for (A, B) {
    fn values(&self, field: FilterField, each: &mut dyn FnMut(Value<'_>)) {
        self.0.values(field, each);
        self.1.values(field, each);
    }
}

/// The fields of an identifier: what its text says, and what the dictionary knows of its codes.
#[derive(Debug, Clone, Copy)]
pub struct IdentifierSource<'a> {
    /// The identifier.
    pub cpi: &'a Cpi,
    /// Where its codes are looked up.
    pub dictionary: &'a Dictionary,
}

impl FieldSource for IdentifierSource<'_> {
    fn values(&self, field: FilterField, each: &mut dyn FnMut(Value<'_>)) {
        use FilterField as F;
        let (cpi, dictionary) = (self.cpi, self.dictionary);
        let mut text = |value: &str| each(Value::Text(value));
        match field {
            F::Cpi => text(cpi.as_str()),
            F::Key => text(&cpi.stable_key().to_string()),
            F::Enterprise => text(cpi.enterprise()),
            F::Industry => text(cpi.industry()),
            F::City => {
                text(cpi.city());
                if let Some(other) = dictionary.cities.get(cpi.city()).and_then(|city| city.same_as.as_deref()) {
                    text(other);
                }
            }
            F::Country => {
                if let Some(country) = dictionary.country(cpi.city()) {
                    text(country);
                }
            }
            F::Zone => text(cpi.zone()),
            F::Class => text(cpi.resource_type()),
            F::Service => text(cpi.service_type()),
            F::Chip => cpi.chips().for_each(|(model, _)| text(model)),
            F::ServerType => text(cpi.server_type()),
            F::CpuModel => text(cpi.cpu_model()),
            F::Extension(key) => {
                for (k, value) in cpi.extensions() {
                    if k.as_bytes() == key {
                        text(value);
                    }
                }
            }
            F::Address | F::PathChipType | F::PathChipModel | F::ChipUid => {
                if let Some(path) = cpi.path() {
                    text(match field {
                        F::Address => path.address,
                        F::PathChipType => path.chip_type,
                        F::PathChipModel => path.chip_model,
                        _ => path.chip_uid,
                    });
                }
            }
            F::ChipKind | F::Vendor => {
                for chip in cpi.chips().filter_map(|(model, _)| dictionary.chips.get(model)) {
                    text(if field == F::ChipKind { chip.kind.code() } else { &chip.vendor });
                }
            }
            F::ChipMemory | F::ChipMeasure(_) => {
                for chip in cpi.chips().filter_map(|(model, _)| dictionary.chips.get(model)) {
                    let value = match field {
                        F::ChipMeasure(precision) => chip.peaks.gflops(precision),
                        _ => chip.memory_bytes,
                    };
                    value.into_iter().for_each(|value| each(Value::Number(value)));
                }
            }
            _ => self.number(field).into_iter().for_each(|number| each(Value::Number(number))),
        }
    }
}

impl IdentifierSource<'_> {
    fn number(&self, field: FilterField) -> Option<u64> {
        use FilterField as F;
        let cpi = self.cpi;
        match field {
            F::Storage => cpi.storage().storage_bytes(),
            F::Bandwidth => cpi.bandwidth().mega(),
            F::ChipCount => Some(cpi.chips().map(|(_, count)| u64::from(count)).sum()),
            F::Cores => Some(u64::from(cpi.cores())),
            F::Memory => cpi.memory().memory_bytes(),
            F::ServerStorage => cpi.server_storage().storage_bytes(),
            F::Servers => Some(u64::from(cpi.servers())),
            F::Measure(precision) => {
                let known = cpi
                    .chips()
                    .filter_map(|(model, count)| {
                        let peak = self.dictionary.chips.get(model)?.peaks.gflops(precision)?;
                        Some(peak.saturating_mul(u64::from(count)))
                    })
                    .reduce(u64::saturating_add);
                known.or_else(|| cpi.capacity().stated().filter(|(_, p)| *p == precision).map(|(gflops, _)| gflops))
            }
            _ => None,
        }
    }
}

/// The fields of a pool's status. Fields that are not known stay `None` and have no value.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "each field is the filter field of its name")]
pub struct StatusSource<'a> {
    pub state: Option<&'a str>,
    pub member: Option<&'a str>,
    pub region: Option<&'a str>,
    pub pool: Option<&'a str>,
    pub backend: Option<&'a str>,
    pub firmness: Option<Firmness>,
    pub cordoned: Option<bool>,
    pub free_chip_milli: Option<u64>,
    pub free_cpu_milli: Option<u64>,
    pub free_memory_bytes: Option<u64>,
    pub fit_chip_milli: Option<u64>,
    pub fit_cpu_milli: Option<u64>,
    pub fit_memory_bytes: Option<u64>,
    pub queue: Option<u64>,
    pub chip_hour_micro: Option<u64>,
    pub core_hour_micro: Option<u64>,
    pub currency: Option<&'a str>,
    pub carbon_g_per_kwh: Option<u64>,
    pub rtt_ms: Option<u64>,
}

impl<'a> StatusSource<'a> {
    /// What a pool's declaration and the status of its server classes say.
    pub fn of_pool(pool: &'a PoolSpec, classes: &[ClassStatus]) -> Self {
        let free = |part: fn(&ClassStatus) -> u64| Some(classes.iter().map(part).fold(0, u64::saturating_add));
        let fit = |part: fn(&ClassStatus) -> u64| classes.iter().map(part).max();
        Self {
            pool: Some(&pool.name),
            backend: Some(&pool.backend),
            firmness: Some(pool.firmness),
            cordoned: Some(pool.cordoned),
            free_chip_milli: free(|c| c.free.chip_milli),
            free_cpu_milli: free(|c| c.free.cpu_milli),
            free_memory_bytes: free(|c| c.free.memory_bytes),
            fit_chip_milli: fit(|c| c.largest_fit.chip_milli),
            fit_cpu_milli: fit(|c| c.largest_fit.cpu_milli),
            fit_memory_bytes: fit(|c| c.largest_fit.memory_bytes),
            chip_hour_micro: Some(pool.price.chip_hour_micro),
            core_hour_micro: Some(pool.price.cpu_core_hour_micro),
            currency: Some(&pool.price.currency),
            carbon_g_per_kwh: pool.carbon_g_per_kwh.map(u64::from),
            ..Self::default()
        }
    }
}

impl FieldSource for StatusSource<'_> {
    fn values(&self, field: FilterField, each: &mut dyn FnMut(Value<'_>)) {
        use FilterField as F;
        let value = match field {
            F::State => self.state.map(Value::Text),
            F::Member => self.member.map(Value::Text),
            F::Region => self.region.map(Value::Text),
            F::Pool => self.pool.map(Value::Text),
            F::Backend => self.backend.map(Value::Text),
            F::Firmness => self.firmness.map(|firmness| {
                Value::Text(match firmness {
                    Firmness::Held => "held",
                    Firmness::Reserved => "reserved",
                    Firmness::Estimate => "estimate",
                })
            }),
            F::Cordoned => self.cordoned.map(Value::Flag),
            F::FreeChips => self.free_chip_milli.map(Value::Number),
            F::FreeCpu => self.free_cpu_milli.map(Value::Number),
            F::FreeMemory => self.free_memory_bytes.map(Value::Number),
            F::FitChips => self.fit_chip_milli.map(Value::Number),
            F::FitCpu => self.fit_cpu_milli.map(Value::Number),
            F::FitMemory => self.fit_memory_bytes.map(Value::Number),
            F::Queue => self.queue.map(Value::Number),
            F::ChipHourPrice => self.chip_hour_micro.map(Value::Number),
            F::CoreHourPrice => self.core_hour_micro.map(Value::Number),
            F::Currency => self.currency.map(Value::Text),
            F::Carbon => self.carbon_g_per_kwh.map(Value::Number),
            F::Rtt => self.rtt_ms.map(Value::Number),
            _ => None,
        };
        if let Some(value) = value {
            each(value);
        }
    }
}
