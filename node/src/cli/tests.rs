//! Golden output: what people and shells read must not change by accident. `golden/` has one file for each case.

use super::output::{Format, Output, age, bytes};
use super::*;
use clap::CommandFactory as _;
use serde_json::{Value, json};

fn output(format: Format) -> Output {
    let now = "2026-11-24T08:10:00Z".parse().expect("an instant");
    Output { format, quiet: true, color: false, columns: Vec::new(), now }
}

fn golden(name: &str, text: &str) {
    let path = format!("{}/src/cli/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("CAUSEWAY_GOLDEN_WRITE").is_some() {
        std::fs::write(&path, text).expect("writes the golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{path} differs; if that is meant, run the test with CAUSEWAY_GOLDEN_WRITE=1");
}

fn tasks() -> Value {
    json!({
        "items": [
            {
                "id": "01KBTASK0000000000000000A1", "name": "lu", "state": "succeeded", "reason": null, "origin": "beijing",
                "place": { "region": "guangzhou", "pool": "hpc", "class": "cpu-128" }, "exit_code": 0, "runs": 1,
                "durability": "local", "submitted_at": "2026-11-24T08:07:00Z", "decided_ms": 41, "fence": "1.m1.1",
                "usage": { "cpu_ms": 5300, "wall_ms": 5400, "memory_peak_bytes": 268435456 },
            },
            {
                "id": "01KBTASK0000000000000000B2", "name": "train", "state": "failed", "origin": "beijing", "place": null,
                "reason": { "code": "oom", "detail": "used 1 GiB of 1 GiB", "sentence": "s", "next_step": "n" },
                "exit_code": null, "signal": 9, "runs": 2, "submitted_at": "2026-11-23T02:10:00Z",
            },
        ],
        "total": 2,
    })
}

fn plan() -> Value {
    json!({
        "id": "01KBPLAN0000000000000000A1", "feasible": true, "took_ms": 43, "held_for_s": 60,
        "offers": [
            { "region": "dalian", "pool": "h800", "class": "h800-8", "price_hour_micro": 28000000, "currency": "CNY",
              "start_in_ms": 0, "firmness": "held", "rtt_ms": 12, "answered_ms": 14, "score": 212, "chosen": true },
            { "region": "frankfurt", "pool": "h100", "class": "h100-8", "price_hour_micro": 3105000, "currency": "EUR",
              "start_in_ms": 1500, "firmness": "estimate", "rtt_ms": 171, "answered_ms": 174, "score": 530, "chosen": false },
        ],
        "refusals": [
            { "region": "jinhua", "clause": "chips", "reason": {
                "code": "chip_unavailable", "sentence": "The region has no chip of the asked model or kind.", "detail": "has ASC" } },
        ],
    })
}

#[test]
fn tables_of_tasks() {
    golden("task_list.txt", &output(Format::Table).list_text(&tasks(), task::COLUMNS, "id").expect("text"));
    golden("task_list_wide.txt", &output(Format::Wide).list_text(&tasks(), task::COLUMNS, "id").expect("text"));
    golden("task_list_name.txt", &output(Format::Name).list_text(&tasks(), task::COLUMNS, "id").expect("text"));
    golden("task_list.yaml", &output(Format::Yaml).list_text(&tasks(), task::COLUMNS, "id").expect("text"));
    let chosen = Output { columns: vec!["name".to_owned(), "STATE".to_owned()], ..output(Format::Table) };
    golden("task_list_columns.txt", &chosen.list_text(&tasks(), task::COLUMNS, "id").expect("text"));
}

#[test]
fn a_plan_shows_offers_and_refusals() {
    golden("task_plan.txt", &task_show::plan_text(&output(Format::Table), &plan()).expect("text"));
    let none = json!({
        "id": "P", "feasible": false, "took_ms": 3, "offers": [], "refusals": plan()["refusals"],
        "reason": { "sentence": "No region of the federation can take the task.", "next_step": "Ask for less." },
    });
    golden("task_plan_none.txt", &task_show::plan_text(&output(Format::Table), &none).expect("text"));
}

#[test]
fn an_explanation_answers_first_and_then_shows_every_region() {
    let answer = json!({
        "summary": "Pending: all fitting servers are taken; asked 2 regions, next round in 4 s.",
        "next_step": "Wait, or ask for a smaller shape.",
        "attempts": [{
            "fence": "1.m1.2", "at": "2026-11-24T08:09:10Z", "took_ms": 61,
            "candidates": [{ "region": "dalian", "pool": "h800", "answer": "declined", "rtt_ms": 12, "score": 212,
                "reason": { "code": "no_capacity_now" }, "price_hour_micro": 28000000, "currency": "CNY" }],
            "refusals": plan()["refusals"],
        }],
    });
    golden("task_explain.txt", &task_show::explain_text(&output(Format::Table), &answer).expect("text"));
}

#[test]
fn events_are_one_line_each() {
    let event = json!({
        "seq": 3, "at": "2026-11-24T08:00:01.250Z", "kind": "declined", "state": "placing", "region": "dalian",
        "pool": null, "detail": "0 of 8 free", "reason": { "code": "no_capacity_now" },
    });
    golden("task_event.txt", &task_follow::event_line(&event));
}

#[test]
fn pools_have_one_row_for_each_class() {
    let page = json!({ "items": [{
        "region": "dalian", "name": "h800", "class": "IC", "firmness": "held", "backend": "local", "cordoned": true,
        "draining": false, "stale": false, "age_ms": 0,
        "classes": [{ "name": "h800-8", "servers": 4, "chip_model": "NVH800S80",
            "total": { "cpu_milli": 512000, "memory_bytes": 4398046511104_u64, "chip_milli": 32000 },
            "free": { "cpu_milli": 500500, "memory_bytes": 4294967296_u64, "chip_milli": 31500 },
            "largest_fit": { "chip_milli": 8000 } }],
    }] });
    golden(
        "pool_list.txt",
        &output(Format::Table).list_text(&pool::by_class(&page), pool::COLUMNS, "name").expect("text"),
    );
}

#[test]
fn an_unknown_column_is_a_usage_error_that_lists_the_known_ones() {
    let chosen = Output { columns: vec!["size".to_owned()], ..output(Format::Table) };
    let error = chosen.list_text(&tasks(), task::COLUMNS, "id").expect_err("refused");
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().contains("STATE"), "{error}");
}

