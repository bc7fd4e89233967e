//! What the codec costs: `cargo bench -p cpi`. BENCHMARKS.md has the figures.

use cpi::dictionary::Dictionary;
use cpi::filter::{Filter, IdentifierSource};
use cpi::identifier::Cpi;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::fmt::Write as _;
use std::hint::black_box;

/// The longest of the published vectors, 203 octets.
const LONGEST_VECTOR: &str = "cpi:1:C91330702MA00CP035X-GM7320-G330700-A01.IC-BM-289PB16-5P-1T-HWA910C_384.SN-HWKP920-256-2048G-8T-48/V20010DB8000000000000000000000A1B/NPU/HWA910C/D0123456789ABCDEF0123456789ABCDEF01234567~RV3~0BCX4HA";
/// As long as the grammar allows, without the check.
const LONGEST_OF_GRAMMAR: &str = "cpi:1:L999900CPITESTFRA0174-SJ6311-UDEFRA-F01.IC-FP-999000GI08-999999G-999999M-AAAAAAAAAAAA_999999_BBBBBBBBBBBB_999999_CCCCCCCCCCCC_999999_DDDDDDDDDDDD_999999.FP-EEEEEEEEEEEE-999999-999999G-999999G-999999/N0123456789ABCDEF0123456789ABCDEF/FPG/FFFFFFFFFFFF/D0123456789ABCDEF0123456789ABCDEF01234567~XA0123456789ABCDEF~XB0123456789ABCDEF~XC0123456789ABCDEF~XD0123456789ABCDEF~XE0123456789ABCDEF~XF0123456789ABCDEF~XG0123456789ABCDEF~XH0123456789ABCDEF";

fn identifier(c: &mut Criterion) {
    let grammar_longest = Cpi::seal(LONGEST_OF_GRAMMAR).expect("the text follows the grammar");
    for (name, text) in [("vector", LONGEST_VECTOR), ("grammar", grammar_longest.as_str())] {
        let mut group = c.benchmark_group(format!("longest_{name}_{}", text.len()));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("parse", |b| b.iter(|| Cpi::parse(black_box(text))));
        let cpi = Cpi::parse(text).expect("the text is valid");
        group.bench_function("print", |b| b.iter(|| black_box(&cpi).to_string()));
        let mut buffer = String::with_capacity(512);
        group.bench_function("print_into_buffer", |b| {
            b.iter(|| {
                buffer.clear();
                write!(buffer, "{}", black_box(&cpi)).expect("a string takes everything");
                buffer.len()
            })
        });
        group.bench_function("stable_key", |b| b.iter(|| black_box(&cpi).stable_key()));
        let dictionary = Dictionary::first();
        group.bench_function("to_binary", |b| b.iter(|| black_box(&cpi).to_binary(&dictionary)));
        let binary = cpi.to_binary(&dictionary);
        group.bench_function("from_binary", |b| b.iter(|| Cpi::from_binary(black_box(&binary), &dictionary)));
        group.finish();
    }
    let lower = LONGEST_VECTOR.to_lowercase();
    c.bench_function("parse_lower_case", |b| b.iter(|| Cpi::parse(black_box(&lower))));
}

fn resolution(c: &mut Criterion) {
    let dictionary = Dictionary::first();
    c.bench_function("describe", |b| b.iter(|| cpi::resolve::resolve(black_box(LONGEST_VECTOR), &dictionary)));
    c.bench_function("load_release_1", |b| {
        b.iter(|| Dictionary::load(black_box(Dictionary::FIRST_RELEASE.as_bytes())))
    });
    let text = "city = G330700 and class = IC and fp16_pflops >= 1 and chip in (HWA910C, HWA910B3)";
    c.bench_function("filter_parse", |b| b.iter(|| Filter::parse(black_box(text))));
    let filter = Filter::parse(text).expect("the filter is valid");
    let cpi = Cpi::parse(LONGEST_VECTOR).expect("the text is valid");
    let source = IdentifierSource { cpi: &cpi, dictionary: &dictionary };
    c.bench_function("filter_match", |b| b.iter(|| filter.matches(black_box(&source))));
}

criterion_group!(benches, identifier, resolution);
criterion_main!(benches);
