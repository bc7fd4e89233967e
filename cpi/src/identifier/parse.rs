//! Reads the text form into a canonical text and its fields' places. One pass over a copy on the stack; the only
//! allocation is the result's text.

use super::amount::{Amount, AmountKind, Unit};
use super::check;
use super::cpi::{Cpi, FIELDS, Layout, PATH_FIELDS, PREFIX_FIELDS};
use super::error::{CpiError, CpiErrorKind as Kind};
use super::field::CpiField as Field;
use std::borrow::Cow;

/// The longest identifier, in octets.
pub const TEXT_BYTES_MAX: usize = 512;

const DIGIT: u8 = 1;
const UP: u8 = 2;
const HEX: u8 = 4;
const A31: u8 = 8;
const LOC: u8 = 16;
const CROCK: u8 = 32;
const AN: u8 = DIGIT | UP;

/// The character classes of the grammar that each octet belongs to.
static CLASS: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut at = 0usize;
    while at < 256 {
        let octet = at as u8;
        let mut class = 0;
        if octet.is_ascii_digit() {
            class |= DIGIT | HEX;
            if octet >= b'2' {
                class |= LOC;
            }
        }
        if octet.is_ascii_uppercase() {
            class |= UP | LOC;
            if octet <= b'F' {
                class |= HEX;
            }
        }
        if check::VALUE_31[at] != 255 {
            class |= A31;
        }
        if (class & (DIGIT | UP)) != 0 && !matches!(octet, b'I' | b'L' | b'O' | b'U') {
            class |= CROCK;
        }
        table[at] = class;
        at += 1;
    }
    table
};

/// An extension of the text: where it begins (at its `~`) and ends.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u16,
    end: u16,
}

/// Extensions and chips that one text can hold.
const EXTENSIONS_MAX: usize = 8;
const CHIPS_MAX: usize = 4;

pub(super) struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    layout: Layout,
    chips: [Span; CHIPS_MAX],
    chip_count: usize,
    extensions: [Span; EXTENSIONS_MAX],
    extension_count: usize,
    /// Whether a printer would write something else than what stands here.
    rewrite: bool,
}

impl<'a> Scan<'a> {
    #[inline]
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    /// Steps over octets of `class`, at most `max`; how many there were.
    #[inline]
    fn run(&mut self, class: u8, max: usize) -> usize {
        let rest = &self.text[self.at..];
        let rest = &rest[..rest.len().min(max)];
        let count = rest.iter().position(|&octet| CLASS[octet as usize] & class == 0).unwrap_or(rest.len());
        self.at += count;
        count
    }

    #[cold]
    fn fail(&self, kind: Kind, field: Field, offset: usize, expected: impl Into<Cow<'static, str>>) -> CpiError {
        let rest = self.text.get(offset..).unwrap_or_default();
        let until = rest.iter().position(|octet| b"-./~_:".contains(octet)).unwrap_or(rest.len()).max(1);
        CpiError::new(kind, field, offset, expected, &rest[..until.min(rest.len())])
    }

    #[cold]
    fn syntax(&self, field: Field, expected: &'static str) -> CpiError {
        self.fail(Kind::Syntax, field, self.at, expected)
    }

    #[inline]
    fn exactly(&mut self, class: u8, count: usize, field: Field, expected: &'static str) -> Result<(), CpiError> {
        if self.run(class, count) == count { Ok(()) } else { Err(self.syntax(field, expected)) }
    }

    #[inline]
    fn between(
        &mut self,
        class: u8,
        min: usize,
        max: usize,
        field: Field,
        expected: &'static str,
    ) -> Result<(), CpiError> {
        if self.run(class, max) >= min { Ok(()) } else { Err(self.syntax(field, expected)) }
    }

    #[inline]
    fn octet(&mut self, octet: u8, field: Field, expected: &'static str) -> Result<(), CpiError> {
        if self.peek() == octet {
            self.at += 1;
            Ok(())
        } else {
            Err(self.syntax(field, expected))
        }
    }

    #[inline]
    fn number(&mut self, field: Field) -> Result<u32, CpiError> {
        let start = self.at;
        if self.run(DIGIT, 6) == 0 {
            return Err(self.syntax(field, "a number of 1 to 6 digits"));
        }
        let digits = &self.text[start..self.at];
        if digits.len() > 1 && digits[0] == b'0' {
            return Err(self.fail(Kind::Syntax, field, start, "a number without leading zeros"));
        }
        if CLASS[self.peek() as usize] & DIGIT != 0 {
            return Err(self.fail(Kind::OutOfRange, field, start, "a number of at most 6 digits"));
        }
        Ok(digits.iter().fold(0, |number, &digit| number * 10 + u32::from(digit - b'0')))
    }