#[test]
fn amounts_for_people() {
    assert_eq!([age(0), age(119), age(120), age(7200), age(172_800)], ["0s", "119s", "2m", "2h", "2d"]);
    assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(1 << 30)], ["0 B", "1023 B", "1.5 KiB", "1 GiB"]);
}

#[test]
fn problems_have_stable_exit_codes() {
    use crate::http::{ApiError, Code};
    let exit = |code: Code| {
        CliError::Problem(Box::new(ApiError::new(code, "x").into_problem("/", String::new(), "beijing"))).exit()
    };
    for (code, expected) in [
        (Code::InvalidParameter, Exit::Usage),
        (Code::Unauthenticated, Exit::Denied),
        (Code::Denied, Exit::Denied),
        (Code::NotFound, Exit::NotFound),
        (Code::Conflict, Exit::Conflict),
        (Code::StaleRevision, Exit::Conflict),
        (Code::Invalid, Exit::Failed),
        (Code::Busy, Exit::Unavailable),
        (Code::Overloaded, Exit::Unavailable),
        (Code::Internal, Exit::Failed),
    ] {
        assert_eq!(exit(code), expected, "{code:?}");
    }
}

#[test]
fn the_command_line_is_well_formed_and_completes_in_every_shell() {
    Cli::command().debug_assert();
    for shell in [
        clap_complete::Shell::Bash,
        clap_complete::Shell::Zsh,
        clap_complete::Shell::Fish,
        clap_complete::Shell::PowerShell,
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "causeway", &mut text);
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("explain") && text.contains("causeway"), "{shell}");
    }
}

#[test]
fn every_verb_has_help() {
    fn walk(command: &clap::Command, path: &str) {
        let here = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{here} has no help");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{here}: {} has no help", argument.get_id());
        }
        command.get_subcommands().filter(|below| below.get_name() != "help").for_each(|below| walk(below, &here));
    }
    walk(&Cli::command(), "");
}
