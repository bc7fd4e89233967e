//! The two programs of this crate start. (That these tests are here also makes cargo build both before any test runs, which the
//! rings of the end-to-end tests need.)

use std::process::Command;

#[test]
fn causeway_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_causeway")).arg("--version").output().expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), format!("causeway {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_demo_solves_a_small_system() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-demo"))
        .args(["lu", "--n", "65", "--seed", "3", "--out"])
        .arg(folder.path())
        .output()
        .expect("starts");
    assert!(output.status.success(), "{output:?}");
    let solution = std::fs::read(folder.path().join("solution.bin")).expect("written");
    node::lab::check::check_solution(&solution, 65, 3).expect("right");
    node::lab::check::check_solution(&solution, 65, 4).expect_err("and it is the solution of no other system");
}

#[test]
fn the_demo_says_when_its_target_is_not_reached() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.csv");
    std::fs::write(&data, "x,y,label\n0.1,0.2,1\n0.1,0.2,0\n").expect("writes");
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-demo"))
        .args(["train", "--epochs", "5", "--data"])
        .arg(&data)
        .arg("--out")
        .arg(folder.path())
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not 0.0005"), "{output:?}");
}
