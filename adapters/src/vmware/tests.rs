//! Answers that are read, and what may not be in a request.

use super::adapter::uuid_of;
use super::xml::{escaped, parse};

#[test]
fn answers_are_read_without_prefixes_and_entities_are_text() {
    let root =
        parse(r#"<?xml version="1.0"?><a:x xmlns:a="u"><a:y xsi:type="b:z">1 &lt; 2 &amp; &#x4e00;</a:y><e/></a:x>"#);
    let root = root.unwrap();
    assert_eq!(root.name, "x");
    assert_eq!(root.text_at("y"), "1 < 2 & 一");
    assert_eq!(root.child("y").unwrap().attributes["type"], "b:z");
    assert!(root.child("e").is_some() && root.child("n").is_none());
    for wrong in ["", "<a>", "<a></b>", "<!DOCTYPE a><a/>", &"<a>".repeat(100)] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    assert_eq!(escaped("<a&'\">"), "&lt;a&amp;&apos;&quot;&gt;");
}

#[test]
fn a_tag_is_always_the_same_uuid() {
    assert_eq!(uuid_of("causeway-1"), uuid_of("causeway-1"));
    assert_ne!(uuid_of("causeway-1"), uuid_of("causeway-2"));
    assert_eq!(uuid_of("causeway-1").len(), 36);
    assert_eq!(&uuid_of("causeway-1")[14..15], "8");
}
