//! The scan of a text of version 1: field after field, character class after character class, without allocating.

use super::amount::{Amount, AmountKind, Unit};
use super::check;
use super::cpi::Layout;
use super::error::{CpiError, CpiErrorKind as Kind};
use super::field::CpiField as Field;
use std::borrow::Cow;

const DIGIT: u8 = 1;
const UP: u8 = 2;
const HEX: u8 = 4;
const A31: u8 = 8;
const LOC: u8 = 16;
pub(super) const CROCK: u8 = 32;
pub(super) const AN: u8 = DIGIT | UP;

/// The character classes of the grammar that each octet belongs to.
pub(super) static CLASS: [u8; 256] = {
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

/// A chip or an extension (from its `~`) of the text: where it begins and ends.
#[derive(Clone, Copy, Default)]
pub(super) struct Span {
    pub(super) start: u16,
    pub(super) end: u16,
}

/// Extensions and chips that one text can hold.
const EXTENSIONS_MAX: usize = 8;
const CHIPS_MAX: usize = 4;

pub(super) struct Scan<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
    pub(super) layout: Layout,
    pub(super) chips: [Span; CHIPS_MAX],
    pub(super) chip_count: usize,
    pub(super) extensions: [Span; EXTENSIONS_MAX],
    pub(super) extension_count: usize,
    /// Whether a printer would write something else than what stands here.
    pub(super) rewrite: bool,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            layout: Layout::default(),
            chips: [Span::default(); CHIPS_MAX],
            chip_count: 0,
            extensions: [Span::default(); EXTENSIONS_MAX],
            extension_count: 0,
            rewrite: false,
        }
    }

    #[inline]
    pub(super) fn peek(&self) -> u8 {
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
    pub(super) fn fail(
        &self,
        kind: Kind,
        field: Field,
        offset: usize,
        expected: impl Into<Cow<'static, str>>,
    ) -> CpiError {
        let rest = self.text.get(offset..).unwrap_or_default();
        let until = rest.iter().position(|octet| b"-./~_:".contains(octet)).unwrap_or(rest.len()).max(1);
        CpiError::new(kind, field, offset, expected, &rest[..until.min(rest.len())])
    }

    #[cold]
    pub(super) fn syntax(&self, field: Field, expected: &'static str) -> CpiError {
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
    pub(super) fn octet(&mut self, octet: u8, field: Field, expected: &'static str) -> Result<(), CpiError> {
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

    pub(super) fn chip_model(&self, chip: Span) -> &'a [u8] {
        let text = &self.text[usize::from(chip.start)..usize::from(chip.end)];
        &text[..text.iter().position(|&octet| octet == b'_').unwrap_or(text.len())]
    }

    pub(super) fn prefix(&mut self) -> Result<(), CpiError> {
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

    pub(super) fn path(&mut self) -> Result<(), CpiError> {
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
    pub(super) fn extensions(&mut self, until: usize) -> Result<(), CpiError> {
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
}
