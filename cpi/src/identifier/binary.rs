//! The binary form: dictionary indices where the dictionary knows a code, packed characters where it does not, no more
//! than about half of the text. It carries the dictionary release it was written with and the text's own CRC-32C.
//!
//! Layout, all integers most significant bit first: one octet form version, the release (groups of 7 bits, the high bit
//! says that another follows), then a bit stream of the fields in the order of the text, padded with zero bits, then 4
//! octets of the text's CRC-32C. Indices are append-only, so a later release reads what an earlier one wrote.

use super::check;
use super::cpi::{Cpi, FIELDS};
use crate::dictionary::{Dictionary, Entry, Table};
use std::fmt::Write as _;

/// The form's version.
const FORM: u8 = 1;
/// The longest binary form that is read, in octets.
pub const BINARY_BYTES_MAX: usize = 512;

/// Why a binary form was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// Longer than [`BINARY_BYTES_MAX`].
    #[error("the binary form has {octets} octets; at most {BINARY_BYTES_MAX} are read")]
    TooLong {
        /// What was given.
        octets: usize,
    },
    /// It ends too early.
    #[error("the binary form ends in the middle of {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// Another form version.
    #[error("form version {found} is not known here: expected {FORM}")]
    Form {
        /// The version octet.
        found: u8,
    },
    /// It was written with a later release, and uses an index that this release does not have.
    #[error("{what} has index {index}, which dictionary release {release} does not have: fetch release {written_with}")]
    Index {
        /// Which field.
        what: &'static str,
        /// The index.
        index: u32,
        /// The release consulted.
        release: u32,
        /// The release it was written with.
        written_with: u32,
    },
    /// The bits are no identifier, or do not hold their check.
    #[error("the binary form is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

struct BitWriter {
    out: Vec<u8>,
    /// Bits used of the last octet, 0 where it is full.
    used: u32,
}

impl BitWriter {
    fn bits(&mut self, value: u128, count: u32) {
        for at in (0..count).rev() {
            if self.used == 0 {
                self.out.push(0);
            }
            let bit = (value >> at & 1) as u8;
            let last = self.out.last_mut().expect("an octet was pushed");
            *last |= bit << (7 - self.used);
            self.used = (self.used + 1) % 8;
        }
    }

    /// Groups of `group` bits, least significant first, each with a bit that says that another follows.
    fn groups(&mut self, mut value: u32, group: u32) {
        loop {
            let rest = value >> group;
            self.bits(u128::from(value & ((1 << group) - 1)), group);
            self.bits(u128::from(rest != 0), 1);
            if rest == 0 {
                return;
            }
            value = rest;
        }
    }

    /// Characters of an alphabet of `base`, up to 18 at a time as one number.
    fn packed(&mut self, text: &[u8], base: u128, value: impl Fn(u8) -> u8) {
        for chunk in text.chunks(18) {
            let number = chunk.iter().fold(0u128, |number, &octet| number * base + u128::from(value(octet)));
            self.bits(number, packed_bits(base, chunk.len()));
        }
    }

    fn alphanumeric(&mut self, text: &[u8]) {
        self.packed(text, 36, check::value_36);
    }

    fn hexadecimal(&mut self, text: &[u8]) {
        for &octet in text {
            self.bits(u128::from(check::value_36(octet)), 4);
        }
    }

    /// A code: one bit, then its index or its characters.
    fn code<T: Entry>(&mut self, table: &Table<T>, code: &str, group: u32, raw: impl Fn(&mut Self, &[u8])) {
        match table.index(code) {
            Some(index) => {
                self.bits(1, 1);
                self.groups(index, group);
            }
            None => {
                self.bits(0, 1);
                raw(self, code.as_bytes());
            }
        }
    }

    fn model(&mut self, dictionary: &Dictionary, code: &str) {
        self.code(&dictionary.chips, code, 6, |bits, text| {
            bits.bits(text.len() as u128 - 2, 4);
            bits.alphanumeric(text);
        });
    }

    /// A number of the grammar and the letters behind it.
    fn amount(&mut self, text: &str, letters: &[u8], precision: bool) {
        match text {
            "U" => return self.bits(0, 2),
            "0" => return self.bits(1, 2),
            _ => self.bits(2, 2),
        }
        let octets = text.as_bytes();
        let at = octets.iter().position(|octet| !octet.is_ascii_digit()).expect("an amount has a unit");
        let number = octets[..at].iter().fold(0u32, |number, &digit| number * 10 + u32::from(digit - b'0'));
        self.number(number);
        let unit = letters.iter().position(|&letter| letter == octets[at]).expect("the unit was checked");
        self.bits(unit as u128, 2);
        if precision {
            let code = &text[at + 1..];
            let at = crate::measures::Precision::ALL.iter().position(|p| p.code() == code);
            self.bits(at.expect("the precision was checked") as u128, 3);
        }
    }

