//! A dense FP64 system `A x = b`, solved by blocked right-looking LU with partial pivoting.
//!
//! `A[i][j]` is the centred number at `i * n + j` of the seed's stream, `b[i]` the one at `n * n + i`. Such a matrix is not
//! diagonally dominant, so a solver without pivoting loses its digits.
//! Source: Golub & Van Loan, "Matrix Computations", 4th ed., section 3.4.

use crate::noise;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// Columns of a panel: 64 of them and a strip of a row stay in the first cache.
const BLOCK: usize = 64;

/// Solves the system and writes `solution.bin` (n FP64, little-endian) and `residual.json`.
pub fn run(n: usize, seed: u64, out: &Path) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    println!("lu: a system of order {n} from seed {seed}, FP64, partial pivoting");
    let original: Vec<f64> = (0..(n * n) as u64).map(|at| noise::centred(seed, at)).collect();
    let b: Vec<f64> = (0..n as u64).map(|i| noise::centred(seed, (n * n) as u64 + i)).collect();

    let mut a = original.clone();
    let pivots = factorise(&mut a, n)?;
    let x = solve(&a, &pivots, &b, n);
    let seconds = begin.elapsed().as_secs_f64();

    let residual = scaled_residual(&original, &x, &b, n);
    let flops = 2.0 / 3.0 * (n as f64).powi(3) + 2.0 * (n as f64).powi(2);
    println!("lu: solved in {seconds:.2} s, {:.2} GFLOP/s, scaled residual {residual:.4}", flops / seconds / 1e9);

    let mut file = std::io::BufWriter::new(std::fs::File::create(out.join("solution.bin"))?);
    for value in &x {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()?;
    std::fs::write(
        out.join("residual.json"),
        format!("{{\"n\": {n}, \"seed\": {seed}, \"scaled_residual\": {residual:e}}}\n"),
    )?;
    Ok(())
}

/// Overwrites `a` with L (below the diagonal, its own diagonal is 1) and U; returns which row was taken at each step.
fn factorise(a: &mut [f64], n: usize) -> Result<Vec<usize>, Box<dyn Error>> {
    let mut pivots = vec![0; n];
    let mut told = 0;
    for from in (0..n).step_by(BLOCK) {
        let to = (from + BLOCK).min(n);
        panel(a, n, from, to, &mut pivots)?;
        triangle(a, n, from, to);
        trailing(a, n, from, to);
        let percent = 100 - 100 * (n - to).pow(3) / n.pow(3);
        if percent >= told + 10 || to == n {
            println!("lu: {to} of {n} columns, {percent} % of the work");
            told = percent;
        }
    }
    Ok(pivots)
}

/// Columns `from..to` below row `from`, with row exchanges over the whole width.
fn panel(a: &mut [f64], n: usize, from: usize, to: usize, pivots: &mut [usize]) -> Result<(), Box<dyn Error>> {
    for k in from..to {
        let mut best = k;
        for row in k + 1..n {
            if a[row * n + k].abs() > a[best * n + k].abs() {
                best = row;
            }
        }
        pivots[k] = best;
        if a[best * n + k] == 0.0 {
            return Err(format!("the system is singular at column {k}").into());
        }
        if best != k {
            let (upper, lower) = a.split_at_mut(best * n);
            upper[k * n..(k + 1) * n].swap_with_slice(&mut lower[..n]);
        }
        let (upper, lower) = a.split_at_mut((k + 1) * n);
        let pivot_row = &upper[k * n + k..k * n + to];
        for row in lower.chunks_exact_mut(n) {
            let factor = row[k] / pivot_row[0];
            row[k] = factor;
            for (value, pivot) in row[k + 1..to].iter_mut().zip(&pivot_row[1..]) {
                *value -= factor * pivot;
            }
        }
    }
    Ok(())
}

/// Rows `from..to` right of the panel: a triangular solve with the panel's L.
fn triangle(a: &mut [f64], n: usize, from: usize, to: usize) {
    for k in from..to {
        let (upper, lower) = a.split_at_mut((k + 1) * n);
        let source = &upper[k * n + to..(k + 1) * n];
        for row in lower.chunks_exact_mut(n).take(to - k - 1) {
            let factor = row[k];
            for (value, above) in row[to..].iter_mut().zip(source) {
                *value -= factor * above;
            }
        }
    }
}

/// The rest: `A22 -= L21 * U12`, four rows of U at a time.
fn trailing(a: &mut [f64], n: usize, from: usize, to: usize) {
    let (upper, lower) = a.split_at_mut(to * n);
    for row in lower.chunks_exact_mut(n) {
        let (left, right) = row.split_at_mut(to);
        let factors = &left[from..];
        let mut k = 0;
        while k + 4 <= factors.len() {
            let line = |i: usize| &upper[(from + k + i) * n + to..(from + k + i + 1) * n];
            let (u0, u1, u2, u3) = (line(0), line(1), line(2), line(3));
            let (f0, f1, f2, f3) = (factors[k], factors[k + 1], factors[k + 2], factors[k + 3]);
            for ((((value, a0), a1), a2), a3) in right.iter_mut().zip(u0).zip(u1).zip(u2).zip(u3) {
                *value -= f0 * a0 + f1 * a1 + f2 * a2 + f3 * a3;
            }
            k += 4;
        }
        for (i, factor) in factors.iter().enumerate().skip(k) {
            for (value, above) in right.iter_mut().zip(&upper[(from + i) * n + to..(from + i + 1) * n]) {
                *value -= factor * above;
            }
        }
    }
}

fn solve(lu: &[f64], pivots: &[usize], b: &[f64], n: usize) -> Vec<f64> {
    let mut x = b.to_vec();
    for (k, &row) in pivots.iter().enumerate() {
        x.swap(k, row);
    }
    for i in 0..n {
        let sum: f64 = lu[i * n..i * n + i].iter().zip(&x).map(|(l, x)| l * x).sum();
        x[i] -= sum;
    }
    for i in (0..n).rev() {
        let sum: f64 = lu[i * n + i + 1..(i + 1) * n].iter().zip(&x[i + 1..]).map(|(u, x)| u * x).sum();
        x[i] = (x[i] - sum) / lu[i * n + i];
    }
    x
}

/// `|b - A x| / (eps * n * (|A| |x| + |b|))` in the maximum norm; below 16 is a pass in LINPACK's own test.
fn scaled_residual(a: &[f64], x: &[f64], b: &[f64], n: usize) -> f64 {
    let (mut worst, mut norm) = (0f64, 0f64);
    for (row, b) in a.chunks_exact(n).zip(b) {
        let sum: f64 = row.iter().zip(x).map(|(a, x)| a * x).sum();
        worst = worst.max((b - sum).abs());
        norm = norm.max(row.iter().map(|a| a.abs()).sum());
    }
    let largest = |values: &[f64]| values.iter().fold(0f64, |most, value| most.max(value.abs()));
    worst / (f64::EPSILON * n as f64 * (norm * largest(x) + largest(b)))
}
