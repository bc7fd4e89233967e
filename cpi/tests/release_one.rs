//! The first dictionary release holds what it was made from.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

use cpi::dictionary::{Dictionary, Entry as _};
use cpi::measures::Precision;

#[test]
fn all_chips_with_exact_peaks() {
    let dictionary = Dictionary::first();
    assert_eq!(dictionary.release(), 1);
    assert_eq!(dictionary.chips.len(), 62);
    let peak = |model: &str, precision| dictionary.chips.get(model).unwrap().peaks.gflops(precision);
    assert_eq!(peak("NVH800S80", Precision::Tf32), Some(494_500));
    assert_eq!(peak("NVH800S80", Precision::Fp64), Some(1000));
    assert_eq!(peak("NVT4", Precision::Fp64), Some(254));
    assert_eq!(peak("AMMI300X", Precision::Fp16), Some(1_307_400));
    assert_eq!(peak("HWA910C", Precision::Fp64), None, "missing is not 0");
    assert_eq!(peak("XLU280", Precision::Int8), Some(24_500));
    for chip in dictionary.chips.iter() {
        assert!(!chip.source.is_empty(), "{} has a source", chip.code().code);
        assert!(["high", "medium", "low"].contains(&chip.confidence.as_str()));
        let accelerator = !matches!(chip.kind, cpi::resource::ChipKind::Cpu | cpi::resource::ChipKind::Dpu);
        assert_eq!(chip.platforms.slurm_gres.is_some(), accelerator, "{}", chip.code().code);
        assert!(chip.platforms.openstack_trait.is_some());
        for precision in Precision::ALL {
            assert_ne!(chip.peaks.gflops(precision), Some(0), "{}", chip.code().code);
        }
    }
    for name in ["nvidia.com/gpu", "huawei.com/Ascend910", "hygon.com/dcunum"] {
        assert!(dictionary.kubernetes_resources().iter().any(|resource| resource.name == name));
    }
}

#[test]
fn all_cities_of_the_sites_in_both_schemes() {
    let dictionary = Dictionary::first();
    assert!(dictionary.cities.len() > 600);
    // GB/T 2260 and UN/LOCODE of every site that simulations and rings are made of
    const SITES: &str = "G110100 UCNBJS G120100 UCNTNJ G130700 UCNZJK G131000 UCNLFZ G130100 UCNSJZ G210200 UCNDAL \
        G210100 UCNSHY G220100 UCNCGC G230100 UCNHRN G150100 UCNHHH G150900 G140100 UCNTYU G370100 UCNJNA G370200 UCNQIN \
        G410100 UCNZGZ G610100 UCNXIA G621000 G620100 UCNLAZ G640500 G630100 UCNXNT G650100 UCNURM G310100 UCNSGH G320500 \
        UCNSZH G330400 UCNJAX G320100 UCNNJI G320200 UCNWXS G330100 UCNHAZ G330700 UCNJHA G340200 UCNWHI G340100 UCNHFI \
        G420100 UCNNHN G430100 UCNCSH G360100 UCNNCH G350100 UCNFZH G440100 UCNGGZ G440300 UCNSNZ G440200 G510100 UCNCDU \
        G500100 UCNCQI G520100 UCNGYA G530100 UCNKNM G450100 UCNNIN G460100 UCNHKO UHKHKG USGSIN UJPTYO UKRSEL UINBOM UAUSYD \
        UDEFRA UFRPAR UGBLON UFIHMN UUSQAS UUSDLS UBRSAO UZAJNB";
    for code in SITES.split_whitespace() {
        let city = dictionary.cities.get(code).unwrap_or_else(|| panic!("{code}"));
        assert!(city.latitude_milli.is_some() && city.longitude_milli.is_some(), "{code}");
        if let Some(other) = &city.same_as {
            assert_eq!(dictionary.cities.get(other).unwrap().same_as.as_deref(), Some(code));
        }
    }
    for city in dictionary.cities.iter() {
        assert_eq!(city.country.len(), 2, "{}", city.code().code);
        let code = &city.code().code;
        assert!(code.len() == if code.starts_with('G') { 7 } else { 6 }, "{code}");
    }
}

#[test]
fn the_vectors_decode_and_their_capacities_agree() {
    let dictionary = Dictionary::first();
    let vectors: serde_json::Value = serde_json::from_str(include_str!("golden/identifiers.json")).unwrap();
    for vector in vectors.as_array().unwrap() {
        let text = vector["cpi"].as_str().unwrap();
        let description = cpi::resolve::resolve(text, &dictionary).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(
            matches!(description.capabilities.capacity_check, cpi::measures::CapacityCheck::Agrees { .. }),
            "{text}: {:?}",
            description.capabilities.capacity_check
        );
        let cpi = dictionary.decode(text, None).unwrap();
        let binary = cpi.to_binary(&dictionary);
        assert_eq!(cpi::identifier::Cpi::from_binary(&binary, &dictionary).unwrap(), cpi);
        assert!(binary.len() * 100 <= text.len() * 52, "{} of {} octets", binary.len(), text.len());
    }
}
