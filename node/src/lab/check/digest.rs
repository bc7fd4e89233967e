//! The inference job: its result is known beforehand, to the bit.
//!
//! Definition of the result: see the test below, which computes it in the plainest way from the same words as the program:
//! bytes are the top 8 bits of the stream that `residual` describes; the batch is the stream of `7 xor 0xBA7C`; weight
//! `[o][i]` of layer `l` stands at `l 2^40 + o inputs + i` of the stream of 7; sums are rounded and shifted by 11, 11 and 10
//! bits, cut to -128..=127, and negative ones become 0 on all layers but the last.

use super::CheckError;
use cpi::ids::ContentDigest;

/// The batch that `causeway-demo make-batch` writes with its defaults.
pub const BATCH_DIGEST: &str = "sha256:fd842f371536147c6d19cc9836c50f1dfdd64b83256790ffaae06dd33f0231a2";
/// `logits.bin` of that batch through network 7.
pub const LOGITS_DIGEST: &str = "sha256:5d41e25721c0d89670cf9b384815eaf4c2ddeb39ee9370e96221c55d532012b5";

/// Checks content against the digest it must have.
///
/// # Errors
/// [`CheckError::Wrong`] with both digests.
pub fn check_digest(what: &'static str, content: &[u8], expected: &str) -> Result<String, CheckError> {
    let found = ContentDigest::of(content).to_string();
    if found == expected {
        Ok(format!("{what} of {} bytes has the known {}", content.len(), &found[..23]))
    } else {
        Err(CheckError::Wrong { what, found, expected: expected.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scramble(mut v: u64) -> u64 {
        v = (v ^ v >> 30).wrapping_mul(0xBF58476D1CE4E5B9);
        v = (v ^ v >> 27).wrapping_mul(0x94D049BB133111EB);
        v ^ v >> 31
    }

    fn byte(seed: u64, position: u64) -> i64 {
        let step = (position + 1).wrapping_mul(0x9E3779B97F4A7C15);
        i64::from((scramble(scramble(seed).wrapping_add(step)) >> 56) as u8 as i8)
    }

    /// 3.3 thousand million products in 64 bits: the longest second of this suite.
    #[test]
    fn the_known_digests_follow_from_the_definition() {
        let batch: Vec<i64> = (0..8192 * 256).map(|at| byte(7 ^ 0xBA7C, at)).collect();
        let bytes: Vec<u8> = batch.iter().map(|v| *v as u8).collect();
        check_digest("batch", &bytes, BATCH_DIGEST).unwrap();

        let shape = [(256u64, 512u64, 11), (512, 512, 11), (512, 16, 10)];
        let weights: Vec<Vec<i64>> = shape
            .iter()
            .enumerate()
            .map(|(l, (inputs, outputs, _))| (0..inputs * outputs).map(|at| byte(7, ((l as u64) << 40) + at)).collect())
            .collect();
        let mut logits = Vec::new();
        for row in batch.chunks(256) {
            let mut values = row.to_vec();
            for (l, (inputs, _, shift)) in shape.iter().enumerate() {
                values = weights[l]
                    .chunks(*inputs as usize)
                    .map(|w| {
                        let sum: i64 = w.iter().zip(&values).map(|(w, v)| w * v).sum();
                        let scaled = (sum + (1 << (shift - 1))).div_euclid(1 << shift);
                        scaled.clamp(if l < 2 { 0 } else { -128 }, 127)
                    })
                    .collect();
            }
            logits.extend(values.iter().map(|v| *v as u8));
        }
        check_digest("logits", &logits, LOGITS_DIGEST).unwrap();
    }

    #[test]
    fn one_flipped_bit_is_seen() {
        let expected = ContentDigest::of(b"right").to_string();
        assert!(check_digest("text", b"right", &expected).is_ok());
        assert!(matches!(check_digest("text", b"sight", &expected), Err(CheckError::Wrong { .. })));
    }
}
