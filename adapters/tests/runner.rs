//! The one runner as a real process, against a real desk: what survives what.

mod common;

use adapters::contract::RunInput;
use adapters::contract::{LogStream, RunEnd, RunKey, RunOutput, RunRequest, RunState};
use adapters::runner::{DeskConfig, DeskTls, RunDesk};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

const OWNER: &str = "here";

async fn desk(folder: &Path) -> RunDesk {
    RunDesk::open(DeskConfig::new(&folder.join("desk"))).await.expect("a desk")
}

/// What a platform does: starts the runner with its ticket.
fn start(desk: &RunDesk, key: &RunKey, folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-runner"));
    command.envs(desk.ticket(key).variables()).env("CAUSEWAY_RUN_DIR", folder).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("the runner starts")
}

fn accept(desk: &RunDesk, request: &RunRequest) {
    desk.accept(OWNER, request).expect("accepted");
}

fn request(command: &[&str]) -> RunRequest {
    let mut request = common::request(command);
    request.need.memory_bytes = 0;
    request
}

async fn until<T>(desk: &RunDesk, key: &RunKey, what: &str, wanted: impl Fn(&RunState) -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + common::PATIENCE;
    loop {
        let state = desk.view(OWNER, key).expect("the desk knows it").state;
        if let Some(found) = wanted(&state) {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}, still {state:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn end(desk: &RunDesk, key: &RunKey) -> RunEnd {
    let ended = |state: &RunState| match state {
        RunState::Ended(end) => Some(end.clone()),
        _ => None,
    };
    until(desk, key, "the end", ended).await
}

async fn is(desk: &RunDesk, key: &RunKey, wanted: RunState) {
    until(desk, key, &format!("{wanted:?}"), |state| (*state == wanted).then_some(())).await;
}

fn log(desk: &RunDesk, key: &RunKey, stream: LogStream) -> String {
    let chunk = desk.logs(key, stream, 0, 1 << 20).expect("a log");
    assert!(chunk.end, "{chunk:?}");
    String::from_utf8(chunk.bytes).expect("text")
}

fn code(end: &RunEnd) -> Option<ReasonCode> {
    end.reason.as_ref().map(|reason| reason.code)
}

#[tokio::test]
async fn inputs_go_in_and_logs_outputs_and_the_end_come_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let content: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(dir.path().join("source"), &content).expect("written");
    let mut asked = request(&["sh", "-c", "cat in/data > out/copy; echo said 数据; echo wrong >&2; env; exit 3"]);
    let digest = ContentDigest::of(&content);
    asked.inputs.push(RunInput {
        path: "in/data".into(),
        source: dir.path().join("source"),
        digest,
        executable: false,
    });
    asked.outputs = vec![
        RunOutput { path: "out/copy".into(), optional: false },
        RunOutput { path: "out/none".into(), optional: true },
    ];
    asked.env.insert("GREETING".into(), "hello".into());
    accept(&desk, &asked);
    let mut runner = start(&desk, &asked.key, dir.path());
    let end = end(&desk, &asked.key).await;
    assert_eq!((end.exit_code, code(&end)), (Some(3), Some(ReasonCode::ExitNonzero)));
    assert_eq!(end.outputs.len(), 1);
    assert_eq!((end.outputs[0].digest, end.outputs[0].size_bytes), (digest, content.len() as u64));
    assert_eq!(std::fs::read(&end.outputs[0].source).expect("there"), content);
    let out = log(&desk, &asked.key, LogStream::Stdout);
    assert!(
        out.starts_with("said 数据\n") && out.contains("GREETING=hello\n") && out.contains("CAUSEWAY_CHIPS=8\n"),
        "{out}"
    );
    assert!(!out.contains("CAUSEWAY_DESK"), "the ticket is not the command's: {out}");
    assert_eq!(log(&desk, &asked.key, LogStream::Stderr), "wrong\n");
    assert_eq!(runner.wait().await.expect("it ends").code(), Some(3));
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "the runner's folder is gone: {left:?}");
}

#[tokio::test]
async fn the_desk_may_restart_while_the_command_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = desk(dir.path()).await;
    let go = dir.path().join("go");
    let script = format!("echo one; while [ ! -e {} ]; do sleep 0.02; done; echo two", go.display());
    let asked = request(&["sh", "-c", &script]);
    accept(&first, &asked);
    let _runner = start(&first, &asked.key, dir.path());
    let said = || first.logs(&asked.key, LogStream::Stdout, 0, 100).is_ok_and(|chunk| chunk.bytes == b"one\n");
    common::eventually("the first line", said).await;
    let mut config = DeskConfig::new(&dir.path().join("desk"));
    config.listen = first.address();
    drop(first);
    // its command goes on and ends while nobody listens
    std::fs::write(&go, "").expect("written");
    let deadline = tokio::time::Instant::now() + common::PATIENCE;
    let again = loop {
        match RunDesk::open(config.clone()).await {
            Ok(desk) => break desk,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let end = end(&again, &asked.key).await;
    assert_eq!((end.exit_code, code(&end)), (Some(0), None));
    assert_eq!(log(&again, &asked.key, LogStream::Stdout), "one\ntwo\n");
}

#[tokio::test]
async fn a_lapsed_lease_freezes_and_a_renewal_thaws() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let mut asked = request(&["sh", "-c", "sleep 0.5"]);
    asked.lease_ttl_ms = 100;
    accept(&desk, &asked);
    let _runner = start(&desk, &asked.key, dir.path());
    is(&desk, &asked.key, RunState::Frozen).await;
    desk.renew(&asked.key, 60_000);
    until(&desk, &asked.key, "a thaw", |state| (*state != RunState::Frozen).then_some(())).await;
    assert_eq!(code(&end(&desk, &asked.key).await), None);
}

#[tokio::test]
async fn a_cancel_ends_everything_that_the_command_started() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let pid = dir.path().join("pid");
    // one that leaves its session and hears no polite signal
    let script = format!("setsid sh -c 'trap \"\" TERM; echo $$ > {0}; sleep 600' & wait", pid.display());
    let asked = request(&["sh", "-c", &script]);
    accept(&desk, &asked);
    let _runner = start(&desk, &asked.key, dir.path());
    common::eventually("the grandchild", || std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'))).await;
    desk.cancel(&asked.key, 100).expect("asked");
    assert_eq!(code(&end(&desk, &asked.key).await), Some(ReasonCode::Cancelled));
    let pid = std::fs::read_to_string(&pid).expect("there");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the grandchild lives");
}

#[tokio::test]
async fn the_time_limit_and_the_memory_limit_hold() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let mut slow = request(&["sleep", "600"]);
    slow.max_runtime_ms = 100;
    let mut large = request(&["sh", "-c", "x=$(head -c 100000000 /dev/zero | tr '\\0' x); sleep 600"]);
    large.need.memory_bytes = 20 << 20;
    for (asked, wanted) in [(slow, ReasonCode::TimeLimit), (large, ReasonCode::Oom)] {
        accept(&desk, &asked);
        let _runner = start(&desk, &asked.key, dir.path());
        assert_eq!(code(&end(&desk, &asked.key).await), Some(wanted));
    }
}

