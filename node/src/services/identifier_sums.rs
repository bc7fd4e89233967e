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

/// Sums over what a filter matches; identifiers of one pool count its servers once.
///
/// # Errors
/// [`IdentifierError::TooMany`].
pub fn over_filter(
    reader: &RegistryReader,
    dictionary: &Dictionary,
    name: Option<&str>,
    filter: Filter,
) -> Result<Vec<StatisticsRow>, IdentifierError> {
    let mut sums = Sums { name, rows: BTreeMap::new(), pools: BTreeSet::new() };
    let mut query = SearchQuery { filter: Some(filter), limit: 1000, ..SearchQuery::default() };
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
    name: Option<&'a str>,
    rows: BTreeMap<String, StatisticsRow>,
    pools: BTreeSet<(String, String)>,
}

impl Sums<'_> {
    fn add(&mut self, cpi: &Cpi) {
        let values: Vec<String> = match self.name {
            None => vec![String::new()],
            Some("class") => vec![cpi.resource_type().to_owned()],
            Some("city") => vec![cpi.city().to_owned()],
            Some("enterprise") => vec![cpi.enterprise().to_owned()],
            Some("service") => vec![cpi.service_type().to_owned()],
            Some(_) => cpi.chips().map(|(model, _)| model.to_owned()).collect(),
        };
        for value in values {
            let row = self.rows.entry(value.clone()).or_insert_with(|| StatisticsRow {
                group: self.name.iter().map(|name| ((*name).to_owned(), value.clone())).collect(),
                identifiers: 0,
                servers: 0,
                chips: 0,
                capacity_gflops: BTreeMap::new(),
            });
            row.identifiers += 1;
            if !self.pools.insert((value.clone(), cpi.prefix().to_owned())) {
                continue;
            }
            row.servers += u64::from(cpi.servers());
            let counted = |model: &str| self.name != Some("chip") || model == value;
            row.chips +=
                cpi.chips().filter(|(model, _)| counted(model)).map(|(_, count)| u64::from(count)).sum::<u64>();
            if let Some((gflops, precision)) = cpi.capacity().stated() {
                *row.capacity_gflops.entry(precision.code().to_owned()).or_default() += gflops;
            }
        }
    }
}
