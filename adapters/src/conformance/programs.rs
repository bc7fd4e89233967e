//! How the suite's behaviours are written: for backends that run commands, and for the fake one.

use super::{Behaviour, Program};
use crate::fake::{FakeScript, SCRIPT_VARIABLE};
use std::collections::BTreeMap;

/// As commands of a POSIX shell.
pub fn shell(behaviour: &Behaviour) -> Program {
    let shell = |script: String| (vec!["sh".to_owned(), "-c".to_owned(), script], BTreeMap::new());
    match behaviour {
        Behaviour::Exit(code) => shell(format!("exit {code}")),
        // a single argument has a limit of 128 KiB
        Behaviour::Print(text) if text.len() > 100_000 => {
            let lines = text.lines().count();
            shell(format!("i=0; while [ $i -lt {lines} ]; do echo \"line $i 数据\"; i=$((i+1)); done"))
        }
        Behaviour::Print(text) => (vec!["printf".to_owned(), "%s".to_owned(), text.clone()], BTreeMap::new()),
        Behaviour::Sleep(ms) => shell(format!("sleep {}.{:03}", ms / 1000, ms % 1000)),
        Behaviour::Write { path, content } => shell(format!("printf %s '{content}' > '{path}'")),
    }
}

/// As scripts of the fake backend.
pub fn played(behaviour: &Behaviour) -> Program {
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
}
