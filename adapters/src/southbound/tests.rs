//! Tags both ways; addresses that are refused.

use super::*;
use crate::contract::RunKey;
use cpi::ids::{Epoch, Fence, MemberId, TaskId};
use std::time::Duration;

#[test]
fn a_tag_comes_back_as_its_run_and_others_do_not() {
    let fence = Fence { epoch: Epoch { counter: 3, member: MemberId(7) }, attempt: 2 };
    let key = RunKey { task: TaskId([9; 16]), fence };
    let tag = tag_of(key);
    assert_eq!(parse_tag(&tag), Some(key));
    for other in ["", "causeway-", "backup-1", &tag[1..], &format!("{tag}.1"), &tag.replace("-3.", "-03.")] {
        assert_eq!(parse_tag(other), None, "{other}");
    }
}

#[test]
fn plain_http_is_asked_for_by_name() {
    let open = |url: &str, insecure| {
        let config = EndpointConfig { url: url.to_owned(), ca_file: None, insecure };
        Endpoint::new(&config, Duration::from_secs(1)).map_err(|error| error.to_string())
    };
    assert!(open("http://127.0.0.1:1", false).unwrap_err().contains("insecure = true"));
    assert!(open("http://127.0.0.1:1", true).unwrap().notes[0].contains("plain HTTP"));
    assert_eq!(open("https://example.net/api/", false).unwrap().notes, Vec::<String>::new());
    for wrong in ["https://user:secret@example.net", "ftp://example.net", "https://example.net/?a=1", "nothing"] {
        let why = open(wrong, true).unwrap_err();
        assert!(why.contains("config: url") && !why.contains("secret@"), "{why}");
    }
}
