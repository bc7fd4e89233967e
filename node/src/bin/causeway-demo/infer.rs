//! Batch inference of a fixed network in INT8: signed bytes in, 32-bit sums, requantised with rounding. Integers only, so
//! that the result is the same on every machine.
//!
//! Layers 256-512-512-16. Weight `[o][i]` of layer `l` is the byte at `(l << 40) + o * inputs + i` of the seed's stream.
//! After a layer: `(sum + 2^(shift - 1)) >> shift`, clamped to -128..=127, negative ones to 0 on all but the last.
//! Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

use crate::noise;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const WIDTHS: [usize; 4] = [256, 512, 512, 16];
const SHIFTS: [u32; 3] = [11, 11, 10];
/// Rows computed between two log lines.
const SLICE: usize = 1024;

struct Layer {
    inputs: usize,
    weights: Vec<i16>,
    shift: u32,
    floor: i32,
}

impl Layer {
    fn forward(&self, x: &[i16], y: &mut Vec<i16>) {
        y.clear();
        for row in self.weights.chunks_exact(self.inputs) {
            let sum: i32 = row.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum();
            y.push(((sum + (1 << (self.shift - 1))) >> self.shift).clamp(self.floor, 127) as i16);
        }
    }
}

fn network(seed: u64) -> Vec<Layer> {
    (0..3)
        .map(|l| Layer {
            inputs: WIDTHS[l],
            weights: (0..(WIDTHS[l] * WIDTHS[l + 1]) as u64)
                .map(|at| i16::from(noise::byte(seed, ((l as u64) << 40) + at)))
                .collect(),
            shift: SHIFTS[l],
            floor: if l == 2 { -128 } else { 0 },
        })
        .collect()
}

/// Runs the network over `batch` and writes `logits.bin` (16 signed bytes per row) and `labels.json` (rows per label).
pub fn run(batch: &Path, seed: u64, out: &Path) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let input = std::fs::read(batch).map_err(|error| format!("{}: {error}", batch.display()))?;
    if input.is_empty() || !input.len().is_multiple_of(WIDTHS[0]) {
        return Err(format!("{} is not rows of {} bytes", batch.display(), WIDTHS[0]).into());
    }
    let rows = input.len() / WIDTHS[0];
    println!("infer: {rows} rows through 256-512-512-16 in INT8, network {seed}");
    let layers = network(seed);

    let mut logits = Vec::with_capacity(rows * WIDTHS[3]);
    let mut counts = [0u32; WIDTHS[3]];
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for (number, row) in input.chunks_exact(WIDTHS[0]).enumerate() {
        x.clear();
        x.extend(row.iter().map(|byte| i16::from(*byte as i8)));
        for layer in &layers {
            layer.forward(&x, &mut y);
            std::mem::swap(&mut x, &mut y);
        }
        // the first of equal ones wins
        let best = (0..x.len()).rev().max_by_key(|&label| x[label]).unwrap_or(0);
        counts[best] += 1;
        logits.extend(x.iter().map(|value| *value as i8 as u8));
        if (number + 1) % SLICE == 0 || number + 1 == rows {
            let per_second = (number + 1) as f64 / begin.elapsed().as_secs_f64();
            println!("infer: {} of {rows} rows, {per_second:.0} rows/s", number + 1);
        }
    }
    std::fs::write(out.join("logits.bin"), &logits)?;
    std::fs::write(out.join("labels.json"), format!("{{\"rows\": {rows}, \"rows_per_label\": {counts:?}}}\n"))?;
    println!("infer: done");
    Ok(())
}
