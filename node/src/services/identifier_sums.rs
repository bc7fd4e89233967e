//! Sums over identifiers: by the registry's own totals, or one by one over what a filter matches.

use super::identifier_views::StatisticsRow;
use super::identifiers::IdentifierError;
use consensus::registry::{RegistryReader, SearchQuery, StatisticsDimension};
use cpi::dictionary::Dictionary;
use cpi::filter::Filter;
use cpi::identifier::Cpi;
use std::collections::{BTreeMap, BTreeSet};

/// Records looked at for sums over a filter; more are refused instead of answered wrongly.
const SUMMED_MAX: usize = 1_000_000;

/// The registry's own totals, kept with each change.
pub fn over_all(reader: &RegistryReader, name: Option<&str>, dimension: StatisticsDimension) -> Vec<StatisticsRow> {
    let groups = reader.statistics(dimension).into_iter();
    groups
        .map(|group| StatisticsRow {
            group: name.iter().map(|name| ((*name).to_owned(), group.value.clone())).collect(),
            identifiers: group.totals.identifiers,
            servers: group.totals.servers,
            chips: group.totals.chips.values().sum(),
            capacity_gflops: group.totals.gflops,
        })
        .collect()
}

/// Sums over what a filter matches, or over all, grouped by every dimension of `names` at once; identifiers of one pool
/// count its servers once in a group.
///
/// # Errors
/// [`IdentifierError::TooMany`].
pub fn over_filter(
    reader: &RegistryReader,
    dictionary: &Dictionary,
    names: &[String],
    filter: Option<Filter>,
) -> Result<Vec<StatisticsRow>, IdentifierError> {
    let mut sums = Sums { names, rows: BTreeMap::new(), pools: BTreeSet::new() };
    let mut query = SearchQuery { filter, limit: 1000, ..SearchQuery::default() };
    let mut looked_at = 0;
    loop {
        let page = reader.search(&query, dictionary);
        looked_at += page.scanned;
        if looked_at > SUMMED_MAX {
            return Err(IdentifierError::TooMany { max: SUMMED_MAX });
        }
        page.items.iter().filter_map(|record| Cpi::parse(&record.text).ok()).for_each(|cpi| sums.add(&cpi));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(sums.rows.into_values().collect()),
        }
    }
}

struct Sums<'a> {
    names: &'a [String],
    rows: BTreeMap<Vec<String>, StatisticsRow>,
    pools: BTreeSet<(Vec<String>, String)>,
}

impl Sums<'_> {
    fn add(&mut self, cpi: &Cpi) {
        // an identifier with several chips belongs to a group of each
        let mut groups: Vec<Vec<String>> = vec![Vec::new()];
        for name in self.names {
            let values: Vec<String> = match name.as_str() {
                "class" => vec![cpi.resource_type().to_owned()],
                "city" => vec![cpi.city().to_owned()],
                "enterprise" => vec![cpi.enterprise().to_owned()],
                "service" => vec![cpi.service_type().to_owned()],
                _ => cpi.chips().map(|(model, _)| model.to_owned()).collect(),
            };
            let longer = |group: &Vec<String>, value: &String| [group.as_slice(), std::slice::from_ref(value)].concat();
            groups = groups.iter().flat_map(|group| values.iter().map(move |value| longer(group, value))).collect();
        }
        let chip_at = self.names.iter().position(|name| name == "chip");
        for group in groups {
            let row = self.rows.entry(group.clone()).or_insert_with(|| StatisticsRow {
                group: self.names.iter().cloned().zip(group.iter().cloned()).collect(),
                identifiers: 0,
                servers: 0,
                chips: 0,
                capacity_gflops: BTreeMap::new(),
            });
            row.identifiers += 1;
            if !self.pools.insert((group.clone(), cpi.prefix().to_owned())) {
                continue;
            }
            row.servers += u64::from(cpi.servers());
            let counted = |model: &str| chip_at.is_none_or(|at| model == group[at]);
            row.chips +=
                cpi.chips().filter(|(model, _)| counted(model)).map(|(_, count)| u64::from(count)).sum::<u64>();
            if let Some((gflops, precision)) = cpi.capacity().stated() {
                *row.capacity_gflops.entry(precision.code().to_owned()).or_default() += gflops;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_made_of_all_its_dimensions() {
        let names = ["class", "chip"].map(str::to_owned);
        let mut sums = Sums { names: &names, rows: BTreeMap::new(), pools: BTreeSet::new() };
        for serial in ["S000000000001", "S000000000002"] {
            let pool = "cpi:1:PTESTR000-GI6450-G110100-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128";
            let cpi = Cpi::seal(&format!("{pool}/N0A0/GPU/NVH800S80/{serial}")).expect("it follows the grammar");
            sums.add(&cpi);
        }
        let rows: Vec<StatisticsRow> = sums.rows.into_values().collect();
        assert_eq!(rows.len(), 1);
        let group = [("class", "IC"), ("chip", "NVH800S80")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(rows[0].group, group.into());
        assert_eq!((rows[0].identifiers, rows[0].servers, rows[0].chips), (2, 128, 1024), "a pool counts once");
    }
}