    /// Ends prefix or path field `index` here.
    #[inline]
    fn end(&mut self, index: usize) {
        self.layout.ends[index] = self.at as u16;
    }

    #[inline]
    fn enterprise(&mut self) -> Result<(), CpiError> {
        let field = Field::Enterprise;
        let start = self.at;
        self.at += 1;
        match self.text.get(start) {
            Some(b'C') => {
                self.exactly(A31, 18, field, "a unified social credit code: 18 of 0-9 A-Z without I O S V Z")?;
                let code: &[u8; 18] = self.text[start + 1..start + 19].try_into().expect("18 octets were read");
                let mut body = [0u8; 17];
                body.copy_from_slice(&code[..17]);
                let organisation: &[u8; 8] = code[8..16].try_into().expect("8 octets of 18");
                let expected = check::gb_11714(organisation);
                if code[16] != expected {
                    return Err(self.wrong_check(start + 17, expected, "17", "GB 11714"));
                }
                let expected = check::gb_32100(&body);
                if code[17] != expected {
                    return Err(self.wrong_check(start + 18, expected, "18", "GB 32100"));
                }
            }
            Some(b'L') => {
                self.exactly(AN, 18, field, "a legal entity identifier: 18 of 0-9 A-Z and 2 digits")?;
                self.exactly(DIGIT, 2, field, "the 2 check digits of a legal entity identifier")?;
                let body: &[u8; 18] = self.text[start + 1..start + 19].try_into().expect("18 octets were read");
                let expected = check::mod_97_10(body);
                if self.text[start + 19..start + 21] != expected {
                    let expected = String::from_utf8_lossy(&expected).into_owned();
                    return Err(self.fail(
                        Kind::CheckCharacter,
                        field,
                        start + 19,
                        format!("check digits {expected} (ISO 7064 MOD 97-10)"),
                    ));
                }
            }
            Some(b'P') => self.exactly(AN, 8, field, "a platform-issued code: 8 of 0-9 A-Z")?,
            _ => {
                self.at = start;
                return Err(self.syntax(field, "C (unified social credit code), L (legal entity) or P (platform)"));
            }
        }
        self.end(0);
        Ok(())
    }

    #[cold]
    fn wrong_check(&self, offset: usize, expected: u8, position: &str, standard: &str) -> CpiError {
        let expected = format!("check character {} at position {position} ({standard})", char::from(expected));
        self.fail(Kind::CheckCharacter, Field::Enterprise, offset, expected)
    }

    #[inline]
    fn industry(&mut self) -> Result<(), CpiError> {
        let field = Field::Industry;
        let last = match self.peek() {
            b'G' => b'T',
            b'S' => b'U',
            _ => return Err(self.syntax(field, "G (GB/T 4754) or S (ISIC)")),
        };
        self.at += 1;
        if !(b'A'..=last).contains(&self.peek()) {
            return Err(self.syntax(field, "a section letter, A to T for GB/T 4754 and A to U for ISIC"));
        }
        self.at += 1;
        self.exactly(DIGIT, 4, field, "4 digits of a class")?;
        self.end(1);
        Ok(())
    }

    #[inline]
    fn city(&mut self) -> Result<(), CpiError> {
        let field = Field::City;
        match self.peek() {
            b'G' => {
                self.at += 1;
                self.exactly(DIGIT, 6, field, "6 digits of GB/T 2260")?;
            }
            b'U' => {
                self.at += 1;
                self.exactly(UP, 2, field, "2 letters of a country")?;
                self.exactly(LOC, 3, field, "3 letters or digits 2-9 of a UN/LOCODE")?;
            }
            _ => return Err(self.syntax(field, "G (GB/T 2260) or U (UN/LOCODE)")),
        }
        self.end(2);
        Ok(())
    }

