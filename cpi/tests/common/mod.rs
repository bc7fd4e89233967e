//! A seeded generator of valid identifiers over the whole grammar, in canonical form.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const AN: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const UP: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const HEX: &[u8] = b"0123456789ABCDEF";
const A31: &[u8] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";

/// Makes bodies: texts without their check.
pub struct Generator(pub ChaCha8Rng);

/// The parts whose order an input may change.
pub struct Parts {
    pub before_chips: String,
    pub chips: Vec<String>,
    pub after_chips: String,
    pub extensions: Vec<String>,
}

impl Parts {
    pub fn body(&self) -> String {
        let chips = if self.chips.is_empty() { "0".to_owned() } else { self.chips.join("_") };
        format!("{}{chips}{}{}", self.before_chips, self.after_chips, self.extensions.concat())
    }
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    fn text(&mut self, alphabet: &[u8], count: usize) -> String {
        (0..count).map(|_| char::from(alphabet[self.below(alphabet.len())])).collect()
    }

    fn pick(&mut self, from: &[&str]) -> String {
        from[self.below(from.len())].to_owned()
    }

    fn enterprise(&mut self) -> String {
        match self.below(3) {
            0 => {
                let mut code = self.text(A31, 16).into_bytes();
                let weights = [3, 7, 9, 10, 5, 8, 4, 2];
                let value = |octet: u8| AN.iter().position(|&o| o == octet).unwrap();
                let sum: usize = code[8..].iter().zip(weights).map(|(&octet, weight)| value(octet) * weight).sum();
                code.push(b"0123456789X0"[(11 - sum % 11) % 12]);
                let sum: usize = code
                    .iter()
                    .enumerate()
                    .map(|(at, octet)| {
                        A31.iter().position(|o| o == octet).unwrap() * (0..at).fold(1, |w, _| w * 3 % 31)
                    })
                    .sum();
                code.push(A31[(31 - sum % 31) % 31]);
                format!("C{}", String::from_utf8(code).unwrap())
            }
            1 => {
                let code = self.text(AN, 18);
                let digits: String =
                    code.bytes().map(|octet| AN.iter().position(|&o| o == octet).unwrap().to_string()).collect();
                let rest = (digits + "00").bytes().fold(0, |rest, digit| (rest * 10 + u32::from(digit - b'0')) % 97);
                format!("L{code}{:02}", 98 - rest)
            }
            _ => format!("P{}", self.text(AN, 8)),
        }
    }

    fn model(&mut self) -> String {
        if self.below(2) == 0 {
            return self.pick(&["NVH800S80", "HWA910C", "HG7285", "HGZ100", "XLU280", "INX8480P", "AMEP7763", "NVT4"]);
        }
        loop {
            let length = 1 + self.below(11);
            let model = self.text(UP, 1) + &self.text(AN, length);
            if model != "ANY" {
                return model;
            }
        }
    }

    fn number(&mut self) -> u32 {
        let digits = 1 + self.below(6) as u32;
        self.0.random_range(0..10u32.pow(digits))
    }

    /// A canonical amount.
    fn amount(&mut self, units: &[&str], three_digits: bool, keep_first: bool) -> String {
        match self.below(8) {
            0 => return "U".to_owned(),
            1 => return "0".to_owned(),
            _ => {}
        }
        let unit = self.below(units.len());
        let mut number = self.number().max(1);
        if three_digits {
            while number > 999 {
                number /= 10;
            }
            number = [number, number * 10, number * 100][self.below(3)];
        }
        if number.is_multiple_of(1000) && unit + 1 < units.len() && !(keep_first && unit == 0) {
            number = if three_digits { number / 1000 } else { number + 1 };
        }
        format!("{number}{}", units[unit])
    }

    pub fn parts(&mut self) -> Parts {
        let enterprise = self.enterprise();
        let industry = match self.below(2) {
            0 => format!("G{}{:04}", self.text(&UP[..20], 1), self.below(10_000)),
            _ => format!("S{}{:04}", self.text(&UP[..21], 1), self.below(10_000)),
        };
        let city = match self.below(3) {
            0 => self.pick(&["G110100", "G330700", "UDEFRA", "G210200"]),
            1 => format!("G{:06}", self.below(1_000_000)),
            _ => format!("U{}{}", self.text(UP, 2), self.text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789", 3)),
        };
        let zone = self.text(AN, 3);
        let class = self.pick(&["GC", "IC", "SC", "EC", "HC"]);
        let service = self.text(UP, 2);
        let mut capacity = self.amount(&["G", "T", "P", "E"], true, false);
        if capacity.len() > 1 {
            capacity += &self.pick(&["F64", "F32", "T32", "F16", "B16", "F08", "I08"]);
        }
        let bytes = &["G", "T", "P", "E"];
        let storage = self.amount(bytes, false, false);
        let net = self.amount(&["M", "G", "T"], false, false);
        let before_chips =
            format!("cpi:1:{enterprise}-{industry}-{city}-{zone}.{class}-{service}-{capacity}-{storage}-{net}-");
        let mut models: Vec<String> = (0..self.below(5)).map(|_| self.model()).collect();
        models.sort();
        models.dedup();
        let chips = models.into_iter().map(|model| format!("{model}_{}", self.number())).collect();
        let (server_type, cpu, cores, servers) = (self.text(UP, 2), self.model(), self.number(), self.number());
        let (memory, server_storage) = (self.amount(bytes, false, true), self.amount(bytes, false, false));
        let mut after_chips = format!(".{server_type}-{cpu}-{cores}-{memory}-{server_storage}-{servers}");
        if self.below(3) > 0 {
            let address = match self.below(3) {
                0 => format!("I{}", self.text(HEX, 8)),
                1 => format!("V{}", self.text(HEX, 32)),
                _ => {
                    let length = 1 + self.below(32);
                    format!("N{}", self.text(AN, length))
                }
            };
            let kind = self.pick(&["CPU", "GPU", "NPU", "TPU", "DCU", "DPU", "FPG", "ASC", "QPU", "ANY"]);
            let model = if self.below(3) == 0 { "ANY".to_owned() } else { self.model() };
            let uid = match self.below(5) {
                0 => format!("U{}", self.text(HEX, 32)),
                1 => format!("D{}", self.text(HEX, 40)),
                2 => format!("B{}", self.text(HEX, 9)),
                3 => {
                    let length = 1 + self.below(32);
                    format!("S{}", self.text(AN, length))
                }
                _ => "ANY".to_owned(),
            };
            after_chips += &format!("/{address}/{kind}/{model}/{uid}");
        }
        let mut keys: Vec<String> = match self.below(4) {
            // known ones stand once and in order
            0 => vec!["PN".into(), "RV".into()],
            1 => vec!["PN".into()],
            // with an unknown one among them the order is whatever it was
            2 => (0..self.below(9)).map(|_| format!("X{}", self.text(UP, 1))).collect(),
            _ => Vec::new(),
        };
        keys.truncate(8);
        let extensions = keys
            .into_iter()
            .map(|key| {
                let length = 1 + self.below(16);
                format!("~{key}{}", self.text(AN, length))
            })
            .collect();
        Parts { before_chips, chips, after_chips, extensions }
    }
}
