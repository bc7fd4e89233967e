//! Stories of loading: precedence, refusals with their place, and the reference file.

use super::*;
use std::io::Write as _;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("writes");
    file
}

fn load(text: &str, env: &[(&str, &str)], flags: &[&str]) -> Result<LoadedConfig, ConfigError> {
    let file = file(text);
    ConfigLoader::load_from(&ConfigInput {
        file: Some(file.path().to_owned()),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
    })
}

fn problems(text: &str, env: &[(&str, &str)], flags: &[&str]) -> Vec<ConfigProblem> {
    match load(text, env, flags) {
        Err(ConfigError::Refused { problems }) => problems,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let text = "[http]\nlisten = \"127.0.0.1:1\"\nstreams_max = 7\n[negotiation]\nwave_size = 4\n";
    let env =
        [("CAUSEWAY_HTTP__LISTEN", "127.0.0.1:2"), ("CAUSEWAY_NEGOTIATION__WAVE_SIZE", "5"), ("CAUSEWAY_ADDR", "x")];
    let loaded = load(text, &env, &["http.listen=127.0.0.1:3"]).expect("loads");
    assert_eq!(loaded.config.http.listen, "127.0.0.1:3");
    assert_eq!(loaded.config.negotiation.wave_size, 5);
    assert_eq!(loaded.config.http.streams_max, 7);
    assert_eq!(loaded.config.http.concurrency_max, 4_096);
    assert_eq!(loaded.source_of("http.listen"), "--set http.listen");
    assert_eq!(loaded.source_of("negotiation.wave_size"), "CAUSEWAY_NEGOTIATION__WAVE_SIZE");
    assert!(loaded.source_of("http.streams_max").ends_with(".toml:3"), "{}", loaded.source_of("http.streams_max"));
    assert_eq!(loaded.source_of("log.level"), "default");
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_key() {
    let found = problems("[http]\nlisten = \"127.0.0.1:0\"\nlissten = 3\n", &[], &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].place.ends_with(".toml:3"), "{}", found[0].place);
    assert_eq!(found[0].key, "http.lissten");
    assert_eq!(found[0].hint.as_deref(), Some("did you mean `http.listen`?"));
}

#[test]
fn unknown_keys_are_found_in_sections_pools_variables_and_flags() {
    let pool = "[[pools]]\nname = \"a\"\nbackend = \"local\"\nclass = \"GC\"\nfirmnes = \"held\"\nclasses = []\n";
    let found = problems(pool, &[], &[]);
    assert_eq!(found[0].hint.as_deref(), Some("did you mean `pools.firmness`?"));
    let found = problems("[negotiaton]\n", &[("CAUSEWAY_HTTP__LISTN", "x")], &["log.levle=info"]);
    let keys: Vec<&str> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["negotiaton", "http.listn", "log.levle"]);
    assert_eq!(found[1].place, "CAUSEWAY_HTTP__LISTN");
}

#[test]
fn a_wrong_value_names_its_line_and_what_was_expected() {
    let found = problems("[http]\n\nstreams_max = \"many\"\n", &[], &[]);
    assert!(found[0].place.ends_with(".toml:3"), "{}", found[0].place);
    assert_eq!(found[0].key, "http.streams_max");
    assert!(found[0].message.contains("expected"), "{}", found[0].message);
    let found = problems("[negotiation]\nwave_size = 99\n", &[], &[]);
    assert!(found[0].message.contains("1 to 16"), "{}", found[0].message);
    assert!(found[0].place.ends_with(".toml:2"), "{}", found[0].place);
}

#[test]
fn broken_toml_names_its_line() {
    match load("[http]\nlisten = \n", &[], &[]) {
        Err(ConfigError::Syntax { line: 2, .. }) => {}
        other => panic!("expected line 2, got {other:?}"),
    }
}

#[test]
fn it_never_listens_beyond_loopback_without_tls() {
    for address in ["0.0.0.0:7480", "192.0.2.1:7480", "[::]:7480"] {
        let found = problems("", &[], &[&format!("http.listen={address}")]);
        assert_eq!(found[0].key, "http.listen");
        assert!(found[0].message.contains("TLS"), "{}", found[0].message);
    }
    load("", &[], &["http.listen=0.0.0.0:7480", "http.tls_cert=/a.pem", "http.tls_key=/b.pem"]).expect("TLS allows it");
    load("", &[], &["http.listen=[::1]:0"]).expect("loopback needs none");
}

