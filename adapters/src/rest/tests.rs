//! What is said of rule files that cannot describe an API.

use super::api::Api;

fn orchard() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rules/examples/orchard.toml");
    std::fs::read_to_string(path).expect("the example is there")
}

#[test]
fn the_example_holds() {
    let api = Api::parse(&orchard()).unwrap();
    assert!(api.has("submit") && api.has("provision") && !api.has("renew"));
    assert_eq!(api.credentials(), ["orchard-id", "orchard-secret"]);
}

#[test]
fn the_file_with_every_key_holds_and_tells_the_defaults() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rules/examples/all-keys.toml");
    let api = Api::read(&path).unwrap();
    assert_eq!(api.patience, super::file::Patience::default());
}

#[test]
fn files_that_cannot_work_say_what_to_add() {
    let wrong = |from: &str, to: &str| {
        let text = orchard();
        assert!(text.contains(from), "{from}");
        Api::parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    for (from, to, expected) in [
        ("[http.verb.cancel]", "[http.verb.abolish]", "no such verb; there are submit, lookup"),
        ("[http.verb.health]", "[http.verb.renew]", "add a section [south.renew]"),
        ("[http.verb.servers]", "[http.verb.volumes]", "add a section [south.volumes]"),
        ("[http.verb.modify]\nmethod = \"PATCH\"\nrepeatable = true\n", "", "machines need all of"),
        ("items = \"body.jobs\"", "items = \"bode.jobs\"", "bode is not in `from`"),
        ("poll_ms = 500", "poll_ms = 1", "[http.patience] poll_ms: expected 10 to"),
        ("method = \"DELETE\"", "method = \"ERASE\"", "method \"ERASE\": expected GET"),
        ("kind = \"token\"", "kind = \"magic\"", "magic"),
        ("code = \"quota_exceeded\"", "", "code: needed for a fault"),
        ("code = \"quota_exceeded\"", "code = \"out_of_luck\"", "out_of_luck"),
        ("backend = \"rest\"", "backend = \"soap\"", "expected \"rest\""),
        ("[south.submit.ignore]", "[south.submit.ignore]\n\"*\" = \"lazy\"", "only answers of a platform"),
    ] {
        let why = wrong(from, to);
        assert!(why.contains(expected), "{from} -> {to}: {why}");
    }
}