#[tokio::test]
async fn a_second_runner_runs_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let count = dir.path().join("count");
    let asked = request(&["sh", "-c", &format!("echo ran >> {}; sleep 0.3", count.display())]);
    accept(&desk, &asked);
    let _first = start(&desk, &asked.key, dir.path());
    is(&desk, &asked.key, RunState::Running).await;
    let mut second = start(&desk, &asked.key, dir.path());
    assert_eq!(second.wait().await.expect("it ends").code(), Some(0));
    assert_eq!(code(&end(&desk, &asked.key).await), None);
    // one that comes after the end, as a job that its platform starts once more
    let mut third = start(&desk, &asked.key, dir.path());
    assert_eq!(third.wait().await.expect("it ends").code(), Some(0));
    assert_eq!(std::fs::read_to_string(count).expect("there"), "ran\n");
}

#[tokio::test]
async fn a_run_cancelled_before_its_runner_came_never_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let mark = dir.path().join("mark");
    let asked = request(&["touch", mark.to_str().expect("text")]);
    accept(&desk, &asked);
    desk.cancel(&asked.key, 0).expect("asked");
    assert_eq!(code(&end(&desk, &asked.key).await), Some(ReasonCode::Cancelled));
    assert_eq!(start(&desk, &asked.key, dir.path()).wait().await.expect("it ends").code(), Some(0));
    assert!(!mark.exists());
}

