//! What rules do, what they refuse, and that the files that come with the product hold.

use super::*;
use serde_json::json;
use std::path::Path;

const RULES: &str = r#"
format = 1
name = "made-up"
version = 3
backend = "rest"

[tables.chips]
NVA100S80 = "a100"
HWASCEND9 = "asc"

[south.submit.ignore]
lease_ttl_ms = "the platform has no leases"

[[south.submit.field]]
to = "job.cores"
from = { cpu = "need.cpu_milli" }
value = "(cpu + 999) / 1000"

[[south.submit.field]]
to = "job.device"
from = { name = { path = "chip.model", table = "chips" }, milli = "need.chip_milli" }
when = "milli > 0"
value = "name + ':' + string((milli + 999) / 1000)"

[[south.submit.field]]
to = "job.script"
from = "command"
required = true
value = '''it.map(a, "'" + a.replace("'", "'\\''") + "'").join(" ")'''

[[south.submit.field]]
to = 'labels."causeway.io/by"'
value = "'causeway'"

[[south.submit.example]]
from = { need = { cpu_milli = 1500, chip_milli = 143 }, chip = { model = "NVA100S80" }, command = ["echo", "it's"], lease_ttl_ms = 5 }
to = { job = { cores = 2, device = "a100:1", script = "'echo' 'it'\\''s'" }, labels = { "causeway.io/by" = "causeway" } }

[[north.server.field]]
to = "chip.model"
from = "device"
table = "chips"

[[north.server.example]]
from = { device = "asc" }
to = { chip = { model = "HWASCEND9" } }
"#;

fn rules() -> Rules {
    Rules::parse(RULES).unwrap()
}

#[test]
fn both_ways_with_names_quantities_and_quotes() {
    let source = json!({ "need": { "cpu_milli": 64000, "chip_milli": 8000 }, "chip": { "model": "HWASCEND9" },
        "command": ["sh", "-c", "echo $0"], "image": null, "env": {} });
    let job = rules().convert(Direction::South, "submit", &source).unwrap();
    assert_eq!(job["job"], json!({ "cores": 64, "device": "asc:8", "script": "'sh' '-c' 'echo $0'" }));
    let back = rules().convert(Direction::North, "server", &json!({ "device": "a100" })).unwrap();
    assert_eq!(back, json!({ "chip": { "model": "NVA100S80" } }));
}

#[test]
fn what_no_rule_takes_is_an_error_that_names_the_rule_to_add() {
    let said = |section: &str, source| rules().convert(Direction::South, section, &source).unwrap_err().to_string();
    let field = said("submit", json!({ "command": ["x"], "volumes": { "a.b": [1] } }));
    assert_eq!(
        field,
        "rules made-up 3 do not map volumes.\"a.b\": add a [[south.submit.field]] with from = \"volumes.\"a.b\"\", or name \
         it in [south.submit.ignore] with the reason"
    );
    let value = said("submit", json!({ "command": ["x"], "chip": { "model": "NVZ9" }, "need": { "chip_milli": 1 } }));
    assert_eq!(value, "rules made-up 3 do not know NVZ9: add it to [tables.chips]");
    assert!(said("submit", json!({})).contains("job.script needs command"));
    assert!(said("cancel", json!({})).contains("have no section [south.cancel]"));
    let wrong = said("submit", json!({ "command": ["x"], "need": { "cpu_milli": "many" } }));
    assert!(wrong.starts_with("rules made-up 3: job.cores: (cpu + 999) / 1000: "), "{wrong}");
}

#[test]
fn an_explanation_shows_each_step() {
    let source = json!({ "need": { "cpu_milli": 1 }, "command": ["x"], "lease_ttl_ms": 9 });
    let shown = rules().explain(Direction::South, "submit", &source).unwrap();
    assert_eq!(shown.steps.len(), 4);
    assert_eq!(shown.steps[0].value, Some(json!(1)));
    assert_eq!(shown.steps[0].from["need.cpu_milli"], json!(1));
    assert_eq!(shown.steps[1].value, None);
    assert_eq!(shown.ignored["lease_ttl_ms"], "the platform has no leases");
}

#[test]
fn files_that_cannot_work_say_where() {
    let wrong = |from: &str, to: &str| Rules::parse(&RULES.replace(from, to)).unwrap_err().to_string();
    assert!(wrong("format = 1", "format = 2").contains("expected 1"));
    assert!(wrong("value = \"(cpu + 999) / 1000\"", "value = \"(cpu + \"").contains("south.submit: job.cores"));
    assert!(wrong("(cpu + 999)", "(gpu + 999)").contains("gpu is not in `from`"));
    assert!(wrong("table = \"chips\" }", "table = \"chip\" }").contains("no [tables.chip]"));
    assert!(wrong("cores = 2", "cores = 3").contains("example 1 of south.submit: expected"));
    assert!(wrong("\"asc\"\n\n[south", "\"a100\"\n\n[south").contains("stands for two names"));
    assert!(wrong("version = 3", "version = 3\nverson = 4").contains("verson"));
}

#[test]
fn a_book_reads_again_and_keeps_the_last_good_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made-up.toml");
    std::fs::write(&path, RULES).unwrap();
    let pool = RULES.replace("version = 3", "version = 9\npools = [\"gold\"]");
    std::fs::write(dir.path().join("gold.toml"), pool).unwrap();
    let newer = RULES.replace("version = 3", "version = 7\nplatform = \"22.\"");
    std::fs::write(dir.path().join("newer.toml"), newer).unwrap();
    let (book, problems) = RuleBook::open(dir.path());
    assert_eq!(problems, []);
    let name = |platform: &str, pool: &str| book.choose("rest", platform, pool).unwrap().name().to_owned();
    assert_eq!(name("21.08", "any"), "made-up 3");
    assert_eq!(name("22.05", "any"), "made-up 7");
    assert_eq!(name("22.05", "gold"), "made-up 9");
    assert!(book.choose("slurm", "", "any").is_none());
    std::fs::write(&path, RULES.replace("cores = 2", "cores = 33")).unwrap();
    let problems = book.reload();
    assert!(problems.len() == 1 && problems[0].why.contains("example 1"), "{problems:?}");
    assert_eq!(name("21.08", "any"), "made-up 3");
    std::fs::write(&path, RULES.replace("version = 3", "version = 40")).unwrap();
    assert_eq!(book.reload(), []);
    assert_eq!(name("21.08", "any"), "made-up 40");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(book.reload(), []);
    assert!(book.choose("rest", "21.08", "any").is_none());
}

#[test]
fn the_rules_that_come_with_the_product_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rules");
    let (book, problems) = RuleBook::open(&folder);
    assert_eq!(problems, []);
    assert!(book.names().len() >= 2, "{:?}", book.names());
    assert!(book.choose("slurm", "22.05.8", "any").is_some() && book.choose("kubernetes", "1.20", "any").is_some());
}
