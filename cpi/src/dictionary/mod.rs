//! The data dictionary: numbered releases of codes for cities, industries, service and server types, and chips.
//!
//! A release is data: JSON that is signed and published elsewhere, loaded here, and swapped by value. Codes are never
//! removed and keep their index; they only end (`valid_to`) and name a `successor`, so that old identifiers resolve for ever.

mod entry;
mod release;
mod table;

pub use entry::{Chip, City, Code, Entry, Industry, PlatformNames};
pub use release::{Dictionary, LoadDictionaryError, ReleaseDocument, ResourceName};
pub use table::Table;
