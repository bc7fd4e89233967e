//! The inputs that the lab ships with its tasks.

use crate::noise;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

/// Two spirals of one and a half turns each, one per label, with a little noise: `x,y,label` per line and a heading.
pub fn write_spirals(points: u32, seed: u64, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut text = String::from("x,y,label\n");
    for i in 0..points {
        for label in 0..2u32 {
            let along = f64::from(i) / f64::from(points);
            let angle = along * 3.0 * std::f64::consts::PI + f64::from(label) * std::f64::consts::PI;
            let radius = 0.3 + 3.7 * along;
            let at = u64::from(i * 2 + label) * 2;
            let x = radius * angle.cos() + 0.2 * noise::centred(seed, at);
            let y = radius * angle.sin() + 0.2 * noise::centred(seed, at + 1);
            writeln!(text, "{x:.5},{y:.5},{label}")?;
        }
    }
    std::fs::write(out, text)?;
    println!("{}: {} points in two spirals", out.display(), points * 2);
    Ok(())
}

/// `rows` rows of 256 signed bytes.
pub fn write_batch(rows: u32, seed: u64, out: &Path) -> Result<(), Box<dyn Error>> {
    let bytes: Vec<u8> = (0..u64::from(rows) * 256).map(|i| noise::byte(seed ^ 0xBA7C, i) as u8).collect();
    std::fs::write(out, bytes)?;
    println!("{}: {rows} rows of 256 bytes", out.display());
    Ok(())
}
