//! A wrong identifier says the field, the offset, what was expected, and the dictionary release consulted.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

use cpi::dictionary::{Dictionary, LoadDictionaryError, ReleaseDocument};
use cpi::identifier::{Cpi, CpiErrorKind as Kind, CpiField as Field, NewerCpi, Relayed};

const DALIAN: &str = "cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071~36GEFEP";

/// Refuses `text` with one part replaced: kind, field, offset relative to the replaced part.
fn refused(part: &str, with: &str, kind: Kind, field: Field, offset: usize) {
    let body = DALIAN.rsplit_once('~').unwrap().0;
    let at = body.find(part).unwrap_or_else(|| panic!("{part} is a part"));
    let text = body.replacen(part, with, 1);
    let error = Cpi::seal(&text).expect_err(&text);
    assert_eq!((error.kind, error.field, error.offset as usize), (kind, field, at + offset), "{text}: {error}");
    assert!(!error.expected.is_empty());
    let error = Dictionary::first().decode(&(text + "~0000000"), None).expect_err("still wrong");
    assert_eq!(error.release, Some(1), "the release consulted is named");
}

#[test]
fn every_field_is_named_with_its_offset() {
    refused("cpi:", "cpj:", Kind::Syntax, Field::Scheme, 0);
    refused("1:C", "0:C", Kind::Syntax, Field::Version, 0);
    refused("1:C", "2:C", Kind::Newer, Field::Version, 0);
    refused("C9121", "X9121", Kind::Syntax, Field::Enterprise, 0);
    refused("C91210231MA00CP027A", "C91210231MA00CP027", Kind::Syntax, Field::Enterprise, 18);
    refused("C91210231MA00CP027A", "C91210231MA00CP02ZA", Kind::Syntax, Field::Enterprise, 17);
    refused("C91210231MA00CP027A", "C91210231MA00CP028A", Kind::CheckCharacter, Field::Enterprise, 17);
    refused("C91210231MA00CP027A", "C91210231MA00CP027B", Kind::CheckCharacter, Field::Enterprise, 18);
    refused("C91210231MA00CP027A", "C92210231MA00CP027A", Kind::CheckCharacter, Field::Enterprise, 18);
    refused("C91210231MA00CP027A", "L999900CPITESTFRA0175", Kind::CheckCharacter, Field::Enterprise, 19);
    refused("C91210231MA00CP027A", "P12345", Kind::Syntax, Field::Enterprise, 6);
    refused("-GI6450", "-XI6450", Kind::Syntax, Field::Industry, 1);
    refused("-GI6450", "-GU6450", Kind::Syntax, Field::Industry, 2);
    refused("-GI6450", "-GI645", Kind::Syntax, Field::Industry, 6);
    refused("-G210200", "-G21020", Kind::Syntax, Field::City, 7);
    refused("-G210200", "-UCN1AL", Kind::Syntax, Field::City, 4);
    refused("-B01.", "-B1.", Kind::Syntax, Field::Zone, 3);
    refused("IC-CT", "QC-CT", Kind::Newer, Field::ResourceType, 0);
    refused("IC-CT", "IC-C", Kind::Syntax, Field::ServiceType, 4);
    refused("1010PF16", "1010QF16", Kind::Syntax, Field::Capacity, 4);
    refused("1010PF16", "1010PF04", Kind::Newer, Field::Capacity, 5);
    refused("1010PF16", "01010PF16", Kind::Syntax, Field::Capacity, 0);
    refused("1010PF16", "1010101PF16", Kind::OutOfRange, Field::Capacity, 0);
    refused("1010PF16", "999999EF16", Kind::OutOfRange, Field::Capacity, 0);
    refused("-8P-", "-8M-", Kind::Syntax, Field::Storage, 2);
    refused("800G-N", "800P-N", Kind::Syntax, Field::Bandwidth, 3);
    refused("NVH800S80_1024", "NVH800S80", Kind::Syntax, Field::Chips, 9);
    refused("NVH800S80_1024", "NVH800S80_1_NVH800S80_2", Kind::Duplicate, Field::Chips, 12);
    refused("NVH800S80_1024", "ANY_1024", Kind::Syntax, Field::Chips, 0);
    refused("NVH800S80_1024", "AA_1_BB_1_CC_1_DD_1_EE_1", Kind::Newer, Field::Chips, 20);
    refused("NVH800S80_1024", "A_1024", Kind::Syntax, Field::Chips, 1);
    refused(".GP", ".G1", Kind::Syntax, Field::ServerType, 2);
    refused("INX8480P-112", "8480P-112", Kind::Syntax, Field::CpuModel, 0);
    refused("-112-", "--", Kind::Syntax, Field::Cores, 1);
    refused("-2048G-", "-2048M-", Kind::Syntax, Field::Memory, 5);
    refused("-30T-", "-30-", Kind::Syntax, Field::ServerStorage, 3);
    refused("-128/", "-/", Kind::Syntax, Field::Servers, 1);
    refused("/N0A1C2D3/", "/N/", Kind::Syntax, Field::Address, 2);
    refused("/N0A1C2D3/", "/I0A1C2D3/", Kind::Syntax, Field::Address, 9);
    refused("/GPU/", "/XPU/", Kind::Newer, Field::ChipType, 1);
    refused("/NVH800S80/", "/N/", Kind::Syntax, Field::ChipModel, 2);
    refused("/U5F0C", "/U5G0C", Kind::Syntax, Field::ChipUid, 3);
    refused("6071", "6071~PNA~PNB", Kind::Duplicate, Field::Extension, 8);
    refused("6071", "6071~P1A", Kind::Syntax, Field::Extension, 6);
    refused("6071", "6071~PN", Kind::Syntax, Field::Extension, 7);
    refused("6071", "6071-", Kind::Syntax, Field::ChipUid, 4);
    refused("128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071", "128.", Kind::Syntax, Field::Servers, 3);
}

