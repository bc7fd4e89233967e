//! Reading an identifier allocates its text and nothing else; printing into a buffer and keys allocate nothing.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says enough by where it fails")]

use cpi::identifier::Cpi;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write as _;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread allocates.
struct Counting;

#[allow(unsafe_code, reason = "a global allocator is unsafe by its trait; it only counts and hands on")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is handed on unchanged.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is handed on unchanged.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.with(Cell::get);
    let result = work();
    (ALLOCATIONS.with(Cell::get) - before, result)
}

#[test]
fn only_the_result_is_allocated() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("golden/identifiers.json")).unwrap();
    let mut buffer = String::with_capacity(512);
    for vector in vectors.as_array().unwrap() {
        let text = vector["cpi"].as_str().unwrap();
        let _warm = Cpi::parse(text).unwrap();
        let (count, cpi) = allocations(|| Cpi::parse(text).unwrap());
        assert_eq!(count, 1, "parse of {text}");
        buffer.clear();
        let (count, _) = allocations(|| write!(buffer, "{cpi}").unwrap());
        assert_eq!(count, 0, "print of {text}");
        let (count, _) = allocations(|| cpi.stable_key());
        assert_eq!(count, 0, "key of {text}");
        let (count, _) = allocations(|| cpi.chips().map(|(_, quantity)| u64::from(quantity)).sum::<u64>());
        assert_eq!(count, 0, "fields of {text}");
        // a permuted input too
        let lower = text.to_lowercase();
        let (count, _) = allocations(|| Cpi::parse(&lower).unwrap());
        assert_eq!(count, 1, "parse of {lower}");
    }
    let permuted = "cpi:1:pcauseway-gi6450-g210200-b01.ic-ct-2000pf16-u-u-bbb_2_aaa_1.gp-inx8480p-1-u-u-1";
    let (count, _) = allocations(|| Cpi::seal(permuted).unwrap());
    assert_eq!(count, 1, "an input that is made canonical");
}
