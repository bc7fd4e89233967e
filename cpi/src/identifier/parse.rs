//! Reads the text form into a canonical text and its fields' places. One pass over a copy on the stack; the only
//! allocation is the result's text.

use super::check;
use super::cpi::{Cpi, FIELDS, PATH_FIELDS, PREFIX_FIELDS};
use super::error::{CpiError, CpiErrorKind as Kind};
use super::field::CpiField as Field;
use super::scan::{AN, CLASS, CROCK, Scan};

/// The longest identifier, in octets.
pub const TEXT_BYTES_MAX: usize = 512;

/// Copies `text` in upper case, the scheme in lower case; `None` if it is too long.
#[inline]
pub(super) fn upper(text: &[u8], out: &mut [u8; TEXT_BYTES_MAX]) -> Option<usize> {
    let out = out.get_mut(..text.len())?;
    for (slot, &octet) in out.iter_mut().zip(text) {
        *slot = octet ^ (u8::from(octet.is_ascii_lowercase()) << 5);
    }
    if out.starts_with(b"CPI:") {
        out[..3].copy_from_slice(b"cpi");
    }
    Some(text.len())
}

/// Where the check's `~` stands and whether its 7 characters follow to the end.
#[inline]
pub(super) fn check_at(text: &[u8]) -> Result<usize, CpiError> {
    const EXPECTED: &str = "~ and 7 check characters (Crockford base32, the first 0 to 3) at the end";
    let wrong = |offset: usize| {
        CpiError::new(Kind::Syntax, Field::Check, offset, EXPECTED, text.get(offset..).unwrap_or_default())
    };
    let Some(at) = text.len().checked_sub(8) else { return Err(wrong(text.len())) };
    if text[at] != b'~' {
        let last = text.iter().rposition(|&octet| octet == b'~').unwrap_or(text.len());
        return Err(wrong(last));
    }
    let check = &text[at + 1..];
    if check[0] > b'3' || check.iter().any(|&octet| CLASS[octet as usize] & CROCK == 0) {
        return Err(wrong(at + 1));
    }
    Ok(at)
}

/// Reads a text of version 1.
pub(super) fn parse(input: &[u8]) -> Result<Cpi, CpiError> {
    let mut buffer = [0u8; TEXT_BYTES_MAX];
    let Some(length) = upper(input, &mut buffer) else {
        let found = &input[..CpiError::FOUND_CHARS_MAX];
        return Err(CpiError::new(Kind::TooLong, Field::Text, TEXT_BYTES_MAX, "at most 512 octets", found));
    };
    let text = &buffer[..length];
    let mut scan = Scan::new(text);
    if !text.starts_with(b"cpi:") {
        return Err(scan.fail(Kind::Syntax, Field::Scheme, 0, "cpi:"));
    }
    scan.at = 4;
    match scan.peek() {
        b'1' => scan.at += 1,
        other if CLASS[other as usize] & AN != 0 && other != b'0' => {
            return Err(scan.fail(Kind::Newer, Field::Version, 4, "version 1"));
        }
        _ => return Err(scan.syntax(Field::Version, "version 1")),
    }
    scan.octet(b':', Field::Version, ": after the version")?;
    scan.prefix()?;
    if scan.peek() == b'/' {
        scan.at += 1;
        scan.path()?;
    } else {
        let end = scan.at as u16;
        scan.layout.ends[PREFIX_FIELDS..].fill(end);
    }
    if scan.at == text.len() {
        return Err(scan.syntax(Field::Check, "~ and the check"));
    }
    if scan.peek() != b'~' {
        let field = if scan.layout.has_path { Field::ChipUid } else { Field::Servers };
        let expected = if scan.layout.has_path { "~ after the path" } else { "/ and a path, or ~, after the prefix" };
        return Err(scan.syntax(field, expected));
    }
    let check = check_at(text)?;
    scan.extensions(check)?;
    finish(&scan, check)
}

/// Verifies the check and makes the result.
#[inline]
fn finish(scan: &Scan<'_>, check: usize) -> Result<Cpi, CpiError> {
    let text = scan.text;
    let given = &text[check + 1..];
    let computed = check::check_text(&text[..check]);
    if !scan.rewrite {
        if given != computed {
            return Err(wrong_checksum(check + 1, computed, given));
        }
        let text = std::str::from_utf8(text).expect("every octet was checked to be ASCII");
        return Ok(Cpi::from_parts(Box::from(text), scan.layout));
    }
    let mut buffer = [0u8; TEXT_BYTES_MAX];
    let length = scan.canonical(&mut buffer);
    let canonical = check::check_text(&buffer[..length]);
    // the check may be that of the text as given or that of its canonical form
    if given != computed && given != canonical {
        return Err(wrong_checksum(check + 1, canonical, given));
    }
    buffer[length] = b'~';
    buffer[length + 1..length + 8].copy_from_slice(&canonical);
    parse(&buffer[..length + 8])
}

#[cold]
fn wrong_checksum(offset: usize, computed: [u8; 7], given: &[u8]) -> CpiError {
    let expected = format!("check {} (CRC-32C)", String::from_utf8_lossy(&computed));
    CpiError::new(Kind::Checksum, Field::Check, offset, expected, given)
}

/// Adds the check to a text of version 1 that has none, and reads it.
pub(super) fn seal(body: &str) -> Result<Cpi, CpiError> {
    let mut buffer = [0u8; TEXT_BYTES_MAX];
    let length = upper(body.as_bytes(), &mut buffer).filter(|&length| length + 8 <= TEXT_BYTES_MAX);
    let Some(length) = length else {
        let found: Vec<u8> = body.bytes().take(CpiError::FOUND_CHARS_MAX).collect();
        return Err(CpiError::new(Kind::TooLong, Field::Text, TEXT_BYTES_MAX, "at most 512 octets", &found));
    };
    let check = check::check_text(&buffer[..length]);
    buffer[length] = b'~';
    buffer[length + 1..length + 8].copy_from_slice(&check);
    parse(&buffer[..length + 8])
}

const _: () = assert!(PREFIX_FIELDS + PATH_FIELDS == FIELDS);
