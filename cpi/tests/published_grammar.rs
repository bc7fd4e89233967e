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
