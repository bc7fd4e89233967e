//! What goes over the wire comes back the same, and what the contract does not allow does not pass.

use super::*;
use crate::contract::{AdapterError, RunEnd, RunKey, RunOutput, RunRequest, RunState, RunStatus, Usage};
use cpi::ids::{Epoch, Fence, MemberId, TaskId};
use cpi::reason::{Reason, ReasonCode};
use cpi::resource::Quantity;
use std::collections::BTreeMap;

fn key() -> RunKey {
    RunKey { task: TaskId([7; 16]), fence: Fence { epoch: Epoch { counter: 3, member: MemberId(9) }, attempt: 2 } }
}

fn request() -> RunRequest {
    RunRequest {
        key: key(),
        pool: "池".to_owned(),
        class: "h800-8".to_owned(),
        need: Quantity { cpu_milli: 1, memory_bytes: 2, storage_bytes: 3, chip_milli: 143 },
        command: vec!["sh".to_owned(), String::new()],
        image: None,
        env: BTreeMap::from([("名前".to_owned(), "x=y\n".to_owned())]),
        inputs: Vec::new(),
        outputs: vec![RunOutput { path: "out".to_owned(), optional: true }],
        max_runtime_ms: u64::MAX,
        lease_ttl_ms: 1,
        freeze_on_lapse: true,
    }
}

#[test]
fn a_request_comes_back_the_same() {
    let there = proto::SubmitRequest::from(request());
    assert_eq!(RunRequest::try_from(there), Ok(request()));
}

#[test]
fn an_end_comes_back_the_same_and_an_end_of_nothing_is_refused() {
    let end = RunEnd {
        exit_code: Some(0),
        signal: None,
        reason: Some(Reason::new(ReasonCode::OutputMissing, "out")),
        usage: Usage { wall_ms: 1, cpu_ms: 2, memory_peak_bytes: 3 },
        outputs: Vec::new(),
    };
    let status = RunStatus { key: key(), state: RunState::Ended(end) };
    assert_eq!(RunStatus::try_from(proto::RunStatus::from(status.clone())), Ok(status.clone()));
    let mut wrong = proto::RunStatus::from(status);
    wrong.end = Some(proto::RunEnd::default());
    assert_eq!(RunStatus::try_from(wrong.clone()).unwrap_err().field, "end");
    wrong.state = 99;
    assert_eq!(RunStatus::try_from(wrong).unwrap_err().field, "state");
}

#[test]
fn a_server_with_more_free_than_it_has_is_refused() {
    let mut server = proto::Server {
        id: "n1".to_owned(),
        total: Some(proto::Quantity { cpu_milli: 1000, ..Default::default() }),
        free: Some(proto::Quantity { cpu_milli: 1001, ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(crate::resources::Server::try_from(server.clone()).unwrap_err().field, "server.free");
    server.free = Some(proto::Quantity::default());
    server.partitions = vec![proto::Partition { profile: "1g.10gb".to_owned(), chip_milli: 0, total: 7, free: 7 }];
    assert_eq!(crate::resources::Server::try_from(server).unwrap_err().field, "server.partitions");
}

#[test]
fn a_fault_keeps_its_reason_and_an_unknown_code_is_named() {
    let error = AdapterError::passing(ReasonCode::QuotaExceeded, "8 of 8 chips");
    assert_eq!(fault_of(&status_of(&error)), Some(error));
    // a plain status is no refusal: the plugin does not work
    assert_eq!(fault_of(&tonic::Status::internal("panicked")), None);
    let fault = proto::Fault {
        retryable: true,
        fault: String::new(),
        reason: Some(proto::Reason { code: "tuesday".to_owned(), detail: "a\u{7}b".to_owned() }),
    };
    let bytes = prost::Message::encode_to_vec(&fault);
    let known = fault_of(&tonic::Status::with_details(tonic::Code::Aborted, "", bytes.into())).unwrap();
    assert_eq!(known.reason.code, ReasonCode::Internal);
    assert!(known.reason.detail.contains("tuesday") && known.reason.detail.contains("a b"), "{known:?}");
}

#[test]
fn two_sides_agree_on_the_highest_number_that_both_speak() {
    assert_eq!(agree((1, 2), (1, 2)), Some(2));
    assert_eq!(agree((1, 2), (1, 1)), Some(1));
    assert_eq!(agree((2, 3), (1, 2)), Some(2));
    assert_eq!(agree((1, 2), (3, 7)), None);
    assert_eq!(agree((1, 2), (0, 0)), None);
}
