//! The macro that declares one section of the configuration: each key with its text, type and default in one place.
//!
//! From that one place come the struct (`deny_unknown_fields`), its `Default`, the commented reference file that
//! `config print` writes, and the table of known keys from which the nearest one is suggested.

/// A key of a section.
#[derive(Debug, Clone, Copy)]
pub struct KeyDoc {
    /// The key's name in its section.
    pub name: &'static str,
    /// What it does, its unit, its range and the consequence of changing it; one entry a line.
    pub doc: &'static [&'static str],
}

/// A section of the configuration.
pub trait Section {
    /// What the section is for; one entry a line.
    const DOC: &'static [&'static str];
    /// The keys in the order in which they are printed.
    const KEYS: &'static [KeyDoc];
}

/// Declares a section. Every key has a documentation, a type and a default.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])* pub $key:ident: $kind:ty = $default:expr, )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $key: $kind, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        impl $crate::config::section::Section for $name {
            const DOC: &'static [&'static str] = &[$($section_doc,)*];
            const KEYS: &'static [$crate::config::section::KeyDoc] = &[
                $( $crate::config::section::KeyDoc { name: stringify!($key), doc: &[$($doc,)*] }, )*
            ];
        }
    };
}

pub(crate) use section;
