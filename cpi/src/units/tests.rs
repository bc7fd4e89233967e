//! Stories of amounts as people write them.

use super::*;
use crate::measures::{Measures, Precision};

#[test]
fn bytes_are_read_exactly_and_printed_canonically() {
    for (text, bytes, printed) in [
        ("8 GiB", 8 << 30, "8 GiB"),
        ("1.5TB", 1_500_000_000_000, "1500 GB"),
        ("1024", 1024, "1 KiB"),
        ("0", 0, "0 B"),
        ("999", 999, "999 B"),
        ("20 PB", 20_000_000_000_000_000, "20 PB"),
    ] {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!(size, ByteSize(bytes), "{text}");
        assert_eq!(size.to_string(), printed);
        assert_eq!(printed.parse::<ByteSize>().unwrap(), size);
    }
    for text in ["", "GiB", "1.2.3 GB", "-1", "1 gib", "0.5", "99999999999 EB", "1. GB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn cores_durations_and_compute() {
    assert_eq!("500m".parse::<CpuAmount>().unwrap().milli, 500);
    assert_eq!("0.5".parse::<CpuAmount>().unwrap().to_string(), "500m");
    assert!("0.0005".parse::<CpuAmount>().is_err());
    assert_eq!("1h30m".parse::<DurationText>().unwrap().ms, 5_400_000);
    assert_eq!("5400".parse::<DurationText>().unwrap().to_string(), "1h30m");
    assert_eq!("250ms".parse::<DurationText>().unwrap().to_string(), "250ms");
    for text in ["", "h", "1m1h", "2 weeks", "1h2h", "-3"] {
        assert!(text.parse::<DurationText>().is_err(), "{text}");
    }
    let amount: ComputeAmount = "5 PFLOPS FP16".parse().unwrap();
    assert_eq!(amount, ComputeAmount { gflops: 5_000_000, precision: Precision::Fp16 });
    assert_eq!(amount.to_string(), "5 PFLOPS FP16");
    let h800 = Measures { fp16: Some(989_000), ..Measures::default() };
    assert_eq!(amount.chips(&h800), Some(6));
    assert_eq!(amount.chip_milli(&h800), Some(5056));
    assert_eq!(amount.chips(&Measures::default()), None, "a missing peak is not 0");
    for text in ["5 PFLOPS", "5 PFLOPS INT8", "5 POPS FP16", "0 PFLOPS FP16", "FP16", "5 XFLOPS FP16"] {
        assert!(text.parse::<ComputeAmount>().is_err(), "{text}");
    }
}

#[test]
fn documents_hold_numbers_or_texts() {
    let sizes: Vec<ByteSize> = serde_json::from_str(r#"[1024, "1 KiB"]"#).unwrap();
    assert_eq!(sizes[0], sizes[1]);
    assert_eq!(serde_json::to_string(&sizes).unwrap(), "[1024,1024]");
    let cores: Vec<CpuAmount> = serde_json::from_str(r#"[2, 0.5, "250m"]"#).unwrap();
    assert_eq!(serde_json::to_string(&cores).unwrap(), r#"[2,"500m","250m"]"#);
    let error = serde_json::from_str::<ByteSize>(r#""8 gigs""#).unwrap_err().to_string();
    assert!(error.contains("8 gigs") && error.contains("GiB"), "{error}");
}
