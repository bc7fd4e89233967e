//! `--servers`: what stands at the sites, server by server or in groups, at a site or spread by a rule.

use super::sites::Site;
use super::table::{InputError, Table};
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::Path;

/// How rows without a site of their own are dealt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Spread {
    /// In the order of the file, the same number to each site: neighbours in the file stay together.
    Contiguous,
    /// One to each site in turn.
    RoundRobin,
    /// Shuffled by the seed, then the same number to each.
    Random,
}

/// Equal servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    /// Which site; `None` for the rule.
    pub site: Option<usize>,
    /// The rule, where the file names one.
    pub spread: Option<Spread>,
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Memory.
    pub memory_mib: u64,
    /// Dictionary code or any other name; empty for none.
    pub chip_model: String,
    /// Chips per server.
    pub chips: u32,
    /// How many such servers.
    pub count: u32,
}

/// Reads `site, cpu_milli, memory_mib, chip_model, chips` and, where there is one, `count`. `site` is an id, or one of
/// `spread:contiguous`, `spread:round_robin`, `spread:random`, or empty for the rule of the command line.
///
/// # Errors
/// [`InputError`].
pub fn read_servers(path: &Path, sites: &[Site]) -> Result<Vec<ServerRow>, InputError> {
    let table = Table::read(path, &["site", "cpu_milli", "memory_mib", "chip_model", "chips"])?;
    let index: BTreeMap<&str, usize> = sites.iter().enumerate().map(|(i, site)| (site.id.as_str(), i)).collect();
    table
        .rows()
        .map(|row| {
            let (site, spread) = match row.text("site") {
                "" => (None, None),
                "spread:contiguous" => (None, Some(Spread::Contiguous)),
                "spread:round_robin" => (None, Some(Spread::RoundRobin)),
                "spread:random" => (None, Some(Spread::Random)),
                id => match index.get(id) {
                    Some(site) => (Some(*site), None),
                    None => return Err(row.wrong("site", "the id of a site, `spread:` and a rule, or nothing")),
                },
            };
            let chips: u32 = row.number("chips", "a whole number of chips")?;
            let chip_model = row.text("chip_model").to_owned();
            if (chips > 0) == chip_model.is_empty() {
                return Err(row.wrong("chip_model", "a model where there are chips, and none where there are not"));
            }
            if chips > 1_024 {
                return Err(row.wrong("chips", "at most 1,024"));
            }
            Ok(ServerRow {
                site,
                spread,
                cpu_milli: row.number("cpu_milli", "thousandths of cores")?,
                memory_mib: row.number("memory_mib", "a whole number of MiB")?,
                chip_model,
                chips,
                count: row.optional("count", "a whole number of servers")?.unwrap_or(1),
            })
        })
        .collect()
}

/// The servers of each site: rows without a site are dealt out by their rule, or by `default`.
pub fn spread_servers(rows: &[ServerRow], sites: usize, default: Spread, rng: &mut ChaCha8Rng) -> Vec<Vec<ServerRow>> {
    let mut at: Vec<Vec<ServerRow>> = vec![Vec::new(); sites];
    for rule in [Spread::Contiguous, Spread::RoundRobin, Spread::Random] {
        let mut free: Vec<ServerRow> = Vec::new();
        for row in rows.iter().filter(|row| row.site.is_none() && row.spread.unwrap_or(default) == rule) {
            free.extend((0..row.count).map(|_| ServerRow { count: 1, ..row.clone() }));
        }
        if rule == Spread::Random {
            free.shuffle(rng);
        }
        let all = free.len();
        for (position, row) in free.into_iter().enumerate() {
            let site = match rule {
                Spread::RoundRobin => position % sites,
                _ => position * sites / all,
            };
            at[site].push(row);
        }
    }
    for row in rows {
        if let Some(site) = row.site {
            at[site].push(row.clone());
        }
    }
    at
}