#[test]
fn the_reference_file_equals_what_config_print_writes() {
    let defaults = ConfigLoader::load_from(&ConfigInput::default()).expect("the defaults are valid");
    let printed = print(&defaults, Detail::Documented);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/node.toml");
    if std::env::var_os("CAUSEWAY_GOLDEN_WRITE").is_some() {
        std::fs::write(path, &printed).expect("writes the reference");
    }
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(file, printed, "run `causeway config print > configs/node.toml`");
    let back = load(&printed, &[], &[]).expect("what is printed can be read");
    assert_eq!(back.config, NodeConfig::default());
}

#[test]
fn the_example_pool_of_the_reference_is_valid() {
    let defaults = ConfigLoader::load_from(&ConfigInput::default()).expect("the defaults are valid");
    let printed = print(&defaults, Detail::Documented);
    let (_, pools) = printed.split_once("What this region shares").expect("the pools' part");
    let text: String = pools
        .lines()
        .skip_while(|line| *line != "# [[pools]]")
        .map(|line| format!("{}\n", line.trim_start_matches('#').trim_start()))
        .filter(|line| !line.starts_with("chip ="))
        .collect();
    let loaded = load(&text, &[], &[]).expect("the example is valid");
    assert_eq!(loaded.config.pools.len(), 1);
    let again = load(&print(&loaded, Detail::Sources), &[], &[]).expect("effective values can be read back");
    assert_eq!(again.config, loaded.config);
}

#[test]
fn the_example_plugin_of_the_reference_has_every_key_and_is_valid() {
    let defaults = ConfigLoader::load_from(&ConfigInput::default()).expect("the defaults are valid");
    let printed = print(&defaults, Detail::Documented);
    let text: String = printed
        .lines()
        .skip_while(|line| *line != "# [[adapters.plugin]]")
        .take_while(|line| line.starts_with("# "))
        .map(|line| format!("{}\n", line.trim_start_matches("# ")))
        .collect();
    let loaded = load(&text, &[], &[]).expect("the example is valid");
    let plugin = serde_json::to_value(&loaded.config.adapters.plugin[0]).expect("plain");
    let keys = |value: &serde_json::Value| -> std::collections::BTreeSet<String> {
        value.as_object().expect("a table").keys().cloned().collect()
    };
    let known = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(keys(&plugin), known(super::keys::PLUGIN_KEYS));
    assert_eq!(keys(&plugin["limits"]), known(super::keys::LIMIT_KEYS));
    let example: toml::Table = toml::from_str(&text).expect("TOML");
    let entry = serde_json::to_value(&example["adapters"]["plugin"][0]).expect("plain");
    assert_eq!(keys(&entry), keys(&plugin), "the example shows every key");
    let again = load(&print(&loaded, Detail::Sources), &[], &[]).expect("effective values can be read back");
    assert_eq!(again.config, loaded.config);
}

#[test]
fn plugins_are_checked_and_pools_may_name_them() {
    let plugin = |name: &str, more: &str| {
        let zeros = "0".repeat(64);
        format!("[[adapters.plugin]]\nname = \"{name}\"\npath = \"/p\"\nsha256 = \"sha256:{zeros}\"\n{more}\n")
    };
    let pool = "[[pools]]\nname = \"a\"\nbackend = \"east\"\nclass = \"GC\"\nfirmness = \"held\"\nclasses = []\n";
    load(&(plugin("east", "config = { url = \"x\", n = 3 }") + pool), &[], &[]).expect("a plugin tells its classes");
    let found = problems(pool, &[], &[]);
    assert!(found[0].message.contains("expected one of local, fake"), "{}", found[0].message);
    for (text, key) in [
        (plugin("local", ""), "adapters.plugin.0.name"),
        (plugin("East", ""), "adapters.plugin.0.name"),
        (plugin("a", "") + &plugin("a", ""), "adapters.plugin.1.name"),
        (plugin("a", "replicas = 9"), "adapters.plugin.0.replicas"),
        (plugin("a", "credentials = [\"a b\"]"), "adapters.plugin.0.credentials"),
        (plugin("a", "sha265 = 1"), "adapters.plugin.sha265"),
        (plugin("a", "").replace("\"/p\"", "\"p\""), "adapters.plugin.0.path"),
        (plugin("a", "").replace("path = \"/p\"", ""), "adapters.plugin.0.path"),
    ] {
        assert_eq!(problems(&text, &[], &[])[0].key, key, "{text}");
    }
}

#[test]
fn every_key_is_documented() {
    for section in super::keys::SECTIONS {
        assert!(!section.doc.is_empty(), "{}", section.name);
        for key in section.keys {
            assert!(!key.doc.is_empty(), "{}.{}", section.name, key.name);
        }
    }
}
