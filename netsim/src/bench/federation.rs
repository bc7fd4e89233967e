//! Federations for benchmarks: sites from data or drawn from a seed, servers of common chips, tasks of common shapes.

use crate::convert::Convert;
use crate::input::{self, Pairs, ServerRow, Site, TaskRow};
use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// Sites and their round trips.
pub type Wide = (Vec<Site>, Pairs);

fn read_converted(convert: impl FnOnce(&Path) -> Convert) -> anyhow::Result<Wide> {
    let folder = std::env::temp_dir().join(format!("netsim-{}", std::process::id()));
    convert(&folder).run()?;
    let sites = input::read_sites(&folder.join("sites.csv"))?;
    let rtt = input::read_pairs(&folder.join("rtt.csv"), "rtt_ms", &sites, true)?;
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok((sites, rtt))
}

/// The Chinese sites with round trips times `factor`.
///
/// # Errors
/// For people.
pub fn china(data: &Path, factor: f64) -> anyhow::Result<Wide> {
    read_converted(|out| Convert::Sites {
        sites: data.join("sites.csv"),
        rtt: data.join("sites_rtt.csv"),
        country: Some("CN".to_owned()),
        factor,
        out: out.to_owned(),
    })
}

/// The cloud regions of skyplane's matrix.
///
/// # Errors
/// For people.
pub fn world(data: &Path) -> anyhow::Result<Wide> {
    read_converted(|out| Convert::Skyplane {
        latency: data.join("skyplane/latency.csv"),
        throughput: None,
        costs: None,
        carbon: None,
        out: out.to_owned(),
    })
}

/// The same with how many bytes a second go from region to region, where that was measured.
///
/// # Errors
/// For people.
pub fn world_lines(data: &Path) -> anyhow::Result<(Wide, Pairs)> {
    let folder = std::env::temp_dir().join(format!("netsim-lines-{}", std::process::id()));
    let convert = Convert::Skyplane {
        latency: data.join("skyplane/latency.csv"),
        throughput: Some(data.join("skyplane/throughput.csv")),
        costs: None,
        carbon: None,
        out: folder.clone(),
    };
    convert.run()?;
    let sites = input::read_sites(&folder.join("sites.csv"))?;
    let rtt = input::read_pairs(&folder.join("rtt.csv"), "rtt_ms", &sites, true)?;
    let lines = input::read_pairs(&folder.join("throughput.csv"), "bytes_per_s", &sites, false)?;
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(((sites, rtt), lines))
}

/// Sites drawn over the land between 60 south and 60 north, without round trips: coordinates decide.
pub fn drawn(seed: u64, count: usize) -> Vec<Site> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|index| Site {
            id: format!("N{index}"),
            name: format!("site {index}"),
            lat: rng.random_range(-60.0..60.0),
            lon: rng.random_range(-180.0..180.0),
            country: ["CN", "DE", "US", "SG", "BR"][index % 5].to_owned(),
            carbon: Some(rng.random_range(20..800)),
            price: Some(rng.random_range(0.35..1.2)),
        })
        .collect()
}

/// 88 servers of 8 H800, 24 of 8 Ascend 910B, 4 FPGA servers and 8 without chips at each site: more than 30,000 PFLOPS
/// FP16 over 43 sites.
pub fn servers(sites: usize) -> Vec<Vec<ServerRow>> {
    let row = |chip_model: &str, chips, count| ServerRow {
        site: None,
        spread: None,
        cpu_milli: 112_000,
        memory_mib: 2 << 20,
        chip_model: chip_model.to_owned(),
        chips,
        count,
    };
    let at_one = vec![row("NVH800S80", 8, 88), row("HWA910B3", 8, 24), row("XLU280", 8, 4), row("", 0, 8)];
    vec![at_one; sites]
}

/// Tasks of mixed shapes that arrive at `per_s` in the mean: half ask for one model, a quarter name ways for GPU, NPU and
/// FPGA, a quarter ask for cores alone or as a last way.
pub fn tasks(seed: u64, count: usize, per_s: f64) -> Vec<TaskRow> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0074_6173_6b73);
    let mut at = 0.0;
    let drawn = |rng: &mut ChaCha8Rng, mean: f64| -mean * (1.0 - rng.random_range(0.0..1.0f64)).ln();
    (0..count)
        .map(|_| {
            at += drawn(&mut rng, 1.0 / per_s);
            let chips = 1 << rng.random_range(0..4u32);
            let milli = u64::from(1u32 << rng.random_range(0..4u32)) * 1000;
            let (chip_milli, model, variants) = match rng.random_range(0..4) {
                0 | 1 => (chips * 1000, Some("NVH800S80"), Vec::new()),
                2 => (milli, Some("HWA910B3"), vec![("NVH800S80".to_owned(), milli), ("XLU280".to_owned(), 2 * milli)]),
                _ => (0, None, Vec::new()),
            };
            TaskRow {
                submit_s: at,
                duration_s: drawn(&mut rng, 120.0).clamp(1.0, 3_000.0),
                cpu_milli: rng.random_range(1..16) * 1000,
                memory_mib: 1024 * rng.random_range(1..64),
                chip_milli: chip_milli.min(8_000),
                chip_model: model.map(str::to_owned),
                variants: variants.into_iter().map(|(m, v): (String, u64)| (m, v.min(8_000))).collect(),
                origin: None,
                input_bytes: 0,
                input_site: None,
                residency: Vec::new(),
                max_price: None,
                deadline_s: None,
            }
        })
        .collect()
}
