//! Stories of the book: chips are never shared out in pieces of several, nothing is overcommitted, fragments are avoided.

use super::*;
use cpi::resource::{ChipKind, ChipModel, ComputeClass, Firmness, GIB, PriceList, ServerClass};
use proptest::prelude::*;

fn book(servers: u32, chips: u64, shapes: &[Quantity]) -> CapacityBook {
    let per_server =
        Quantity { cpu_milli: 96_000, memory_bytes: 512 * GIB, storage_bytes: 0, chip_milli: chips * 1000 };
    let chip = (chips > 0).then(|| ChipModel { model: "NVH800S80".to_owned(), kind: ChipKind::Gpu });
    let class = ServerClass { name: "s".to_owned(), cpu_model: "X".to_owned(), chip, per_server, servers };
    let spec = PoolSpec {
        name: "p".to_owned(),
        backend: "fake".to_owned(),
        class: ComputeClass::Intelligent,
        identifiers: Vec::new(),
        classes: vec![class],
        firmness: Firmness::Held,
        price: PriceList::default(),
        carbon_g_per_kwh: None,
        cordoned: false,
    };
    let mut book = CapacityBook::new(vec![spec]);
    ask(&mut book, shapes);
    book
}

fn ask(book: &mut CapacityBook, shapes: &[Quantity]) {
    book.set_shapes(shapes.iter().map(|shape| (Shape::of(shape), 1)).collect());
}

fn need(cpu_milli: u64, chip_milli: u64) -> Quantity {
    Quantity { cpu_milli, memory_bytes: GIB, storage_bytes: 0, chip_milli }
}

#[test]
fn parts_of_several_chips_make_no_whole_one() {
    let mut book = book(1, 2, &[]);
    for _ in 0..2 {
        assert!(book.take(0, 0, &need(1000, 700)).is_some());
    }
    // 600 thousandths are free, 300 on each chip.
    assert_eq!(book.free(0, 0).chip_milli, 600);
    assert_eq!(book.largest_fit(0, 0).chip_milli, 300);
    assert!(book.take(0, 0, &need(1000, 500)).is_none());
    assert!(book.take(0, 0, &need(1000, 300)).is_some());
}

#[test]
fn whole_chips_and_a_part_are_taken_together() {
    let mut book = book(1, 3, &[]);
    let slot = book.take(0, 0, &need(1000, 2_500)).unwrap();
    assert_eq!((slot.chips.whole.count_ones(), slot.chips.part.is_some()), (2, true));
    assert_eq!(book.largest_fit(0, 0).chip_milli, 500);
    book.give_back(slot, &need(1000, 2_500));
    assert_eq!(book.largest_fit(0, 0).chip_milli, 3_000);
    assert!(book.is_sound());
}

#[test]
fn a_lease_gets_the_same_chips_back_after_a_restart() {
    let mut before = book(1, 2, &[]);
    let kept: Vec<(Slot, Quantity)> = [300, 800, 600]
        .map(|milli| (before.take(0, 0, &need(1000, milli)), need(1000, milli)))
        .into_iter()
        .filter_map(|(slot, need)| Some((slot?, need)))
        .collect();
    let mut after = book(1, 2, &[]);
    for (slot, need) in kept.iter().rev() {
        assert!(after.take_at(*slot, need));
    }
    assert_eq!(after.largest_fit(0, 0), before.largest_fit(0, 0));
}

#[test]
fn what_was_asked_lately_decides_where_a_part_goes() {
    // Only whole chips are asked: a task of half a chip goes where one is broken already.
    let whole = need(8_000, 1_000);
    let mut book = book(2, 2, &[whole, whole, whole]);
    let first = book.take(0, 0, &need(1000, 500)).unwrap();
    let second = book.would_take(0, 0, &need(1000, 400)).unwrap();
    assert_eq!((second.slot.server, second.slot.chips.part), (first.server, first.chips.part));
    assert!(second.fragmentation < 0, "it uses what nobody could: {}", second.fragmentation);
}

#[test]
fn a_task_that_would_strand_chips_costs_their_fragmentation() {
    let gpu = need(8_000, 1_000);
    let book = book(1, 2, &[gpu]);
    let harmless = book.would_take(0, 0, &need(1_000, 0)).unwrap();
    let greedy = book.would_take(0, 0, &need(95_000, 0)).unwrap();
    assert_eq!(harmless.fragmentation, 0);
    assert_eq!(greedy.fragmentation, 2_000 * 1024);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_comes_and_goes_the_book_is_sound(
        steps in prop::collection::vec((0u64..6_000, 1u64..40_000, any::<bool>(), any::<prop::sample::Index>()), 1..120),
    ) {
        let mut book = book(3, 4, &[]);
        let mut taken: Vec<(Slot, Quantity)> = Vec::new();
        for (chip_milli, cpu_milli, gives, which) in steps {
            if gives && !taken.is_empty() {
                let (slot, need) = taken.swap_remove(which.index(taken.len()));
                book.give_back(slot, &need);
            } else {
                let need = need(cpu_milli, chip_milli);
                ask(&mut book, &[need]);
                let said = book.largest_fit(0, 0).chip_milli >= chip_milli;
                match book.take(0, 0, &need) {
                    Some(slot) => taken.push((slot, need)),
                    // No server has the chips, or the one that has lacks cores.
                    None => prop_assert!(!said || cpu_milli > 1_000),
                }
            }
            prop_assert!(book.is_sound());
        }
        for (slot, need) in taken {
            book.give_back(slot, &need);
        }
        prop_assert_eq!(book.largest_fit(0, 0).chip_milli, 4_000);
    }
}
