//! Packs the fields of an identifier into bits.

use super::super::check;
use super::super::cpi::Cpi;
use super::{CHIP_TYPES, FORM, TYPES, UNITS_BYTES, UNITS_NET, packed_bits};
use crate::dictionary::{Dictionary, Entry, Table};

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
