//! Dense peaks of chips as exact integers, one per precision. Missing is `None`, never 0, never derived from another precision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A number format in which a chip's dense peak is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// IEEE 754 double.
    #[serde(rename = "FP64")]
    Fp64,
    /// IEEE 754 single.
    #[serde(rename = "FP32")]
    Fp32,
    /// 19-bit TensorFloat.
    #[serde(rename = "TF32")]
    Tf32,
    /// IEEE 754 half.
    #[serde(rename = "FP16")]
    Fp16,
    /// bfloat16.
    #[serde(rename = "BF16")]
    Bf16,
    /// 8-bit float.
    #[serde(rename = "FP8")]
    Fp8,
    /// 8-bit integer; counted in operations.
    #[serde(rename = "INT8")]
    Int8,
}

impl Precision {
    /// All precisions, widest first: the order of every vector of measures.
    pub const ALL: [Self; 7] = [Self::Fp64, Self::Fp32, Self::Tf32, Self::Fp16, Self::Bf16, Self::Fp8, Self::Int8];

    /// The three characters of the identifier, for example `F64`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Fp64 => "F64",
            Self::Fp32 => "F32",
            Self::Tf32 => "T32",
            Self::Fp16 => "F16",
            Self::Bf16 => "B16",
            Self::Fp8 => "F08",
            Self::Int8 => "I08",
        }
    }

    /// The name people use, for example `FP64`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp64 => "FP64",
            Self::Fp32 => "FP32",
            Self::Tf32 => "TF32",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp8 => "FP8",
            Self::Int8 => "INT8",
        }
    }

    /// From the identifier's three upper-case characters.
    pub fn from_code(code: &[u8]) -> Option<Self> {
        Some(match code {
            b"F64" => Self::Fp64,
            b"F32" => Self::Fp32,
            b"T32" => Self::Tf32,
            b"F16" => Self::Fp16,
            b"B16" => Self::Bf16,
            b"F08" => Self::Fp8,
            b"I08" => Self::Int8,
            _ => return None,
        })
    }

    /// From a name as people write it, in any case; `FLOAT16` and the like are not names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| name.eq_ignore_ascii_case(p.name()) || name.eq_ignore_ascii_case(p.code()))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A chip's dense theoretical peaks in thousandths of a TFLOPS (TOPS for INT8), that is GFLOPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measures {
    /// Double precision.
    pub fp64: Option<u64>,
    /// Single precision.
    pub fp32: Option<u64>,
    /// TensorFloat-32.
    pub tf32: Option<u64>,
    /// Half precision.
    pub fp16: Option<u64>,
    /// bfloat16.
    pub bf16: Option<u64>,
    /// 8-bit float.
    pub fp8: Option<u64>,
    /// 8-bit integer.
    pub int8: Option<u64>,
}

impl Measures {
    /// The peak at `precision` in GFLOPS; `None` where it is not stated.
    pub fn gflops(&self, precision: Precision) -> Option<u64> {
        match precision {
            Precision::Fp64 => self.fp64,
            Precision::Fp32 => self.fp32,
            Precision::Tf32 => self.tf32,
            Precision::Fp16 => self.fp16,
            Precision::Bf16 => self.bf16,
            Precision::Fp8 => self.fp8,
            Precision::Int8 => self.int8,
        }
    }
}

/// How a stated capacity compares with quantity x peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum CapacityCheck {
    /// Within 2 %.
    Agrees {
        /// Sum of quantity x peak.
        computed_gflops: u64,
    },
    /// More than 2 % apart: shown with a flag, not refused.
    Differs {
        /// What the identifier states.
        stated_gflops: u64,
        /// Sum of quantity x peak.
        computed_gflops: u64,
    },
    /// No capacity is stated, or a chip has no stated peak at that precision.
    NotComparable,
}

/// Compares at 2 %: `|stated - computed| * 50 > computed` differs.
pub fn check_capacity(stated_gflops: u64, computed_gflops: u64) -> CapacityCheck {
    let apart = u128::from(stated_gflops.abs_diff(computed_gflops));
    if apart * 50 > u128::from(computed_gflops) {
        CapacityCheck::Differs { stated_gflops, computed_gflops }
    } else {
        CapacityCheck::Agrees { computed_gflops }
    }
}
