//! The local backend with real processes: how runs end, what is left of them, what survives a restart.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

mod common;

use adapters::contract::{Adapter as _, LogStream, RunInput, RunOutput, RunState};
use adapters::local::LocalAdapter;
use common::{end, eventually, is, open, request, run};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use std::path::Path;

fn code(end: &adapters::contract::RunEnd) -> Option<ReasonCode> {
    end.reason.as_ref().map(|reason| reason.code)
}

fn shell(script: &str) -> adapters::contract::RunRequest {
    request(&["sh", "-c", script])
}

async fn log(adapter: &LocalAdapter, key: adapters::contract::RunKey) -> String {
    let chunk = adapter.logs(key, LogStream::Stdout, 0, 1 << 20).await.expect("a log");
    String::from_utf8_lossy(&chunk.bytes).into_owned()
}

fn pid_in(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_running(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().chars().next().unwrap_or('X')));
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_told_from_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let ended = run(&adapter, shell("kill -SEGV $$")).await;
    assert_eq!((ended.signal, ended.exit_code, code(&ended)), (Some(11), None, Some(ReasonCode::KilledBySignal)));
    let ended = run(&adapter, shell("exit 139")).await;
    assert_eq!((ended.signal, ended.exit_code, code(&ended)), (None, Some(139), Some(ReasonCode::ExitNonzero)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_over_its_memory_ends_as_oom() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let hog = "x=$(head -c 400000000 /dev/zero | tr '\\0' a); echo ${#x}";
    let mut greedy = shell(hog);
    greedy.need.memory_bytes = 64 << 20;
    let ended = run(&adapter, greedy).await;
    assert_eq!(code(&ended), Some(ReasonCode::Oom), "{ended:?}");
    // the same within its memory
    let mut modest = shell("x=$(head -c 4000000 /dev/zero | tr '\\0' a); echo ${#x}");
    modest.need.memory_bytes = 64 << 20;
    let key = modest.key;
    let ended = run(&adapter, modest).await;
    assert_eq!(code(&ended), None, "{ended:?}");
    assert!(ended.usage.memory_peak_bytes > 4_000_000, "{:?}", ended.usage);
    assert_eq!(log(&adapter, key).await, "4000000\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let ended = run(&adapter, shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 0.1")).await;
    assert!(ended.usage.cpu_ms >= 50 && ended.usage.wall_ms >= ended.usage.cpu_ms / 3 + 100, "{:?}", ended.usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_whole_tree_and_daemons_too() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let adapter = open(&runs).await;
    // one child, one that left its session and its parent, and all of them deaf to the polite signal
    let script = "trap '' TERM; sleep 1000 & echo $! > child; setsid sh -c 'trap \"\" TERM; sh -c \"echo \\$\\$ > daemon; exec sleep 1000\" & ' ; wait";
    let wanted = shell(script);
    let key = wanted.key;
    adapter.submit(wanted).await.unwrap();
    let work = adapter.folder(key).join("work");
    eventually("the tree has grown", || {
        pid_in(&work.join("child")).is_some() && pid_in(&work.join("daemon")).is_some()
    })
    .await;
    let pids = [pid_in(&work.join("child")).unwrap(), pid_in(&work.join("daemon")).unwrap()];
    // pids inside the run are those of the machine: it has no pid namespace
    assert!(pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    adapter.cancel(key, 100).await.unwrap();
    let ended = end(&adapter, key).await;
    assert_eq!(code(&ended), Some(ReasonCode::Cancelled));
    assert!(pids.iter().all(|pid| !is_running(*pid)), "{pids:?} are still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_main_process_leaves_behind_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let wanted = shell("setsid sleep 1000 & echo $! > left; exit 0");
    let key = wanted.key;
    let ended = run(&adapter, wanted).await;
    assert_eq!(code(&ended), None, "{ended:?}");
    let pid = pid_in(&adapter.folder(key).join("work/left")).unwrap();
    assert!(!is_running(pid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_run_stands_still_with_all_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let mut wanted = shell("(while :; do echo x >> ticks; sleep 0.01; done) & wait");
    wanted.lease_ttl_ms = 300;
    let key = wanted.key;
    let ticks = || std::fs::metadata(adapter.folder(key).join("work/ticks")).map_or(0, |meta| meta.len());
    adapter.submit(wanted).await.unwrap();
    is(&adapter, key, RunState::Frozen).await;
    let before = ticks();
    assert!(before > 0);
    // the absence of progress can only be seen over time
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(ticks(), before, "it went on while it was frozen");
    adapter.renew(key, 60_000).await.unwrap();
    eventually("it goes on after the renewal", || ticks() > before + 10).await;
    adapter.cancel(key, 0).await.unwrap();
    end(&adapter, key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_found_again_after_the_node_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let first = open(&runs).await;
    let (long, short) = (shell("while [ ! -e go ]; do sleep 0.01; done; echo done"), shell("sleep 0.3; exit 3"));
    let (long_key, short_key) = (long.key, short.key);
    first.submit(long).await.unwrap();
    first.submit(short).await.unwrap();
    is(&first, long_key, RunState::Running).await;
    is(&first, short_key, RunState::Running).await;
    let exit = first.folder(short_key).join("exit.json");
    drop(first);
    eventually("the short run ends with nobody there", || exit.exists()).await;
    let second = open(&runs).await;
    assert_eq!(end(&second, short_key).await.exit_code, Some(3));
    is(&second, long_key, RunState::Running).await;
    // it still hears: a renewal, and its end is told to the new node
    second.renew(long_key, 60_000).await.unwrap();
    let mut events = second.watch();
    std::fs::write(second.folder(long_key).join("work/go"), "").unwrap();
    let heard = tokio::time::timeout(common::PATIENCE, events.recv()).await.unwrap().unwrap();
    assert_eq!(heard.key, long_key);
    assert_eq!(end(&second, long_key).await.exit_code, Some(0));
    assert_eq!(log(&second, long_key).await, "done\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_supervisor_is_killed_is_lost_and_nothing_of_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let wanted = shell("setsid sleep 1000 & echo $! > daemon; wait");
    let key = wanted.key;
    adapter.submit(wanted).await.unwrap();
    let folder = adapter.folder(key);
    eventually("the daemon is there", || pid_in(&folder.join("work/daemon")).is_some()).await;
    let daemon = pid_in(&folder.join("work/daemon")).unwrap();
    let lock: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("lock")).unwrap()).unwrap();
    let supervisor = i32::try_from(lock["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL).unwrap();
    let ended = end(&adapter, key).await;
    assert_eq!(code(&ended), Some(ReasonCode::RunLost));
    assert!(!is_running(daemon));
    // and it is never started again under this key
    let again = adapter.submit(shell("true")).await;
    assert!(again.is_ok());
    drop(adapter);
    let adapter = open(&dir.path().join("runs")).await;
    assert_eq!(code(&end(&adapter, key).await), Some(ReasonCode::RunLost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_launcher_takes_no_run_along_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let wanted = shell("while [ ! -e go ]; do sleep 0.01; done; exit 5");
    let key = wanted.key;
    adapter.submit(wanted).await.unwrap();
    is(&adapter, key, RunState::Running).await;
    let lock: serde_json::Value =
        serde_json::from_slice(&std::fs::read(adapter.folder(key).join("lock")).unwrap()).unwrap();
    let supervisor = lock["pid"].as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let launcher: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(launcher), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the launcher is gone", || !is_running(launcher)).await;
    for _ in 0..3 {
        assert_eq!(run(&adapter, shell("exit 6")).await.exit_code, Some(6));
    }
    std::fs::write(adapter.folder(key).join("work/go"), "").unwrap();
    assert_eq!(end(&adapter, key).await.exit_code, Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_the_launcher_took_to_its_grave_is_started_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let adapter = open(&runs).await;
    let launcher = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            line.contains(runs.to_str()?).then_some(nix::unistd::Pid::from_raw(pid))
        })
        .unwrap();
    // stopped, it takes the folder's name into its socket; killed, it never acts on it
    nix::sys::signal::kill(launcher, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let wanted = shell("exit 4");
    let key = wanted.key;
    adapter.submit(wanted).await.unwrap();
    nix::sys::signal::kill(launcher, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(end(&adapter, key).await.exit_code, Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_logs_are_cut_behind_a_marker() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = common::config(&dir.path().join("runs"));
    config.log_bytes_max = 100_000;
    let adapter = LocalAdapter::new(config).await.unwrap();
    let wanted = shell("head -c 50000000 /dev/zero; echo end >&2");
    let key = wanted.key;
    let ended = run(&adapter, wanted).await;
    assert_eq!(code(&ended), None, "{ended:?}");
    let size = std::fs::metadata(adapter.folder(key).join("stdout")).unwrap().len();
    assert!(size > 100_000 && size < 100_200, "{size}");
    assert!(log(&adapter, key).await.ends_with("[causeway: the log is cut here, after 100000 bytes]\n"));
    let err = adapter.logs(key, LogStream::Stderr, 0, 100).await.unwrap();
    assert_eq!(err.bytes, b"end\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    for (command, fact) in
        [("./no-such-program", "No such file"), ("no-such-program", "not found"), ("/etc/passwd", "Permission denied")]
    {
        let ended = run(&adapter, request(&[command])).await;
        assert_eq!(code(&ended), Some(ReasonCode::StartFailed), "{command}");
        let detail = ended.reason.unwrap().detail;
        assert!(detail.contains(command) && detail.contains(fact), "{command}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_arguments_and_environment_arrive_in_any_script() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let source = dir.path().join("store");
    std::fs::write(
        &source,
        "#!/bin/sh\necho \"$1|$名前|$CAUSEWAY_FENCE|$CAUSEWAY_CHIPS\"; cat '数据/输入 1.txt'; echo ü > out.txt",
    )
    .unwrap();
    let program = RunInput {
        path: "bin/программа".to_owned(),
        source: source.clone(),
        digest: ContentDigest::of(&std::fs::read(&source).unwrap()),
        executable: true,
    };
    let text = dir.path().join("text");
    std::fs::write(&text, "输入\n").unwrap();
    let input = RunInput {
        path: "数据/输入 1.txt".to_owned(),
        source: text.clone(),
        digest: ContentDigest::of("输入\n".as_bytes()),
        executable: false,
    };
    // a name that a shell can expand
    let mut wanted = request(&["sh", "-c", "exec ./bin/программа \"$0\"", "αβγ $HOME"]);
    wanted.env.insert("名前".to_owned(), "x".to_owned());
    wanted.inputs = vec![program.clone(), input.clone()];
    wanted.outputs = vec![RunOutput { path: "out.txt".to_owned(), optional: false }];
    let key = wanted.key;
    let ended = run(&adapter, wanted).await;
    assert_eq!(code(&ended), None, "{ended:?} {:?}", adapter.logs(key, LogStream::Stderr, 0, 1000).await);
    assert_eq!(ended.outputs[0].digest, ContentDigest::of("ü\n".as_bytes()));
    let said = log(&adapter, key).await;
    assert!(said.starts_with("αβγ $HOME|") && said.contains("|1.m1.1|8\n输入\n"), "{said}");
    // the store's own file is untouched and a corrupt one is refused
    std::fs::write(&text, "another\n").unwrap();
    let mut wanted = request(&["true"]);
    wanted.inputs = vec![input];
    let refused = adapter.submit(wanted.clone()).await.unwrap_err();
    assert_eq!(refused.reason.code, ReasonCode::InputCorrupt);
    assert_eq!(adapter.status(wanted.key).await.unwrap(), None);
    let left: Vec<_> = std::fs::read_dir(dir.path().join("runs")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_refused_with_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = open(&dir.path().join("runs")).await;
    let mut outside = request(&["true"]);
    outside.outputs = vec![RunOutput { path: "../../api.key".to_owned(), optional: false }];
    let refused = adapter.submit(outside).await.unwrap_err();
    assert_eq!(refused.reason.code, ReasonCode::InvalidTask);
    assert!(refused.reason.detail.contains("outputs"), "{refused}");
    let mut image = request(&["true"]);
    image.image = Some("debian".to_owned());
    assert_eq!(adapter.submit(image).await.unwrap_err().reason.code, ReasonCode::BackendUnsupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = common::config(&dir.path().join("runs"));
    config.processes_max = 50;
    let adapter = LocalAdapter::new(config).await.unwrap();
    let mut wanted = shell("bomb() { bomb | bomb & }; bomb; sleep 0.3; bomb; wait");
    wanted.max_runtime_ms = 1500;
    let ended = run(&adapter, wanted).await;
    assert!(ended.exit_code.is_some() || ended.signal.is_some(), "{ended:?}");
    assert_eq!(run(&adapter, shell("exit 0")).await.exit_code, Some(0));
}
