//! A full disk: said at the write and at the start, nothing half-written, and the node goes on once there is room.
//!
//! Real nodes on a small disk of their own; where the system does not allow mounting one, the test says that it is skipped.

use e2e::ring::{Disk, PATIENCE, Ring, RingOptions, ended, identifier, shell_task, submit, until};
use node::cli::CliError;
use serde_json::json;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Bytes that are free where `folder` lies.
fn free(folder: &Path) -> u64 {
    let disk = nix::sys::statvfs::statvfs(folder).expect("the disk can be asked");
    disk.blocks_available() * disk.fragment_size()
}

/// Writes into `filler` until at most `left` bytes are free.
fn fill(folder: &Path, left: u64) {
    let mut filler = File::options().append(true).create(true).open(folder.join("filler")).expect("made");
    let piece = vec![1; 64 << 10];
    while free(folder) > left {
        let wanted = usize::try_from(free(folder).saturating_sub(left)).unwrap_or(piece.len()).clamp(1, piece.len());
        if filler.write_all(&piece[..wanted]).is_err() {
            return;
        }
    }
}

/// The status and the code of a problem.
fn problem(answer: Result<serde_json::Value, CliError>) -> (u16, String) {
    match answer.expect_err("refused") {
        CliError::Problem(problem) => (problem.status, problem.code.to_string()),
        other => panic!("no problem: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_costs_nothing_that_was_acknowledged() {
    let trial = tempfile::tempdir().expect("a folder");
    if let Err(error) = Disk::mount(trial.path(), 1) {
        let fault = error.downcast_ref::<nix::errno::Errno>();
        let forbidden = matches!(fault, Some(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES));
        assert!(forbidden, "a small disk cannot be mounted, though it is not forbidden: {error:#}");
        // past the capture of the test harness, so that a run says it even where it passes
        let said = format!("SKIPPED: a full disk is not tried, as mounting is not permitted here: {error:#}\n");
        std::io::stderr().write_all(said.as_bytes()).expect("the standard error is open");
        return;
    }
    let options = RingOptions { nodes: 1, disk_mib: Some(192), ..RingOptions::default() };
    let mut ring = Ring::start(options).await.expect("starts");
    let folder = ring.nodes[0].data_dir.clone();
    assert!(folder.join("ballast").is_file(), "the ballast is there from the start");
    let client = ring.client(0).expect("runs");
    let before = client.post("/v1/identifiers", json!({ "cpi": identifier(0, 1) })).await.expect("there is room");
    let document = shell_task("before", "printf fine > out", &[]);
    let task = submit(&client, &document, "before").await.expect("there is room");
    let id = task["id"].as_str().expect("an id").to_owned();
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["state"], "succeeded");

    // below `free_bytes_min`: new work is refused, each kind with its code
    // (the node gives its ballast up while the disk fills, and that is filled too)
    until(PATIENCE, || {
        fill(&folder, 512 << 10);
        std::future::ready(!folder.join("ballast").exists() && free(&folder) <= 512 << 10)
    })
    .await
    .expect("the ballast is given up");
    let refused = (507, "disk_full".to_owned());
    assert_eq!(problem(submit(&client, &document, "full").await), refused);
    assert_eq!(problem(client.post("/v1/identifiers", json!({ "cpi": identifier(0, 2) })).await), refused);
    let state = client.readiness().await.expect("answers");
    assert_eq!(state["ready"], false, "{state}");
    assert!(state.to_string().contains("bytes free"), "the disk is named: {state}");
    let drafts = std::fs::read_dir(folder.join("artifacts/partial")).expect("there").count();
    assert_eq!(drafts, 0, "nothing half-written lies about");
    // reading goes on
    let key = before["key"].as_str().expect("a key").to_owned();
    client.get(&format!("/v1/identifiers/{key}"), vec![]).await.expect("reads need no room");

    // to the last byte; a node that starts now says what is wrong
    ring.nodes[0].kill().expect("dies");
    fill(&folder, 0);
    ring.nodes[0].start().expect("a process");
    until(PATIENCE, || std::future::ready(matches!(ring.nodes[0].ended(), Ok(Some(_))))).await.expect("it gives up");
    let words = ring.nodes[0].last_words();
    let said = words.contains("cannot be written") || words.contains("is full");
    assert!(said, "it says what is wrong: {words}");

    // with room it comes back by itself, with all that was acknowledged and nothing else
    std::fs::remove_file(folder.join("filler")).expect("ours");
    ring.nodes[0].start().expect("a process");
    ring.ready(0).await.expect("comes back");
    let client = ring.client(0).expect("runs");
    assert_eq!(client.get(&format!("/v1/tasks/{id}"), vec![]).await.expect("kept")["state"], "succeeded");
    client.get(&format!("/v1/identifiers/{key}"), vec![]).await.expect("kept");
    let unknown = cpi::identifier::Cpi::parse(&identifier(0, 2)).expect("valid").stable_key();
    assert_eq!(problem(client.get(&format!("/v1/identifiers/{unknown}"), vec![]).await).0, 404);
    let again = submit(&client, &document, "full").await.expect("the refused one can be handed in now");
    let id = again["id"].as_str().expect("an id").to_owned();
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["state"], "succeeded");

    // with the ballast a node on a full disk starts, and it is made again once there is room
    until(PATIENCE, || std::future::ready(folder.join("ballast").is_file())).await.expect("the ballast is made again");
    ring.nodes[0].kill().expect("dies");
    fill(&folder, 0);
    ring.nodes[0].start().expect("a process");
    ring.nodes[0].wait_up(PATIENCE).await.expect("it starts on what the ballast held");
    assert!(!folder.join("ballast").exists(), "the ballast was given up");
    std::fs::remove_file(folder.join("filler")).expect("ours");
    ring.ready(0).await.expect("it is ready by itself once there is room");
}
