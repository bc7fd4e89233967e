//! `--sites`: where the regions are, and what power costs and emits there.

use super::table::{InputError, Table};
use std::collections::BTreeSet;
use std::path::Path;

/// The most sites: what one member table keeps.
pub const SITES_MAX: usize = 16_384;

/// One site: one region.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Unique; what other files call it.
    pub id: String,
    /// For people.
    pub name: String,
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
    /// ISO 3166, two letters.
    pub country: String,
    /// Grams of CO2 per kWh, where known.
    pub carbon: Option<u32>,
    /// Per kWh in CNY, where known.
    pub price: Option<f64>,
}

/// Reads `id, name, lat, lon, country, carbon, price`; carbon and price may be empty.
///
/// # Errors
/// [`InputError`].
pub fn read_sites(path: &Path) -> Result<Vec<Site>, InputError> {
    let table = Table::read(path, &["id", "name", "lat", "lon", "country", "carbon", "price"])?;
    let mut sites = Vec::new();
    let mut seen = BTreeSet::new();
    for row in table.rows() {
        let id = row.text("id").to_owned();
        if id.is_empty() || !seen.insert(id.clone()) {
            return Err(row.wrong("id", "an id that no other site has"));
        }
        let country = row.text("country").to_owned();
        if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(row.wrong("country", "two capital letters (ISO 3166)"));
        }
        let carbon: Option<f64> = row.optional("carbon", "grams of CO2 per kWh or nothing")?;
        if carbon.is_some_and(|grams| !(0.0..=5_000.0).contains(&grams)) {
            return Err(row.wrong("carbon", "0 to 5,000 grams of CO2 per kWh"));
        }
        let price: Option<f64> = row.optional("price", "a price per kWh or nothing")?;
        if price.is_some_and(|price| !(0.0..=1_000.0).contains(&price)) {
            return Err(row.wrong("price", "a price per kWh from 0 to 1,000"));
        }
        if sites.len() >= SITES_MAX {
            return Err(row.wrong("id", format!("at most {SITES_MAX} sites")));
        }
        sites.push(Site {
            id,
            name: row.text("name").to_owned(),
            lat: row.within("lat", -90.0, 90.0)?,
            lon: row.within("lon", -180.0, 180.0)?,
            country,
            carbon: carbon.map(|grams| grams.round() as u32),
            price,
        });
    }
    Ok(sites)
}
