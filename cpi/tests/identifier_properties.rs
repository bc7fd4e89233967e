//! A million generated identifiers go there and back; whatever the order of the input, there is one text.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

mod common;

use common::Generator;
use cpi::dictionary::Dictionary;
use cpi::identifier::{Cpi, CpiFields};
use proptest::prelude::*;

/// How many identifiers the round trip takes; ID1 asks for a million.
const IDENTIFIERS: u64 = 1_000_000;

#[test]
fn a_million_identifiers_round_trip() {
    let dictionary = Dictionary::first();
    let threads = 4;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let dictionary = &dictionary;
            scope.spawn(move || {
                let mut generator = Generator::new(thread);
                for at in 0..IDENTIFIERS / threads {
                    let body = generator.parts().body();
                    let cpi = Cpi::seal(&body).unwrap_or_else(|error| panic!("{body}: {error}"));
                    assert_eq!(cpi.as_str().rsplit_once('~').unwrap().0, body, "generated texts are canonical");
                    let again = Cpi::parse(cpi.as_str()).unwrap();
                    assert_eq!(again.to_string(), cpi.as_str());
                    if at % 16 == 0 {
                        let binary = cpi.to_binary(dictionary);
                        assert_eq!(Cpi::from_binary(&binary, dictionary).unwrap(), cpi);
                        assert_eq!(Cpi::parse(&cpi.as_str().to_lowercase()).unwrap(), cpi);
                        assert_eq!(again.stable_key(), cpi.stable_key());
                    }
                }
            });
        }
    });
}

#[test]
fn ten_thousand_permutations_give_one_text() {
    let mut generator = Generator::new(7);
    let mut parts = loop {
        let parts = generator.parts();
        if parts.chips.len() == 4 && parts.extensions.len() == 2 && parts.extensions[0].starts_with("~PN") {
            break parts;
        }
    };
    let expected = Cpi::seal(&parts.body()).unwrap();
    let fields = CpiFields::from(&expected);
    for _ in 0..10_000 {
        for at in (1..parts.chips.len()).rev() {
            parts.chips.swap(at, generator.below(at + 1));
        }
        if generator.below(2) == 0 {
            parts.extensions.swap(0, 1);
        }
        let body = parts.body();
        let body = if generator.below(2) == 0 { body.to_lowercase() } else { body };
        let cpi = Cpi::seal(&body).unwrap();
        assert_eq!(cpi.as_str(), expected.as_str());
        let mut fields = fields.clone();
        let turn = generator.below(4);
        fields.chips.rotate_left(turn);
        fields.extensions.rotate_left(turn % 2);
        assert_eq!(fields.build().unwrap(), expected);
    }
}

#[test]
fn a_canonical_check_is_accepted_on_a_permuted_text() {
    let expected = Cpi::seal("cpi:1:PCAUSEWAY-GI6450-G210200-B01.IC-CT-U-U-U-AAA_1_BBB_2.GP-INX8480P-1-U-U-1").unwrap();
    let permuted = expected.as_str().replace("AAA_1_BBB_2", "BBB_2_AAA_1");
    assert_eq!(Cpi::parse(&permuted).unwrap(), expected);
}

#[test]
fn amounts_in_smaller_units_become_canonical() {
    let text = |amounts: (&str, &str, &str, &str, &str)| {
        let (capacity, storage, net, memory, server_storage) = amounts;
        let body = format!(
            "cpi:1:PCAUSEWAY-GI6450-G210200-B01.IC-CT-{capacity}-{storage}-{net}-0.GP-INX8480P-1-{memory}-{server_storage}-1"
        );
        Cpi::seal(&body).map(|cpi| cpi.as_str().rsplit_once('~').unwrap().0.to_owned())
    };
    let plain = |amounts| text(amounts).unwrap();
    assert_eq!(plain(("2867TF64", "U", "U", "U", "U")), plain(("2870TF64", "U", "U", "U", "U")));
    assert_eq!(plain(("999500GF64", "U", "U", "U", "U")), plain(("1PF64", "U", "U", "U", "U")));
    assert_eq!(plain(("0TF64", "0G", "0M", "0G", "0T")), plain(("0", "0", "0", "0", "0")));
    assert_eq!(plain(("U", "20000T", "1000G", "2000G", "15000G")), plain(("U", "20P", "1T", "2000G", "15T")));
    assert_eq!(plain(("U", "U", "U", "1000T", "U")), plain(("U", "U", "U", "1P", "U")));
    assert!(plain(("U", "U", "U", "1024G", "U")).contains("-1024G-"), "GiB stay GiB");
}

proptest! {
    #[test]
    fn arbitrary_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Cpi::parse_octets(&octets);
        let _ = Cpi::from_binary(&octets, &Dictionary::first());
        let _ = cpi::identifier::Relayed::parse(&String::from_utf8_lossy(&octets));
    }

    #[test]
    fn damaged_texts_never_panic_and_never_pass_for_another(seed in any::<u64>(), at in 0usize..460, octet in any::<u8>()) {
        let cpi = Cpi::seal(&Generator::new(seed).parts().body()).unwrap();
        let mut octets = cpi.as_str().as_bytes().to_vec();
        let at = at % octets.len();
        octets[at] = octet;
        if let Ok(parsed) = Cpi::parse_octets(&octets) {
            prop_assert_eq!(parsed, cpi);
        }
    }

    #[test]
    fn damaged_binary_forms_never_pass_for_another(seed in any::<u64>(), at in 3usize..256, bit in 0u8..8) {
        let dictionary = Dictionary::first();
        let cpi = Cpi::seal(&Generator::new(seed).parts().body()).unwrap();
        let mut binary = cpi.to_binary(&dictionary);
        let at = 2 + at % (binary.len() - 2);
        binary[at] ^= 1 << bit;
        if let Ok(read) = Cpi::from_binary(&binary, &dictionary) {
            prop_assert_eq!(read, cpi);
        }
        for end in 0..binary.len() {
            let _ = Cpi::from_binary(&binary[..end], &dictionary);
        }
    }

    #[test]
    fn fields_go_there_and_back(seed in any::<u64>()) {
        let cpi = Cpi::seal(&Generator::new(seed).parts().body()).unwrap();
        let fields = CpiFields::from(&cpi);
        let json = serde_json::to_string(&fields).unwrap();
        let built = serde_json::from_str::<CpiFields>(&json).unwrap().build().unwrap();
        prop_assert_eq!(built.stable_key(), cpi.stable_key());
        if fields.extensions.len() < 2 {
            prop_assert_eq!(built, cpi);
        }
    }

    #[test]
    fn filters_never_panic(text in "[a-z_.0-9 ()\"\\\\=<>!^,A-Z:/~-]{0,200}") {
        if let Ok(filter) = cpi::filter::Filter::parse(&text) {
            let _ = filter.hints();
        }
    }

    #[test]
    fn task_documents_never_panic(text in "\\PC{0,200}") {
        let _ = cpi::task::parse_document(text.as_bytes(), cpi::task::Format::Yaml);
        let _ = cpi::task::parse_document(text.as_bytes(), cpi::task::Format::Json);
    }
}
