//! Unpacks bits into the text of an identifier.

use super::super::cpi::Cpi;
use super::super::{TEXT_BYTES_MAX, check};
use super::{BINARY_BYTES_MAX, BinaryError, CHIP_TYPES, FORM, TYPES, UNITS_BYTES, UNITS_NET, packed_bits};
use crate::dictionary::{Dictionary, Entry, Table};
use std::fmt::Write as _;

impl Cpi {
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
        let mut text = String::with_capacity(TEXT_BYTES_MAX);
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
