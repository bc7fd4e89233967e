//! Task documents: what is read, what is refused and how.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

use cpi::dictionary::Dictionary;
use cpi::task::{DOCUMENT_BYTES_MAX, Format, TaskDocumentError, TaskSpec, parse_document, schema, validate};

const GOOD: &str = r#"
name: train a small model
command: [./train, --epochs, "20"]
env: { SEED: "7" }
resources:
  cpu: 4
  memory: 8 GiB
  chips: { model: NVH800S80, count: 1 }
variants:
  - name: ascend
    resources: { cpu: 500m, chips: { kind: NPU, milli: 500 } }
    command: [./train-npu]
  - name: by compute
    resources: { compute: 5 PFLOPS FP16 }
placement:
  filter: country = CN and fp16_pflops >= 1
  prefix: "cpi:1:C91210231MA00CP027A"
  regions: [dalian]
  cities: [G210200, UDEFRA]
  residency: [CN]
  affinity: [{ filter: "city = G210200", weight: -5 }]
inputs:
  - { path: train, from: ./target/train, executable: true }
  - { path: data/x.bin, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000", size_bytes: 3 }
outputs: [{ path: model.bin }, { path: log.txt, optional: true }]
deadline: 2h
max_runtime: 90
budget: { amount_minor: 1000, currency: CNY }
objective: cost
retry: { max_attempts: 2, on_exit: [75] }
on_partition: finish
"#;

fn yaml(text: &str) -> Result<TaskSpec, TaskDocumentError> {
    parse_document(text.as_bytes(), Format::Yaml)
}

fn wrong_fields(text: &str) -> Vec<String> {
    let task = yaml(text).expect("the document follows the schema");
    validate(&task, &Dictionary::first()).err().unwrap_or_default().into_iter().map(|error| error.field).collect()
}

#[test]
fn a_full_document_is_read_in_both_formats() {
    let task = yaml(GOOD).unwrap();
    validate(&task, &Dictionary::first()).unwrap();
    assert_eq!(task.resources.memory.0, 8 << 30);
    assert_eq!(task.deadline.unwrap().ms, 7_200_000);
    let json = serde_json::to_vec_pretty(&task).unwrap();
    assert_eq!(parse_document(&json, Format::Json).unwrap(), task);
    assert_eq!(parse_document(&json, Format::Yaml).unwrap(), task, "YAML reads JSON");
}

#[test]
fn unknown_fields_name_their_line_and_the_nearest() {
    let error = yaml("name: x\ncommand: [ls]\nresources:\n  memroy: 1 GiB\n").unwrap_err();
    let TaskDocumentError::UnknownField { field, nearest, line, .. } = &error else { panic!("{error}") };
    assert_eq!((field.as_str(), nearest.as_deref(), *line), ("memroy", Some("memory"), 4), "{error}");
    let error = parse_document(b"{\"name\": \"x\",\n \"comand\": []}", Format::Json).unwrap_err();
    let TaskDocumentError::UnknownField { field, nearest, line, .. } = &error else { panic!("{error}") };
    assert_eq!((field.as_str(), nearest.as_deref(), *line), ("comand", Some("command"), 2), "{error}");
}

#[test]
fn wrong_values_name_their_line_and_what_was_expected() {
    let error = yaml("name: x\ncommand: [ls]\nresources:\n  memory: 8 gigs\n").unwrap_err().to_string();
    assert!(error.contains("line 4") && error.contains("GiB"), "{error}");
    let error = yaml("command: [ls]\n").unwrap_err().to_string();
    assert!(error.contains("name"), "{error}");
    let error = yaml("name: x\nname: y\n").unwrap_err().to_string();
    assert!(error.contains("name"), "{error}");
    let error = yaml("name: x\nobjective: cheap\n").unwrap_err().to_string();
    assert!(error.contains("cost"), "{error}");
}

#[test]
fn size_depth_and_aliases_are_bounded() {
    let long = format!("name: {}\n", "x".repeat(DOCUMENT_BYTES_MAX));
    assert!(matches!(yaml(&long), Err(TaskDocumentError::TooLarge { .. })));
    assert!(matches!(parse_document(b"name: \xff", Format::Yaml), Err(TaskDocumentError::NotText { offset: 6 })));
    for text in [
        format!("name: {}{}", "[".repeat(10_000), "]".repeat(10_000)),
        "- ".repeat(20_000),
        "name: &a x\ncommand: [*a, *a]\n".to_owned(),
        "--- \nname: x\n---\nname: y\n".to_owned(),
        "{".repeat(50_000),
    ] {
        assert!(yaml(&text).is_err());
        assert!(parse_document(text.as_bytes(), Format::Json).is_err());
    }
}

#[test]
fn rules_between_fields_are_checked() {
    assert_eq!(wrong_fields("name: x"), ["command"]);
    assert_eq!(wrong_fields("name: ''\nimage: a/b:1"), ["name"]);
    let resources = |text: &str| wrong_fields(&format!("name: x\ncommand: [ls]\nresources: {text}"));
    assert_eq!(resources("{ chips: { count: 1 } }"), ["resources.chips"]);
    assert_eq!(resources("{ chips: { kind: GPU, count: 1, milli: 5 } }"), ["resources.chips"]);
    assert_eq!(resources("{ chips: { kind: GPU } }"), ["resources.chips"]);
    assert_eq!(resources("{ chips: { model: NVH800S8, count: 1 } }"), ["resources.chips.model"]);
    assert_eq!(resources("{ chips: { model: NVH800S80, kind: NPU, count: 1 } }"), ["resources.chips.kind"]);
    assert_eq!(resources("{ chips: { kind: GPU, count: 1 }, compute: 5 PFLOPS FP16 }"), ["resources.compute"]);
    assert_eq!(resources("{ cpu: 0, memory: 1 kB }"), ["resources.cpu", "resources.memory"]);
    let placement = |text: &str| wrong_fields(&format!("name: x\ncommand: [ls]\nplacement: {text}"));
    assert_eq!(placement("{ filter: 'cty = A' }"), ["placement.filter"]);
    assert_eq!(placement("{ prefix: 'CPI' }"), ["placement.prefix"]);
    assert_eq!(placement("{ cities: [G999999] }"), ["placement.cities[0]"]);
    assert_eq!(placement("{ residency: [China] }"), ["placement.residency[0]"]);
    assert_eq!(placement("{ regions: [a], exclude_regions: [a] }"), ["placement.regions[0]"]);
    let inputs = |text: &str| wrong_fields(&format!("name: x\ncommand: [ls]\ninputs: {text}"));
    for path in ["../x", "/etc/passwd", "a/../../b", "a//b", "./a", "a/", "''"] {
        assert_eq!(inputs(&format!("[{{ path: {path}, from: y }}]")), ["inputs[0].path"], "{path}");
    }
    assert_eq!(inputs("[{ path: a }]"), ["inputs[0]"]);
    assert_eq!(inputs("[{ path: a, from: x }, { path: a, from: y }]"), ["inputs[1].path"]);
    assert_eq!(inputs("[{ path: a, from: x }, { path: a/b, from: y }]"), ["inputs"]);
    assert_eq!(
        wrong_fields("name: x\ncommand: [ls]\npriority: 101\nmax_runtime: 0\nretry: { max_attempts: 0 }"),
        ["priority", "max_runtime", "retry.max_attempts"]
    );
    assert_eq!(wrong_fields("name: x\ncommand: [ls]\nenv: { 1A: x, CAUSEWAY_TASK: y }").len(), 2);
}

#[test]
fn an_unknown_chip_suggests_the_nearest() {
    let task = yaml("name: x\ncommand: [ls]\nresources: { chips: { model: nvh800s8, count: 1 } }").unwrap();
    let errors = validate(&task, &Dictionary::first()).unwrap_err();
    assert_eq!(errors[0].nearest.as_deref(), Some("NVH800S80"));
}

#[test]
fn the_schema_is_published() {
    let schema = schema();
    assert_eq!(schema["title"], "TaskSpec");
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["$defs"]["ByteSize"]["anyOf"].is_array());
}
