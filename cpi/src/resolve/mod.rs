//! Resolution in three stages: format check, decoding of the segments against the dictionary, structured description.
//!
//! The first two are [`Dictionary::decode`]; the third is [`describe`]. Status is soft state that the node adds.

mod description;

pub use description::{
    Attributes, Capabilities, ChipAttributes, Description, Endpoint, Enterprise, EnterpriseKind, Named, Scope,
    ServerAttributes, StatedCapacity, Status,
};

use crate::dictionary::{Code, Dictionary};
use crate::identifier::{Cpi, CpiError, CpiPath, Extension, extension};
use crate::measures::{CapacityCheck, Measures, Precision, check_capacity};
use crate::resource::ComputeClass;
use std::net::{Ipv4Addr, Ipv6Addr};

/// All three stages for a text.
///
/// # Errors
/// [`CpiError`] of stage one or two, naming the dictionary release.
pub fn resolve(text: &str, dictionary: &Dictionary) -> Result<Description, CpiError> {
    let cpi = dictionary.decode(text, None)?;
    describe(&cpi, dictionary)
}

/// Stages two and three for an identifier that was read already. Codes that ended still resolve.
///
/// # Errors
/// [`CpiError`] of kind `UnknownCode`.
pub fn describe(cpi: &Cpi, dictionary: &Dictionary) -> Result<Description, CpiError> {
    dictionary.check(cpi, None)?;
    let known = |code: Option<&Code>| named(code.expect("the dictionary was checked to know every code"));
    let cpu = dictionary.chips.get(cpi.cpu_model()).map(|chip| &chip.code);
    let city = dictionary.cities.get(cpi.city());
    let chips = cpi
        .chips()
        .filter_map(|(model, count)| dictionary.chips.get(model).map(|chip| (chip, count)))
        .map(|(chip, count)| ChipAttributes {
            model: named(&chip.code),
            vendor: chip.vendor.clone(),
            kind: chip.kind,
            count,
            peaks_gflops: chip.peaks,
            memory_bytes: chip.memory_bytes,
        })
        .collect::<Vec<_>>();
    let kind = match cpi.enterprise().as_bytes()[0] {
        b'C' => EnterpriseKind::SocialCredit,
        b'L' => EnterpriseKind::LegalEntity,
        _ => EnterpriseKind::Platform,
    };
    let attributes = Attributes {
        enterprise: Enterprise { code: cpi.enterprise().to_owned(), kind },
        industry: known(dictionary.industries.get(cpi.industry()).map(|industry| &industry.code)),
        city: known(city.map(|city| &city.code)),
        country: city.map(|city| city.country.clone()).unwrap_or_default(),
        zone: cpi.zone().to_owned(),
        resource_type: known(dictionary.resource_types.get(cpi.resource_type())),
        storage_bytes: cpi.storage().storage_bytes(),
        bandwidth_mbps: cpi.bandwidth().mega(),
        server: ServerAttributes {
            server_type: known(dictionary.server_types.get(cpi.server_type())),
            cpu_model: known(cpu),
            cores: cpi.cores(),
            memory_bytes: cpi.memory().memory_bytes(),
            storage_bytes: cpi.server_storage().storage_bytes(),
        },
        servers: cpi.servers(),
        partition: cpi.extension(extension::PARTITION).map(str::to_owned),
        extensions: cpi
            .extensions()
            .filter(|(key, _)| *key != extension::PARTITION)
            .map(|(key, value)| Extension { key: key.to_owned(), value: value.to_owned() })
            .collect(),
        chips,
    };
    let capabilities = Capabilities {
        class: cpi.class(),
        service_type: known(dictionary.service_types.get(cpi.service_type())),
        declares_in: declares_in(cpi.class()).to_vec(),
        capacity: cpi.capacity().stated().map(|(gflops, precision)| StatedCapacity { gflops, precision }),
        capacity_check: match cpi.capacity().stated() {
            None => CapacityCheck::NotComparable,
            Some((stated, precision)) => match dictionary.computed_gflops(cpi, precision) {
                None => CapacityCheck::NotComparable,
                Some(computed) => check_capacity(stated, computed),
            },
        },
        computed_gflops: computed(&attributes.chips),
    };
    Ok(Description {
        cpi: cpi.as_str().to_owned(),
        key: cpi.stable_key(),
        dictionary_release: dictionary.release(),
        attributes,
        capabilities,
        status: None,
        endpoint: endpoint(cpi.path()),
    })
}

/// The JSON Schema of the description.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Description).to_value()
}

/// Precisions in which a class declares its capacity.
pub fn declares_in(class: ComputeClass) -> &'static [Precision] {
    match class {
        ComputeClass::General => &[Precision::Fp64, Precision::Fp32],
        ComputeClass::Intelligent => &[Precision::Fp16, Precision::Bf16],
        ComputeClass::Super => &[Precision::Fp64],
        ComputeClass::Edge | ComputeClass::Hybrid => &Precision::ALL,
    }
}

