//! The documents that people read stay equal to the code.

use cpi::filter::{FilterField, GRAMMAR};

#[test]
fn the_filter_reference_names_every_field() {
    let reference = include_str!("../../docs/filter.md");
    for (name, _, meaning) in FilterField::NAMED {
        assert!(reference.contains(&format!("| `{name}` | {meaning} |")), "docs/filter.md lacks {name}");
    }
    assert!(GRAMMAR.contains("filter      ="));
}

#[test]
fn the_task_reference_names_every_field() {
    let reference = include_str!("../../docs/task.md");
    let schema = cpi::task::schema();
    for field in schema["properties"].as_object().expect("the schema has properties").keys() {
        assert!(reference.contains(&format!("`{field}")), "docs/task.md lacks {field}");
    }
}

#[test]
fn the_errors_shown_are_the_errors_given() {
    let dictionary = cpi::dictionary::Dictionary::first();
    let body = "cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128";
    let reference = include_str!("../../docs/identifier.md");
    let check = body.replace("027A", "027B") + "~0000000";
    let error = dictionary.decode(&check, None).expect_err("a wrong check character").to_string();
    assert!(reference.contains(&error), "docs/identifier.md lacks: {error}");
    let unknown = cpi::identifier::Cpi::seal(&body.replace("NVH800S80", "NVH800S8")).expect("the grammar is followed");
    let error = dictionary.check(&unknown, None).expect_err("an unknown chip").to_string();
    assert!(reference.contains(&error), "docs/identifier.md lacks: {error}");
    let error = cpi::filter::Filter::parse("city = G110100 and fp16_plops >= 1").expect_err("an unknown field");
    assert!(include_str!("../../docs/filter.md").contains(&error.to_string()), "docs/filter.md lacks: {error}");
}

#[test]
fn the_binary_share_stated_is_the_share_measured() {
    let dictionary = cpi::dictionary::Dictionary::first();
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("golden/identifiers.json")).expect("the vectors are JSON");
    let shares: Vec<usize> = vectors
        .as_array()
        .expect("a list of vectors")
        .iter()
        .map(|vector| {
            let text = vector["cpi"].as_str().expect("a vector has its text");
            let cpi = cpi::identifier::Cpi::parse(text).expect("a vector is valid");
            (cpi.to_binary(&dictionary).len() * 100).div_ceil(text.len())
        })
        .collect();
    let (least, most) = (shares.iter().min().expect("five"), shares.iter().max().expect("five"));
    let stated = format!("{least} to {most} %");
    assert!(include_str!("../../docs/identifier.md").contains(&stated), "docs/identifier.md lacks: {stated}");
}