    /// 0 to 999,999: 2 bits for the length, then 5, 10, 15 or 20 bits.
    fn number(&mut self, number: u32) {
        let class = match number {
            0..32 => 0,
            32..1024 => 1,
            1024..32_768 => 2,
            _ => 3,
        };
        self.bits(class, 2);
        self.bits(u128::from(number), (class as u32 + 1) * 5);
    }
}

fn packed_bits(base: u128, count: usize) -> u32 {
    let largest = (0..count).fold(1u128, |product, _| product * base) - 1;
    128 - largest.leading_zeros()
}

const UNITS_BYTES: &[u8] = b"GTPE";
const UNITS_NET: &[u8] = b"MGT";
const TYPES: [&str; 5] = ["GC", "IC", "SC", "EC", "HC"];
const CHIP_TYPES: [&str; 10] = ["CPU", "GPU", "NPU", "TPU", "DCU", "DPU", "FPG", "ASC", "QPU", "ANY"];

impl Cpi {
    /// The binary form, with the indices of `dictionary`.
    pub fn to_binary(&self, dictionary: &Dictionary) -> Vec<u8> {
        let mut head = Vec::with_capacity(128);
        head.push(FORM);
        let mut release = dictionary.release();
        loop {
            let more = release > 127;
            head.push((release & 127) as u8 | u8::from(more) << 7);
            release >>= 7;
            if !more {
                break;
            }
        }
        let mut bits = BitWriter { out: head, used: 0 };
        let field = |index: usize| self.written(index);
        let enterprise = field(0).as_bytes();
        match enterprise[0] {
            // the check characters follow from the others
            b'C' => {
                bits.bits(0, 2);
                bits.packed(&enterprise[1..17], 31, |octet| check::VALUE_31[octet as usize]);
            }
            b'L' => {
                bits.bits(1, 2);
                bits.alphanumeric(&enterprise[1..19]);
            }
            _ => {
                bits.bits(2, 2);
                bits.alphanumeric(&enterprise[1..9]);
            }
        }
        bits.code(&dictionary.industries, field(1), 6, |bits, text| {
            bits.bits(u128::from(text[0] == b'S'), 1);
            bits.bits(u128::from(text[1] - b'A'), 5);
            let number = text[2..].iter().fold(0, |number, digit| number * 10 + u128::from(digit - b'0'));
            bits.bits(number, 14);
        });
        bits.code(&dictionary.cities, field(2), 9, |bits, text| {
            bits.bits(u128::from(text[0] == b'U'), 1);
            if text[0] == b'U' {
                bits.alphanumeric(&text[1..]);
            } else {
                let number = text[1..].iter().fold(0, |number, digit| number * 10 + u128::from(digit - b'0'));
                bits.bits(number, 20);
            }
        });
        bits.alphanumeric(field(3).as_bytes());
        bits.bits(TYPES.iter().position(|t| *t == field(4)).expect("the type was checked") as u128, 3);
        let letters = |bits: &mut BitWriter, text: &[u8]| bits.packed(text, 26, |octet| octet - b'A');
        bits.code(&dictionary.service_types, field(5), 4, letters);
        bits.amount(field(6), UNITS_BYTES, true);
        bits.amount(field(7), UNITS_BYTES, false);
        bits.amount(field(8), UNITS_NET, false);
        let chips = self.chips();
        bits.bits(chips.clone().count() as u128, 3);
        for (model, count) in chips {
            bits.model(dictionary, model);
            bits.number(count);
        }
        bits.code(&dictionary.server_types, field(10), 4, letters);
        bits.model(dictionary, field(11));
        bits.number(self.cores());
        bits.amount(field(13), UNITS_BYTES, false);
        bits.amount(field(14), UNITS_BYTES, false);
        bits.number(self.servers());
        bits.bits(u128::from(self.path().is_some()), 1);
        if let Some(path) = self.path() {
            let address = path.address.as_bytes();
            let at = b"IVN".iter().position(|letter| *letter == address[0]).expect("the address was checked");
            bits.bits(at as u128, 2);
            if at == 2 {
                bits.bits(address.len() as u128 - 2, 5);
                bits.alphanumeric(&address[1..]);
            } else {
                bits.hexadecimal(&address[1..]);
            }
            let at = CHIP_TYPES.iter().position(|t| *t == path.chip_type).expect("the chip type was checked");
            bits.bits(at as u128, 4);
            bits.bits(u128::from(path.chip_model != "ANY"), 1);
            if path.chip_model != "ANY" {
                bits.model(dictionary, path.chip_model);
            }
            let uid = path.chip_uid.as_bytes();
            let at = b"UDBSA".iter().position(|letter| *letter == uid[0]).expect("the uid was checked");
            bits.bits(at as u128, 3);
            match at {
                0..=2 => bits.hexadecimal(&uid[1..]),
                3 => {
                    bits.bits(uid.len() as u128 - 2, 5);
                    bits.alphanumeric(&uid[1..]);
                }
                _ => {}
            }
        }
        let extensions = self.extensions();
        bits.bits(extensions.clone().count() as u128, 4);
        for (key, value) in extensions {
            letters(&mut bits, key.as_bytes());
            bits.bits(value.len() as u128 - 1, 4);
            bits.alphanumeric(value.as_bytes());
        }
        let mut out = bits.out;
        let body = &self.as_str().as_bytes()[..self.as_str().len() - 8];
        out.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
        out
    }

