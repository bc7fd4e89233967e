//! The five published vectors hold exactly: text, key and identity projection.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

use cpi::identifier::Cpi;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    name: String,
    cpi: String,
    chars: usize,
    identity_projection: String,
    stable_key: String,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("golden/identifiers.json")).expect("the vectors are JSON")
}

#[test]
fn text_key_and_projection_hold() {
    assert_eq!(vectors().len(), 5);
    for vector in vectors() {
        let cpi = Cpi::parse(&vector.cpi).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
        assert_eq!(cpi.to_string(), vector.cpi, "{}", vector.name);
        assert_eq!(cpi.as_str().len(), vector.chars, "{}", vector.name);
        assert_eq!(cpi.identity_projection(), vector.identity_projection, "{}", vector.name);
        assert_eq!(cpi.stable_key().to_string(), vector.stable_key, "{}", vector.name);
        assert_eq!(Cpi::parse(&vector.cpi.to_lowercase()).expect("lower case is read"), cpi);
    }
}
