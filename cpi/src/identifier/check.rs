//! Check characters: GB 32100-2015 (mod 31), GB 11714-1997 (mod 11), ISO 17442 (ISO 7064 MOD 97-10) and CRC-32C.

use crate::crockford;

/// The 31 characters of a unified social credit code in value order: no I, O, S, V, Z.
pub(crate) const ALPHABET_31: &[u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";

const NOT_IN_31: u8 = 255;

/// Value of each octet in [`ALPHABET_31`], 255 where it is not one of them.
pub(crate) const VALUE_31: [u8; 256] = {
    let mut table = [NOT_IN_31; 256];
    let mut at = 0;
    while at < 31 {
        table[ALPHABET_31[at] as usize] = at as u8;
        at += 1;
    }
    table
};

/// 0 to 35 of a digit or upper-case letter; the caller made sure that it is one.
pub(crate) const fn value_36(octet: u8) -> u8 {
    if octet <= b'9' { octet.wrapping_sub(b'0') } else { octet.wrapping_sub(b'A').wrapping_add(10) }
}

/// Character 17 of a unified social credit code, from its characters 9 to 16 (the organisation's code).
///
/// Source: GB 11714-1997, weights 3 7 9 10 5 8 4 2, modulo 11, 10 written as `X`.
pub(crate) fn gb_11714(body: &[u8; 8]) -> u8 {
    const WEIGHTS: [u32; 8] = [3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = body.iter().zip(WEIGHTS).map(|(&octet, weight)| u32::from(value_36(octet)) * weight).sum();
    match 11 - sum % 11 {
        10 => b'X',
        11 => b'0',
        digit => b'0' + digit as u8,
    }
}

/// Character 18 of a unified social credit code, from its first 17.
///
/// Source: GB 32100-2015, weights 3^(i-1) mod 31.
pub(crate) fn gb_32100(body: &[u8; 17]) -> u8 {
    const WEIGHTS: [u32; 17] = [1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28];
    let sum: u32 = body.iter().zip(WEIGHTS).map(|(&octet, weight)| u32::from(VALUE_31[octet as usize]) * weight).sum();
    ALPHABET_31[((31 - sum % 31) % 31) as usize]
}

/// The two check digits of a legal entity identifier, from its first 18 characters.
///
/// Source: ISO 17442-1 with ISO/IEC 7064 MOD 97-10.
pub(crate) fn mod_97_10(body: &[u8; 18]) -> [u8; 2] {
    let mut rest: u32 = 0;
    for &octet in body {
        let value = u32::from(value_36(octet));
        rest = (rest * if value < 10 { 10 } else { 100 } + value) % 97;
    }
    let check = 98 - rest * 100 % 97;
    [b'0' + (check / 10) as u8, b'0' + (check % 10) as u8]
}

/// CRC-32C of `octets` in 7 Crockford characters, most significant first; the first is 0 to 3.
pub(crate) fn check_text(octets: &[u8]) -> [u8; 7] {
    let mut rest = crc32c::crc32c(octets);
    let mut out = [b'0'; 7];
    for slot in out.iter_mut().rev() {
        *slot = crockford::ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    out
}