#[test]
fn a_wrong_or_missing_check_is_refused() {
    let wrong = DALIAN.replace("36GEFEP", "36GEFEQ");
    let error = Cpi::parse(&wrong).unwrap_err();
    assert_eq!((error.kind, error.field, error.offset as usize), (Kind::Checksum, Field::Check, wrong.len() - 7));
    assert!(error.expected.contains("36GEFEP"), "{error}");
    for text in [
        DALIAN.rsplit_once('~').unwrap().0.to_owned(),
        DALIAN.replace("~36G", "~46G"),
        DALIAN.replace("GEFEP", "GEFEU"),
    ] {
        assert_eq!(Cpi::parse(&text).unwrap_err().field, Field::Check, "{text}");
    }
    let error = Cpi::parse(&"A".repeat(513)).unwrap_err();
    assert_eq!(error.kind, Kind::TooLong);
    for text in ["", "cpi", "cpi:", "cpi:1:", "~", "cpi:1:C~0000000", "é", "cpi:1:é"] {
        assert!(Cpi::parse(text).is_err(), "{text}");
    }
    for octets in [&[0xff_u8, 0xfe][..], b"cpi:1:\0", &[b'~'; 512]] {
        assert!(Cpi::parse_octets(octets).is_err());
    }
}

#[test]
fn every_single_octet_change_is_noticed() {
    for at in 0..DALIAN.len() {
        for octet in b"0A~Z-" {
            let mut changed = DALIAN.as_bytes().to_vec();
            if changed[at].eq_ignore_ascii_case(octet) {
                continue;
            }
            changed[at] = *octet;
            assert!(Cpi::parse_octets(&changed).is_err(), "{}", String::from_utf8_lossy(&changed));
        }
        assert!(Cpi::parse(&DALIAN[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn codes_that_the_dictionary_does_not_know_are_named() {
    let dictionary = Dictionary::first();
    let body = DALIAN.rsplit_once('~').unwrap().0;
    for (part, with, field) in [
        ("GI6450", "GI9999", Field::Industry),
        ("G210200", "G990200", Field::City),
        ("-CT-", "-QQ-", Field::ServiceType),
        ("NVH800S80_1024", "NVH800S8_1024", Field::Chips),
        (".GP-", ".QQ-", Field::ServerType),
        ("INX8480P", "INX9999", Field::CpuModel),
        ("INX8480P", "NVH100S80", Field::CpuModel),
        ("/NVH800S80/", "/NVX/", Field::ChipModel),
    ] {
        let text = body.replacen(part, with, 1);
        let cpi = Cpi::seal(&text).expect("the grammar is followed");
        let error = dictionary.check(&cpi, None).expect_err(&text);
        assert_eq!((error.kind, error.field, error.release), (Kind::UnknownCode, field, Some(1)), "{error}");
        let at = text.find(with).unwrap() + usize::from(with.starts_with(['-', '.', '/']));
        assert_eq!(error.offset as usize, at, "{error}");
    }
    let near = Cpi::seal(&body.replacen("NVH800S80_1024", "NVH800S8_1024", 1)).unwrap();
    let error = dictionary.check(&near, None).unwrap_err().to_string();
    assert!(error.contains("NVH800S80") && error.contains("release 1"), "{error}");
}

#[test]
fn ended_codes_resolve_and_take_no_new_identifiers() {
    let dictionary = Dictionary::first();
    let text = DALIAN.rsplit_once('~').unwrap().0.replacen("G210200", "G371200", 1);
    let cpi = Cpi::seal(&text).unwrap();
    assert!(dictionary.check(&cpi, None).is_ok(), "old identifiers resolve");
    let error = dictionary.check(&cpi, Some(jiff::civil::date(2026, 11, 24))).unwrap_err();
    assert_eq!((error.kind, error.field), (Kind::NotValidThen, Field::City));
    assert!(error.expected.contains("G370100"), "{error}");
    assert!(dictionary.check(&cpi, Some(jiff::civil::date(2010, 1, 1))).is_err(), "the others were not valid yet");
}

fn first_document() -> ReleaseDocument {
    Dictionary::first().to_document()
}

#[test]
fn a_release_only_appends() {
    let first = Dictionary::first();
    let mut next = first_document();
    next.release = 2;
    next.chips.push(next.chips[0].clone());
    next.chips.last_mut().unwrap().code.code = "NVX1".into();
    next.cities[0].code.valid_to = Some(jiff::civil::date(2030, 1, 1));
    let second = Dictionary::from_document(next.clone()).unwrap();
    second.follows(&first).unwrap();
    assert!(first.follows(&second).is_err(), "an older number");
    let cpi = first.decode(DALIAN, None).unwrap();
    assert_eq!(second.decode(DALIAN, None).unwrap(), cpi, "old identifiers resolve after a new release");
    let binary = cpi.to_binary(&first);
    assert_eq!(Cpi::from_binary(&binary, &second).unwrap(), cpi, "and their binary forms too");
    let mut moved = next.clone();
    moved.chips.swap(0, 1);
    let error = Dictionary::from_document(moved).unwrap().follows(&first).unwrap_err();
    assert!(matches!(error, LoadDictionaryError::NotASuccessor { release: 2, before: 1, .. }), "{error}");
    let mut twice = next.clone();
    twice.chips[1].code.code = twice.chips[0].code.code.clone();
    assert!(matches!(Dictionary::from_document(twice), Err(LoadDictionaryError::Duplicate { table: "chips", .. })));
    let mut lost = next;
    lost.cities[0].code.successor = Some("G999999".into());
    assert!(matches!(Dictionary::from_document(lost), Err(LoadDictionaryError::Inconsistent { .. })));
    assert!(Dictionary::load(b"{}").is_err());
}

#[test]
fn a_release_survives_its_json() {
    let json = serde_json::to_vec(&first_document()).unwrap();
    assert_eq!(Dictionary::load(&json).unwrap(), *Dictionary::first());
    // a later release may say more than this version reads
    let mut value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    value["new_table"] = serde_json::json!([1]);
    value["chips"][0]["new_field"] = serde_json::json!("x");
    assert_eq!(Dictionary::load(value.to_string().as_bytes()).unwrap(), *Dictionary::first());
}

fn with_check(body: &str) -> String {
    let crc = crc32c::crc32c(body.as_bytes());
    let alphabet = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let check: String = (0..7).rev().map(|at| char::from(alphabet[(crc >> (at * 5) & 31) as usize])).collect();
    format!("{body}~{check}")
}

#[test]
fn newer_content_is_relayed_octet_for_octet() {
    let body = DALIAN.rsplit_once('~').unwrap().0;
    for newer in [
        with_check(&body.replacen("cpi:1:", "cpi:2:", 1)),
        with_check(&body.replacen("1010PF16", "1010PF04", 1)),
        with_check(&body.replacen("/GPU/", "/XPU/", 1)),
        with_check(&body.replacen("-128/", "-128-NEW.FIELD/", 1)),
        with_check("cpi:Z:whatever.else/may~come"),
    ] {
        let relayed = Relayed::parse(&newer).unwrap_or_else(|error| panic!("{newer}: {error}"));
        assert!(matches!(relayed, Relayed::Newer(_)), "{newer}");
        assert_eq!(relayed.as_str(), newer);
        assert!(Cpi::parse(&newer).is_err(), "and never taken for understood");
    }
    assert_eq!(NewerCpi::parse(&with_check("cpi:Z:x")).unwrap().version(), 'Z');
    assert!(matches!(Relayed::parse(DALIAN), Ok(Relayed::Known(_))));
    for wrong in [
        DALIAN.replace("36GEFEP", "36GEFEQ"),
        body.replacen("cpi:1:", "cpi:2:", 1) + "~0000000",
        with_check(&body.replacen("C91210231MA00CP027A", "C91210231MA00CP027B", 1)),
        with_check("cpi:2:a b"),
        with_check("cpx:2:a"),
        with_check(&format!("cpi:2:{}", "A".repeat(600))),
    ] {
        assert!(Relayed::parse(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn unknown_extensions_keep_their_place_and_their_octets() {
    let text = with_check(&format!("{}~ZZ9~XA1~ZZ8~RV3~PNA", DALIAN.rsplit_once('~').unwrap().0));
    let cpi = Cpi::parse(&text).unwrap();
    assert_eq!(cpi.as_str(), text);
    assert_eq!(cpi.extensions().collect::<Vec<_>>(), [("ZZ", "9"), ("XA", "1"), ("ZZ", "8"), ("RV", "3"), ("PN", "A")]);
    assert_ne!(cpi.stable_key(), Cpi::parse(DALIAN).unwrap().stable_key(), "the partition is part of the identity");
    let other = Cpi::seal(&format!("{}~ZZ7~PNA", DALIAN.rsplit_once('~').unwrap().0)).unwrap();
    assert_eq!(cpi.stable_key(), other.stable_key(), "unknown extensions are not");
}
