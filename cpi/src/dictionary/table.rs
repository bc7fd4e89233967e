//! Entries by append-only index and by code.

use super::entry::Entry;

/// A table of a release. An entry keeps its index for ever; later releases only append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<T> {
    entries: Vec<T>,
    /// Indices in the order of their codes.
    by_code: Vec<u32>,
}

impl<T: Entry> Table<T> {
    /// `Err` is a code that stands twice.
    pub(super) fn new(entries: Vec<T>) -> Result<Self, String> {
        let mut by_code: Vec<u32> = (0..entries.len() as u32).collect();
        let code = |index: &u32| entries[*index as usize].code().code.as_str();
        by_code.sort_by(|a, b| code(a).cmp(code(b)));
        if let Some(pair) = by_code.windows(2).find(|pair| code(&pair[0]) == code(&pair[1])) {
            return Err(code(&pair[0]).to_owned());
        }
        Ok(Self { entries, by_code })
    }

    /// The entry of a code, whatever its validity.
    pub fn get(&self, code: &str) -> Option<&T> {
        self.index(code).and_then(|index| self.at(index))
    }

    /// The append-only index of a code.
    pub fn index(&self, code: &str) -> Option<u32> {
        self.by_code
            .binary_search_by(|&index| self.entries[index as usize].code().code.as_str().cmp(code))
            .ok()
            .map(|at| self.by_code[at])
    }

    /// The entry at an index.
    pub fn at(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)
    }

    /// All entries in the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The code most like `code`, for `did you mean`.
    pub fn nearest(&self, code: &str) -> Option<&str> {
        self.entries
            .iter()
            .map(|entry| entry.code().code.as_str())
            .map(|known| (strsim::damerau_levenshtein(code, known), known))
            .min()
            .filter(|(distance, known)| *distance * 3 <= known.len())
            .map(|(_, known)| known)
    }
}
