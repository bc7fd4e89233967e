//! RocksDB's knobs in one place. Small buffers: an idle node with all three databases stays far under 150 MiB.

use super::StoreError;
use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Options};
use std::path::Path;

/// Bytes of one memtable. Larger ones flush less often and hold more memory.
const WRITE_BUFFER_BYTES: usize = 8 << 20;
/// Bytes of the block cache of one database.
const BLOCK_CACHE_BYTES: usize = 16 << 20;
/// Files kept open by one database.
const OPEN_FILES_MAX: i32 = 128;

pub(super) fn options() -> Options {
    with_cache(BLOCK_CACHE_BYTES)
}

/// As [`options`], with a block cache of `bytes`.
pub(super) fn with_cache(bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(bytes));
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In parts: a whole index or filter of a large file is bigger than the share of the cache that one entry may take, so
    // that every read would load it from the file again.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4096);
    table.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(3);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    // the default silently drops acknowledged entries after a corrupt record; only a torn tail is ours to drop
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

/// For the log: it is written once, read once and purged, so packing it would cost more than it saves.
pub(super) fn log() -> Options {
    let mut options = options();
    options.set_compression_type(DBCompressionType::None);
    options
}

/// Opens or makes the database in `path`.
pub(super) fn open(path: &Path, options: &Options) -> Result<DB, StoreError> {
    std::fs::create_dir_all(path).map_err(|error| StoreError::folder(path, &error))?;
    DB::open(options, path).map_err(|error| match StoreError::rocks(path, &error) {
        StoreError::Write { path, cause } => StoreError::Folder { path, cause },
        other => other,
    })
}
