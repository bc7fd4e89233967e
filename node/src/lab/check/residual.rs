//! The LU job: the residual of the solution, from a system that is generated again here.
//!
//! Definition: with `G = 0x9E3779B97F4A7C15`, `mix` the output function of SplitMix64 and wrapping 64-bit arithmetic, the
//! number at `p` of seed `s` is the top 53 bits of `mix(mix(s) + (p + 1) G)`, divided by 2^53, less one half.
//! `A[i][j]` stands at `i n + j`, `b[i]` at `n^2 + i`. The scaled residual is
//! `|b - A x| / (eps n (|A| |x| + |b|))` in the maximum norm with eps = 2^-52; a pass is below 16, as in LINPACK (HPL).
//! Sums are compensated (Neumaier), so that the check is more exact than what it checks.

use super::CheckError;

/// A right solution stays below this.
const RESIDUAL_MAX: f64 = 16.0;

struct Stream {
    state: u64,
}

impl Stream {
    const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

    /// The stream of `seed`, before the number at `position`.
    fn at(seed: u64, position: u64) -> Self {
        Self { state: Self::scramble(seed).wrapping_add(Self::STRIDE.wrapping_mul(position)) }
    }

    fn scramble(value: u64) -> u64 {
        let once = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let twice = (once ^ once >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        twice ^ twice >> 31
    }
}

impl Iterator for Stream {
    type Item = f64;
    fn next(&mut self) -> Option<f64> {
        self.state = self.state.wrapping_add(Self::STRIDE);
        Some(f64::from_bits(Self::scramble(self.state) >> 12 | 0x3FF0_0000_0000_0000) - 1.5 + Self::low_bit(self.state))
    }
}

impl Stream {
    /// A double between 1 and 2 has 52 bits of fraction; the 53rd is added here.
    fn low_bit(state: u64) -> f64 {
        if Self::scramble(state) >> 11 & 1 == 1 { f64::EPSILON / 2.0 } else { 0.0 }
    }
}

/// Checks `solution.bin` for the system of order `n` from `seed`.
///
/// # Errors
/// [`CheckError::Shape`] where the file is not `n` finite numbers; [`CheckError::Wrong`] where the residual is too large.
pub fn check_solution(solution: &[u8], n: usize, seed: u64) -> Result<String, CheckError> {
    let shape = |problem: String| CheckError::shape("solution.bin", problem);
    if solution.len() != n * 8 {
        return Err(shape(format!("{} bytes instead of {}", solution.len(), n * 8)));
    }
    let x: Vec<f64> =
        solution.chunks_exact(8).map(|raw| f64::from_le_bytes(raw.try_into().expect("chunks of 8"))).collect();
    if let Some(at) = x.iter().position(|value| !value.is_finite()) {
        return Err(shape(format!("number {at} is {}", x[at])));
    }

    let order = n as u64;
    let mut matrix = Stream::at(seed, 0);
    let right_side = Stream::at(seed, order * order).take(n);
    let x_norm = x.iter().map(|value| value.abs()).fold(0.0, f64::max);
    let (mut worst, mut a_norm, mut b_norm) = (0f64, 0f64, 0f64);
    for b in right_side {
        let (mut sum, mut lost, mut row_norm) = (b, 0.0, 0.0);
        for (a, x) in matrix.by_ref().take(n).zip(&x) {
            let term = -(a * x);
            let next = sum + term;
            lost += if f64::abs(sum) >= f64::abs(term) { (sum - next) + term } else { (term - next) + sum };
            sum = next;
            row_norm += a.abs();
        }
        worst = worst.max((sum + lost).abs());
        a_norm = a_norm.max(row_norm);
        b_norm = b_norm.max(b.abs());
    }
    let scaled = worst / (f64::EPSILON * n as f64 * (a_norm * x_norm + b_norm));
    if scaled < RESIDUAL_MAX {
        Ok(format!("scaled residual {scaled:.4} of {n} unknowns, below {RESIDUAL_MAX}"))
    } else {
        Err(CheckError::Wrong {
            what: "the scaled residual",
            found: format!("{scaled:.3e}"),
            expected: format!("below {RESIDUAL_MAX}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gauss-Jordan with complete search for the pivot: slow, and nobody else's code.
    fn solve(n: usize, seed: u64) -> Vec<u8> {
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let mut row: Vec<f64> = Stream::at(seed, (i * n) as u64).take(n).collect();
                row.extend(Stream::at(seed, (n * n + i) as u64).take(1));
                row
            })
            .collect();
        for k in 0..n {
            let best = (k..n).max_by(|&p, &q| rows[p][k].abs().total_cmp(&rows[q][k].abs())).unwrap();
            rows.swap(k, best);
            let pivot = rows[k].clone();
            for (i, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != k) {
                assert!(i < n);
                let factor = row[k] / pivot[k];
                row.iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
        (0..n).flat_map(|i| (rows[i][n] / rows[i][i]).to_le_bytes()).collect()
    }

    #[test]
    fn a_right_solution_passes() {
        let fact = check_solution(&solve(60, 3), 60, 3).unwrap();
        assert!(fact.contains("below 16"), "{fact}");
    }

    #[test]
    fn one_damaged_number_is_seen() {
        let mut solution = solve(60, 3);
        solution[8 * 31 + 5] ^= 1;
        assert!(matches!(check_solution(&solution, 60, 3), Err(CheckError::Wrong { .. })));
    }

    #[test]
    fn the_solution_of_another_system_is_seen() {
        assert!(matches!(check_solution(&solve(60, 3), 60, 4), Err(CheckError::Wrong { .. })));
    }

    #[test]
    fn a_short_file_and_a_nan_are_seen() {
        let mut solution = solve(20, 3);
        assert!(matches!(check_solution(&solution[1..], 20, 3), Err(CheckError::Shape { .. })));
        solution[..8].copy_from_slice(&f64::NAN.to_le_bytes());
        assert!(matches!(check_solution(&solution, 20, 3), Err(CheckError::Shape { .. })));
    }
}