    #[inline]
    fn amount(&mut self, index: usize, field: Field, kind: AmountKind) -> Result<(), CpiError> {
        let start = self.at;
        if self.peek() == b'U' {
            self.at += 1;
            self.end(index);
            return Ok(());
        }
        let number = match self.number(field) {
            Ok(number) => number,
            Err(error) if error.offset as usize == start && self.at == start => {
                return Err(self.syntax(field, "U, 0, or a number and its unit"));
            }
            Err(error) => return Err(error),
        };
        if number == 0 && self.peek() == b'-' {
            self.end(index);
            return Ok(());
        }
        let Some(unit) = Unit::from_letter(self.peek()).filter(|&unit| kind.allows(unit)) else {
            let expected = if kind == AmountKind::Bandwidth { "a unit M, G or T" } else { "a unit G, T, P or E" };
            return Err(self.syntax(field, expected));
        };
        self.at += 1;
        if kind == AmountKind::Capacity {
            let precision = self.text.get(self.at..self.at + 3).unwrap_or_default();
            if crate::measures::Precision::from_code(precision).is_none() {
                let kind = if precision.len() == 3 && precision.iter().all(|&o| CLASS[o as usize] & AN != 0) {
                    Kind::Newer
                } else {
                    Kind::Syntax
                };
                return Err(self.fail(kind, field, self.at, "a precision F64, F32, T32, F16, B16, F08 or I08"));
            }
            self.at += 3;
        }
        if !Amount::Of(number, unit).is_canonical(kind) {
            if Amount::Of(number, unit).canonical(kind).is_none() {
                return Err(self.fail(Kind::OutOfRange, field, start, "at most 999000E after rounding"));
            }
            self.rewrite = true;
        }
        self.end(index);
        Ok(())
    }

    #[inline]
    fn model(&mut self, field: Field, any: bool) -> Result<(), CpiError> {
        const EXPECTED: &str = "a chip code: a letter and 1 to 11 of 0-9 A-Z";
        let start = self.at;
        if CLASS[self.peek() as usize] & UP == 0 {
            return Err(self.syntax(field, EXPECTED));
        }
        self.at += 1;
        self.between(AN, 1, 11, field, EXPECTED)?;
        if !any && &self.text[start..self.at] == b"ANY" {
            return Err(self.fail(Kind::Syntax, field, start, "a chip code other than the reserved ANY"));
        }
        Ok(())
    }

    #[inline]
    fn chips(&mut self) -> Result<(), CpiError> {
        let field = Field::Chips;
        if self.peek() == b'0' {
            self.at += 1;
            self.end(9);
            return Ok(());
        }
        loop {
            let start = self.at;
            if self.chip_count == CHIPS_MAX {
                return Err(self.fail(Kind::Newer, field, start, "at most 4 chip models"));
            }
            self.model(field, false)?;
            let model = &self.text[start..self.at];
            for before in &self.chips[..self.chip_count] {
                let other = self.chip_model(*before);
                if other == model {
                    return Err(self.fail(Kind::Duplicate, field, start, "each chip model once"));
                }
                self.rewrite |= other > model;
            }
            self.octet(b'_', field, "_ and the quantity")?;
            self.number(field)?;
            self.chips[self.chip_count] = Span { start: start as u16, end: self.at as u16 };
            self.chip_count += 1;
            if self.peek() != b'_' {
                break;
            }
            self.at += 1;
        }
        self.end(9);
        Ok(())
    }