    /// Reads a binary form. Any release from the one that it was written with on will do, and an earlier one where it has
    /// all the indices.
    ///
    /// # Errors
    /// [`BinaryError`]; nothing but the one text that the writer had is ever returned.
    pub fn from_binary(octets: &[u8], dictionary: &Dictionary) -> Result<Self, BinaryError> {
        if octets.len() > BINARY_BYTES_MAX {
            return Err(BinaryError::TooLong { octets: octets.len() });
        }
        let (&form, rest) = octets.split_first().ok_or(BinaryError::Truncated { what: "the form version" })?;
        if form != FORM {
            return Err(BinaryError::Form { found: form });
        }
        let mut written_with = 0u32;
        let mut used = 0;
        loop {
            let octet = rest.get(used).ok_or(BinaryError::Truncated { what: "the release" })?;
            written_with = u32::from(octet & 127)
                .checked_shl(7 * used as u32)
                .filter(|_| used < 4)
                .map(|part| written_with | part)
                .ok_or(BinaryError::Damaged { what: "the release is too large" })?;
            used += 1;
            if octet & 128 == 0 {
                break;
            }
        }
        let rest = &rest[used..];
        let end = rest.len().checked_sub(4).ok_or(BinaryError::Truncated { what: "the check" })?;
        let mut reader = BitReader { octets: &rest[..end], at: 0, dictionary, written_with };
        let mut text = String::with_capacity(super::TEXT_BYTES_MAX);
        reader.text(&mut text)?;
        let padding = reader.octets.len() * 8 - reader.at;
        if padding >= 8 || reader.bits(padding as u32, "the padding")? != 0 {
            return Err(BinaryError::Damaged { what: "bits are left over" });
        }
        if crc32c::crc32c(text.as_bytes()).to_be_bytes() != rest[end..] {
            return Err(BinaryError::Damaged { what: "the check does not hold" });
        }
        let length = text.len();
        let cpi = Self::seal(&text).map_err(|_| BinaryError::Damaged { what: "the fields are no identifier" })?;
        if cpi.as_str().get(..length) == Some(text.as_str()) && cpi.as_str().len() == length + 8 {
            Ok(cpi)
        } else {
            Err(BinaryError::Damaged { what: "the text is not canonical" })
        }
    }
}

struct BitReader<'a> {
    octets: &'a [u8],
    at: usize,
    dictionary: &'a Dictionary,
    written_with: u32,
}

