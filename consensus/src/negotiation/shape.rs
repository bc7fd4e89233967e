//! What tasks ask of one server, as a few rounded numbers: the unit in which regions tell what is asked and what they have.
//!
//! A digest carries, for each of the shapes that the federation asks for most, how often this region's own tasks asked for
//! it, and what the best place here would cost: the fragmentation it adds and what it leaves behind. That lets origins rank
//! regions by fragmentation as a scheduler that sees every server would; sums and the freest server do not.

use super::need::{ChipNeed, VariantNeed};
use cpi::resource::{ChipKind, ChipModel, Quantity};
use serde::{Deserialize, Serialize};

/// The most shapes that are told and reckoned with.
pub const SHAPES_MAX: usize = 64;
/// Fragmentation is told in steps of so many thousandths of a chip. Coarse on purpose: differences below it are noise
/// against what the place leaves behind, which decides between equals.
pub const STEP_MILLI: i64 = 40;

const MEMORY_UNIT: u64 = 64 << 20;
const STORAGE_UNIT: u64 = 1 << 30;

/// What one way of a task asks of a server, rounded up to units that keep it short.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Thousandths of cores.
    pub cpu_milli: u32,
    /// Memory in 64 MiB.
    pub memory: u32,
    /// Storage in GiB.
    pub storage: u32,
    /// Thousandths of chips.
    pub chip_milli: u32,
    /// The chip must be of this model.
    pub model: Option<String>,
    /// The chip must be of this kind.
    pub kind: Option<ChipKind>,
}

impl Shape {
    /// The shape of a quantity on a chip of any model.
    pub fn of(quantity: &Quantity) -> Self {
        let small = |amount: u64| u32::try_from(amount).unwrap_or(u32::MAX);
        Self {
            cpu_milli: small(quantity.cpu_milli),
            memory: small(quantity.memory_bytes.div_ceil(MEMORY_UNIT)),
            storage: small(quantity.storage_bytes.div_ceil(STORAGE_UNIT)),
            chip_milli: small(quantity.chip_milli),
            model: None,
            kind: None,
        }
    }

    /// The shapes of one way of a task: several where the amount of chips depends on their model.
    pub fn of_way(way: &VariantNeed) -> Vec<Self> {
        match &way.chips {
            ChipNeed::None => vec![Self::of(&way.base)],
            ChipNeed::Milli { model, kind, milli } => {
                let shape = Self::of(&Quantity { chip_milli: *milli, ..way.base });
                vec![Self { model: model.clone(), kind: *kind, ..shape }]
            }
            ChipNeed::AnyOf(options) => {
                let of = |(model, milli): &(String, u64)| Self {
                    model: Some(model.clone()),
                    ..Self::of(&Quantity { chip_milli: *milli, ..way.base })
                };
                options.iter().map(of).collect()
            }
        }
    }

    /// The shape that counts on servers with this chip.
    pub fn of_way_on(way: &VariantNeed, chip: Option<&ChipModel>) -> Option<Self> {
        let shapes = Self::of_way(way);
        if shapes.len() == 1 {
            return shapes.into_iter().next();
        }
        let chip = chip?;
        shapes.into_iter().find(|shape| shape.model.as_ref() == Some(&chip.model))
    }

    /// What it asks for, whatever the chip.
    pub fn quantity(&self) -> Quantity {
        Quantity {
            cpu_milli: u64::from(self.cpu_milli),
            memory_bytes: u64::from(self.memory) * MEMORY_UNIT,
            storage_bytes: u64::from(self.storage) * STORAGE_UNIT,
            chip_milli: u64::from(self.chip_milli),
        }
    }

    /// Whether servers with this chip can serve it as far as the chip goes.
    pub fn runs_on(&self, chip: Option<&ChipModel>) -> bool {
        if self.chip_milli == 0 {
            return true;
        }
        chip.is_some_and(|chip| {
            self.model.as_ref().is_none_or(|model| *model == chip.model)
                && self.kind.is_none_or(|kind| kind == chip.kind)
        })
    }