    fn chip_model(&self, chip: Span) -> &'a [u8] {
        let text = &self.text[usize::from(chip.start)..usize::from(chip.end)];
        &text[..text.iter().position(|&octet| octet == b'_').unwrap_or(text.len())]
    }

    fn prefix(&mut self) -> Result<(), CpiError> {
        self.enterprise()?;
        self.octet(b'-', Field::Industry, "- after the enterprise")?;
        self.industry()?;
        self.octet(b'-', Field::City, "- after the industry")?;
        self.city()?;
        self.octet(b'-', Field::Zone, "- after the city")?;
        self.exactly(AN, 3, Field::Zone, "3 of 0-9 A-Z")?;
        self.end(3);
        self.octet(b'.', Field::ResourceType, ". after the zone")?;
        match self.text.get(self.at..self.at + 2) {
            Some(b"GC" | b"IC" | b"SC" | b"EC" | b"HC") => self.at += 2,
            other => {
                let shaped = other.is_some_and(|two| two.iter().all(|&o| CLASS[o as usize] & UP != 0));
                let kind = if shaped { Kind::Newer } else { Kind::Syntax };
                return Err(self.fail(kind, Field::ResourceType, self.at, "GC, IC, SC, EC or HC"));
            }
        }
        self.end(4);
        self.octet(b'-', Field::ServiceType, "- after the resource type")?;
        self.exactly(UP, 2, Field::ServiceType, "2 letters of a service type")?;
        self.end(5);
        self.octet(b'-', Field::Capacity, "- after the service type")?;
        self.amount(6, Field::Capacity, AmountKind::Capacity)?;
        self.octet(b'-', Field::Storage, "- after the capacity")?;
        self.amount(7, Field::Storage, AmountKind::Storage)?;
        self.octet(b'-', Field::Bandwidth, "- after the storage")?;
        self.amount(8, Field::Bandwidth, AmountKind::Bandwidth)?;
        self.octet(b'-', Field::Chips, "- after the bandwidth")?;
        self.chips()?;
        self.octet(b'.', Field::ServerType, ". after the chips")?;
        self.exactly(UP, 2, Field::ServerType, "2 letters of a server type")?;
        self.end(10);
        self.octet(b'-', Field::CpuModel, "- after the server type")?;
        self.model(Field::CpuModel, false)?;
        self.end(11);
        self.octet(b'-', Field::Cores, "- after the CPU model")?;
        self.number(Field::Cores)?;
        self.end(12);
        self.octet(b'-', Field::Memory, "- after the cores")?;
        self.amount(13, Field::Memory, AmountKind::Memory)?;
        self.octet(b'-', Field::ServerStorage, "- after the memory")?;
        self.amount(14, Field::ServerStorage, AmountKind::Storage)?;
        self.octet(b'-', Field::Servers, "- after the storage per server")?;
        self.number(Field::Servers)?;
        self.end(15);
        Ok(())
    }

    fn path(&mut self) -> Result<(), CpiError> {
        let field = Field::Address;
        let kind = self.peek();
        self.at += 1;
        match kind {
            b'I' => self.exactly(HEX, 8, field, "an IPv4 address: 8 hexadecimal digits")?,
            b'V' => self.exactly(HEX, 32, field, "an IPv6 address: 32 hexadecimal digits")?,
            b'N' => self.between(AN, 1, 32, field, "a node id: 1 to 32 of 0-9 A-Z")?,
            _ => {
                self.at -= 1;
                return Err(self.syntax(field, "I (IPv4), V (IPv6) or N (node id)"));
            }
        }
        self.end(16);
        self.octet(b'/', Field::ChipType, "/ after the address")?;
        match self.text.get(self.at..self.at + 3) {
            Some(b"CPU" | b"GPU" | b"NPU" | b"TPU" | b"DCU" | b"DPU" | b"FPG" | b"ASC" | b"QPU" | b"ANY") => {
                self.at += 3;
            }
            other => {
                let shaped = other.is_some_and(|three| three.iter().all(|&o| CLASS[o as usize] & UP != 0));
                let kind = if shaped { Kind::Newer } else { Kind::Syntax };
                let expected = "CPU, GPU, NPU, TPU, DCU, DPU, FPG, ASC, QPU or ANY";
                return Err(self.fail(kind, Field::ChipType, self.at, expected));
            }
        }
        self.end(17);
        self.octet(b'/', Field::ChipModel, "/ after the chip type")?;
        self.model(Field::ChipModel, true)?;
        self.end(18);
        self.octet(b'/', Field::ChipUid, "/ after the chip model")?;
        let field = Field::ChipUid;
        let kind = self.peek();
        self.at += 1;
        match kind {
            b'U' => self.exactly(HEX, 32, field, "a UUID: 32 hexadecimal digits")?,
            b'D' => self.exactly(HEX, 40, field, "a die id: 40 hexadecimal digits")?,
            b'B' => self.exactly(HEX, 9, field, "a PCI address: 9 hexadecimal digits")?,
            b'S' => self.between(AN, 1, 32, field, "a serial number: 1 to 32 of 0-9 A-Z")?,
            b'A' if self.text.get(self.at..self.at + 2) == Some(b"NY") => self.at += 2,
            _ => {
                self.at -= 1;
                return Err(self.syntax(field, "U (UUID), D (die id), B (PCI address), S (serial number) or ANY"));
            }
        }
        self.end(19);
        self.layout.has_path = true;
        Ok(())
    }

    /// Extensions up to `until`, where the check begins.
    fn extensions(&mut self, until: usize) -> Result<(), CpiError> {
        let field = Field::Extension;
        let mut all_known = true;
        let mut in_order = true;
        while self.at < until {
            let start = self.at;
            if self.extension_count == EXTENSIONS_MAX {
                return Err(self.fail(Kind::Newer, field, start, "at most 8 extensions"));
            }
            self.octet(b'~', field, "~ before an extension or the check")?;
            self.exactly(UP, 2, field, "2 letters of an extension's key")?;
            self.between(AN, 1, 16, field, "1 to 16 of 0-9 A-Z as an extension's value")?;
            let key = &self.text[start + 1..start + 3];
            let known = super::extension::is_known(key);
            all_known &= known;
            for before in &self.extensions[..self.extension_count] {
                let other = &self.text[usize::from(before.start) + 1..usize::from(before.start) + 3];
                if known && other == key {
                    return Err(self.fail(Kind::Duplicate, field, start, "each known extension once"));
                }
                in_order &= other <= key;
            }
            self.extensions[self.extension_count] = Span { start: start as u16, end: self.at as u16 };
            self.extension_count += 1;
        }
        if self.at > until {
            return Err(self.fail(Kind::Syntax, field, until, "extensions to end before the check"));
        }
        self.rewrite |= all_known && !in_order;
        Ok(())
    }

    /// Writes the text as a printer does, without its check; the length.
    fn canonical(&self, out: &mut [u8; TEXT_BYTES_MAX]) -> usize {
        let mut writer = Writer { out, at: 0 };
        writer.put(&self.text[..Layout::PREFIX_START]);
        let mut start = Layout::PREFIX_START;
        for index in 0..PREFIX_FIELDS {
            let end = usize::from(self.layout.ends[index]);
            let field = &self.text[start..end];
            match index {
                6 => writer.amount(field, AmountKind::Capacity),
                7 | 14 => writer.amount(field, AmountKind::Storage),
                8 => writer.amount(field, AmountKind::Bandwidth),
                13 => writer.amount(field, AmountKind::Memory),
                9 if self.chip_count > 0 => {
                    let mut chips = self.chips;
                    chips[..self.chip_count].sort_unstable_by_key(|&chip| self.chip_model(chip));
                    for (at, chip) in chips[..self.chip_count].iter().enumerate() {
                        if at > 0 {
                            writer.put(b"_");
                        }
                        writer.put(&self.text[usize::from(chip.start)..usize::from(chip.end)]);
                    }
                }
                _ => writer.put(field),
            }
            if index + 1 < PREFIX_FIELDS {
                writer.put(&self.text[end..end + 1]);
            }
            start = end + 1;
        }
        if self.layout.has_path {
            let path_start = usize::from(self.layout.ends[PREFIX_FIELDS - 1]);
            writer.put(&self.text[path_start..usize::from(self.layout.ends[FIELDS - 1])]);
        }
        let mut extensions = self.extensions;
        let extensions = &mut extensions[..self.extension_count];
        let key = |e: &Span| &self.text[usize::from(e.start) + 1..usize::from(e.start) + 3];
        if extensions.iter().all(|e| super::extension::is_known(key(e))) {
            extensions.sort_by_key(|e| key(e));
        }
        for extension in extensions.iter() {
            writer.put(&self.text[usize::from(extension.start)..usize::from(extension.end)]);
        }
        writer.at
    }
}

