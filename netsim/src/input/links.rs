//! `--rtt`, `--throughput`, `--egress`: one value per ordered pair of sites.

use super::sites::Site;
use super::table::{InputError, Table};
use std::collections::BTreeMap;
use std::path::Path;

/// Values by positions of the sites, from then to.
pub type Pairs = BTreeMap<(usize, usize), f64>;

/// Reads `from, to, <value>`. A pair that is given in one direction only holds for both where `both_ways`.
///
/// Units: round trips in ms, throughput in bytes per second, egress in the currency's main unit per GB.
///
/// # Errors
/// [`InputError`].
pub fn read_pairs(path: &Path, value: &str, sites: &[Site], both_ways: bool) -> Result<Pairs, InputError> {
    let table = Table::read(path, &["from", "to", value])?;
    let index: BTreeMap<&str, usize> = sites.iter().enumerate().map(|(i, site)| (site.id.as_str(), i)).collect();
    let mut pairs = Pairs::new();
    for row in table.rows() {
        let place =
            |column: &str| index.get(row.text(column)).copied().ok_or_else(|| row.wrong(column, "the id of a site"));
        let (from, to) = (place("from")?, place("to")?);
        let amount = row.within(value, 0.0, 1e15)?;
        if pairs.insert((from, to), amount).is_some() {
            return Err(row.wrong("to", "a pair that was not given before"));
        }
    }
    if both_ways {
        let reverse: Vec<_> = pairs.iter().map(|((from, to), amount)| ((*to, *from), *amount)).collect();
        for (pair, amount) in reverse {
            pairs.entry(pair).or_insert(amount);
        }
    }
    Ok(pairs)
}
