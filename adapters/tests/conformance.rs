//! Every backend passes the one suite.

mod common;

use adapters::conformance::{self, Behaviour, CaseResult, Options};
use adapters::fake::{FakeAdapter, FakeScript, SCRIPT_VARIABLE};
use std::collections::BTreeMap;

fn report(results: &[CaseResult]) {
    let failed: Vec<_> = results.iter().filter(|result| result.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(results.len() >= 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_conforms() {
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = common::open(&dir.path().join("runs")).await;
    let shell = |script: String| (vec!["sh".to_owned(), "-c".to_owned(), script], BTreeMap::new());
    let options = Options {
        pool: "pool".to_owned(),
        class: "node".to_owned(),
        program: Box::new(move |behaviour| match behaviour {
            Behaviour::Exit(code) => shell(format!("exit {code}")),
            Behaviour::Print(text) => (vec!["printf".to_owned(), "%s".to_owned(), text.clone()], BTreeMap::new()),
            Behaviour::Sleep(ms) => shell(format!("sleep {}.{:03}", ms / 1000, ms % 1000)),
            Behaviour::Write { path, content } => shell(format!("printf %s '{content}' > '{path}'")),
        }),
        patience: common::PATIENCE,
    };
    report(&conformance::run(&adapter, &options).await);
}

#[tokio::test]
async fn fake_conforms() {
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = FakeAdapter::with_files(vec![common::pool("fake")], Some(dir.path().to_owned()));
    let options = Options {
        pool: "pool".to_owned(),
        class: "node".to_owned(),
        program: Box::new(|behaviour| {
            let mut script = FakeScript::default();
            match behaviour {
                Behaviour::Exit(code) => script.exit_code = *code,
                Behaviour::Print(text) => script.stdout.clone_from(text),
                Behaviour::Sleep(ms) => script.run_ms = *ms,
                Behaviour::Write { path, content } => {
                    script.files.insert(path.clone(), content.clone());
                }
            }
            let script = serde_json::to_string(&script).expect("a script is plain data");
            (vec!["played".to_owned()], BTreeMap::from([(SCRIPT_VARIABLE.to_owned(), script)]))
        }),
        patience: common::PATIENCE,
    };
    report(&conformance::run(&adapter, &options).await);
}
