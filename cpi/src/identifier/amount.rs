//! Amounts in an identifier: capacity, bytes and bandwidth, each `U` (unknown), `0`, or a number with a unit.
//!
//! One amount has one text: the largest unit that keeps the number whole, and for capacity at most three significant
//! digits (half up). In a memory field `G` is GiB and the larger units are decimal, so a number of GiB stays in `G`.

use crate::measures::Precision;

/// The largest number before a unit: six digits.
pub const NUMBER_MAX: u32 = 999_999;

/// A decimal unit of the grammar, from `M` to `E`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// 10^6; bandwidth only.
    Mega,
    /// 10^9, or GiB in a memory field.
    Giga,
    /// 10^12.
    Tera,
    /// 10^15.
    Peta,
    /// 10^18.
    Exa,
}

impl Unit {
    pub(crate) fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'M' => Self::Mega,
            b'G' => Self::Giga,
            b'T' => Self::Tera,
            b'P' => Self::Peta,
            b'E' => Self::Exa,
            _ => return None,
        })
    }

    /// The letter of the grammar.
    pub fn letter(self) -> char {
        match self {
            Self::Mega => 'M',
            Self::Giga => 'G',
            Self::Tera => 'T',
            Self::Peta => 'P',
            Self::Exa => 'E',
        }
    }

    /// Power of ten.
    pub fn exponent(self) -> u32 {
        match self {
            Self::Mega => 6,
            Self::Giga => 9,
            Self::Tera => 12,
            Self::Peta => 15,
            Self::Exa => 18,
        }
    }

    fn larger(self) -> Option<Self> {
        match self {
            Self::Mega => Some(Self::Giga),
            Self::Giga => Some(Self::Tera),
            Self::Tera => Some(Self::Peta),
            Self::Peta => Some(Self::Exa),
            Self::Exa => None,
        }
    }
}

/// A number with its unit, or nothing, or not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Amount {
    /// `U`: not stated.
    Unknown,
    /// `0`: none.
    Zero,
    /// 1 to 999,999 of a unit.
    Of(u32, Unit),
}

/// Which rule of the grammar an amount follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AmountKind {
    Capacity,
    Storage,
    Memory,
    Bandwidth,
}

impl AmountKind {
    pub(crate) fn allows(self, unit: Unit) -> bool {
        match self {
            Self::Bandwidth => unit <= Unit::Tera,
            _ => unit >= Unit::Giga,
        }
    }

    fn largest(self) -> Unit {
        if self == Self::Bandwidth { Unit::Tera } else { Unit::Exa }
    }
}

/// Half up to three significant digits.
pub(crate) fn round_significant(number: u128) -> u128 {
    let mut step: u128 = 1;
    while number / step >= 1000 {
        step *= 10;
    }
    (number + step / 2) / step * step
}

fn three_digits(number: u32) -> bool {
    number < 1000
        || (number < 10_000 && number.is_multiple_of(10))
        || (number < 100_000 && number.is_multiple_of(100))
        || number.is_multiple_of(1000)
}

impl Amount {
    /// Whether this is how a printer writes it.
    #[inline]
    pub(crate) fn is_canonical(self, kind: AmountKind) -> bool {
        match self {
            Self::Unknown | Self::Zero => true,
            Self::Of(0, _) => false,
            Self::Of(number, unit) => {
                let reducible = number.is_multiple_of(1000)
                    && unit < kind.largest()
                    && !(kind == AmountKind::Memory && unit == Unit::Giga);
                !reducible && (kind != AmountKind::Capacity || three_digits(number))
            }
        }
    }

    /// How a printer writes it; `None` where rounding leaves the range of the grammar.
    pub(crate) fn canonical(self, kind: AmountKind) -> Option<Self> {
        let Self::Of(number, unit) = self else { return Some(self) };
        Self::reduce(u128::from(number), unit, kind)
    }

    /// `number` of `unit` as the grammar writes it; `None` if it is out of range or cannot be kept whole in six digits.
    pub(crate) fn reduce(number: u128, unit: Unit, kind: AmountKind) -> Option<Self> {
        let mut number = if kind == AmountKind::Capacity { round_significant(number) } else { number };
        let mut unit = unit;
        if number == 0 {
            return Some(Self::Zero);
        }
        while number.is_multiple_of(1000)
            && unit < kind.largest()
            && !(kind == AmountKind::Memory && unit == Unit::Giga)
        {
            number /= 1000;
            unit = unit.larger()?;
        }
        let number = u32::try_from(number).ok().filter(|&n| n <= NUMBER_MAX)?;
        Some(Self::Of(number, unit))
    }

    /// The amount in units of 10^9 (GFLOPS, GB), `None` where unknown. Bandwidth in `M` is rounded down; see [`Self::mega`].
    pub fn giga(self) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Zero => Some(0),
            Self::Of(number, Unit::Mega) => Some(u64::from(number) / 1000),
            Self::Of(number, unit) => Some(u64::from(number) * 10u64.pow(unit.exponent() - 9)),
        }
    }

    /// The amount in units of 10^6 (Mbit/s), `None` where unknown.
    pub fn mega(self) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Zero => Some(0),
            Self::Of(number, unit) => Some(u64::from(number) * 10u64.pow(unit.exponent() - 6)),
        }
    }

    /// Bytes of a storage field, capped at the largest `u64`; `None` where unknown.
    pub fn storage_bytes(self) -> Option<u64> {
        self.giga().map(|giga| giga.saturating_mul(1_000_000_000))
    }

    /// Bytes of a memory field, where `G` is GiB; `None` where unknown.
    pub fn memory_bytes(self) -> Option<u64> {
        match self {
            Self::Of(number, Unit::Giga) => Some(u64::from(number) << 30),
            other => other.storage_bytes(),
        }
    }
}

/// Nameplate compute capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capacity {
    /// `U`: not stated.
    Unknown,
    /// `0`: none.
    Zero,
    /// An amount of dense peak at one precision.
    Of {
        /// How much; `Amount::Of` always.
        amount: Amount,
        /// At which precision.
        precision: Precision,
    },
}

impl Capacity {
    /// GFLOPS and precision, where stated and not 0.
    pub fn stated(self) -> Option<(u64, Precision)> {
        match self {
            Self::Of { amount, precision } => amount.giga().map(|gflops| (gflops, precision)),
            Self::Unknown | Self::Zero => None,
        }
    }
}
