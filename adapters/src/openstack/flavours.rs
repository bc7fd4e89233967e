//! Which flavour a need gets. Flavours are the operator's of the cloud; none is made here.

use super::cloud::{Cloud, CloudError};
use super::keystone::Service;
use super::nova::ServerFlavour;
use super::parts::{Accelerators, Parts, PartsError};
use crate::contract::AdapterError;
use cpi::reason::ReasonCode;
use cpi::resource::{ChipModel, Quantity};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long the list is used.
const FRESH: Duration = Duration::from_secs(60);
/// Flavours of one page.
const PAGE: usize = 500;

/// A flavour in the standard model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flavour {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) has: Quantity,
    pub(super) chips: Option<Accelerators>,
}

#[derive(Deserialize)]
struct Flavours {
    flavors: Vec<FlavourTold>,
}

#[derive(Deserialize)]
struct FlavourTold {
    id: String,
    name: String,
    vcpus: u64,
    ram: u64,
    disk: u64,
    #[serde(rename = "OS-FLV-EXT-DATA:ephemeral", default)]
    ephemeral: u64,
    #[serde(rename = "OS-FLV-DISABLED:disabled", default)]
    disabled: bool,
    #[serde(default)]
    extra_specs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Profiles {
    device_profiles: Vec<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    name: String,
    groups: Vec<BTreeMap<String, String>>,
}

/// All flavours that can be told in the model, and what was left out.
#[derive(Default)]
pub(super) struct FlavourList {
    flavours: Vec<Flavour>,
    profiles: BTreeMap<String, Parts>,
    notes: Vec<String>,
}

/// The list, asked for again when it is old.
#[derive(Default)]
pub(super) struct FlavourShelf {
    list: Mutex<Option<(Instant, Arc<FlavourList>)>>,
}

/// `resources:CLASS` and `trait:NAME = required` of extra specs or of a profile's group.
fn asked(specs: &BTreeMap<String, String>) -> (BTreeMap<String, u64>, Vec<String>) {
    let resources = specs.iter().filter_map(|(name, value)| {
        // groups of flavours are numbered: resources1:VGPU
        let (kind, class) = name.split_once(':')?;
        kind.strip_prefix("resources")?.chars().all(|c| c.is_ascii_digit()).then_some(())?;
        Some((class.to_owned(), value.parse::<u64>().ok()?))
    });
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (class, count) in resources {
        *sums.entry(class).or_default() += count;
    }
    let traits = specs.iter().filter_map(|(name, value)| {
        let (kind, wanted) = name.split_once(':')?;
        (kind.starts_with("trait") && value == "required").then(|| wanted.to_owned())
    });
    (sums, traits.collect())
}

impl FlavourShelf {
    /// What could not be told when the list was read last.
    pub(super) fn notes(&self) -> Vec<String> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.as_ref().map(|(_, list)| list.notes.clone()).unwrap_or_default()
    }

    /// The list, not older than a minute.
    pub(super) async fn list(&self, cloud: &Cloud) -> Result<Arc<FlavourList>, CloudError> {
        if let Some((at, list)) = &*self.list.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(list));
        }
        let list = Arc::new(FlavourList::read(cloud).await?);
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&list)));
        Ok(list)
    }
}

impl FlavourList {
    async fn read(cloud: &Cloud) -> Result<Self, CloudError> {
        let mut list = Self::default();
        if cloud.has(Service::Accelerator).await? {
            let told: Profiles = cloud.get(Service::Accelerator, "/device_profiles").await?;
            for profile in told.device_profiles {
                let mut all = Parts::default();
                let mut wrong = None;
                for group in &profile.groups {
                    let (resources, traits) = asked(group);
                    match Parts::of_resources(&cloud.rules, &resources, &traits) {
                        Ok(parts) => all.add(&parts),
                        Err(error) => wrong = Some(error),
                    }
                }
                match wrong {
                    None => drop(list.profiles.insert(profile.name, all)),
                    Some(error) => list.notes.push(format!("device profile {}: {error}", profile.name)),
                }
            }
        }
        let mut marker = String::new();
        loop {
            let path = format!("/flavors/detail?limit={PAGE}{marker}");
            let page: Flavours = cloud.get(Service::Compute, &path).await?;
            marker = page.flavors.last().map(|last| format!("&marker={}", last.id)).unwrap_or_default();
            let whole = page.flavors.len() == PAGE;
            for told in page.flavors.into_iter().filter(|told| !told.disabled) {
                let numbers = json!({
                    "vcpus": told.vcpus, "ram": told.ram, "disk": told.disk, "ephemeral": told.ephemeral,
                });
                let parts = list.parts(cloud, &numbers, &told.extra_specs);
                match parts.and_then(|parts| Ok((parts.quantity(), parts.accelerators()?))) {
                    Ok((has, chips)) => {
                        list.flavours.push(Flavour { id: told.id, name: told.name, has, chips });
                    }
                    Err(error) => list.notes.push(format!("flavour {}: {error}", told.name)),
                }
            }
            if !whole {
                return Ok(list);
            }
        }
    }

