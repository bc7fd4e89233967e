//! Stories of custody records.