struct Writer<'a> {
    out: &'a mut [u8; TEXT_BYTES_MAX],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, octets: &[u8]) {
        self.out[self.at..self.at + octets.len()].copy_from_slice(octets);
        self.at += octets.len();
    }

    fn amount(&mut self, field: &[u8], kind: AmountKind) {
        let Some(unit_at) = field.iter().position(|octet| !octet.is_ascii_digit()).filter(|&at| at > 0) else {
            return self.put(field);
        };
        let number = field[..unit_at].iter().fold(0u32, |number, &digit| number * 10 + u32::from(digit - b'0'));
        let unit = Unit::from_letter(field[unit_at]).expect("the scan checked the unit");
        match Amount::Of(number, unit).canonical(kind).expect("the scan checked the range") {
            Amount::Of(number, unit) => {
                let mut digits = [0u8; 10];
                let mut at = digits.len();
                let mut rest = number;
                while rest > 0 {
                    at -= 1;
                    digits[at] = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
                self.put(&digits[at..]);
                self.put(&[unit.letter() as u8]);
                self.put(&field[unit_at + 1..]);
            }
            Amount::Zero | Amount::Unknown => self.put(b"0"),
        }
    }
}

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
    let mut scan = Scan {
        text,
        at: 0,
        layout: Layout::default(),
        chips: [Span::default(); CHIPS_MAX],
        chip_count: 0,
        extensions: [Span::default(); EXTENSIONS_MAX],
        extension_count: 0,
        rewrite: false,
    };
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