#[tokio::test]
async fn what_is_wrong_ends_with_its_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let none = request(&["/there/is/no/such/program"]);
    let mut missing = request(&["true"]);
    missing.outputs = vec![RunOutput { path: "never".into(), optional: false }];
    let mut corrupt = request(&["true"]);
    std::fs::write(dir.path().join("source"), "other").expect("written");
    let (source, digest) = (dir.path().join("source"), ContentDigest::of(b"this"));
    corrupt.inputs.push(RunInput { path: "in".into(), source, digest, executable: false });
    let killed = request(&["sh", "-c", "kill -9 $$"]);
    for (asked, wanted) in [
        (none, ReasonCode::StartFailed),
        (missing, ReasonCode::OutputMissing),
        (corrupt, ReasonCode::InputCorrupt),
        (killed, ReasonCode::KilledBySignal),
    ] {
        accept(&desk, &asked);
        let _runner = start(&desk, &asked.key, dir.path());
        assert_eq!(code(&end(&desk, &asked.key).await), Some(wanted));
    }
}

#[tokio::test]
async fn over_tls_with_an_authority_of_its_own_and_not_without() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (cert_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
    let mut config = DeskConfig::new(&dir.path().join("desk"));
    config.tls = Some(DeskTls { ca_pem: cert_pem.clone(), cert_pem, key_pem });
    // the port is known once it listens
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    config.listen = probe;
    config.advertise = Some(format!("https://localhost:{}", probe.port()));
    let desk = RunDesk::open(config).await.expect("a desk");
    let asked = request(&["echo", "sealed"]);
    accept(&desk, &asked);
    let mut stranger = Command::new(env!("CARGO_BIN_EXE_causeway-runner"));
    let mut ticket = desk.ticket(&asked.key);
    ticket.ca_pem = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("another").cert.pem();
    stranger.envs(ticket.variables()).env("CAUSEWAY_RUN_DIR", dir.path()).kill_on_drop(true).stderr(Stdio::piped());
    let mut stranger = stranger.spawn().expect("it starts");
    let mut said = String::new();
    let mut lines = tokio::io::BufReader::new(stranger.stderr.take().expect("a pipe"));
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut said).await.expect("a line");
    assert!(said.contains("certificate"), "{said}");
    let _runner = start(&desk, &asked.key, dir.path());
    assert_eq!(code(&end(&desk, &asked.key).await), None);
    assert_eq!(log(&desk, &asked.key, LogStream::Stdout), "sealed\n");
}

#[tokio::test]
async fn beyond_loopback_needs_tls_or_a_word() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = DeskConfig::new(dir.path());
    config.listen = "0.0.0.0:0".parse().expect("an address");
    let refused = RunDesk::open(config.clone()).await.err().expect("refused").to_string();
    assert!(refused.contains("insecure = true"), "{refused}");
    config.insecure = true;
    RunDesk::open(config).await.expect("a desk");
}

#[tokio::test]
async fn a_wrong_token_learns_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let desk = desk(dir.path()).await;
    let (mine, other) = (request(&["true"]), request(&["true"]));
    accept(&desk, &mine);
    accept(&desk, &other);
    let mut ticket = desk.ticket(&mine.key);
    ticket.run = desk.ticket(&other.key).run;
    let mut runner = Command::new(env!("CARGO_BIN_EXE_causeway-runner"));
    runner.envs(ticket.variables()).env("CAUSEWAY_RUN_DIR", dir.path()).kill_on_drop(true).stderr(Stdio::piped());
    let mut runner = runner.spawn().expect("it starts");
    let mut said = String::new();
    let mut lines = tokio::io::BufReader::new(runner.stderr.take().expect("a pipe"));
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut said).await.expect("a line");
    assert!(said.contains("Unauthenticated"), "{said}");
    assert!(!desk.view(OWNER, &other.key).expect("known").known_runner);
}
