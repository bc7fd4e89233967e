//! Numbers out of a seed and a position, so that any element of a matrix can be had without the ones before it.
//!
//! This is the definition that a checker re-implements: `mix(mix(seed) + (position + 1) * GOLDEN)` in wrapping arithmetic,
//! where `mix` is the output function of SplitMix64.
//! Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// 64 bits for `position` in the stream of `seed`.
pub fn bits(seed: u64, position: u64) -> u64 {
    mix(mix(seed).wrapping_add(position.wrapping_add(1).wrapping_mul(GOLDEN)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in [-0.5, 0.5) with 53 random bits.
pub fn centred(seed: u64, position: u64) -> f64 {
    (bits(seed, position) >> 11) as f64 / (1u64 << 53) as f64 - 0.5
}

/// A signed byte: the top 8 of the 64 bits.
pub fn byte(seed: u64, position: u64) -> i8 {
    (bits(seed, position) >> 56) as u8 as i8
}