    fn parts(&self, cloud: &Cloud, numbers: &Value, specs: &BTreeMap<String, String>) -> Result<Parts, PartsError> {
        let mut parts = Parts::of_flavour(&cloud.rules, numbers)?;
        let (mut resources, traits) = asked(specs);
        // these override the flavour's own numbers, and the rules would count them twice
        for class in ["VCPU", "MEMORY_MB", "DISK_GB"] {
            resources.remove(class);
        }
        if !resources.is_empty() {
            parts.add(&Parts::of_resources(&cloud.rules, &resources, &traits)?);
        }
        if let Some(name) = specs.get("accel:device_profile") {
            let unknown = || PartsError::Result { section: "resources", what: format!("no device profile {name}") };
            parts.add(self.profiles.get(name).ok_or_else(unknown)?);
        }
        Ok(parts)
    }

    /// A flavour by its name.
    pub(super) fn of_name(&self, name: &str) -> Option<&Flavour> {
        self.flavours.iter().find(|flavour| flavour.name == name)
    }

    /// What a server has by the flavour that is embedded in it.
    pub(super) fn has(&self, cloud: &Cloud, flavour: &ServerFlavour) -> Result<Quantity, PartsError> {
        let numbers = json!({
            "vcpus": flavour.vcpus, "ram": flavour.ram, "disk": flavour.disk, "ephemeral": flavour.ephemeral,
        });
        Ok(self.parts(cloud, &numbers, &flavour.extra_specs)?.quantity())
    }

    /// The smallest flavour for `need`, with accelerators of `chip` where some are needed. What cannot be divided is not
    /// rounded up to whole chips.
    pub(super) fn choose(&self, need: &Quantity, chip: Option<&ChipModel>) -> Result<&Flavour, AdapterError> {
        let of_chip = |flavour: &&Flavour| match (&flavour.chips, chip) {
            (None, _) => need.chip_milli == 0,
            (Some(_), None) => false,
            (Some(chips), Some(chip)) => {
                need.chip_milli > 0
                    && chips.kind == chip.kind
                    && chips.model.as_ref().is_none_or(|model| *model == chip.model)
            }
        };
        let kind = self.flavours.iter().filter(of_chip);
        let whole = need.chip_milli.is_multiple_of(1000);
        let exact = |flavour: &&Flavour| whole || flavour.has.chip_milli == need.chip_milli;
        let fitting = kind.clone().filter(exact).filter(|flavour| flavour.has.fits(need));
        let size = |flavour: &&Flavour| {
            let has = &flavour.has;
            (has.chip_milli, has.memory_bytes, has.cpu_milli, has.storage_bytes, flavour.name.clone())
        };
        if let Some(found) = fitting.min_by_key(size) {
            return Ok(found);
        }
        if kind.clone().next().is_none() {
            let what = chip.map_or("accelerators".to_owned(), |chip| chip.model.clone());
            let (code, why) = if need.chip_milli > 0 {
                (ReasonCode::ChipUnavailable, format!("no flavour has {what}"))
            } else {
                (ReasonCode::ShapeTooLarge, "the project has no flavour without accelerators".to_owned())
            };
            return Err(AdapterError::fatal(code, why));
        }
        if !whole {
            let why = format!("no flavour has {} thousandths of a chip: chips are given whole", need.chip_milli);
            return Err(AdapterError::fatal(ReasonCode::BackendUnsupported, why));
        }
        Err(AdapterError::fatal(ReasonCode::ShapeTooLarge, format!("no flavour has as much as {need:?}")))
    }
}