fn named(code: &Code) -> Named {
    Named {
        code: code.code.clone(),
        name: code.name.clone(),
        name_zh: code.name_zh.clone(),
        successor: code.successor.clone(),
    }
}

fn computed(chips: &[ChipAttributes]) -> Measures {
    let sum = |precision| {
        chips
            .iter()
            .filter_map(|chip| Some(chip.peaks_gflops.gflops(precision)?.saturating_mul(u64::from(chip.count))))
            .reduce(u64::saturating_add)
    };
    Measures {
        fp64: sum(Precision::Fp64),
        fp32: sum(Precision::Fp32),
        tf32: sum(Precision::Tf32),
        fp16: sum(Precision::Fp16),
        bf16: sum(Precision::Bf16),
        fp8: sum(Precision::Fp8),
        int8: sum(Precision::Int8),
    }
}

fn endpoint(path: Option<CpiPath<'_>>) -> Endpoint {
    let Some(path) = path else {
        return Endpoint { scope: Scope::Pool, address: None, chip_type: None, chip_model: None, chip_uid: None };
    };
    let given = |text: &str| (text != "ANY").then(|| text.to_owned());
    let scope = if path.is_whole_pool() {
        Scope::Node
    } else if path.chip_uid == "ANY" {
        Scope::Chips
    } else {
        Scope::Chip
    };
    Endpoint {
        scope,
        address: Some(address(path.address)),
        chip_type: given(path.chip_type),
        chip_model: given(path.chip_model),
        chip_uid: given(path.chip_uid).map(|uid| platform_uid(&uid)),
    }
}

/// `IC6120A05` as `198.18.10.5`, `V...` as IPv6, a node id without its letter.
fn address(text: &str) -> String {
    let (kind, rest) = text.split_at(1);
    match kind {
        "I" => u32::from_str_radix(rest, 16).map(|bits| Ipv4Addr::from_bits(bits).to_string()),
        "V" => u128::from_str_radix(rest, 16).map(|bits| Ipv6Addr::from_bits(bits).to_string()),
        _ => Ok(rest.to_owned()),
    }
    .expect("the grammar allows hexadecimal digits only")
}

/// A UUID with its hyphens, a PCI address as `0000:c1:00.0`, other ids without their letter.
fn platform_uid(text: &str) -> String {
    let (kind, rest) = text.split_at(1);
    let lower = rest.to_ascii_lowercase();
    match kind {
        "U" => [&lower[..8], &lower[8..12], &lower[12..16], &lower[16..20], &lower[20..]].join("-"),
        "B" => format!("{}:{}:{}.{}", &lower[..4], &lower[4..6], &lower[6..8], &lower[8..]),
        _ => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dalian_vector_is_described() {
        let text = "cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071~36GEFEP";
        let description = resolve(text, &Dictionary::first()).unwrap();
        assert_eq!(description.attributes.city.name, "Dalian");
        assert_eq!(description.attributes.country, "CN");
        assert_eq!(description.attributes.chips[0].kind, crate::resource::ChipKind::Gpu);
        assert_eq!(description.attributes.server.memory_bytes, Some(2048 << 30));
        assert_eq!(description.capabilities.capacity_check, CapacityCheck::Agrees { computed_gflops: 1_012_736_000 });
        assert_eq!(description.endpoint.scope, Scope::Chip);
        assert_eq!(description.endpoint.address.as_deref(), Some("0A1C2D3"));
        assert_eq!(description.endpoint.chip_uid.as_deref(), Some("5f0c8e1a-9b3d-4c7e-8a1b-2c3d4e5f6071"));
        let json = serde_json::to_value(&description).unwrap();
        assert_eq!(serde_json::from_value::<Description>(json).unwrap(), description);
    }

    #[test]
    fn a_capacity_that_disagrees_is_flagged_and_never_refused() {
        let text =
            "cpi:1:PCAUSEWAY-GI6450-G210200-B01.IC-CT-1100PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128";
        let cpi = Cpi::seal(text).unwrap();
        let description = describe(&cpi, &Dictionary::first()).unwrap();
        assert!(matches!(description.capabilities.capacity_check, CapacityCheck::Differs { .. }));
        assert_eq!(description.capabilities.computed_gflops.fp8, Some(1979 * 1024 * 1000));
    }

    #[test]
    fn a_missing_peak_is_not_comparable_and_not_zero() {
        let text = "cpi:1:PCAUSEWAY-GI6450-G330700-B01.IC-BM-10PF64-8P-800G-HWA910C_384.SN-HWKP920-256-2048G-8T-48";
        let description = describe(&Cpi::seal(text).unwrap(), &Dictionary::first()).unwrap();
        assert_eq!(description.capabilities.capacity_check, CapacityCheck::NotComparable);
        assert_eq!(description.capabilities.computed_gflops.fp64, None);
    }
}
