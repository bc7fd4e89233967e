//! Stories of the filter language: what it reads, what it answers, what it refuses and where.

use super::*;
use crate::dictionary::Dictionary;
use crate::identifier::Cpi;

fn dalian() -> Cpi {
    Cpi::parse("cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071~36GEFEP").unwrap()
}

fn matches(filter: &str) -> bool {
    let (cpi, dictionary) = (dalian(), Dictionary::first());
    let identifier = IdentifierSource { cpi: &cpi, dictionary: &dictionary };
    let status = StatusSource {
        region: Some("dalian"),
        free_chip_milli: Some(12_500),
        cordoned: Some(false),
        chip_hour_micro: Some(12_300_000),
        ..StatusSource::default()
    };
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&(identifier, status))
}

#[test]
fn fields_measures_and_status_are_compared() {
    for filter in [
        "city = G210200",
        "city = UCNDAL",
        "city = g210200 and class = ic",
        "country = CN and not class = SC",
        "enterprise ^= C9121",
        r#"cpi ^= "cpi:1:C91210231MA00CP027A-GI6450-G210200""#,
        "cpi ^= cpi:1:c9121",
        "chip in (NVH100S80, NVH800S80)",
        "chip not in (HWA910C) and chip != HWA910B3",
        "vendor = NVIDIA and chip_kind = GPU",
        "fp16_pflops >= 1012.736 and fp16_eflops < 1.013",
        "fp16 >= 1 EFLOPS",
        "chip_fp16_tflops = 989",
        "int8_eops > 2",
        "memory >= 2 TiB and memory = 2048 GiB",
        "storage = 8 PB",
        "bandwidth >= 800 Gbps and bandwidth < 1 Tbps",
        "servers >= 128 and servers in (1, 128)",
        "chip_count > 1000.5",
        "(region = dalian or region = jinhua) and cordoned = false",
        "free_chips >= 12.5 and free_chips < 12.501 and free_chips = 12500m",
        "chip_hour_price <= 12.3",
        "has chip_uid and chip_uid ^= U5F",
        "key = 76AWNYB39RRVZCJP65ACZYDG8K",
        "chip_memory >= 80 GiB",
        "not has ext.PN",
        "class = SC or class = IC",
    ] {
        assert!(matches(filter), "{filter}");
    }
    for filter in [
        "city = G110100",
        "class != IC",
        "chip != NVH800S80",
        "fp64_pflops >= 2",
        "rtt < 1000",
        "rtt != 5",
        "not has free_chips",
        "cordoned = true",
        "ext.PN = HPC01",
        "free_chips > 12.5",
    ] {
        assert!(!matches(filter), "{filter}");
    }
}

#[test]
fn errors_say_where_and_what() {
    let error = Filter::parse("city = G110100 and fp16_plops >= 1").unwrap_err();
    assert_eq!(error.offset, 19);
    assert_eq!(error.nearest.as_deref(), Some("fp16_pflops"));
    let error = Filter::parse("city = ").unwrap_err();
    assert_eq!(error.found, "");
    assert!(error.expected.contains("a value"), "{error}");
    let error = Filter::parse("memory >= 5 parsecs").unwrap_err();
    assert_eq!(error.offset, 10);
    assert!(error.expected.contains("GiB"), "{error}");
    for text in ["", "and", "city", "city = = 1", "city == 1", "(city = A", "city = A)", "memory ^= 1", "fp16 > 1", "x"]
    {
        assert!(Filter::parse(text).is_err(), "{text}");
    }
}

#[test]
fn length_depth_and_clauses_are_bounded() {
    assert!(Filter::parse(&format!("zone = {}", "A".repeat(FILTER_BYTES_MAX))).is_err());
    let nested = |depth: usize| format!("{}zone = A01{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&nested(FILTER_DEPTH_MAX)).is_ok());
    assert!(Filter::parse(&nested(FILTER_DEPTH_MAX + 1)).is_err());
    let clauses = |count: usize| vec!["zone = A01"; count].join(" or ");
    assert!(Filter::parse(&clauses(FILTER_CLAUSES_MAX)).is_ok());
    assert!(Filter::parse(&clauses(FILTER_CLAUSES_MAX + 1)).is_err());
    assert!(Filter::parse(&"not ".repeat(1000)).is_err());
}

#[test]
fn refusing_clauses_are_counted() {
    let filter = Filter::parse("(class = IC and (city = G110100 or city = G330700) and fp16_pflops >= 1)").unwrap();
    assert_eq!(
        filter.clauses().collect::<Vec<_>>(),
        ["class = IC", "(city = G110100 or city = G330700)", "fp16_pflops >= 1"]
    );
    let (cpi, dictionary) = (dalian(), Dictionary::first());
    let mut counts = RejectCounts::new(&filter);
    assert!(!counts.observe(&filter, &IdentifierSource { cpi: &cpi, dictionary: &dictionary }));
    assert_eq!(counts.clauses.iter().map(|c| c.rejected).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!((counts.asked, counts.matched), (1, 0));
}

#[test]
fn hints_constrain_every_match() {
    let hints = |text: &str| Filter::parse(text).unwrap().hints();
    assert_eq!(
        hints("class = IC and enterprise ^= C91 and fp16_pflops >= 1.5"),
        [
            Hint::OneOf { field: FilterField::Class, texts: vec!["IC".into()] },
            Hint::Prefix { field: FilterField::Enterprise, prefix: "C91".into() },
            Hint::Range {
                field: FilterField::Measure(crate::measures::Precision::Fp16),
                min: 1_500_000,
                max: u64::MAX
            },
        ]
    );
    assert_eq!(
        hints("city = B or (city = A and class = IC)"),
        [Hint::OneOf { field: FilterField::City, texts: vec!["A".into(), "B".into()] }]
    );
    assert_eq!(hints("city = A or class = IC"), []);
    assert_eq!(hints("not city = A"), []);
    assert!(Filter::parse("free_chips > 1").unwrap().needs_status());
    assert!(!Filter::parse("class = IC").unwrap().needs_status());
}
