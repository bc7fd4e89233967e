//! Writes a scanned text as a printer does: chips sorted, amounts in their largest whole unit, known extensions in order.

use super::amount::{Amount, AmountKind, Unit};
use super::cpi::{FIELDS, Layout, PREFIX_FIELDS};
use super::parse::TEXT_BYTES_MAX;
use super::scan::{Scan, Span};

impl Scan<'_> {
    /// Writes the text as a printer does, without its check; the length.
    pub(super) fn canonical(&self, out: &mut [u8; TEXT_BYTES_MAX]) -> usize {
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