    /// How far another shape is from this one; `None` if the two cannot stand for each other.
    fn distance(&self, other: &Self) -> Option<u64> {
        let alike = (self.chip_milli > 0) == (other.chip_milli > 0)
            && (self.chip_milli >= 1000) == (other.chip_milli >= 1000)
            && (&self.model, self.kind) == (&other.model, other.kind);
        // A core counts as much as 16 GiB or a tenth of a chip.
        alike.then(|| {
            u64::from(self.cpu_milli.abs_diff(other.cpu_milli)) / 10
                + u64::from(self.memory.abs_diff(other.memory)) * 100 / 256
                + u64::from(self.chip_milli.abs_diff(other.chip_milli))
        })
    }
}

/// The best place for a shape in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BestPlace {
    /// Fragmentation that it adds, in steps of 0.04 chip; negative where it uses up what nobody could.
    pub added: i8,
    /// What it leaves behind on its server, 0 for nothing.
    pub left: u8,
    /// The server class: its position among all classes of the digest.
    pub class: u8,
}

/// What a region says of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeDigest {
    /// Which.
    pub shape: Shape,
    /// How often this region's own tasks asked for it lately.
    pub asked: u16,
    /// Where it would go; `None` if it fits nowhere now.
    pub best: Option<BestPlace>,
}

/// What a digest tells about a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// This, as of then.
    Exactly(Option<BestPlace>),
    /// This of the nearest shape: whether it fits is not known.
    Nearly(BestPlace),
}

/// Looks a shape up.
pub fn told(shapes: &[ShapeDigest], wanted: &Shape) -> Told {
    if let Some(known) = shapes.iter().find(|known| known.shape == *wanted) {
        return Told::Exactly(known.best);
    }
    let near = shapes.iter().filter_map(|known| Some((wanted.distance(&known.shape)?, known.best?)));
    near.min().map_or(Told::Nothing, |(_, best)| Told::Nearly(best))
}

/// Fragmentation in 1,024ths of a thousandth of a chip as steps, rounded up.
pub fn steps(added: i64) -> i64 {
    -((-added).div_euclid(STEP_MILLI * 1024))
}

/// The term of a score for so many steps: 500 for none, 0 and 1,000 for four chips mended or spoilt.
pub fn term_of(steps: i64) -> u32 {
    (500 + steps.clamp(-100, 100) * 5) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(cpu_milli: u64, chip_milli: u64) -> Shape {
        Shape::of(&Quantity { cpu_milli, memory_bytes: 1 << 30, storage_bytes: 1 << 20, chip_milli })
    }

    #[test]
    fn steps_round_up_and_terms_stay_in_range() {
        let one = STEP_MILLI * 1024;
        assert_eq!([0, 1, one, one + 1, -1, -one].map(steps), [0, 1, 1, 2, 0, -1]);
        assert_eq!([0, 1, -1, 1_000, -1_000].map(term_of), [500, 505, 495, 1_000, 0]);
    }

    #[test]
    fn an_unknown_shape_is_judged_by_its_nearest_of_the_same_sort() {
        let place = |added| BestPlace { added, left: 0, class: 0 };
        let told_of = |shape, best| ShapeDigest { shape, asked: 1, best };
        let shapes = vec![
            told_of(shape(1_000, 0), Some(place(1))),
            told_of(shape(4_000, 500), Some(place(2))),
            told_of(shape(8_000, 1_000), Some(place(3))),
            told_of(shape(8_000, 2_000), None),
        ];
        assert_eq!(told(&shapes, &shape(4_000, 500)), Told::Exactly(Some(place(2))));
        assert_eq!(told(&shapes, &shape(8_000, 2_000)), Told::Exactly(None));
        assert_eq!(told(&shapes, &shape(64_000, 800)), Told::Nearly(place(2)));
        assert_eq!(told(&shapes, &shape(8_000, 8_000)), Told::Nearly(place(3)));
        assert_eq!(told(&[], &shape(1, 1)), Told::Nothing);
        let other = Shape { model: Some("HWA910B3".to_owned()), ..shape(4_000, 500) };
        assert_eq!(told(&shapes, &other), Told::Nothing);
    }
}