impl BitReader<'_> {
    fn bits(&mut self, count: u32, what: &'static str) -> Result<u128, BinaryError> {
        if self.at + count as usize > self.octets.len() * 8 {
            return Err(BinaryError::Truncated { what });
        }
        let mut value = 0u128;
        for _ in 0..count {
            let bit = self.octets[self.at / 8] >> (7 - self.at % 8) & 1;
            value = value << 1 | u128::from(bit);
            self.at += 1;
        }
        Ok(value)
    }

    fn small(&mut self, count: u32, what: &'static str) -> Result<usize, BinaryError> {
        Ok(self.bits(count, what)? as usize)
    }

    fn groups(&mut self, group: u32, what: &'static str) -> Result<u32, BinaryError> {
        let (mut value, mut shift) = (0u32, 0);
        loop {
            let part = self.bits(group, what)? as u32;
            if shift + group > 30 {
                return Err(BinaryError::Damaged { what: "an index is too large" });
            }
            value |= part << shift;
            shift += group;
            if self.bits(1, what)? == 0 {
                return Ok(value);
            }
        }
    }

    fn packed(
        &mut self,
        out: &mut String,
        count: usize,
        alphabet: &[u8],
        what: &'static str,
    ) -> Result<(), BinaryError> {
        let base = alphabet.len() as u128;
        let mut left = count;
        while left > 0 {
            let chunk = left.min(18);
            let mut number = self.bits(packed_bits(base, chunk), what)?;
            let mut octets = [0u8; 18];
            for slot in octets[..chunk].iter_mut().rev() {
                *slot = alphabet[(number % base) as usize];
                number /= base;
            }
            if number != 0 {
                return Err(BinaryError::Damaged { what });
            }
            out.extend(octets[..chunk].iter().map(|&octet| char::from(octet)));
            left -= chunk;
        }
        Ok(())
    }

    fn alphanumeric(&mut self, out: &mut String, count: usize, what: &'static str) -> Result<(), BinaryError> {
        self.packed(out, count, b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", what)
    }

    fn hexadecimal(&mut self, out: &mut String, count: usize, what: &'static str) -> Result<(), BinaryError> {
        for _ in 0..count {
            out.push(char::from(b"0123456789ABCDEF"[self.small(4, what)?]));
        }
        Ok(())
    }

    /// The code of an index, or `None` where the characters follow.
    fn code<'d, T: Entry>(
        &mut self,
        table: &'d Table<T>,
        group: u32,
        what: &'static str,
    ) -> Result<Option<&'d str>, BinaryError> {
        if self.bits(1, what)? == 0 {
            return Ok(None);
        }
        let index = self.groups(group, what)?;
        let (release, written_with) = (self.dictionary.release(), self.written_with);
        let entry = table.at(index).ok_or(BinaryError::Index { what, index, release, written_with })?;
        Ok(Some(&entry.code().code))
    }

    fn model(&mut self, out: &mut String, what: &'static str) -> Result<(), BinaryError> {
        let dictionary = self.dictionary;
        match self.code(&dictionary.chips, 6, what)? {
            Some(code) => out.push_str(code),
            None => {
                let count = self.small(4, what)? + 2;
                self.alphanumeric(out, count, what)?;
            }
        }
        Ok(())
    }

    fn letters<T: Entry>(&mut self, out: &mut String, table: &Table<T>, what: &'static str) -> Result<(), BinaryError> {
        match self.code(table, 4, what)? {
            Some(code) => out.push_str(code),
            None => self.packed(out, 2, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", what)?,
        }
        Ok(())
    }

    fn number(&mut self, what: &'static str) -> Result<u32, BinaryError> {
        let class = self.bits(2, what)? as u32;
        Ok(self.bits((class + 1) * 5, what)? as u32)
    }

    fn amount(
        &mut self,
        out: &mut String,
        letters: &[u8],
        precision: bool,
        what: &'static str,
    ) -> Result<(), BinaryError> {
        match self.bits(2, what)? {
            0 => out.push('U'),
            1 => out.push('0'),
            2 => {
                let number = self.number(what)?;
                let unit = letters.get(self.small(2, what)?).ok_or(BinaryError::Damaged { what })?;
                let _ = write!(out, "{number}{}", char::from(*unit));
                if precision {
                    let all = crate::measures::Precision::ALL;
                    let precision = all.get(self.small(3, what)?).ok_or(BinaryError::Damaged { what })?;
                    out.push_str(precision.code());
                }
            }
            _ => return Err(BinaryError::Damaged { what }),
        }
        Ok(())
    }

    fn enterprise(&mut self, out: &mut String) -> Result<(), BinaryError> {
        let what = "the enterprise";
        match self.bits(2, what)? {
            0 => {
                out.push('C');
                let start = out.len();
                self.packed(out, 16, check::ALPHABET_31, what)?;
                let mut body = [0u8; 17];
                body[..16].copy_from_slice(&out.as_bytes()[start..]);
                let mut organisation = [0u8; 8];
                organisation.copy_from_slice(&body[8..16]);
                body[16] = check::gb_11714(&organisation);
                out.push(char::from(body[16]));
                out.push(char::from(check::gb_32100(&body)));
            }
            1 => {
                out.push('L');
                let start = out.len();
                self.alphanumeric(out, 18, what)?;
                let mut body = [0u8; 18];
                body.copy_from_slice(&out.as_bytes()[start..]);
                out.extend(check::mod_97_10(&body).map(char::from));
            }
            2 => {
                out.push('P');
                self.alphanumeric(out, 8, what)?;
            }
            _ => return Err(BinaryError::Damaged { what }),
        }
        Ok(())
    }

    /// The text without its check.
    fn text(&mut self, out: &mut String) -> Result<(), BinaryError> {
        let dictionary = self.dictionary;
        out.push_str("cpi:1:");
        self.enterprise(out)?;
        out.push('-');
        let what = "the industry";
        match self.code(&dictionary.industries, 6, what)? {
            Some(code) => out.push_str(code),
            None => {
                out.push(if self.bits(1, what)? == 1 { 'S' } else { 'G' });
                let letter = self.small(5, what)?;
                let letter = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ".get(letter).ok_or(BinaryError::Damaged { what })?;
                out.push(char::from(*letter));
                let _ = write!(out, "{:04}", self.bits(14, what)?);
            }
        }
        out.push('-');
        let what = "the city";
        match self.code(&dictionary.cities, 9, what)? {
            Some(code) => out.push_str(code),
            None if self.bits(1, what)? == 1 => {
                out.push('U');
                self.alphanumeric(out, 5, what)?;
            }
            None => {
                let _ = write!(out, "G{:06}", self.bits(20, what)?);
            }
        }
        out.push('-');
        self.alphanumeric(out, 3, "the zone")?;
        let what = "the resource type";
        let class = TYPES.get(self.small(3, what)?).ok_or(BinaryError::Damaged { what })?;
        let _ = write!(out, ".{class}-");
        self.letters(out, &dictionary.service_types, "the service type")?;
        out.push('-');
        self.amount(out, UNITS_BYTES, true, "the capacity")?;
        out.push('-');
        self.amount(out, UNITS_BYTES, false, "the storage")?;
        out.push('-');
        self.amount(out, UNITS_NET, false, "the bandwidth")?;
        out.push('-');
        let what = "the chips";
        let count = self.small(3, what)?;
        if count == 0 {
            out.push('0');
        }
        for at in 0..count {
            if at > 0 {
                out.push('_');
            }
            self.model(out, what)?;
            let _ = write!(out, "_{}", self.number(what)?);
        }
        out.push('.');
        self.letters(out, &dictionary.server_types, "the server type")?;
        out.push('-');
        self.model(out, "the CPU model")?;
        let _ = write!(out, "-{}-", self.number("the cores")?);
        self.amount(out, UNITS_BYTES, false, "the memory")?;
        out.push('-');
        self.amount(out, UNITS_BYTES, false, "the storage per server")?;
        let _ = write!(out, "-{}", self.number("the servers")?);
        if self.bits(1, "the path")? == 1 {
            self.path(out)?;
        }
        self.extensions(out)
    }

    fn path(&mut self, out: &mut String) -> Result<(), BinaryError> {
        let what = "the address";
        match self.bits(2, what)? {
            0 => {
                out.push_str("/I");
                self.hexadecimal(out, 8, what)?;
            }
            1 => {
                out.push_str("/V");
                self.hexadecimal(out, 32, what)?;
            }
            2 => {
                out.push_str("/N");
                let count = self.small(5, what)? + 1;
                self.alphanumeric(out, count, what)?;
            }
            _ => return Err(BinaryError::Damaged { what }),
        }
        let what = "the chip type";
        let kind = CHIP_TYPES.get(self.small(4, what)?).ok_or(BinaryError::Damaged { what })?;
        let _ = write!(out, "/{kind}/");
        if self.bits(1, "the chip model")? == 1 {
            self.model(out, "the chip model")?;
        } else {
            out.push_str("ANY");
        }
        let what = "the unique id";
        out.push('/');
        match self.bits(3, what)? {
            0 => {
                out.push('U');
                self.hexadecimal(out, 32, what)
            }
            1 => {
                out.push('D');
                self.hexadecimal(out, 40, what)
            }
            2 => {
                out.push('B');
                self.hexadecimal(out, 9, what)
            }
            3 => {
                out.push('S');
                let count = self.small(5, what)? + 1;
                self.alphanumeric(out, count, what)
            }
            4 => {
                out.push_str("ANY");
                Ok(())
            }
            _ => Err(BinaryError::Damaged { what }),
        }
    }

    fn extensions(&mut self, out: &mut String) -> Result<(), BinaryError> {
        let what = "the extensions";
        for _ in 0..self.small(4, what)? {
            out.push('~');
            self.packed(out, 2, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", what)?;
            let count = self.small(4, what)? + 1;
            self.alphanumeric(out, count, what)?;
        }
        Ok(())
    }
}

const _: () = assert!(FIELDS == 20, "the bit stream names 20 fields");
