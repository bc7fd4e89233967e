//! Stories of the builder: fields in any order give one canonical text.

use super::*;

fn fields() -> CpiFields {
    CpiFields {
        enterprise: "C91110108MA00CP019A".into(),
        industry: "GI6450".into(),
        city: "G110100".into(),
        zone: "A01".into(),
        resource_type: "GC".into(),
        service_type: "VM".into(),
        capacity: "2867.2 TFLOPS FP64".into(),
        storage: "20 PB".into(),
        bandwidth: "400 Gbps".into(),
        chips: vec![ChipQuantity { model: "INX8480P".into(), count: 800 }],
        server_type: "RS".into(),
        cpu_model: "INX8480P".into(),
        cores: 112,
        memory: "1 TiB".into(),
        server_storage: "15 TB".into(),
        servers: 400,
        path: None,
        extensions: Vec::new(),
    }
}

#[test]
fn human_amounts_become_the_first_vector() {
    let cpi = fields().build().unwrap();
    assert_eq!(
        cpi.as_str(),
        "cpi:1:C91110108MA00CP019A-GI6450-G110100-A01.GC-VM-2870TF64-20P-400G-INX8480P_800.RS-INX8480P-112-1024G-15T-400~2VHNVZS"
    );
    assert_eq!(CpiFields::from(&cpi).build().unwrap(), cpi);
}

#[test]
fn capacity_is_rounded_half_up_from_the_exact_decimal() {
    for (text, written) in [
        ("2864.999999999 TFLOPS FP64", "2860TF64"),
        ("2865 TFLOPS FP64", "2870TF64"),
        ("999.5 GFLOPS FP32", "1TF32"),
        ("1.4 GFLOPS FP32", "1GF32"),
        ("0.5 GFLOPS FP32", "1GF32"),
        ("0.4 GFLOPS FP32", "0"),
        ("99.5 GFLOPS FP32", "100GF32"),
        ("1000PF16", "1EF16"),
        ("1012.736 PFLOPS FP16", "1010PF16"),
        ("12102 tops int8", "12100TI08"),
        ("0.0015 PFLOPS BF16", "1500GB16"),
        ("999 EFLOPS FP8", "999EF08"),
        ("u", "U"),
    ] {
        assert_eq!(capacity(text).unwrap(), written, "{text}");
    }
    for text in ["", "5", "5 PFLOPS", "5 PFLOPS INT8", "5 POPS FP16", "x", "1.2.3TF64", "9999999 EFLOPS FP16"] {
        assert!(capacity(text).is_err(), "{text}");
    }
}

#[test]
fn amounts_are_exact_or_refused() {
    let storage = |text| amount(text, AmountKind::Storage, Field::Storage);
    assert_eq!(storage("1500 GB").unwrap(), "1500G");
    assert_eq!(storage("1.5 PB").unwrap(), "1500T");
    assert_eq!(storage("2000T").unwrap(), "2P");
    assert!(storage("1.5 GB").is_err());
    assert!(storage("5 GiB").is_err(), "storage is decimal");
    let memory = |text| amount(text, AmountKind::Memory, Field::Memory);
    assert_eq!(memory("2 TiB").unwrap(), "2048G");
    assert_eq!(memory("2000G").unwrap(), "2000G");
    assert!(memory("1.5G").is_err());
    let bandwidth = |text| amount(text, AmountKind::Bandwidth, Field::Bandwidth);
    assert_eq!(bandwidth("1000 Gbps").unwrap(), "1T");
    assert_eq!(bandwidth("0.5G").unwrap(), "500M");
}

#[test]
fn a_field_cannot_become_two() {
    let mut fields = fields();
    fields.zone = "A01.IC".into();
    assert_eq!(fields.build().unwrap_err().field, Field::Zone);
    let mut fields = super::tests::fields();
    fields.extensions.push(Extension { key: "XA".into(), value: "1~PNX".into() });
    assert_eq!(fields.build().unwrap_err().field, Field::Extension);
}

#[test]
fn addresses_and_uuids_are_read_as_people_write_them() {
    let mut fields = fields();
    fields.path = Some(PathFields {
        address: "198.18.10.5".into(),
        chip_type: "gpu".into(),
        chip_model: any(),
        chip_uid: "5f0c8e1a-9b3d-4c7e-8a1b-2c3d4e5f6071".into(),
    });
    let cpi = fields.build().unwrap();
    let path = cpi.path().unwrap();
    assert_eq!((path.address, path.chip_uid), ("IC6120A05", "U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071"));
}
