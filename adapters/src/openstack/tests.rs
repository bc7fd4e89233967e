//! The rules hold, and refusals become reasons.

#[test]
fn rules_hold_their_examples() {
    super::config::Config::parse(serde_json::json!({ "url": "https://cloud/v3", "credential": "c" }))
        .expect("a configuration")
        .rules()
        .expect("the built-in rules");
}
