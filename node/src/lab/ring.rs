//! The description of a lab ring (`configs/lab/ring.toml`): its regions, how far apart they are, and the main job.

use crate::config::{ConfigLoader, NodeConfig};
use anyhow::{Context as _, bail};
use cpi::ids::RegionName;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A ring on one machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingSpec {
    /// In the order in which they join; the first founds the federation.
    pub regions: Vec<RegionSpec>,
    /// Round trips; a pair that is not listed has none.
    #[serde(default)]
    pub links: Vec<LinkSpec>,
    /// The main job.
    pub job: JobSpec,
    /// The folder of the file: `config` and `document` are relative to it.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// A region of the ring.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSpec {
    /// As in its configuration.
    pub name: RegionName,
    /// For people.
    pub title: String,
    /// Its node's configuration.
    pub config: PathBuf,
    /// The enterprise code under which it registers.
    pub enterprise: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// How far apart two regions are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// The two.
    pub between: (RegionName, RegionName),
    /// Great-circle distance.
    pub km: u32,
    /// The round trip that the relay makes.
    pub rtt_ms: f64,
}

/// The main job.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Who is handed the tasks.
    pub origin: RegionName,
    /// The tasks in their order.
    pub tasks: Vec<JobTask>,
}

/// One task of the job.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobTask {
    /// The task document.
    pub document: PathBuf,
    /// Where it has to end up.
    pub runs_in: RegionName,
}

impl RingSpec {
    /// Reads and checks a description.
    ///
    /// # Errors
    /// What is wrong with it, by name.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let mut ring: Self = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        ring.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        ring.check().with_context(|| format!("in {}", path.display()))?;
        Ok(ring)
    }

    fn check(&self) -> anyhow::Result<()> {
        let names: BTreeSet<&RegionName> = self.regions.iter().map(|region| &region.name).collect();
        if names.len() != self.regions.len() || names.is_empty() {
            bail!("`regions` is empty, or names a region twice");
        }
        let linked = self.links.iter().flat_map(|link| [&link.between.0, &link.between.1]);
        let placed = self.job.tasks.iter().map(|task| &task.runs_in);
        for name in linked.chain(placed).chain([&self.job.origin]) {
            if !names.contains(name) {
                bail!("{name} is named, but is none of the regions");
            }
        }
        if let Some(link) = self.links.iter().find(|link| !(0.0..=2000.0).contains(&link.rtt_ms)) {
            bail!("links: {} ms between {} and {} is not 0 to 2000", link.rtt_ms, link.between.0, link.between.1);
        }
        Ok(())
    }

    /// The round trip between two regions in milliseconds.
    pub fn rtt_ms(&self, a: &RegionName, b: &RegionName) -> f64 {
        let same = |link: &&LinkSpec| [(a, b), (b, a)].contains(&(&link.between.0, &link.between.1));
        self.links.iter().find(same).map_or(0.0, |link| link.rtt_ms)
    }

    /// The configurations of all regions as their files say.
    ///
    /// # Errors
    /// A file that the node would refuse.
    pub fn configs(&self) -> anyhow::Result<BTreeMap<RegionName, NodeConfig>> {
        let mut out = BTreeMap::new();
        for region in &self.regions {
            let path = self.folder.join(&region.config);
            let loaded = ConfigLoader::load_from(&crate::config::ConfigInput {
                file: Some(path.clone()),
                ..crate::config::ConfigInput::default()
            })
            .with_context(|| format!("reading {}", path.display()))?;
            out.insert(region.name.clone(), loaded.config);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> RingSpec {
        RingSpec::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/lab/ring.toml")).expect("it is right")
    }

    #[test]
    fn round_trips_follow_from_the_distances() {
        let ring = shipped();
        assert_eq!(ring.links.len(), 10);
        let place = |name: &RegionName| {
            let region = ring.regions.iter().find(|region| region.name == *name).expect("named");
            (region.latitude.to_radians(), region.longitude.to_radians())
        };
        for link in &ring.links {
            let ((lat_a, lon_a), (lat_b, lon_b)) = (place(&link.between.0), place(&link.between.1));
            let h = ((lat_b - lat_a) / 2.0).sin().powi(2)
                + lat_a.cos() * lat_b.cos() * ((lon_b - lon_a) / 2.0).sin().powi(2);
            let km = 2.0 * 6371.0088 * h.sqrt().asin();
            assert!((km - f64::from(link.km)).abs() < 1.0, "{:?}: {km} km", link.between);
            assert!((link.rtt_ms - km * 0.015).abs() < 0.1, "{:?}: {} ms", link.between, link.rtt_ms);
        }
    }

    #[test]
    fn every_region_has_its_vector_and_its_own_ports() {
        let ring = shipped();
        let configs = ring.configs().expect("the node takes them");
        let mut addresses = BTreeSet::new();
        for region in &ring.regions {
            let config = &configs[&region.name];
            assert_eq!(config.region.name, region.name);
            assert!(addresses.insert(config.http.listen.clone()));
            assert!(config.mesh.listen.iter().all(|address| addresses.insert(address.clone())));
            let identifiers = config.pools.iter().flat_map(|pool| &pool.identifiers);
            assert!(identifiers.clone().count() > 0);
            assert!(identifiers.clone().all(|text| text.starts_with(&format!("cpi:1:{}-", region.enterprise))));
        }
    }

    #[test]
    fn a_region_that_does_not_exist_is_named() {
        let text = r#"
            links = [{ between = ["a", "c"], km = 1, rtt_ms = 1.0 }]
            job = { origin = "a", tasks = [] }
            [[regions]]
            name = "a"
            title = "A"
            config = "a.toml"
            enterprise = "X"
            latitude = 0.0
            longitude = 0.0
        "#;
        let ring: RingSpec = toml::from_str(text).expect("reads");
        assert!(ring.check().expect_err("c is not there").to_string().contains('c'));
    }
}
