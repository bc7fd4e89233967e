//! A stranger's task cannot read the node's files, nor another run's, nor reach the node's processes.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

mod common;

use adapters::contract::{Adapter as _, LogStream};
use common::{end, eventually, open, request, run};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A node's data folder with its secrets, made as carelessly as modes allow, so that the run meets more than modes.
fn secrets(dir: &Path, mode: u32) -> [std::path::PathBuf; 2] {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(dir.join("keys")).unwrap();
    ["keys/signing.key", "api.key"].map(|name| {
        let path = dir.join(name);
        std::fs::write(&path, "top secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_reads_neither_keys_nor_another_runs_folder() {
    // beside the target folder, not under /tmp, which a run has an own one of
    for base in [env!("CARGO_TARGET_TMPDIR"), "/tmp"] {
        let dir = tempfile::tempdir_in(base).unwrap();
        let adapter = open(&dir.path().join("runs")).await;
        println!("{}: {:?}", base, adapter.notes());
        let other = request(&["sh", "-c", "echo mine > secret; chmod 777 . secret; sleep 1000"]);
        let other_key = other.key;
        adapter.submit(other).await.unwrap();
        let other_secret = adapter.folder(other_key).join("work/secret");
        eventually("the other run has written", || other_secret.exists()).await;
        for mode in [0o600, 0o644] {
            let [key, api] = secrets(dir.path(), mode);
            let log = adapter.folder(other_key).join("stdout");
            let store = dir.path().join("runs");
            let targets = [&key, &api, &other_secret, &log, &store.to_path_buf(), &dir.path().to_owned()];
            for target in targets {
                // by its name, and through every door that leads out of the folder
                let script = r#"for way in "$1" "../../../../../../../../../..$1" "/proc/self/root$1" "/proc/$PPID/root$1" "/proc/1/root$1"; do
                    if cat "$way" 2>/dev/null || ls "$way/" 2>/dev/null; then echo "READ $way"; fi
                    done; ln -s "$1" link 2>/dev/null; cat link 2>/dev/null && echo "READ link"; ls ../.. 2>/dev/null && echo "READ up"; true"#;
                let path = target.display().to_string();
                let wanted = request(&["sh", "-c", script, "sh", &path]);
                let wanted_key = wanted.key;
                let ended = run(&adapter, wanted).await;
                assert_eq!(ended.exit_code, Some(0), "{ended:?}");
                let said = adapter.logs(wanted_key, LogStream::Stdout, 0, 10_000).await.unwrap();
                let said = String::from_utf8_lossy(&said.bytes).into_owned();
                assert!(!said.contains("secret") && !said.contains("READ /"), "{path} mode {mode:o}: {said}");
                assert!(!said.contains("READ link") && !said.contains("READ .."), "{path} mode {mode:o}: {said}");
            }
        }
        // nor does it write there, signal the node, or see other runs' command lines
        let node = std::process::id().to_string();
        let script = r#"echo x > "$1/planted" 2>/dev/null && echo WROTE; kill -0 "$2" 2>/dev/null && echo SIGNALS;
            cat /proc/*/cmdline 2>/dev/null | tr '\0' ' ' | grep -q 'echo min[e]' && echo SEES; id -u; true"#;
        let wanted = request(&["sh", "-c", script, "sh", &dir.path().display().to_string(), &node]);
        let wanted_key = wanted.key;
        run(&adapter, wanted).await;
        let said = adapter.logs(wanted_key, LogStream::Stdout, 0, 10_000).await.unwrap();
        let said = String::from_utf8_lossy(&said.bytes).into_owned();
        assert!(!said.contains("WROTE") && !said.contains("SIGNALS") && !said.contains("SEES"), "{said}");
        if nix::unistd::geteuid().is_root() {
            let uid: u32 = said.trim().parse().unwrap();
            assert!(uid >= 2_000_000_000, "{uid}");
        } else {
            println!("SKIPPED in part: not root, so runs have no user id of their own");
        }
        adapter.cancel(other_key, 0).await.unwrap();
        end(&adapter, other_key).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_links_to_a_key_is_no_output() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let [key, _] = secrets(dir.path(), 0o600);
    let mut wanted = request(&["sh", "-c", "ln -s \"$0\" out", &key.display().to_string()]);
    wanted.outputs = vec![adapters::contract::RunOutput { path: "out".to_owned(), optional: false }];
    let ended = run(&adapter, wanted).await;
    assert!(ended.outputs.is_empty());
    assert_eq!(ended.reason.unwrap().code, cpi::reason::ReasonCode::OutputMissing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_programs_work_inside() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let script = r#"set -e; cd "$HOME"; pwd > here; test -w "$TMPDIR"; echo t > "$TMPDIR/mine"; cat "$TMPDIR/mine"; echo a > "$PWD/abs"; cat abs;
        echo out > /dev/stdout; ls / > /dev/null 2>&1 || true; nproc > /dev/null; read -r line < /proc/self/status; date > /dev/null; head -c 4 /dev/urandom > /dev/null"#;
    let wanted = request(&["sh", "-c", script]);
    let key = wanted.key;
    let ended = run(&adapter, wanted).await;
    let err = adapter.logs(key, LogStream::Stderr, 0, 1000).await.unwrap();
    assert_eq!(ended.reason, None, "{}", String::from_utf8_lossy(&err.bytes));
    if nix::unistd::geteuid().is_root() {
        let wanted = request(&["sh", "-c", "echo t > /tmp/mine; echo t > /dev/shm/mine; ls /tmp"]);
        let key = wanted.key;
        assert_eq!(run(&adapter, wanted).await.reason, None);
        let said = adapter.logs(key, LogStream::Stdout, 0, 1000).await.unwrap();
        assert_eq!(said.bytes, b"mine\n", "a run has a /tmp of its own");
    } else {
        println!("SKIPPED in part: not root, so a /tmp of its own depends on where the runs lie");
    }
    if Path::new("/usr/bin/python3").exists() {
        let script = "import os,sys,tempfile,threading,socket;t=threading.Thread(target=print,args=(os.getcwd(),));t.start();t.join();tempfile.TemporaryFile();open(os.path.join(os.getcwd(),'x'),'w').write('1')";
        let wanted = request(&["python3", "-c", script]);
        let key = wanted.key;
        let ended = run(&adapter, wanted).await;
        let err = adapter.logs(key, LogStream::Stderr, 0, 1000).await.unwrap();
        assert_eq!(ended.reason, None, "{}", String::from_utf8_lossy(&err.bytes));
    }
}
