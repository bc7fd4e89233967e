//! Crockford base32 of 128-bit values: 26 characters, the first 0 to 7. No check symbol; lower case is read, never written.

/// The alphabet in value order: no I, L, O, U.
pub const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 26 ASCII characters on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text26([u8; 26]);

impl Text26 {
    /// The characters as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }
}

/// The value 0 to 31 of one character, or `None`. Accepts lower case.
pub fn value(character: u8) -> Option<u8> {
    let upper = character.to_ascii_uppercase();
    ALPHABET.iter().position(|&a| a == upper).map(|at| at as u8)
}

/// Encodes big-endian, most significant character first.
pub fn encode_128(bytes: &[u8; 16]) -> Text26 {
    let mut rest = u128::from_be_bytes(*bytes);
    let mut out = [b'0'; 26];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    Text26(out)
}

/// Decodes 26 characters; `None` for any other length, alphabet, or a value over 128 bits.
pub fn decode_128(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != 26 || value(text[0])? > 7 {
        return None;
    }
    let mut out: u128 = 0;
    for &character in text {
        out = (out << 5) | u128::from(value(character)?);
    }
    Some(out.to_be_bytes())
}
